"""The commit protocol: order of flush and publish, restarts, races, duplicates, full disks, killed processes."""

from __future__ import annotations

import errno
import itertools
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from records import assert_same, make_episode

import replay.storage_local
import replay.writer
from common.episode import Episode
from common.errors import StoreError
from replay.disk_space import DiskFullError
from replay.index import Query
from replay.store import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "s", "a", create=True)


@pytest.mark.parametrize("in_ram", [False, True])
def test_every_file_and_folder_is_flushed_before_the_record_is_published(store: Store, monkeypatch, in_ram) -> None:
    monkeypatch.setattr(replay.storage_local, "is_in_ram", lambda folder: in_ram)
    flushed: set[str] = set()
    at_publish: list[set[str]] = []
    real_fsync, real_link = os.fsync, os.link
    w = store.writer("w")

    def fsync(fd: int) -> None:
        real_fsync(fd)
        flushed.add(os.readlink(f"/proc/self/fd/{fd}"))

    def link(src: Any, dst: Any) -> None:
        at_publish.append(set(flushed))
        assert str(src) in flushed  # the record's own bytes
        real_link(src, dst)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", link)
    w.append(make_episode(size=40))
    w.close()
    (segment,) = (store.root / "data").iterdir()
    needed = {str(p) for p in (segment, segment.parent, *segment.rglob("*"))}
    assert len(at_publish) == 1 and len(needed) > 20
    assert needed <= at_publish[0]
    assert str(store.root / "commits" / "w") in flushed  # before the ack


def test_segments_are_cut_by_episodes_by_bytes_and_by_kind(store: Store) -> None:
    w = store.writer("w", max_episodes=2)
    acks = [w.append(e) for i in range(2) for e in (make_episode("pairs", env=i), make_episode("dagger", env=i))]
    assert [len(a) for a in acks] == [0, 0, 2, 2]
    assert w.append(make_episode("pairs", env=5)) == []
    assert [a.episode_id[-1] for a in w.flush()] == ["5"] and w.flush() == []
    w = store.writer("v", max_bytes=3 * make_episode().nbytes())
    assert [len(w.append(make_episode(env=i))) for i in range(4)] == [0, 0, 3, 0]
    assert len(w.close()) == 1 and w.close() == []
    with pytest.raises(StoreError, match="writer 'v' is closed"):
        w.append(make_episode())
    store.refresh()
    kinds = {e.segment: set() for e in store.select()}
    for e in store.select():
        kinds[e.segment].add(e.meta.kind)
    assert all(len(k) == 1 for k in kinds.values())


def test_a_restarted_writer_goes_on_and_leaves_orphans_alone(store: Store) -> None:
    w = store.writer("w")
    w.append(make_episode(env=0))
    assert w.close()[0].seq == 0
    orphan = store.root / "data" / "w-00000001.zarr"
    orphan.mkdir()
    (orphan / "image").write_bytes(b"torn")
    w = store.writer("w")
    w.append(make_episode(env=1))
    (ack,) = w.close()
    assert (ack.writer, ack.seq) == ("w", 1)
    assert (orphan / "image").read_bytes() == b"torn" and list(orphan.iterdir()) == [orphan / "image"]
    store.refresh()
    assert_same(store.read_episode(ack.episode_id), make_episode(env=1))
    assert store.entry(ack.episode_id).segment == "data/w-00000001-1.zarr"


def test_duplicates_are_dropped_by_a_rule_that_does_not_depend_on_the_order_of_reading(store: Store) -> None:
    copies = {"b": make_episode(env=0, seed=1), "a": make_episode(env=0, seed=2)}
    positions = []
    for name, episode in copies.items():
        w = store.writer(name)
        w.append(episode)
        w.append(make_episode(env=1))
        w.append(make_episode(env=1))
        w.close()
        positions.append(store.refresh())
        assert [e.id[-1] for e in store.select()] == ["0", "1"]
    late = open_store(store.root)
    late.refresh()
    for view in (store, late):
        entry = view.select()[0]
        assert (entry.writer, entry.sha256) == ("a", copies["a"].sha256())
    assert store.refresh(upto=positions[0]) == {"b": 1}
    assert store.select()[0].writer == "b"


def test_two_processes_of_one_name_never_share_a_number_or_a_folder(store: Store) -> None:
    writers = [store.writer("w") for _ in range(3)]

    def work(k: int) -> list[int]:
        seqs = []
        for i in range(4):
            writers[k].append(make_episode(env=10 * k + i, rows=2))
            seqs += [a.seq for a in writers[k].flush()]
        return seqs

    with ThreadPoolExecutor(3) as pool:
        seqs = [s for part in pool.map(work, range(3)) for s in part]
    assert sorted(seqs) == list(range(12))
    assert store.refresh() == {"w": 12}
    assert len({e.segment for e in store.select()}) == 12
    for e in store.select():
        assert_same(store.read_episode(e), make_episode(env=int(e.id[-6:]), rows=2))


