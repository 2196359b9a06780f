"""Policies, pins and sweeping: what goes, what stays, and that a kill in between harms nothing."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from records import make_episode

import replay.storage_local as module
from common.errors import StoreError
from replay.inspect import store_info
from replay.pins import Pin, pin, pin_path, read_pins, unpin
from replay.record import record_path
from replay.retention import Retention, plan_prune, prune, sweep, uncommitted
from replay.store import Store, open_store
from replay.tombstones import Buried, publish_tombstone

IOU = [0.2, 0.99, 0.3, 0.4, 0.97, 0.1]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Records a/0..2 and b/0..2 of 3 rows each, committed in turn; episodes 0..5 in that order."""
    store = open_store(tmp_path / "s", "a", create=True)
    writers = {name: store.writer(name, max_episodes=1) for name in "ab"}
    for env, iou in enumerate(IOU):
        phase = "ppo" if env < 4 else "sil"
        writers["ab"[env % 2]].append(
            make_episode("rollout", env=env, rows=3, iou=np.array([0, iou, 0], np.float32), phase=phase)
        )
    for w in writers.values():
        w.close()
    store.refresh()
    return store


def envs(store: Store) -> list[int]:
    return [e.meta.id.env for e in store.select()]


def going(store: Store, **policy: float) -> list[int]:
    held = plan_prune(store, Retention(**policy)).going  # type: ignore[arg-type]
    return sorted(2 * h.seq + "ab".index(h.writer) for h in held)


def apply(store: Store, **policy: float) -> None:
    prune(store, plan_prune(store, Retention(**policy)))  # type: ignore[arg-type]


def sizes(store: Store) -> list[int]:
    return [r.nbytes for r in store.records()]


def test_policies_alone_and_combined(store: Store) -> None:
    size = max(sizes(store))
    assert going(store) == []
    assert going(store, newest_rows=6) == [0, 1, 2, 3]
    assert going(store, newest_rows=7) == [0, 1, 2]
    assert going(store, newest_rows=0) == [0, 1, 2, 3, 4, 5]
    assert going(store, max_bytes=3 * size) == [0, 1, 2]
    assert going(store, min_iou=0.95) == [0, 2, 3, 5]
    assert going(store, newest_rows=3, min_iou=0.95) == [0, 2, 3]
    # Two successful records and one more fit.
    assert going(store, max_bytes=3 * size, min_iou=0.95) == [0, 2, 3]
    assert going(store, max_bytes=3 * size, newest_rows=3) == [0, 1, 2, 3, 4]
    pin(store.root, "mine", {"a": 1, "b": 0}, "a test")
    assert going(store, newest_rows=3, min_iou=0.95) == [2, 3]
    assert going(store, max_bytes=3 * size, min_iou=0.95) == [2, 3, 5]
    plan = plan_prune(store, Retention(newest_rows=3, min_iou=0.95))
    summary = json.loads(json.dumps(plan.summary()))
    assert [summary[part]["records"] for part in ("going", "pinned", "successful", "newest")] == [2, 1, 2, 1]
    assert summary["going"]["rows"] == 6 and summary["policy"]["min_iou"] == 0.95
    assert envs(store) == [0, 1, 2, 3, 4, 5]
    for wrong in ({"newest_rows": -1}, {"max_bytes": -5}, {"min_iou": 1.5}):
        with pytest.raises(StoreError, match=f"retention {next(iter(wrong))}"):
            Retention(**wrong)


def test_a_clock_that_went_backwards_makes_nothing_of_one_writer_older(store: Store, monkeypatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 5.0)
    w = store.writer("a")
    w.append(make_episode("rollout", env=6, rows=3))
    w.close()
    store.refresh()
    assert going(store, newest_rows=6) == [0, 1, 2, 3, 4]


def test_deleting_waits_for_the_grace_period_and_then_removes_record_and_data(store: Store) -> None:
    apply(store, newest_rows=6)
    before = sum(sizes(store))
    left = sweep(store, grace_s=3600)
    assert (left.deleted, left.in_grace, envs(store)) == (0, 4, [4, 5])
    assert store_info(store.root)["orphans"] == 0
    assert sum(p.stat().st_size for p in store.root.glob("data/**/*") if p.is_file()) == before
    dry = sweep(open_store(store.root), grace_s=0, dry_run=True)
    assert (dry.deleted, dry.in_grace) == (4, 0) and record_path(store.root, "a", 0).exists()
    done = sweep(store, grace_s=0)
    assert done == dry and done.bytes > 0
    assert sorted(p.name for p in store.root.glob("data/*")) == ["a-00000002.zarr", "b-00000002.zarr"]
    assert sorted(p.name for p in store.root.glob("commits/*/*")) == ["00000002.json"] * 2
    assert sweep(store, grace_s=0).deleted == 0
    fresh = open_store(store.root)
    fresh.refresh()
    assert envs(fresh) == [4, 5] and [fresh.read_episode(e).num_rows for e in fresh.select()] == [3, 3]
    with pytest.raises(StoreError, match="reading only"):
        sweep(fresh)
    with pytest.raises(StoreError, match="grace_s = -1"):
        sweep(store, grace_s=-1)


def test_what_a_pin_needs_outlives_any_policy_and_any_tombstone(store: Store) -> None:
    position = store.position()
    pin(store.root, "checkpoint-1", position, "resume", ["ppo"])
    assert going(store, newest_rows=0) == [4, 5]
    # Somebody names the records all the same: they leave the view, but not the disk.
    publish_tombstone(store.root, [Buried("a", n, f"data/a-{n:08d}.zarr") for n in range(3)], "by hand", {})
    done = sweep(store, grace_s=0)
    assert (done.deleted, done.pinned) == (1, 2)
    assert envs(store) == [1, 3, 5]
    store.refresh(upto=position)
    assert envs(store) == [0, 1, 2, 3, 5] and store.read_episode(store.select()[0]).num_rows == 3
    unpin(store.root, "checkpoint-1")
    assert sweep(store, grace_s=0).deleted == 2
    assert len(list(store.root.glob("data/*"))) == 3


