"""A store in a folder of this machine."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import struct
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cached_property
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from common.errors import StoreError
from common.fsio import create_only, fsync_all, fsync_path, is_in_ram, replace_atomically
from replay.storage import Listing, Parts, R, Sums, T, inside

_MAX_BLOCKS = 1024  # of one writev(2): IOV_MAX of Linux
GONE = ".gone-"  # prefix of a folder that is being deleted


@dataclasses.dataclass(frozen=True)
class LocalStorage:
    """The folder `folder`; for each method see `replay.storage.Storage`.

    Paths of files are plain strings: a `Path` interns its parts, and names of segments and records, of which a run
    makes new ones for as long as it goes on, would fill the interpreter's table of interned strings.
    """

    folder: Path

    @cached_property
    def url(self) -> str:
        """The path as it was given."""
        return str(self.folder)

    def _at(self, name: str) -> str:
        return self.where(inside(name, self.url))

    def where(self, name: str) -> str:
        """The path of a name."""
        return f"{self.url}/{name}" if name else self.url

    def read(self, name: str) -> bytes:
        """All bytes of a file."""
        with open(self._at(name), "rb", buffering=0) as f:
            return f.readall()

    def exists(self, name: str) -> bool:
        """Whether the path exists, be it a link that leads nowhere."""
        return os.path.lexists(self._at(name))

    def listing(self, folder: str) -> Listing:
        """One reading of the directory."""
        found = Listing([], [])
        try:
            with os.scandir(self._at(folder)) as entries:
                for entry in entries:
                    (found.folders if entry.is_dir(follow_symlinks=False) else found.files).append(entry.name)
        except (FileNotFoundError, NotADirectoryError):
            pass
        return Listing(sorted(found.files), sorted(found.folders))

    def files_after(self, folder: str, name: str) -> list[str]:
        """One reading of the directory; it does not tell files from folders."""
        try:
            return sorted(n for n in os.listdir(self._at(folder)) if n > name)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def files(self, folder: str) -> dict[str, int]:
        """Walks the folder; a file that goes meanwhile is left out."""
        top, out = self._at(folder), {}
        for path, _, names in os.walk(top):
            for name in names:
                file = os.path.join(path, name)
                try:
                    out[os.path.relpath(file, top)] = os.lstat(file).st_size
                except FileNotFoundError:
                    continue
        return out

    def last_change(self, name: str) -> float:
        """By the times of files and folders; now where something vanishes meanwhile."""
        top = self._at(name)
        try:
            times = [os.lstat(top).st_mtime]
            for folder, folders, files in os.walk(top):
                times += [os.lstat(os.path.join(folder, n)).st_mtime for n in (*folders, *files)]
        except FileNotFoundError:
            return time.time()
        return max(times)

    def make_folder(self, folder: str) -> None:
        """All but the store's own folder are made where they are missing."""
        path = self._at(folder)
        if not folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            fsync_path(self.folder.parent)
            return
        if not os.path.isdir(path):
            if "/" in folder:
                self.make_folder(folder.rsplit("/", 1)[0])
            os.makedirs(path, exist_ok=True)
        fsync_path(os.path.dirname(path))  # also where another process made it just now

    def check_writable(self) -> None:
        """Asks the permissions."""
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise StoreError(f"store {self.url} cannot be written: it is read-only for this process")

    def create(self, name: str, data: bytes) -> bool:
        """By link(2)."""
        return create_only(self._at(name), data)

    def replace(self, name: str, data: bytes) -> None:
        """By rename(2)."""
        replace_atomically(self._at(name), data)

    def delete(self, names: Collection[str]) -> None:
        """And flush the folders they were in."""
        paths = [self._at(name) for name in names]
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        for folder in {os.path.dirname(path) for path in paths}:
            if os.path.isdir(folder):
                fsync_path(folder)

    def delete_folder(self, folder: str) -> None:
        """What a kill leaves has the prefix `GONE`."""
        path = self._at(folder)
        parent, name = os.path.split(path)
        with contextlib.suppress(FileNotFoundError):  # somebody else deletes it as well
            if not name.startswith(GONE):
                # A name of its own: what a kill left may have the plain one.
                gone = f"{parent}/{GONE}{name}-{uuid.uuid4().hex[:8]}"
                os.rename(path, gone)
                path = gone
            shutil.rmtree(path)
        fsync_path(parent)

    def move(self, source: str, target: str) -> None:
        """By rename(2), flushed."""
        old, new = self._at(source), self._at(target)
        os.makedirs(os.path.dirname(new), exist_ok=True)
        os.rename(old, new)
        fsync_path(os.path.dirname(new))
        fsync_path(os.path.dirname(old))

    def new_segment(self, stem: str) -> str:
        """By mkdir(2)."""
        attempt = 0
        while True:
            suffix = f"-{attempt}" if attempt else ""
            segment = f"data/{stem}{suffix}.zarr"
            try:
                os.mkdir(self._at(segment))
                return segment
            except FileExistsError:
                attempt += 1  # left by a commit that never ended

    def put_segment(self, segment: str, files: Mapping[str, Callable[[], Parts]], pool: ThreadPoolExecutor) -> Sums:
        """Every file is flushed as soon as it is written: the disk is then busy while others are still made."""
        top = self._at(segment)
        # A folder before those in it.
        folders = [top, *(f"{top}/{f}" for f in sorted({n.rsplit("/", 1)[0] for n in files if "/" in n}))]
        try:
            for folder in folders[1:]:
                os.mkdir(folder)
            if self._flushes_at_once:
                sums = {name: _write_file(f"{top}/{name}", parts) for name, parts in files.items()}
                fsync_all(folders)
            else:
                written = {name: pool.submit(_write_file, f"{top}/{name}", parts) for name, parts in files.items()}
                wait(written.values())  # all of them, so that none writes into what is removed
                sums = {name: done.result() for name, done in written.items()}
                fsync_all(folders, pool)
            fsync_path(os.path.dirname(top))
        except OSError:
            # Nothing can refer to it yet; on a full disk the space matters.
            shutil.rmtree(top, ignore_errors=True)
            raise
        return sums

    @cached_property
    def _flushes_at_once(self) -> bool:
        """Whether threads gain nothing, because no flush waits for a device."""
        return is_in_ram(self.folder)

    def refilled(self, segment: str, since: float) -> bool:
        """A writer that slept for long may take a name again whose folder was deleted."""
        return self.last_change(segment) > since

    def map_segment(self, segment: str, sums: Callable[[], Sums], *, anew: bool = False) -> str:
        """The segment's own folder."""
        if anew:
            raise StoreError(f"segment {self.where(segment)} is damaged, and there is no other copy of it")
        return self._at(segment)

    @contextlib.contextmanager
    def as_folder(self, segment: str) -> Iterator[Path]:
        """The segment's own folder."""
        yield Path(self._at(segment))

    def free_bytes(self) -> int:
        """What the file system leaves to this process."""
        disk = os.statvfs(self.folder)
        return disk.f_bavail * disk.f_frsize

    def each(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """One after the other: small files come from the page cache."""
        return map(work, items)


def pieces(parts: Parts) -> Iterator[tuple[memoryview, int]]:
    """The bytes of a file's parts one after the other, each with the crc32c of all bytes up to its end."""
    crc = 0
    for part in parts:
        if isinstance(part, bytes):
            data: Any = part or struct.pack("<I", crc)
        else:
            data = part.reshape(-1).view(np.uint8)
            data.flags.writeable = False  # google_crc32c takes only read-only buffers; this is a view of our own
        crc = google_crc32c.extend(crc, data)
        yield memoryview(data), crc


def _write_file(path: str, parts: Callable[[], Parts]) -> dict[str, int]:
    made = list(pieces(parts()))
    blocks = [data for data, _ in made]
    size = sum(map(len, blocks))
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        # One call for all of them; it moves 2 GiB and 1024 blocks at most, and may move less.
        written = os.writev(file, blocks) if len(blocks) <= _MAX_BLOCKS else 0
        if written < size:
            _write_rest(file, blocks, written)
        os.fsync(file)
    finally:
        os.close(file)
    return {"bytes": size, "crc32c": made[-1][1] if made else 0}


def _write_rest(file: int, blocks: Sequence[memoryview], written: int) -> None:
    for data in blocks:
        skipped = min(written, len(data))
        written -= skipped
        rest = data[skipped:]
        while len(rest):
            rest = rest[os.write(file, rest) :]