def test_a_full_disk_keeps_the_episodes_and_frees_the_torn_segment(store: Store, monkeypatch) -> None:
    w = store.writer("w")
    w.append(make_episode())
    calls = 0

    def full(fd: int) -> None:
        nonlocal calls
        calls += 1
        raise OSError(errno.ENOSPC, "No space left on device", "image")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DiskFullError, match=r"cannot be written by 'w': No space left on device.*free space"):
            w.flush()
    assert calls > 0 and list((store.root / "data").iterdir()) == []
    assert store.refresh() == {}
    assert len(w.flush()) == 1 and store.refresh() == {"w": 1}


def test_a_failed_flush_of_the_record_is_not_acknowledged_but_what_is_visible_is_whole(store, monkeypatch) -> None:
    w = store.writer("w")
    w.append(make_episode())
    real_link = os.link

    def link_then_fail(src: Any, dst: Any) -> None:
        real_link(src, dst)
        raise OSError(errno.EIO, "Input/output error", str(dst))

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", link_then_fail)
        with pytest.raises(StoreError, match="Input/output error"):
            w.flush()
    (ack,) = w.flush()
    assert ack.seq == 1 and store.refresh() == {"w": 2}
    (entry,) = store.select(Query(kind="dagger"))
    assert_same(store.read_episode(entry), make_episode())


def test_bad_arguments_are_named(store: Store) -> None:
    for arguments, message in (
        ({"writer_id": "../up"}, "writer id = '../up'"),
        ({"writer_id": "w", "max_episodes": 0}, "max_episodes = 0: allowed is at least 1"),
        ({"writer_id": "w", "max_bytes": 0}, "max_bytes = 0"),
    ):
        with pytest.raises(StoreError, match=message.replace(".", r"\.")):
            store.writer(**arguments)


def _write_until_killed(root: str, out: int, name: str, count: int) -> None:
    """Child: dies by SIGKILL at the `count`-th call of `name` after the first commit; reports each ack on `out`."""
    calls = itertools.count(1)  # counts rightly when threads call at once
    real = getattr(os, name)

    def counted(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    w = open_store(root, "a").writer("w", max_episodes=2)
    for i in range(1000):
        if i == 2:
            setattr(os, name, counted)
        for ack in w.append(make_episode(env=i, rows=3)):
            os.write(out, f"{ack.episode_id}\n".encode())


@pytest.mark.faults
@pytest.mark.parametrize(
    ("name", "count"),
    # One commit makes 18 folders, flushes 53 paths of the segment, then data/, the record and its folder, links the
    # record and unlinks its temporary name: kills before, within and after each of these.
    [
        *[("mkdir", n) for n in (1, 5, 18)],
        *[("fsync", n) for n in (1, 20, 53, 54, 55, 56, 80)],
        *[("link", n) for n in (1, 2)],
        *[("unlink", n) for n in (1, 3)],
    ],
)
def test_killed_at_any_step_nothing_acked_is_lost_and_nothing_torn_is_read(store: Store, name: str, count: int) -> None:
    read_end, write_end = os.pipe()
    child = multiprocessing.get_context("fork").Process(
        target=_write_until_killed, args=(str(store.root), write_end, name, count)
    )
    child.start()
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        acked = pipe.read().split()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert len(acked) >= 2
    if name == "fsync" and count <= 56:
        # The counts above mean what they say: only the last flush of a commit comes after the record is visible.
        assert store.refresh() == {"w": 2 if count == 56 else 1}
    store.refresh()
    visible = {e.id for e in store.select()}
    assert set(acked) <= visible
    for entry in store.select():
        assert_same(store.read_episode(entry), make_episode(env=int(entry.id[-6:]), rows=3))

    # A restart sends again what was not acknowledged, and every episode is there once.
    w = store.writer("w", max_episodes=2)
    resent = [a for i in range(len(acked), len(acked) + 4) for a in w.append(make_episode(env=i, rows=3))]
    assert len(resent) == 4
    w.close()
    store.refresh()
    assert [int(e.id[-6:]) for e in store.select()] == list(range(len(acked) + 4))


@pytest.mark.parametrize(("pixels", "elsewhere"), [(40, False), (400, True)])
def test_only_large_episodes_are_hashed_by_another_thread(store: Store, monkeypatch, pixels, elsewhere) -> None:
    threads, real = [], Episode.sha256
    monkeypatch.setattr(Episode, "sha256", lambda self: (threads.append(threading.current_thread()), real(self))[1])
    w = store.writer("w")
    w.append(make_episode(size=pixels))
    (ack,) = w.close()
    assert [t is not threading.main_thread() for t in threads] == [elsewhere]
    assert ack.sha256 == real(make_episode(size=pixels))


def test_a_commit_publishes_last(store: Store, monkeypatch) -> None:
    order: list[str] = []
    real_write, real_create = replay.writer.write_segment, replay.storage_local.create_only
    monkeypatch.setattr(replay.writer, "write_segment", lambda *a: (order.append("segment"), real_write(*a))[1])
    monkeypatch.setattr(replay.storage_local, "create_only", lambda *a: (order.append("record"), real_create(*a))[1])
    w = store.writer("w")
    w.append(make_episode())
    assert order == []
    assert len(w.flush()) == 1 and order == ["segment", "record"]
