"""Copies on the disk of a node: whole or not there, within their budget, shared by processes that may die."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import google_crc32c
import pytest

import replay.disk_cache
from common.errors import StoreError
from replay.disk_cache import DiskCache, default_folder

CONTENT = {"zarr.json": b"{}" * 50, "image/c.0": b"pixels" * 50}
SUMS = {name: {"bytes": len(data), "crc32c": google_crc32c.value(data)} for name, data in CONTENT.items()}
SIZE = 400


class Source:
    """Fetches the one segment there is, and counts."""

    def __init__(self) -> None:
        self.fetched = 0

    def __call__(self, folder: str) -> None:
        self.fetched += 1
        for name, data in CONTENT.items():
            Path(folder, name).parent.mkdir(exist_ok=True)
            Path(folder, name).write_bytes(data)


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def cache(tmp_path: Path) -> DiskCache:
    return DiskCache(tmp_path / "cache", 3 * SIZE + 50, max_wait_s=0.2)


def names(cache: DiskCache) -> list[str]:
    return sorted(p.name.partition("~")[0] for p in cache.folder.iterdir() if p.name != ".lock")


def test_a_segment_is_fetched_once_and_found_by_other_processes(cache: DiskCache, source: Source) -> None:
    path = cache.get("a", SUMS, source)
    assert {n: Path(path, n).read_bytes() for n in CONTENT} == CONTENT
    assert cache.get("a", SUMS, source) == path and source.fetched == 1
    assert DiskCache(cache.folder, 10 * SIZE).get("a", SUMS, source) == path and source.fetched == 1
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(lambda _: cache.get("b", SUMS, source), range(8)))) == 1
    assert source.fetched == 2 and names(cache) == ["a", "b"]
    assert not list(cache._locks), "locks of segments that nobody fetches are kept"


@pytest.mark.parametrize("damage", ["short", "missing", "metadata", "told"])
def test_a_copy_that_is_not_whole_is_fetched_again(cache: DiskCache, source: Source, damage: str) -> None:
    path = cache.get("a", SUMS, source)
    if damage == "short":
        Path(path, "image/c.0").write_bytes(b"pixels")
    elif damage == "missing":
        Path(path, "image/c.0").unlink()
    elif damage == "metadata":
        Path(path, "zarr.json").write_bytes(b"[]" * 50)
    cache.get("a", SUMS, source, anew=damage == "told")
    assert source.fetched == 2 and {n: Path(path, n).read_bytes() for n in CONTENT} == CONTENT
    assert names(cache) == ["a"]


def test_the_least_recently_used_copies_make_room_before_anything_is_fetched(cache: DiskCache, source: Source) -> None:
    for k, key in enumerate("abc"):
        path = cache.get(key, SUMS, source)
        os.utime(path, (k, k))  # a was used first
    cache.get("a", SUMS, source)  # and now again
    taken = []

    def fetch(folder: str) -> None:
        taken.append(len(list(cache.folder.glob("?~400"))) * SIZE + SIZE)
        source(folder)

    mapped = (cache.folder / "b~400" / "image/c.0").open("rb")
    cache.get("d", SUMS, fetch)
    assert names(cache) == ["a", "c", "d"] and taken == [3 * SIZE]
    assert mapped.read() == CONTENT["image/c.0"]  # who holds a file goes on reading it
    cache.get("b", SUMS, source)
    assert names(cache) == ["a", "b", "d"] and source.fetched == 5


def test_what_does_not_fit_is_refused_and_what_waits_for_others_says_so(cache: DiskCache, source: Source) -> None:
    with pytest.raises(StoreError, match="cache_bytes = 1250: allowed is at least the 2000 bytes"):
        cache.get("a", SUMS | {"big": {"bytes": 1600, "crc32c": 0}}, source)
    with cache.room(1000), pytest.raises(StoreError, match="no room for 400 bytes in cache"):
        cache.get("a", SUMS, source)
    assert os.path.isdir(cache.get("a", SUMS, source)) and source.fetched == 1
    with pytest.raises(StoreError, match="cache_bytes = 0"):
        DiskCache(cache.folder, 0)


def test_room_comes_free_when_another_fetch_ends(cache: DiskCache, source: Source) -> None:
    cache = DiskCache(cache.folder, cache.max_bytes, max_wait_s=30.0)
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with cache.room(1000):
            entered.set()
            leave.wait(30)

    with ThreadPoolExecutor(2) as pool:
        pool.submit(hold)
        assert entered.wait(30)
        waiting = pool.submit(cache.get, "a", SUMS, source)
        time.sleep(0.05)
        assert not waiting.done()
        leave.set()
        assert os.path.isdir(waiting.result(30))


def test_a_fetch_that_fails_leaves_nothing(cache: DiskCache, source: Source) -> None:
    def fail(folder: str) -> None:
        source(folder)
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        cache.get("a", SUMS, fail)
    assert names(cache) == []
    assert os.path.isdir(cache.get("a", SUMS, source))


def _fetch_and_die(cache: DiskCache) -> None:
    with cache.room(1000) as folder:
        Path(folder, "half").write_bytes(b"x")
        os._exit(1)


def test_what_a_killed_process_left_is_removed_by_the_next(cache: DiskCache, source: Source) -> None:
    child = multiprocessing.get_context("fork").Process(target=_fetch_and_die, args=(cache,))
    child.start()
    child.join(60)
    (cache.folder / ".gone-x").mkdir()
    lock = os.open(cache.folder / ".lock", os.O_RDWR)  # the file of a lock is no lock
    assert len(list(cache.folder.glob(".fetch-*"))) == 1
    cache.get("a", SUMS, source)
    assert names(cache) == ["a"]
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(lock)


def test_a_process_that_was_slower_uses_the_copy_of_the_other(cache: DiskCache, source: Source) -> None:
    other = Source()

    def fetch(folder: str) -> None:
        DiskCache(cache.folder, cache.max_bytes).get("a", SUMS, other)
        source(folder)

    path = cache.get("a", SUMS, fetch)
    assert other.fetched == source.fetched == 1
    assert Path(path, "zarr.json").read_bytes() == CONTENT["zarr.json"] and names(cache) == ["a"]


def test_the_folder_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVOFLEET_CACHE", "/fast/disk")
    assert default_folder() == Path("/fast/disk")
    monkeypatch.delenv("SERVOFLEET_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/of/somebody/.cache")
    assert replay.disk_cache.default_folder() == Path("/of/somebody/.cache/servofleet/segments")
