"""Disks that are full, slow to admit it, read-only or forbidden: the cause is named, nothing acknowledged is lost, and
when the fault is lifted the same writer goes on.

Full and read-only disks are real ones (tmpfs), so are missing permissions and limits of file sizes. Failing flushes and
short writes are made in `os.fsync` and `open`, because no real device fails when it is told to.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from records import assert_same, make_episode
from system import become_nobody, in_child, mount_disk, remount

from common.errors import StoreError
from replay.disk_space import DiskLimits
from replay.pins import pin
from replay.retention import Retention, plan_prune, prune, sweep
from replay.store import Store, open_store
from replay.tombstones import Buried, publish_tombstone
from replay.verify import find_faults
from replay.writer import SegmentWriter

pytestmark = pytest.mark.faults
NO_LIMITS = DiskLimits(slow_free_bytes=0, stop_free_bytes=0)


def episode(env: int) -> Any:
    return make_episode("dagger", env=env, rows=2, size=32)


def write_until_refused(writer: SegmentWriter, cause: str, first: int = 0, most: int = 400) -> tuple[list[int], int]:
    """Numbers of acknowledged episodes, and how many were handed over."""
    acked: list[int] = []
    for env in range(first, first + most):
        try:
            acked += [int(a.episode_id[-6:]) for a in writer.append(episode(env))]
        except StoreError as error:
            assert cause in str(error) and "\n" not in str(error), error
            return acked, env + 1
    raise AssertionError(f"{most} episodes were written, and nothing was refused")


def assert_holds(store: Store, count: int) -> None:
    """Each of the first episodes, once, with its content."""
    store.refresh()
    assert [int(e.id[-6:]) for e in store.select()] == list(range(count))
    for entry in store.select():
        assert_same(store.read_episode(entry), episode(int(entry.id[-6:])))
    assert find_faults(store.root) == []


@pytest.mark.parametrize("in_flight", [1, 3])
def test_a_full_disk(tmp_path: Path, in_flight: int) -> None:
    def work() -> None:
        mount_disk(tmp_path / "disk", 1_500_000)
        ballast = tmp_path / "disk" / "ballast"
        ballast.write_bytes(bytes(500_000))
        store = open_store(tmp_path / "disk" / "s", "a", create=True)
        writer = store.writer("w", max_episodes=2, in_flight=in_flight, disk=NO_LIMITS)
        acked, count = write_until_refused(writer, "No space left on device")
        assert len(acked) >= 2
        store.refresh()
        assert set(acked) <= {int(e.id[-6:]) for e in store.select()}
        with pytest.raises(StoreError, match="No space left on device"):
            writer.flush()
        assert find_faults(store.root) == []  # reading needs no space
        ballast.unlink()
        acked += [int(a.episode_id[-6:]) for a in writer.flush()]
        assert sorted(acked) == list(range(count))
        assert_holds(store, count)

    in_child(work)


def test_a_full_disk_takes_no_tombstone_and_no_pin_and_can_be_swept(tmp_path: Path) -> None:
    def work() -> None:
        mount_disk(tmp_path / "disk", 1_500_000)
        store = open_store(tmp_path / "disk" / "s", "a", create=True)
        writer = store.writer("w", max_episodes=1, disk=NO_LIMITS)
        for env in range(3):
            writer.append(episode(env))
        store.refresh()
        publish_tombstone(store.root, [Buried("w", 0, "data/w-00000000.zarr")], "a test", {})
        ballast = tmp_path / "disk" / "ballast"
        with pytest.raises(OSError, match="No space left"), open(ballast, "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        with pytest.raises(StoreError, match=r"no tombstone can be written: No space left"):
            publish_tombstone(store.root, [Buried("w", 1, "data/w-00000001.zarr")], "a test", {})
        with pytest.raises(StoreError, match=r"pin .* cannot be written: No space left"):
            pin(store.root, "mine", {"w": 3}, "a test")
        assert find_faults(store.root) == []
        ballast.unlink()
        assert sweep(store, grace_s=0.0).deleted == 1
        pin(store.root, "mine", store.refresh(), "a test")
        assert [int(e.id[-6:]) for e in store.select()] == [1, 2] and find_faults(store.root) == []

    in_child(work)


def test_writers_stop_before_the_disk_is_full_and_say_so(tmp_path: Path) -> None:
    def work() -> None:
        mount_disk(tmp_path / "disk", 2_000_000)
        store = open_store(tmp_path / "disk" / "s", "a", create=True)
        limits = DiskLimits(slow_free_bytes=1_200_000, stop_free_bytes=800_000, max_delay_s=0.02)
        writer = store.writer("w", max_episodes=1, disk=limits)
        _, count = write_until_refused(writer, "stop_free_bytes = 800000")
        disk = os.statvfs(store.root)
        assert disk.f_bavail * disk.f_frsize > 600_000
        remount(tmp_path / "disk", read_only=False, nbytes=8_000_000)
        assert len(writer.flush()) == 1
        assert_holds(store, count)

    in_child(work)


def test_a_disk_that_becomes_read_only(tmp_path: Path) -> None:
    def work() -> None:
        disk, size = tmp_path / "disk", 4_000_000
        mount_disk(disk, size)
        store = open_store(disk / "s", "a", create=True)
        writer = store.writer("w", max_episodes=1, disk=NO_LIMITS)
        for env in range(2):
            writer.append(episode(env))
        publish_tombstone(store.root, [Buried("x", 0, "")], "a test", {})
        remount(disk, read_only=True, nbytes=size)
        with pytest.raises(StoreError, match="Read-only file system"):
            writer.append(episode(2))
        with pytest.raises(StoreError, match="Read-only file system"):
            publish_tombstone(store.root, [Buried("w", 0, "")], "a test", {})
        with pytest.raises(StoreError, match="Read-only file system"):
            pin(store.root, "mine", {}, "a test")
        with pytest.raises(StoreError, match="read-only"):
            open_store(disk / "s", "a")
        assert_holds(open_store(disk / "s"), 2)
        remount(disk, read_only=False, nbytes=size)
        assert len(writer.flush()) == 1
        assert_holds(store, 3)

    in_child(work)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that any user may enter; those of pytest belong to who started it."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def test_missing_permissions(open_folder: Path) -> None:
    good = [episode(0), episode(1)]  # what is imported late may lie where nobody may read

    def work() -> None:
        become_nobody()
        store = open_store(open_folder / "s", "a", create=True)
        writer = store.writer("w", max_episodes=1)
        writer.append(good[0])
        folders = [p for p in (store.root, *store.root.rglob("*")) if p.is_dir()]
        for folder in folders:
            folder.chmod(0o555)
        with pytest.raises(StoreError, match="Permission denied"):
            writer.append(good[1])
        with pytest.raises(StoreError, match="is read-only for this process"):
            open_store(store.root, "a")
        reader = open_store(store.root)
        reader.refresh()
        assert_same(reader.read_episode(str(good[0].meta.id)), good[0])
        record = store.root / "commits" / "w" / "00000000.json"
        record.chmod(0o000)
        with pytest.raises(StoreError, match=r"commit record .*00000000\.json cannot be read: Permission denied"):
            open_store(store.root).refresh()
        record.chmod(0o444)
        for folder in folders:
            folder.chmod(0o755)
        assert len(writer.flush()) == 1

    in_child(work)
    assert_holds(open_store(open_folder / "s"), 2)


def test_files_that_may_not_grow_so_long_are_written_short_and_not_acknowledged(tmp_path: Path) -> None:
    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write then fails instead of killing
        store = open_store(tmp_path / "s", "a", create=True)
        writer = store.writer("w", max_episodes=1)
        writer.append(episode(0))
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
        with pytest.raises(StoreError, match="File too large"):
            writer.append(episode(1))
        assert [p.name for p in (store.root / "data").iterdir()] == ["w-00000000.zarr"]
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert len(writer.flush()) == 1
        assert_holds(store, 2)

    in_child(work)


def test_writes_that_move_only_a_part_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, moved = os.write, list[int]()

    def short(file: int, data: Any) -> int:
        moved.append(real(file, memoryview(data)[:1000]))
        return moved[-1]

    monkeypatch.setattr(os, "write", short)
    monkeypatch.setattr(os, "writev", lambda file, blocks: short(file, blocks[0]))
    store = open_store(tmp_path / "s", "a", create=True)
    writer = store.writer("w")
    writer.append(episode(0))
    assert len(writer.close()) == 1
    assert moved.count(1000) > 10
    assert_holds(store, 1)


@pytest.mark.parametrize("which", [0, 7, 30, -3, -2, -1])
def test_data_whose_flush_failed_is_not_acknowledged_and_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    """After a failed fsync the kernel takes the pages for clean: only files that were written after it are durable."""
    store = open_store(tmp_path / "s", "a", create=True)
    writer = store.writer("w", max_episodes=1)
    real, flushed = os.fsync, []

    def counting(fd: int) -> None:
        flushed.append((os.fstat(fd).st_dev, os.fstat(fd).st_ino))
        if len(flushed) - 1 == fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO), "a file")
        real(fd)

    fails = -1
    monkeypatch.setattr(os, "fsync", counting)
    assert len(writer.append(episode(0))) == 1
    fails = which % len(flushed)
    flushed.clear()
    with pytest.raises(StoreError, match="Input/output error"):
        writer.append(episode(1))
    store.refresh()
    for entry in store.select():  # where the record is out already, what it names is whole
        assert_same(store.read_episode(entry), episode(int(entry.id[-6:])))
    failed_at = time.time_ns()
    time.sleep(0.02)
    fails = -1
    flushed.clear()
    (ack,) = writer.flush()
    record = next(r for r in open_and_read(store) if (r.writer, r.seq) == (ack.writer, ack.seq))
    for name in record.files:
        about = (store.root / record.segment / name).stat()
        assert (about.st_dev, about.st_ino) in flushed and about.st_mtime_ns > failed_at, name
    assert_holds(store, 2)


def open_and_read(store: Store) -> list[Any]:
    store.refresh()
    return store.records()


def test_a_clock_that_goes_backwards_loses_nothing_and_deletes_nothing_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path / "s", "a", create=True)
    now = time.time()
    writer = store.writer("w", max_episodes=1)
    for env in range(4):
        monkeypatch.setattr(time, "time", lambda env=env: now - 1000.0 * env)
        writer.append(episode(env))
    assert_holds(store, 4)
    assert [r.committed_at > now - 1 for r in store.records()] == [True, False, False, False]
    # The newest are those of the largest numbers all the same.
    plan = plan_prune(store, Retention(newest_rows=2))
    assert [h.seq for h in plan.going] == [0, 1, 2]
    monkeypatch.setattr(time, "time", lambda: now)
    prune(store, plan)
    (store.root / "data" / "x-00000000.zarr").mkdir()
    monkeypatch.setattr(time, "time", lambda: now - 1e6)
    swept = sweep(store, grace_s=10.0, lease_s=10.0)
    assert (swept.deleted, swept.in_grace, swept.uncommitted) == (0, 3, 0)
    monkeypatch.setattr(time, "time", lambda: now + 20.0)
    assert sweep(store, grace_s=10.0, lease_s=1e6).deleted == 3
