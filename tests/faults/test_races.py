"""Processes that race each other at the steps where it matters: for a number, and between reading and deleting."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest
from records import make_episode

from common.errors import StoreError
from replay.pins import pin
from replay.retention import Retention, plan_prune, prune, sweep
from replay.store import Store, open_store
from replay.tombstones import Buried, publish_tombstone, tombstone_path
from replay.verify import find_faults

pytestmark = pytest.mark.faults
FORK = multiprocessing.get_context("fork")


def filled(root: Path, commits: int, name: str = "w") -> Store:
    store = open_store(root, "a", create=True)
    writer = store.writer(name, max_episodes=1)
    for env in range(commits):
        writer.append(make_episode("rollout", env=env, rows=2))
    writer.close()
    store.refresh()
    return store


def bury(store: Store) -> None:
    store.refresh()
    prune(store, plan_prune(store, Retention(newest_rows=0)))


def _commit_together(root: str, barrier: Any, first: int, commits: int) -> None:
    writer = open_store(root, "a").writer("w", max_episodes=1)
    for k in range(commits):
        barrier.wait()
        if len(writer.append(make_episode("rollout", env=first + k, rows=1))) != 1:
            os._exit(1)
    os._exit(0)


def _run(target: Any, arguments: list[tuple[Any, ...]]) -> None:
    processes = [FORK.Process(target=target, args=a) for a in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0


def test_writers_that_race_for_a_number_get_one_each_without_a_gap(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s", "a", create=True)
    writers, commits = 3, 12
    barrier = FORK.Barrier(writers)
    _run(_commit_together, [(str(store.root), barrier, 1000 * k, commits) for k in range(writers)])
    assert store.refresh() == {"w": writers * commits}
    records = store.records()
    assert [r.seq for r in records] == list(range(writers * commits))
    assert len({r.segment for r in records}) == len({e.id for r in records for e in r.episodes}) == writers * commits
    assert find_faults(store.root, lease_s=0.0) == []


def _bury_together(root: str, barrier: Any, first: int, count: int) -> None:
    for k in range(count):
        barrier.wait()
        publish_tombstone(Path(root), [Buried("w", first + k, "")], "a race", {})
    os._exit(0)


def test_tombstones_that_race_for_a_number_are_all_kept(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s", "a", create=True)
    barrier = FORK.Barrier(2)
    _run(_bury_together, [(str(store.root), barrier, 10 * k, 10) for k in range(2)])
    store.refresh()
    named = [r.seq for t in store.tombstones() for r in t.records]
    assert len(list(store.tombstones())) == 20 and sorted(named) == list(range(20))


def _pin_or_sweep(root: str, barrier: Any, out: Any, sweeps: bool) -> None:
    barrier.wait()
    if sweeps:
        sweep(open_store(root, "a"), grace_s=0.0)
    else:
        try:
            pin(Path(root), "mine", {"w": 6}, "a race")
            out.put("pinned")
        except StoreError as error:
            out.put("late" if "refresh the store first" in str(error) else str(error))
            out.close()
            out.join_thread()
    os._exit(0) if sweeps else None


def test_a_pin_that_races_a_sweep_holds_everything_or_is_refused(tmp_path: Path) -> None:
    seen = set()
    for k in range(4):
        store = filled(tmp_path / f"{k}", 6)
        bury(store)
        barrier, out = FORK.Barrier(2), FORK.Queue()
        _run(_pin_or_sweep, [(str(store.root), barrier, out, sweeps) for sweeps in (True, False)])
        answer = out.get(timeout=60)
        seen.add(answer)
        assert answer in ("pinned", "late")
        if answer == "pinned":
            sweep(store, grace_s=0.0)
            store.refresh(upto={"w": 6})
            assert [store.read_episode(e).num_rows for e in store.select()] == [2] * 6
        store.close()
    assert seen  # which of them wins is the machine's choice


def test_a_view_reads_on_while_what_it_shows_is_pruned_and_until_it_is_swept(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", 3)
    entries = store.select()
    other = open_store(store.root, "a")
    bury(other)
    sweep(other, grace_s=60.0)
    assert [store.read_episode(e).sha256() for e in entries] == [e.sha256 for e in entries]
    sweep(other, grace_s=0.0)
    # What is open stays readable when its name is gone; what is opened now is refused by name.
    assert store.read_episode(entries[0]).sha256() == entries[0].sha256
    store.release()
    with pytest.raises(StoreError, match="w-00000000"):
        store.read_episode(entries[0])
    assert store.refresh()["w"] == 3 and store.select() == []


def test_deleting_while_a_store_is_verified_is_no_fault(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", 4)
    done = []

    def delete(*_: int) -> None:
        if not done:
            bury(store)
            sweep(store, grace_s=0.0)
        done.append(1)

    assert find_faults(store.root, progress=delete) == []
    assert len(done) == 4 and list((store.root / "data").iterdir()) == []


def test_folders_that_vanish_while_they_are_looked_at_stop_neither_sweep_nor_verification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path / "s", 1)
    torn = store.root / "data" / "x-00000000.zarr"
    real = os.walk

    def vanishing(path: Any, *rest: Any) -> Any:
        for folder, folders, files in real(path, *rest):
            yield folder, folders, [*files, "gone"]

    torn.mkdir()
    os.utime(torn, (time.time() - 1e6,) * 2)
    with monkeypatch.context() as patch:
        patch.setattr(os, "walk", vanishing)
        assert find_faults(store.root) == [] and sweep(store).uncommitted == 0
    assert sweep(store).uncommitted == 1 and not torn.exists()


def test_a_tombstone_of_a_number_that_is_still_free_hides_the_record_that_takes_it(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", 1)
    writer = store.writer("w", max_episodes=1)
    publish_tombstone(store.root, [Buried("w", 1, "")], "made before the writer got there", {})
    (ack,) = writer.append(make_episode("rollout", env=9))
    assert ack.seq == 2 and tombstone_path(store.root, 0).exists()
    store.refresh()
    assert len(store.select()) == 2
