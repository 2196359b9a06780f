"""Repair: nothing whole is lost, nothing is deleted, and the store reads and verifies afterwards."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from records import assert_same, make_episode

import replay.repair as module
from common.episode import Episode
from common.errors import StoreError
from replay.record import record_path
from replay.repair import repair
from replay.store import Store, open_store
from replay.tombstones import Buried, publish_tombstone, tombstone_path
from replay.verify import find_faults

EPISODES = [make_episode("dagger", env=env, rows=2, size=40) for env in range(6)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    store = open_store(tmp_path / "s", "a", create=True)
    w = store.writer("w", max_episodes=2)
    for e in EPISODES:
        w.append(e)
    w.close()
    return tmp_path / "s"


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 8
    path.write_bytes(data)


def opened(root: Path) -> Store:
    store = open_store(root)
    store.refresh()
    return store


def envs(root: Path) -> list[int]:
    return [e.meta.id.env for e in opened(root).select()]


def files(root: Path) -> dict[str, int]:
    return {str(p.relative_to(root)): p.stat().st_size for p in root.rglob("*") if p.is_file()}


def check(root: Path, expected: list[Episode]) -> None:
    assert find_faults(root) == []
    store = opened(root)
    assert len(store.select()) == len(expected)
    for e in expected:
        assert_same(store.read_episode(str(e.meta.id)), e)


def test_whole_episodes_of_a_damaged_segment_are_saved(root: Path) -> None:
    image = root / "data" / "w-00000001.zarr" / "image" / "c.0.0.0.0"
    flip(image, 100)  # in episode 2; episode 3 lies behind it
    before = files(root)
    dry = repair(root, dry_run=True)
    assert files(root) == before and dry.quarantine == ""
    done = repair(root)
    assert (done.faults, done.moved, done.saved, done.lost) == (dry.faults, dry.moved, dry.saved, dry.lost)
    assert done.moved == ("commits/w/00000001.json", "data/w-00000001.zarr")
    assert [done.saved[0][-1], done.lost[0][-1]] == ["3", "2"]
    check(root, [EPISODES[k] for k in (0, 1, 3, 4, 5)])
    aside = Path(done.quarantine)
    assert (aside / "data/w-00000001.zarr/image/c.0.0.0.0").read_bytes() != b""
    assert set(before) <= set(files(root)) | {str(p.relative_to(aside)) for p in aside.rglob("*") if p.is_file()}
    assert repair(root).moved == ()
    # The view of a reader that was there before goes on from where it was.
    assert opened(root).refresh(upto={"w": 3}) == {"w": 3}


def test_a_lost_copy_that_another_record_holds_is_not_lost(root: Path) -> None:
    w = open_store(root, "a").writer("z")
    w.append(EPISODES[2])
    w.close()
    flip(root / "data" / "w-00000001.zarr" / "image" / "c.0.0.0.0", 100)
    assert repair(root).lost == ()
    check(root, EPISODES)


@pytest.mark.parametrize("damage", ["record", "gap", "signature"])
def test_a_store_that_cannot_be_read_can_be_read_again(root: Path, damage: str) -> None:
    record = record_path(root, "w", 1)
    if damage == "record":
        flip(record, 60)
    elif damage == "gap":
        record.unlink()
    else:
        (root / "data" / "w-00000001.zarr" / "zarr.json").write_text("[]")
    if damage != "signature":
        with pytest.raises(StoreError, match="00000001"):
            opened(root)
    done = repair(root, lease_s=-1)
    check(root, [EPISODES[k] for k in (0, 1, 4, 5)])
    assert "data/w-00000001.zarr" in done.moved
    w = open_store(root, "a").writer("w")
    w.append(EPISODES[2])
    assert [a.seq for a in w.close()] == [3]
    check(root, [EPISODES[k] for k in (0, 1, 2, 4, 5)])


@pytest.mark.parametrize("last", [True, False])
def test_a_damaged_tombstone_is_replaced(root: Path, last: bool) -> None:
    publish_tombstone(root, [Buried("w", 0, "data/w-00000000.zarr")], "a test", {})
    if not last:
        publish_tombstone(root, [Buried("w", 1, "data/w-00000001.zarr")], "a test", {})
    record_path(root, "w", 0).unlink()
    flip(tombstone_path(root, 0), 30)
    repair(root, lease_s=-1)
    assert find_faults(root) == [] and envs(root) == ([2, 3, 4, 5] if last else [4, 5])
    assert opened(root).position()["/tombstones"] == (2 if last else 3)


def test_pruned_episodes_do_not_come_back_from_a_damaged_segment(root: Path) -> None:
    publish_tombstone(root, [Buried("w", 1, "data/w-00000001.zarr")], "a test", {})
    flip(root / "data" / "w-00000001.zarr" / "image" / "c.0.0.0.0", 100)
    done = repair(root)
    assert done.saved == () and len(done.moved) == 2 and envs(root) == [0, 1, 4, 5]
    assert find_faults(root) == []


def test_leftovers_go_to_quarantine_after_their_lease_and_the_index_is_new(root: Path, tmp_path: Path) -> None:
    torn = root / "data" / "x-00000000.zarr"
    torn.mkdir()
    (root / "pins").mkdir()
    (root / "pins" / "bad.json").write_text("{}")
    (root / "commits" / "w" / ".r.tmp").touch()
    index = tmp_path / "index.sqlite"
    index.write_bytes(b"no database")
    assert repair(root).moved == ("pins/bad.json",)
    old = time.time() - 1e6
    for path in (torn, root / "commits" / "w" / ".r.tmp"):
        os.utime(path, (old, old))
    assert set(repair(root, index_path=index).moved) == {"data/x-00000000.zarr", "commits/w/.r.tmp"}
    assert index.read_bytes().startswith(b"SQLite format 3")
    check(root, EPISODES)


@pytest.mark.parametrize("step", ["publish_tombstone", "_move", "_commit_again"])
def test_a_repair_that_is_killed_is_finished_by_the_next(root: Path, monkeypatch, step: str) -> None:
    flip(root / "data" / "w-00000001.zarr" / "image" / "c.0.0.0.0", 100)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, step, stop)
    with pytest.raises(KeyboardInterrupt):
        repair(root)
    monkeypatch.undo()
    assert opened(root).select()  # a record without its tombstone would be a gap now
    repair(root)
    check(root, [EPISODES[k] for k in (0, 1, 3, 4, 5)])
