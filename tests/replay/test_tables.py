"""Columns of addresses: a segment keeps its number, nothing is read unchecked, and nothing is kept after release."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from records import make_episode

from common.errors import StoreError
from replay.store import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Four segments of one dagger episode each, and one of pairs."""
    store = open_store(tmp_path / "s", "a", create=True)
    w = store.writer("w", max_episodes=1)
    for env in range(4):
        w.append(make_episode("dagger", env=env, rows=5, size=40))
    w.append(make_episode("pairs", env=9, rows=5, size=40))
    w.close()
    store.refresh()
    return store


def maps_of(root: Path) -> int:
    return Path("/proc/self/maps").read_text().count(str(root))


def places(store: Store) -> tuple[np.ndarray, np.ndarray]:
    dagger = [e for e in store.select() if e.meta.kind == "dagger"]
    return store.segment_numbers([e.segment for e in dagger]), np.arange(len(dagger)) % 5


def test_a_segment_keeps_its_number(store: Store) -> None:
    paths = [e.segment for e in store.select()]
    numbers = store.segment_numbers(paths)
    assert sorted(numbers) == list(range(5))
    store.release()
    assert store.segment_numbers(paths[::-1]).tolist() == numbers[::-1].tolist()
    assert store.segment_numbers([]).shape == (0,)


@pytest.mark.parametrize("max_files", [3, 1000])
def test_located_rows_are_those_that_are_read(store: Store, max_files: int) -> None:
    store._segments.max_files = max_files
    segments, at = places(store)
    names = ["image", "mask", "expert_twist", "label_valid"]
    expected = store.read_at(names, segments, at)
    located = store.locate(names, segments, at)
    if max_files == 3:  # what was opened for the first rows is closed again
        assert located is None
        return
    assert located is not None
    got = store.read_located(located, 1, 3)
    assert got is not None and list(got) == names
    for name, array in got.items():
        np.testing.assert_array_equal(array, expected[name][1:3])
        assert array.flags.writeable and array.flags.c_contiguous and array.dtype == expected[name].dtype


def test_nothing_is_located_that_reading_would_have_to_open_or_refuse(store: Store) -> None:
    segments, at = places(store)
    assert store.locate(["image"], segments, at) is None  # no segment is open
    store.read_at(["image"], segments, at)
    assert store.locate(["image"], segments, at) is not None
    assert store.locate(["mask"], segments, at) is None  # the array is not
    assert store.locate(["reward"], segments, at) is None  # no such field
    for row in (-1, 5):
        assert store.locate(["image"], segments, np.full_like(at, row)) is None
        with pytest.raises(StoreError, match=rf"row of .* = {row}: allowed is 0 \.\. 4"):
            store.read_at(["image"], segments, np.full_like(at, row))


def test_rows_of_two_layouts_are_not_located_together(store: Store) -> None:
    numbers = store.segment_numbers([e.segment for e in store.select()])
    at = np.zeros(5, np.int64)
    assert store.read_at(["expert_twist"], numbers, at)["expert_twist"].shape == (5, 6)
    assert store.locate(["expert_twist"], numbers, at) is None


def test_release_gives_maps_back_also_those_of_located_rows(store: Store) -> None:
    segments, at = places(store)
    store.read_at(["image"], segments, at)
    located = store.locate(["image"], segments, at)
    assert located is not None and maps_of(store.root) == 4
    assert store._segments._sums
    store.release()
    assert maps_of(store.root) == 0 and not store._segments._sums
    assert store.read_located(located, 0, 2) is None
    assert store.read_at(["image"], segments, at)["image"].shape == (4, 40, 40, 3)


def test_located_rows_outlive_the_segments_that_are_closed_for_others(store: Store) -> None:
    segments, at = places(store)
    expected = store.read_at(["image"], segments, at)["image"]
    located = store.locate(["image"], segments, at)
    assert located is not None
    store._segments.max_files = 1
    store.segment(store.select()[-1].segment).stored("image")
    store.segment(store.select()[0].segment)  # closes others
    assert store._segments.usage.files <= 2
    got = store.read_located(located, 0, 4)
    assert got is not None
    np.testing.assert_array_equal(got["image"], expected)
    assert store.locate(["image"], segments, at) is None  # where they lay is forgotten


def test_maps_of_segments_that_were_closed_for_others_are_given_back(store: Store) -> None:
    store._segments.max_files = 2
    segments, at = places(store)
    for k in range(4):
        store.read_at(["image"], segments[k : k + 1], at[k : k + 1])
        assert maps_of(store.root) <= 3  # two, and the one that the others were closed for
