import tracemalloc
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from records import make_episode

from replay.graveyard import Graveyard, _Numbered, _pack, _unpack
from replay.pins import pin, unpin
from replay.retention import sweep
from replay.store import open_store
from replay.tombstones import Buried, Tombstone, publish_tombstone, read_tombstone

names = st.sampled_from(["w", "v"])


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5)), min_size=1))
def test_numbers_are_those_they_were_first_added_with(added: list[tuple[int, int]]) -> None:
    numbered, wanted = _Numbered(), dict[int, int]()
    for key, number in added:
        numbered.add(key, number)
        wanted.setdefault(key, number)
    assert {key: numbered.get(key) for key in range(-1, 32)} == {key: wanted.get(key) for key in range(-1, 32)}
    assert numbered.keys() == set(wanted) and numbered.end == max(wanted) + 1


@given(
    st.builds(
        Tombstone,
        st.integers(0, 10**7),
        st.lists(st.builds(Buried, names, st.integers(0, 10**8 - 1), st.just("data/w-0.zarr"))).map(tuple),
        st.text(),
        st.dictionaries(st.text(), st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)),
        st.floats(0, 1e10),
    )
)
def test_a_tombstone_is_the_same_after_it_was_packed(tombstone: Tombstone) -> None:
    assert _unpack(_pack(tombstone)) == tombstone


def test_what_was_read_is_told_as_it_is_on_the_disk(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s", "a", create=True)
    for records in (
        [Buried("w", 3, "data/w-3.zarr"), Buried("w", 2, "")],
        [],
        [Buried("v", 0, ""), Buried("w", 3, "")],
    ):
        publish_tombstone(store.root, records, "a test", {"newest_rows": 1})
    graveyard = Graveyard(store.storage)
    assert graveyard.read(1) == 1 and graveyard.counts() == {"w": 4} and not graveyard.holds("v", 0)
    assert graveyard.read() == 3 and graveyard.read(1) == 1
    assert [graveyard.tombstone(n) for n in range(3)] == [read_tombstone(store.root, n) for n in range(3)]
    assert (
        graveyard.counts() == {"w": 4, "v": 1} and graveyard.numbers("w") == {2, 3} and graveyard.numbers("x") == set()
    )
    assert graveyard.holds("w", 3, 1) and graveyard.holds("v", 0) and not graveyard.holds("v", 0, 2)
    assert not graveyard.holds("w", 1)


def test_a_deleted_record_costs_a_few_bytes(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s", "a", create=True)
    for k in range(20):
        buried = [Buried("c000-a0001", k * 500 + i, f"data/c000-a0001-{k * 500 + i:08d}.zarr") for i in range(500)]
        publish_tombstone(store.root, buried, "a test", {})
    graveyard = Graveyard(store.storage)
    tracemalloc.start()
    try:
        graveyard.read()
        assert tracemalloc.get_traced_memory()[0] < 30 * 10_000
    finally:
        tracemalloc.stop()
    assert len(graveyard.numbers("c000-a0001")) == 10_000


def test_a_sweep_looks_once_at_what_it_finished_and_again_at_what_a_pin_kept(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s", "a", create=True)
    writer = store.writer("w", max_episodes=1)
    for env in range(3):
        writer.append(make_episode(env=env, rows=2))
    writer.close()
    store.refresh()
    segments = [r.segment for r in store.records()]
    publish_tombstone(store.root, [Buried("w", 0, segments[0])], "a test", {})
    assert sweep(store, grace_s=1e6).in_grace == 1 and store.graveyard.swept == set()
    assert sweep(store, grace_s=0.0, dry_run=True).deleted == 1 and store.graveyard.swept == set()
    assert sweep(store, grace_s=0.0).deleted == 1 and store.graveyard.swept == {0}
    pin(store.storage, "keeps", store.position(), "a test")
    publish_tombstone(store.root, [Buried("w", 1, segments[1])], "a test", {})
    for _ in range(2):
        found = sweep(store, grace_s=0.0)
        assert (found.deleted, found.pinned) == (0, 1) and store.graveyard.swept == {0}
        assert [t.number for t in store.tombstones()] == [1]
    unpin(store.storage, "keeps")
    assert sweep(store, grace_s=0.0).deleted == 1 and store.graveyard.swept == {0, 1}
    assert list(store.tombstones()) == [] and [r.seq for r in store.records()] == [2]
    other = open_store(store.root, "a")
    other.refresh()
    assert [t.number for t in other.tombstones()] == [0, 1] and sweep(other, grace_s=0.0).deleted == 0
