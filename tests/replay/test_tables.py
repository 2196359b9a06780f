"""Columns of addresses: a segment keeps its number, nothing is read unchecked, and nothing is kept after release."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from records import make_episode

import replay.tables
from common.errors import StoreError
from replay.drawing import Group
from replay.pins import pin
from replay.retention import Retention, plan_prune, prune, sweep
from replay.samplers import UniformSampler
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
    return store.numbering.numbers([e.segment for e in dagger]), np.arange(len(dagger)) % 5


def test_a_segment_keeps_its_number(store: Store) -> None:
    paths = [e.segment for e in store.select()]
    numbers = store.numbering.numbers(paths)
    assert sorted(numbers) == list(range(5))
    store.release()
    assert store.numbering.numbers(paths[::-1]).tolist() == numbers[::-1].tolist()
    assert store.numbering.numbers([]).shape == (0,)


@pytest.mark.parametrize("max_files", [3, 1000])
def test_located_rows_are_those_that_are_read(store: Store, max_files: int) -> None:
    store._segments.max_files = max_files
    segments, at = places(store)
    names = ["image", "mask", "expert_twist", "label_valid"]
    expected = store.read_at(names, segments, at, store.numbering)
    located = store.numbering.located(names, segments, at)
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
    assert store.numbering.located(["image"], segments, at) is None  # no segment is open
    store.read_at(["image"], segments, at, store.numbering)
    assert store.numbering.located(["image"], segments, at) is not None
    assert store.numbering.located(["mask"], segments, at) is None  # the array is not
    assert store.numbering.located(["reward"], segments, at) is None  # no such field
    for row in (-1, 5):
        assert store.numbering.located(["image"], segments, np.full_like(at, row)) is None
        with pytest.raises(StoreError, match=rf"row of .* = {row}: allowed is 0 \.\. 4"):
            store.read_at(["image"], segments, np.full_like(at, row), store.numbering)


def test_rows_of_two_layouts_are_not_located_together(store: Store) -> None:
    numbers = store.numbering.numbers([e.segment for e in store.select()])
    at = np.zeros(5, np.int64)
    assert store.read_at(["expert_twist"], numbers, at, store.numbering)["expert_twist"].shape == (5, 6)
    assert store.numbering.located(["expert_twist"], numbers, at) is None


def test_release_gives_maps_back_also_those_of_located_rows(store: Store) -> None:
    segments, at = places(store)
    store.read_at(["image"], segments, at, store.numbering)
    located = store.numbering.located(["image"], segments, at)
    assert located is not None and maps_of(store.root) == 4
    assert store._segments._sums
    store.release()
    assert maps_of(store.root) == 0 and not store._segments._sums
    assert store.read_located(located, 0, 2) is None
    assert store.read_at(["image"], segments, at, store.numbering)["image"].shape == (4, 40, 40, 3)


def test_located_rows_outlive_the_segments_that_are_closed_for_others(store: Store) -> None:
    segments, at = places(store)
    expected = store.read_at(["image"], segments, at, store.numbering)["image"]
    located = store.numbering.located(["image"], segments, at)
    assert located is not None
    store._segments.max_files = 1
    store.segment(store.select()[-1].segment).stored("image")
    store.segment(store.select()[0].segment)  # closes others
    assert store._segments.usage.files <= 2
    got = store.read_located(located, 0, 4)
    assert got is not None
    np.testing.assert_array_equal(got["image"], expected)
    assert store.numbering.located(["image"], segments, at) is None  # where they lay is forgotten


def test_maps_of_segments_that_were_closed_for_others_are_given_back(store: Store) -> None:
    store._segments.max_files = 2
    segments, at = places(store)
    for k in range(4):
        store.read_at(["image"], segments[k : k + 1], at[k : k + 1], store.numbering)
        assert maps_of(store.root) <= 3  # two, and the one that the others were closed for


def rounds_of(store: Store, count: int, keep: int) -> Iterator[int]:
    """Commit four segments of one episode per round, read them, and delete all but the newest `keep`."""
    writer = store.writer("more", max_episodes=1)
    for number in range(count):
        for env in range(4):
            writer.append(make_episode(env=env, round=1 + number, rows=5, size=40))
        store.refresh()
        entries = store.select()
        store.read_rows(["image"], entries, np.arange(len(entries)), np.zeros(len(entries), np.int64))
        prune(store, plan_prune(store, Retention(newest_rows=5 * keep)))
        store.refresh()
        sweep(store, grace_s=0.0)
        yield number
    writer.close()


def test_a_store_that_deletes_for_ever_remembers_what_is_left(store: Store, monkeypatch) -> None:
    monkeypatch.setattr(replay.tables, "_MANY_GONE", 2)
    numberings = {id(store.numbering)}
    for _ in rounds_of(store, 7, keep=2):
        numberings.add(id(store.numbering))
        # Deleted since the last numbering and before it: at most as many as are left and two, each time, and one round.
        for held in (store.numbering._paths, store._segments.usage.whole, store._segments._sums, store._segments._used):
            assert len(held) <= 3 * (2 + 2) + 4
    assert len(numberings) > 2
    new = open_store(store.root)
    new.refresh()
    assert new._numberings._gone == ([], [])  # who was not there has nothing to forget


def test_numbers_stay_good_with_their_numbering_while_others_are_given(store: Store, monkeypatch) -> None:
    monkeypatch.setattr(replay.tables, "_MANY_GONE", 0)
    writer = store.writer("stays", max_episodes=1)
    (ack,) = writer.append(make_episode(env=77, round=99, rows=5, size=40))
    writer.close()
    store.refresh()
    pin(store.storage, "stays", store.position(), "a test")
    place = store.entry(ack.episode_id)
    old, at = store.numbering, np.array([2])
    numbers = old.numbers([store.select()[0].segment, place.segment])[1:]  # not 0, as in the next numbering
    expected = store.read_at(["image"], numbers, at, old)["image"]
    for _ in rounds_of(store, 6, keep=3):
        assert place.segment in [e.segment for e in store.select()]
        np.testing.assert_array_equal(store.read_at(["image"], numbers, at, old)["image"], expected)
        new = store.numbering.numbers([place.segment])
        np.testing.assert_array_equal(store.read_at(["image"], new, at, store.numbering)["image"], expected)
    assert store.numbering is not old and numbers.tolist() != new.tolist()


def test_batches_are_those_of_a_store_that_numbers_once(store: Store, monkeypatch) -> None:
    group = Group("dagger", 8, 2)
    drawn: list[list[np.ndarray]] = [[], []]
    monkeypatch.setattr(replay.tables, "_MANY_GONE", 0)
    other = open_store(store.root)
    samplers = [UniformSampler(s, 3, ["image", "expert_twist"]) for s in (store, other)]
    for _ in rounds_of(store, 4, keep=3):
        other._numberings._gone[1].clear()  # never enough of them
        other.refresh()
        for sampler, batches in zip(samplers, drawn, strict=True):
            batches += [sampler.next([group])["image"] for _ in range(3)]
    assert store.numbering is not other.numbering and samplers[0]._numbering is store.numbering
    for a, b in zip(*drawn, strict=True):
        np.testing.assert_array_equal(a, b)


def test_segments_deleted_before_the_last_numbering_hold_no_maps(store: Store, monkeypatch) -> None:
    monkeypatch.setattr(replay.tables, "_MANY_GONE", 0)
    for _ in rounds_of(store, 5, keep=2):
        assert maps_of(store.root) <= 3 * 2 + 4


def test_who_reads_while_segments_go_still_has_those_of_the_last_numbering(store: Store, monkeypatch) -> None:
    monkeypatch.setattr(replay.tables, "_MANY_GONE", 0)
    old, (segments, at) = store.numbering, places(store)
    expected = store.read_at(["image"], segments, at, old)["image"]
    prune(store, plan_prune(store, Retention(newest_rows=5)))
    store.refresh()
    assert sweep(store, grace_s=0.0).deleted == 4 and store.numbering is not old
    np.testing.assert_array_equal(store.read_at(["image"], segments, at, old)["image"], expected)
