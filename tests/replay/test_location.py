"""Which processes may open a store, by where it lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import StoreError
from replay.location import StoreLocation, locate


def test_a_path_belongs_to_the_node_that_named_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    location = locate("runs/store", "node-1", "alpha")
    assert location == StoreLocation(str(tmp_path / "runs/store"), "node-1", "alpha")
    assert location.is_local_to("node-1") and not location.is_local_to("node-2")
    assert locate(f"file://{tmp_path}/runs/store", "node-1", "alpha") == location
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate("~/runs/store", "node-1", "alpha") == location


@pytest.mark.parametrize("url", ["s3://bucket/prefix", "gs://bucket", "memory://x"])
def test_an_object_store_belongs_to_all(url: str) -> None:
    location = locate(url, "node-1", "alpha")
    assert location == StoreLocation(url, "", "")
    assert location.is_local_to("node-1") and location.is_local_to("node-2")


def test_another_node_is_refused_by_both_names_and_told_what_to_do(tmp_path: Path) -> None:
    location = locate(str(tmp_path / "store"), "node-1", "alpha")
    location.open("node-1", "alpha", mode="a", create=True, ram_bytes=0).close()
    with pytest.raises(StoreError) as refused:
        location.open("node-2", "beta", mode="a", create=True)
    for part in (str(tmp_path / "store"), "alpha (node-1)", "beta (node-2)", "writer actor", "replay.url = 's3://"):
        assert part in str(refused.value)
