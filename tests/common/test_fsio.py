import multiprocessing
import os
from types import SimpleNamespace

import pytest

from common import fsio
from common.fsio import create_only, fsync_all, fsync_path, is_in_ram, replace_atomically


def test_create_only_publishes_once_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "x.json"
    assert create_only(path, b"first")
    assert not create_only(path, b"second")
    assert path.read_bytes() == b"first"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_replace_changes_the_content_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "x.json"
    replace_atomically(path, b"old")
    replace_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("write", [create_only, replace_atomically])
def test_a_failed_write_leaves_the_old_content_and_no_temporary_file(tmp_path, monkeypatch, write):
    path = tmp_path / "x"
    if write is replace_atomically:
        path.write_bytes(b"old")
    before = sorted(p.name for p in tmp_path.iterdir())

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("common.fsio.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(path, b"new")
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert not path.exists() or path.read_bytes() == b"old"


def _race(folder, me, barrier, results):
    for k in range(20):
        barrier.wait(timeout=30)
        results.put((k, me, create_only(folder / f"{k}", bytes([me]) * 4096)))


def test_of_two_racing_processes_exactly_one_wins_each_time(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.Queue()
    racers = [context.Process(target=_race, args=(tmp_path, me, barrier, results)) for me in (1, 2)]
    for racer in racers:
        racer.start()
    answers = [results.get(timeout=60) for _ in range(40)]
    for racer in racers:
        racer.join(timeout=30)
    for k in range(20):
        winners = [me for name, me, won in answers if name == k and won]
        assert len(winners) == 1
        assert (tmp_path / f"{k}").read_bytes() == bytes(winners) * 4096
    assert len(list(tmp_path.iterdir())) == 20


def test_flushing_wants_existing_paths(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    fsync_all([tmp_path / "a", tmp_path])
    with pytest.raises(FileNotFoundError):
        fsync_path(tmp_path / "missing")


@pytest.mark.parametrize(
    ("kind", "number", "in_ram"), [("tmpfs", "7:3", True), ("ext4", "7:3", False), ("tmpfs", "7:1", False)]
)
def test_a_file_system_in_ram_is_told_by_the_mount_of_the_path(tmp_path, monkeypatch, kind, number, in_ram):
    mounts = f"25 1 8:1 / / rw - ext4 /dev/vda rw\n30 25 {number} / {tmp_path} rw,relatime shared:9 - {kind} some rw\n"
    monkeypatch.setattr(fsio.Path, "read_text", lambda self: mounts)
    monkeypatch.setattr(fsio.Path, "stat", lambda self: SimpleNamespace(st_dev=os.makedev(7, 3)))
    assert is_in_ram(tmp_path) is in_ram


def test_a_system_that_tells_no_mounts_is_taken_for_one_with_devices(tmp_path, monkeypatch):
    def missing(self):
        raise FileNotFoundError(str(self))

    monkeypatch.setattr(fsio.Path, "read_text", missing)
    assert not is_in_ram(tmp_path)
