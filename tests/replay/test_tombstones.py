"""Records that were taken out: what readers and writers make of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from records import make_episode

from common.errors import StoreError
from replay.record import encode_record, record_path
from replay.store import Store, open_store
from replay.tombstones import Buried, Tombstone, publish_tombstone, read_tombstone, tombstone_path

T = "/tombstones"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """One writer, records 0..3 of one episode each."""
    store = open_store(tmp_path / "s", "a", create=True)
    commit(store, "w", range(4))
    store.refresh()
    return store


def commit(store: Store, writer: str, envs: range | list[int], **more: object) -> None:
    w = store.writer(writer, max_episodes=1)
    for env in envs:
        w.append(make_episode(env=env, rows=2, **more))
    w.close()


def bury(store: Store, *seqs: int, writer: str = "w") -> Tombstone:
    records = [Buried(writer, s, f"data/{writer}-{s:08d}.zarr") for s in seqs]
    return publish_tombstone(store.root, records, "a test", {"newest_rows": 1})


def delete(store: Store, *seqs: int) -> None:
    for seq in seqs:
        record_path(store.root, "w", seq).unlink()


def envs(store: Store) -> list[int]:
    return [e.meta.id.env for e in store.select()]


def test_buried_episodes_leave_at_refresh_and_older_positions_go_on_showing_them(store: Store) -> None:
    before = store.position()
    assert before == {"w": 4}
    assert bury(store, 1, 3) == read_tombstone(store.root, 0)
    assert envs(store) == [0, 1, 2, 3]
    generation = store.generation
    assert store.refresh() == {"w": 4, T: 1}
    assert store.generation == generation + 1 and envs(store) == [0, 2]
    assert [r.seq for r in store.records()] == [0, 2]
    assert [t.number for t in store.tombstones()] == [0]
    with pytest.raises(StoreError, match="is not in store"):
        store.entry("run-a/0000/dagger/00000000/000001")
    assert store.refresh(upto=json.loads(json.dumps(before))) == before
    assert envs(store) == [0, 1, 2, 3] and list(store.tombstones()) == []
    assert store.refresh(upto={"w": 2, T: 1}) == {"w": 2, T: 1}
    assert envs(store) == [0]
    # A record that the tombstone names lies beyond this position: it stays out when the view grows.
    assert store.refresh() == {"w": 4, T: 1}
    assert envs(store) == [0, 2]


@pytest.mark.parametrize("start", [None, {"w": 2}, {"w": 4}, {"w": 3, T: 1}])
def test_deleted_records_are_no_gap_from_any_position(store: Store, start: dict[str, int] | None) -> None:
    bury(store, 1, 3)
    delete(store, 1, 3)
    reader = open_store(store.root)
    if start is not None:
        assert reader.refresh(upto=start) == start
        assert envs(reader) == [e for e in (0, 2) if e < start["w"]]
    assert reader.refresh() == {"w": 4, T: 1}
    assert envs(reader) == [0, 2]


def test_a_record_that_is_missing_without_a_tombstone_is_an_error(store: Store) -> None:
    bury(store, 1)
    delete(store, 2)
    with pytest.raises(StoreError, match=r"00000002\.json cannot be read"):
        open_store(store.root).refresh()


def test_the_next_copy_of_an_episode_stands_when_the_first_goes(store: Store) -> None:
    commit(store, "z", [2], seed=9)
    store.refresh()
    first = store.entry("run-a/0000/dagger/00000000/000002")
    bury(store, 2)
    store.refresh()
    second = store.entry(first.id)
    assert (first.writer, second.writer) == ("w", "z") and second.sha256 != first.sha256
    fresh = open_store(store.root)
    fresh.refresh()
    assert fresh.select() == store.select()
    bury(store, 0, writer="z")
    store.refresh()
    assert envs(store) == [0, 1, 3]


def test_an_index_on_disk_remembers_the_tombstones(store: Store, tmp_path: Path) -> None:
    bury(store, 0)
    for _ in range(2):
        reader = open_store(store.root, index_path=tmp_path / "index.sqlite")
        reader.refresh()
        assert reader.position() == {"w": 4, T: 1} and envs(reader) == [1, 2, 3]
        reader.close()


def test_a_writer_never_takes_a_deleted_number_again(store: Store) -> None:
    bury(store, 2, 3)
    delete(store, 2, 3)
    commit(store, "w", [7])
    assert not record_path(store.root, "w", 2).exists() and not record_path(store.root, "w", 3).exists()
    assert store.refresh() == {"w": 5, T: 1}
    assert envs(store) == [0, 1, 7]


def test_a_writer_that_slept_over_the_deletion_of_its_number_is_not_lost(store: Store) -> None:
    sleeper = store.writer("w", max_episodes=1)
    commit(store, "w", [4])
    bury(store, 4)
    delete(store, 4)
    (ack,) = sleeper.append(make_episode(env=8))
    sleeper.close()
    assert ack.seq == 5
    store.refresh()
    assert envs(store) == [0, 1, 2, 3, 8]


def test_two_publishers_get_two_numbers(store: Store) -> None:
    assert [bury(store, k).number for k in range(3)] == [0, 1, 2]
    with pytest.raises(StoreError, match="exists already"):
        publish_tombstone(store.root, [], "again", {}, number=1)
    tombstone_path(store.root, 1).unlink()
    with pytest.raises(StoreError, match=r"tombstone .*00000001\.json cannot be read"):
        store.refresh()
    assert store.position() == {"w": 4}


@pytest.mark.parametrize("damage", ["flip", "outside", "absolute", "writer", "number", "keys"])
def test_a_damaged_or_lying_tombstone_is_refused_by_name(store: Store, damage: str) -> None:
    bury(store, 0)
    path = tombstone_path(store.root, 0)
    data = bytearray(path.read_bytes())
    body = json.loads(data)
    del body["crc32c"]
    if damage == "flip":
        data[len(data) // 2] ^= 1
    elif damage == "number":
        body["number"] = 4
    elif damage == "keys":
        del body["records"][0]["segment"]
    elif damage == "writer":
        body["records"][0]["writer"] = "../w"
    else:
        body["records"][0]["segment"] = {"outside": "data/../../x", "absolute": "/etc"}[damage]
    path.write_bytes(data if damage == "flip" else encode_record(body))
    with pytest.raises(StoreError, match=r"00000000\.json"):
        store.refresh()
    assert envs(store) == [0, 1, 2, 3]
