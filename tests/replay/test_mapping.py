"""Maps outlive their file; rows come from anywhere in memory; the disk is asked ahead only while it is read."""

from __future__ import annotations

import gc
import mmap
import os
from pathlib import Path

import numpy as np
import pytest

import replay.mapping
from replay.mapping import Readahead, Rows, address_of, map_file


def maps_of(path: Path) -> int:
    return Path("/proc/self/maps").read_text().count(str(path))


def test_a_map_needs_no_descriptor_and_goes_with_its_last_array(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(range(200)))
    before = len(os.listdir("/proc/self/fd"))
    with open(path, "rb") as f:
        part = map_file(f.fileno(), 200)[10:20]
    assert len(os.listdir("/proc/self/fd")) == before and maps_of(path) == 1
    gc.collect()
    assert part.tolist() == list(range(10, 20)) and not part.flags.writeable
    path.unlink()
    assert part[9] == 19
    del part
    assert maps_of(path) == 0


def test_a_refused_map_is_an_error(tmp_path: Path) -> None:
    with os.fdopen(os.pipe()[0], "rb") as f, pytest.raises(OSError, match="10 bytes cannot be mapped"):
        map_file(f.fileno(), 10)


@pytest.mark.parametrize("row_bytes", [1, 24, 4096, 4800, 332667])
@pytest.mark.parametrize("limit", [replay.mapping._MAX_WINDOW, 0])
def test_rows_are_copied_from_arrays_that_lie_far_apart(row_bytes: int, limit: int, monkeypatch) -> None:
    monkeypatch.setattr(replay.mapping, "_MAX_WINDOW", limit)
    rng = np.random.default_rng(row_bytes)
    near = rng.integers(0, 256, (7, row_bytes), dtype=np.uint8)
    far = np.frombuffer(mmap.mmap(-1, 5 * row_bytes), np.uint8).reshape(5, row_bytes)
    far[:] = rng.integers(0, 256, far.shape, dtype=np.uint8)
    rows = [(near, 6), (far, 4), (near, 0), (far, 0), (near, 6)]
    addresses = np.array([address_of(a) + k * row_bytes for a, k in rows], np.int64)
    found = Rows(addresses, row_bytes)
    got, expected = found.copy(0, 5), np.stack([a[k] for a, k in rows])
    np.testing.assert_array_equal(got, expected)
    assert got.flags.writeable and not any(np.shares_memory(got, a) for a in (near, far))
    np.testing.assert_array_equal(found.copy(1, 3), expected[1:3])
    assert found.copy(2, 2).shape == (0, row_bytes)


def test_the_disk_is_asked_ahead_only_while_it_is_read(monkeypatch) -> None:
    """The count of blocks stands for a disk: what is in RAM here cannot be pushed out everywhere."""
    read = iter([0, 8, 8, 24, 24, 24, 24, 24])
    asked: list[int] = []
    monkeypatch.setattr(replay.mapping, "_blocks_read", lambda: next(read))
    monkeypatch.setattr(replay.mapping._libc, "madvise", lambda address, size, advice: asked.append(address))
    data = np.arange(10 * 4096, dtype=np.uint32).view(np.uint8).reshape(-1, 4096)
    addresses = address_of(data) + 4096 * np.array([3, 1, 3])
    readahead, told = Readahead(), []
    for _ in range(4):
        np.testing.assert_array_equal(readahead.copy(Rows(addresses, 4096), 0, 3), data[[3, 1, 3]])
        told.append((readahead.cold, len(asked)))
    assert told == [(True, 0), (True, 2), (False, 4), (False, 4)]
    assert all(a % mmap.PAGESIZE == 0 for a in asked)
