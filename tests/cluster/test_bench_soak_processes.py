"""What /proc says of real processes: whose they are, what they hold."""

import mmap
import os
import socket
import subprocess
import sys
import time
from multiprocessing import shared_memory as shm

import pytest

from cluster.bench_soak_processes import (
    adopting,
    descendants,
    memory,
    open_files,
    open_handles,
    reap,
    shared_memory,
    still_there,
)

NAMES = ("ray::Collector.run", "ray::Collector.__init__", "ray::IDLE")


def named(pid):
    return open(f"/proc/{pid}/cmdline").read().startswith("ray::")


def test_roles_are_known_by_the_names_that_ray_gives():
    # With `exec -a` the process carries the name, as Ray's workers do.
    started = [subprocess.Popen(["bash", "-c", f"exec -a {n} sleep 30"]) for n in NAMES]
    try:
        deadline = time.monotonic() + 10.0
        while not all(named(p.pid) for p in started):
            assert time.monotonic() < deadline
        found = {p.pid: p.role for p in descendants()}
        assert [found.get(p.pid) for p in started] == ["collectors", "", ""]
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert not {p.pid for p in started} & {p.pid for p in descendants()}


def test_an_orphan_is_still_seen_while_it_is_adopted():
    """Its parent dies first, as a killed raylet leaves its workers."""
    script = "import subprocess as s; print(s.Popen(['sleep', '30'], stdout=s.DEVNULL, stderr=s.DEVNULL).pid)"
    with adopting():
        said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        orphan = int(said.stdout)
        assert orphan in {p.pid for p in descendants()}
        os.kill(orphan, 9)
        deadline = time.monotonic() + 10.0
        while os.path.exists(f"/proc/{orphan}"):
            reap()
            assert time.monotonic() < deadline
    assert orphan not in {p.pid for p in descendants()}


def test_memory_grows_by_what_is_taken():
    # Mapped here: malloc may hand out memory that an earlier test touched and that stayed resident.
    page = b"1" * mmap.PAGESIZE
    with mmap.mmap(-1, 60_000_000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as taken:
        before = memory(os.getpid())
        for _ in range(len(taken) // len(page)):
            taken.write(page)
        after = memory(os.getpid())
    assert before is not None and after is not None
    assert 50e6 < after[0] - before[0] < 90e6 and 50e6 < after[1] - before[1] < 90e6
    assert memory(2**22 + 1) is None


def test_open_handles_are_known_by_what_they_are(tmp_path):
    before = open_handles()
    with open(tmp_path / "a", "w"), socket.socket():
        assert open_handles() - before == {str(tmp_path / "a"): 1, "socket": 1}
        assert open_files(open_handles()) == open_files(before) + 1
    assert open_handles() == before


def test_shared_memory_that_was_mapped_and_stays_is_named():
    block = shm.SharedMemory(create=True, size=4096)
    try:
        mapped = shared_memory([os.getpid()])
        assert block.name in mapped and still_there(mapped) == [block.name]
    finally:
        block.close()
        block.unlink()
    assert block.name not in shared_memory([os.getpid()]) and still_there({block.name}) == []


@pytest.mark.parametrize("name", ["plasma-1", "ray-2"])
def test_what_is_rays_own_is_left_out(name):
    block = shm.SharedMemory(name=f"{name}-{os.getpid()}", create=True, size=4096)
    try:
        assert block.name not in shared_memory([os.getpid()])
    finally:
        block.close()
        block.unlink()
