"""Places for stores of every kind."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import obstore.store
import pytest
from s3_server import BUCKET, Network, S3Server, options

from replay.disk_cache import DiskCache
from replay.storage import Storage, open_storage
from replay.storage_object import ObjectStorage


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def network(s3_server: S3Server) -> Iterator[Network]:
    network = Network(s3_server.port)
    yield network
    network.close()


@pytest.fixture
def s3_url() -> str:
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture
def s3_storage(s3_server: S3Server, s3_url: str, tmp_path: Path) -> Storage:
    return open_storage(s3_url, options=options(s3_server.endpoint), cache_dir=tmp_path / "cache")


@pytest.fixture
def memory_storage(tmp_path: Path) -> Storage:
    """An object store in RAM: it speaks through the same client as S3, and costs no time."""
    return ObjectStorage(obstore.store.MemoryStore(), "memory://place", DiskCache(tmp_path / "cache", 1 << 30))


@pytest.fixture(params=["local", "memory", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A new place of each kind."""
    if request.param == "local":
        return open_storage(tmp_path / "place")
    found: Storage = request.getfixturevalue(f"{request.param}_storage")
    return found
