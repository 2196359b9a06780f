"""Places for stores of every kind."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import obstore.store
import pytest
from s3_server import BUCKET, Network, S3Server, options

from replay.disk_cache import DiskCache
from replay.storage import Storage, open_storage
from replay.storage_object import ObjectStorage

MakeStorage = Callable[..., Storage]


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


@pytest.fixture(params=["local", "memory", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A new place of each kind; that in RAM speaks through the same client as S3, and costs no time."""
    if request.param == "local":
        return open_storage(tmp_path / "place")
    if request.param == "memory":
        return ObjectStorage(obstore.store.MemoryStore(), "memory://place", DiskCache(tmp_path / "cache", 1 << 30))
    found: Storage = request.getfixturevalue("s3_storage")
    return found
