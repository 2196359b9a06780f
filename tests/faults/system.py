"""Children that may break their own system: another disk, another user, smaller limits. All of it ends with them."""

from __future__ import annotations

import ctypes
import os
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000
_MS_RDONLY, _MS_REMOUNT, _MS_REC, _MS_PRIVATE = 1, 32, 16384, 1 << 18
REFUSED = 77  # exit status: the system did not allow the setting, which says nothing about the store
NOBODY = 65534


class RefusedError(Exception):
    """The system does not let a test make its setting."""


def in_child(work: Callable[[], None]) -> None:
    """Run in a forked child; what it asserts is asserted here. Skips where the system refuses the setting."""
    with tempfile.TemporaryFile("w+") as said:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                work()
                status = 0
            except RefusedError as error:
                said.write(str(error))
                status = REFUSED
            except BaseException:  # noqa: BLE001 - a child must not return into the test runner
                said.write(traceback.format_exc())
            said.flush()
            os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        words = said.read()
    if status == REFUSED:
        pytest.skip(words)
    assert status == 0, words


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        code = ctypes.get_errno()
        raise RefusedError(f"{name} is refused here: {os.strerror(code)}")


def mount_disk(at: Path, nbytes: int) -> None:
    """A file system of its own for this process, in RAM, of so many bytes."""
    uid, gid = os.getuid(), os.getgid()
    _call("unshare", _CLONE_NEWNS if uid == 0 else _CLONE_NEWNS | _CLONE_NEWUSER)
    if uid != 0:
        for file, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            Path("/proc/self", file).write_text(text)
    _call("mount", b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)  # nothing of it is seen outside
    at.mkdir(exist_ok=True)
    _call("mount", b"tmpfs", str(at).encode(), b"tmpfs", 0, f"size={nbytes}".encode())


def remount(at: Path, *, read_only: bool, nbytes: int) -> None:
    """Make a mounted disk read-only, or writable again."""
    flags = _MS_REMOUNT | (_MS_RDONLY if read_only else 0)
    _call("mount", b"tmpfs", str(at).encode(), b"tmpfs", flags, f"size={nbytes}".encode())


def become_nobody() -> None:
    """Give up being root, for good; who is not root is nobody enough."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