def test_a_pin_made_after_a_tombstone_does_not_hold_what_its_view_no_longer_shows(store: Store) -> None:
    apply(store, newest_rows=6)
    old = store.position()
    pin(store.root, "now", store.refresh(), "a test")
    assert sweep(store, grace_s=0).deleted == 4
    with pytest.raises(StoreError, match=r"pin old: record a/0 of its position was deleted \(tombstone 0\)"):
        pin(store.root, "old", old, "too late")
    assert [p.name for p in read_pins(store.root)] == ["now"]


def test_pins_come_back_and_a_damaged_one_stops_all_deleting(store: Store) -> None:
    assert read_pins(store.root) == []
    made = pin(store.root, "b", {"a": 2, "/tombstones": 0}, "why", ("ppo",))
    assert read_pins(store.root) == [made] and isinstance(made, Pin)
    assert not made.reaches("a", 2) and made.reaches("a", 1) and not made.reaches("b", 0)
    with pytest.raises(StoreError, match="pin name"):
        pin(store.root, "../x", {}, "")
    unpin(store.root, "never-there")
    apply(store, newest_rows=6)
    path = pin_path(store.root, "b")
    path.write_bytes(path.read_bytes().replace(b'"a": 2', b'"a": 0'))
    for act in (lambda: sweep(store, grace_s=0), lambda: plan_prune(store, Retention(newest_rows=1))):
        with pytest.raises(StoreError, match=r"pin .*b\.json is damaged"):
            act()
    assert len(list(store.root.glob("commits/*/*.json"))) == 6


def test_uncommitted_segments_are_left_alone_until_their_lease_ends(store: Store) -> None:
    torn = store.root / "data" / "c-00000000.zarr"
    (torn / "image").mkdir(parents=True)
    assert uncommitted(store) == ["data/c-00000000.zarr"]
    assert sweep(store, grace_s=0).uncommitted == 0 and torn.exists()
    old = time.time() - 90_000
    for path in (torn / "image", torn):
        os.utime(path, (old, old))
    (torn / "image" / "zarr.json").write_text("{}")
    assert store.storage.last_change("data/c-00000000.zarr") > old and sweep(store).uncommitted == 0
    assert sweep(store, lease_s=-0.0).uncommitted == 1 and not torn.exists()
    assert envs(store) == [0, 1, 2, 3, 4, 5]


def test_a_writer_whose_segment_was_swept_fails_and_commits_again(store: Store, monkeypatch) -> None:
    import replay.writer

    w = store.writer("c")
    real = replay.writer.write_segment
    monkeypatch.setattr(
        replay.writer, "write_segment", lambda *a: (real(*a), time.sleep(0.02), sweep(store, lease_s=0))[0]
    )
    with pytest.raises(StoreError, match="swept before it was committed"):
        w.append(make_episode(env=7))
        w.flush()
    monkeypatch.undo()
    assert [a.seq for a in w.close()] == [0]
    store.refresh()
    assert store.read_episode("run-a/0000/dagger/00000000/000007").num_rows == 5


def test_a_folder_that_a_sleeping_writer_fills_again_is_not_taken_for_the_old_one(store: Store) -> None:
    sleeper = store.writer("a", max_episodes=1)
    w = store.writer("a", max_episodes=1)
    w.append(make_episode(env=6))
    w.close()
    store.refresh()
    publish_tombstone(store.root, [Buried("a", 3, "data/a-00000003.zarr")], "by hand", {})
    assert sweep(store, grace_s=0).deleted == 1
    time.sleep(0.02)
    segment = store.root / "data" / "a-00000003.zarr"
    segment.mkdir()  # what the sleeper does first
    assert sweep(store, grace_s=0).bytes == 0 and segment.exists()
    segment.rmdir()
    (ack,) = sleeper.append(make_episode(env=9))
    assert sweep(store, grace_s=0).deleted == 1  # the void record that it published first
    assert ack.seq == 4 and store.read_episode(ack.episode_id).num_rows == 5


@pytest.mark.parametrize("moment", ["unlink", "rename", "rmtree"])
def test_a_sweep_that_is_killed_is_finished_by_the_next(store: Store, monkeypatch, moment: str) -> None:
    apply(store, newest_rows=6)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    if moment == "rmtree":
        monkeypatch.setattr(module.shutil, "rmtree", stop)
    elif moment == "rename":
        monkeypatch.setattr(os, "rename", stop)
    else:
        real, calls = os.unlink, []

        def unlink(path: str | Path) -> None:
            if Path(path).parent.parent.name == "commits":
                stop() if calls else calls.append(1)
            real(path)

        monkeypatch.setattr(os, "unlink", unlink)
    with pytest.raises(KeyboardInterrupt):
        sweep(store, grace_s=0)
    monkeypatch.undo()
    for record in store.root.glob("commits/*/*.json"):
        segment = store.root / "data" / f"{record.parent.name}-{record.stem}.zarr"
        assert segment.is_dir(), "a record outlived its segment"
    fresh = open_store(store.root, "a")
    fresh.refresh()
    assert envs(fresh) == [4, 5] and all(fresh.read_episode(e) for e in fresh.select())
    sweep(fresh, grace_s=0)
    assert len(list(store.root.glob("data/*"))) == 2 and len(list(store.root.glob("commits/*/*"))) == 2
