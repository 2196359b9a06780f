"""The processes of a soak and what they hold, from /proc: memory, open files, shared memory."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import dataclasses
import os
from collections.abc import Iterator, Mapping

from common.processes import process_stat

# How Ray names the processes of our actors; while one starts, ".__init__" follows.
_STARTING = ".__init__"
ROLES = {"ray::Collector": "collectors", "ray::ReplayWriter": "writer"}
_PAGE = os.sysconf("SC_PAGE_SIZE")
_SHARED = "/dev/shm/"
_RAYS_OWN = ("plasma", "ray")  # Ray's object store; it is unlinked or goes with its raylet
_PR_SET_CHILD_SUBREAPER = 36


@dataclasses.dataclass(frozen=True)
class Process:
    """A process that lives: its number, when it began [clock ticks since boot], its role; that is "" for Ray's own, and
    for an actor that still starts.
    """

    pid: int
    started: int
    role: str


@contextlib.contextmanager
def adopting() -> Iterator[None]:
    """While this holds, processes whose parent died become children of this one, so that `descendants` sees them."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) is refused")
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def descendants() -> list[Process]:
    """Children of this process, their children and so on; those that ended and wait to be reaped do not count."""
    children: dict[int, list[Process]] = collections.defaultdict(list)
    for pid in _pids():
        with contextlib.suppress(OSError):  # it ended meanwhile
            stat = process_stat(pid)
            if stat.state not in "ZX":
                with open(f"/proc/{pid}/cmdline", errors="replace") as f:
                    name = f.read()
                role = next((r for start, r in ROLES.items() if name.startswith(start)), "")
                role = "" if _STARTING in name else role
                children[stat.parent].append(Process(pid, stat.born, role))
    found, parents = [], [os.getpid()]
    while parents:
        below = children.get(parents.pop(), [])
        found += below
        parents += [p.pid for p in below]
    return found


def reap() -> None:
    """Let go of adopted children that ended; those of others are left to who waits for them."""
    for process in list(_zombies()):
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process, os.WNOHANG)


def _zombies() -> Iterator[int]:
    for pid in _pids():
        with contextlib.suppress(OSError):
            found = process_stat(pid)
            if found.state == "Z" and found.parent == os.getpid():
                yield pid


def _pids() -> list[int]:
    # Plain strings: a `Path` interns its parts, and what that costs is memory that a soak would measure.
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def memory(pid: int) -> tuple[int, int] | None:
    """Resident bytes, and those of them that no file stands behind; None if the process ended."""
    try:
        with open(f"/proc/{pid}/statm") as f:
            fields = f.read().split()
    except OSError:
        return None
    return int(fields[1]) * _PAGE, (int(fields[1]) - int(fields[2])) * _PAGE


def open_handles() -> collections.Counter[str]:
    """Open file handles of this process by what they are: a path, or "socket", "pipe", "anon_inode:[eventfd]"."""
    found: collections.Counter[str] = collections.Counter()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the handle of the listing itself
            target = os.readlink(f"/proc/self/fd/{name}")
            found[target.split(":[")[0] if target.startswith(("socket", "pipe")) else target] += 1
    return found


def open_files(handles: Mapping[str, int]) -> int:
    """Those of `open_handles` that are files."""
    return sum(n for target, n in handles.items() if target.startswith("/"))


def shared_memory(pids: list[int]) -> set[str]:
    """Names below /dev/shm that these processes have mapped and that are not Ray's own."""
    names: set[str] = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/maps") as f:
                found = f.read().splitlines()
            for line in found:
                at = line.find(_SHARED)
                name = line[at + len(_SHARED) :].removesuffix(" (deleted)")
                if at >= 0 and not name.startswith(_RAYS_OWN):
                    names.add(name)
    return names


def still_there(names: set[str]) -> list[str]:
    """Those of the names that still lie below /dev/shm."""
    return sorted(n for n in names if os.path.exists(_SHARED + n))
