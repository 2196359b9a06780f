"""Copies of segments on the disk of a node, for stores that lie elsewhere. All processes of the node share them.

    <segment>~<bytes>/       a whole segment; how long ago it was used is the age of the folder
    .fetch-<id>~<bytes>/     one that is being fetched; its maker holds a lock on the folder
    .gone-<id>/              one that is being deleted

Whoever fetches makes room first, under one lock, so that all of this together never takes more than the budget. Maps of
a copy that is deleted stay good: the kernel frees the disk when the last of them is gone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import google_crc32c

from common.errors import StoreError, bad_value
from replay.storage import Sums

_FETCH, _GONE, _LOCK = ".fetch-", ".gone-", ".lock"
_POLL_S = 0.02


def default_folder() -> Path:
    """``$SERVOFLEET_CACHE``, or ``servofleet/segments`` in the user's cache folder."""
    own = os.environ.get("SERVOFLEET_CACHE")
    return (
        Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "servofleet/segments"
    )


class DiskCache:
    """Segments by key. Any thread and any process may use it."""

    def __init__(self, folder: Path, max_bytes: int, max_wait_s: float = 300.0) -> None:
        """Copies in `folder`, which is made when it is needed.

        Args:
            folder: on a disk of this machine.
            max_bytes: that all copies may take.
            max_wait_s: how long to wait for room while others fetch [s].

        Raises:
            StoreError: if an argument is out of range.
        """
        if max_bytes < 1:
            raise StoreError(bad_value("cache_bytes", max_bytes, "at least 1"))
        self.folder, self.max_bytes, self._max_wait_s = folder, max_bytes, max_wait_s
        # Each for as long as somebody uses it: a run makes new segments for as long as it goes on.
        self._locks: weakref.WeakValueDictionary[str, threading.Lock] = weakref.WeakValueDictionary()
        self._guard = threading.Lock()

    def get(self, key: str, sums: Sums, fetch: Callable[[str], None], anew: bool = False) -> str:
        """The folder of a segment, fetched if it is not there or not what the sums say.

        Sizes are compared here, and the crc32c of ``zarr.json``; those of arrays when they are mapped first
        (`replay.segment`), by a reader that then asks again with `anew`.

        Args:
            key: of the segment; a file name.
            sums: of all its files.
            fetch: writes all of them, checked, below an empty folder.
            anew: delete the copy first.

        Raises:
            StoreError: if it does not fit, or no room comes free in time.
            OSError: if the disk, or `fetch`, fails.
        """
        nbytes = sum(s["bytes"] for s in sums.values())
        path = f"{self.folder}/{key}~{nbytes}"
        with self._guard:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:  # threads of this process fetch a segment once; two processes may both, and one copy goes
            if anew or not _is_whole(path, sums):
                self._drop(path)
                with self.room(nbytes) as aside:
                    fetch(aside)
                    try:
                        os.rename(aside, path)
                    except OSError as error:
                        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not _is_whole(path, sums):
                            raise
            with contextlib.suppress(FileNotFoundError):  # gone in this moment: the reader asks again
                os.utime(path)
        return path

    @contextlib.contextmanager
    def room(self, nbytes: int) -> Iterator[str]:
        """An empty folder with room for so many bytes; it is deleted at the end, unless it was renamed.

        Raises:
            StoreError, OSError: as in `get`.
        """
        if nbytes > self.max_bytes:
            raise StoreError(bad_value("cache_bytes", self.max_bytes, f"at least the {nbytes} bytes of one segment"))
        self.folder.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + self._max_wait_s
        while (found := self._reserve(nbytes)) is None:
            if time.monotonic() > deadline:
                raise StoreError(f"no room for {nbytes} bytes in cache {self.folder}: others fetch; raise cache_bytes")
            time.sleep(_POLL_S)
        path, held = found
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            os.close(held)

    def _reserve(self, nbytes: int) -> tuple[str, int] | None:
        """A new folder and the lock on it, after the least recently used copies have made room for it."""
        lock = os.open(self.folder / _LOCK, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            copies, taken = self._copies()
            for _, size, path in sorted(copies):
                if taken + nbytes <= self.max_bytes:
                    break
                self._drop(path)
                taken -= size
            if taken + nbytes > self.max_bytes:
                return None
            path = f"{self.folder}/{_FETCH}{uuid.uuid4().hex}~{nbytes}"
            os.mkdir(path)
            held = os.open(path, os.O_RDONLY)
            fcntl.flock(held, fcntl.LOCK_EX)
            return path, held
        finally:
            os.close(lock)

    def _copies(self) -> tuple[list[tuple[float, int, str]], int]:
        """(last use, bytes, path) of whole copies, and the bytes of these and of those being fetched."""
        copies: list[tuple[float, int, str]] = []
        taken = 0
        for entry in os.scandir(self.folder):
            name, _, size = entry.name.rpartition("~")
            with contextlib.suppress(FileNotFoundError):  # renamed or dropped by another process meanwhile
                if entry.name.startswith(_GONE) or (entry.name.startswith(_FETCH) and _is_abandoned(entry.path)):
                    shutil.rmtree(entry.path, ignore_errors=True)
                elif name and size.isdigit():
                    taken += int(size)
                    if not entry.name.startswith(_FETCH):
                        copies.append((entry.stat().st_mtime, int(size), entry.path))
        return copies, taken

    def _drop(self, path: str) -> None:
        gone = f"{self.folder}/{_GONE}{uuid.uuid4().hex}"
        with contextlib.suppress(FileNotFoundError):
            os.rename(path, gone)
            shutil.rmtree(gone, ignore_errors=True)  # another process may be deleting it as well


def _is_whole(path: str, sums: Sums) -> bool:
    try:
        if any(os.stat(f"{path}/{name}").st_size != s["bytes"] for name, s in sums.items()):
            return False
        with open(f"{path}/zarr.json", "rb") as f:
            return google_crc32c.value(f.read()) == sums["zarr.json"]["crc32c"]
    except (OSError, KeyError):
        return False


def _is_abandoned(path: str) -> bool:
    """Whether the process that fetched it is dead: the kernel let go of its lock."""
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
