"""Writing to a store: buffer episodes, write a segment, publish its record, acknowledge."""

from __future__ import annotations

import errno
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.episode import Episode
from common.errors import StoreError, bad_value
from common.fsio import create_only, fsync_path
from replay.layout import signature
from replay.record import RECORD_NAME, WRITER_ID, describe, encode_record, record_path
from replay.segment import write_segment
from replay.tombstones import Graveyard

_IO_THREADS = 16  # they wait for the disk, so their number has nothing to do with the number of cores


class Ack(NamedTuple):
    """Promise that an episode is durable and visible to every reader that reads the record (writer, seq)."""

    episode_id: str
    sha256: str
    writer: str
    seq: int


class SegmentWriter:
    """Commits episodes under one writer id. What was not acknowledged must be sent again after a crash; an episode
    that was committed twice counts once.

    A commit is: (1) write the segment under a path nobody ever used; (2) flush its files and folders; (3) publish the
    record create-only; (4) acknowledge. Until (3) no reader sees anything of it, and a segment folder without a record
    stays unread for ever.
    """

    def __init__(self, root: Path, writer_id: str, max_episodes: int, max_bytes: int) -> None:
        """Continue the sequence of `writer_id` after its last committed record.

        Args:
            root: of the store.
            writer_id: unique among those that write at the same time; it is part of file names.
            max_episodes: a segment is committed when it has this many episodes.
            max_bytes: or this many bytes of arrays. Each kind of record fills a segment of its own.

        Raises:
            StoreError: if an argument is out of range or the store cannot be written.
        """
        if not WRITER_ID.fullmatch(writer_id):
            raise StoreError(bad_value("writer id", writer_id, f"a name matching {WRITER_ID.pattern}"))
        for name, value in (("max_episodes", max_episodes), ("max_bytes", max_bytes)):
            if value < 1:
                raise StoreError(bad_value(name, value, "at least 1"))
        self._root, self._id = root, writer_id
        self._max_episodes, self._max_bytes = max_episodes, max_bytes
        self._buffers: dict[str, list[Episode]] = {}  # by signature
        self._pool: ThreadPoolExecutor | None = ThreadPoolExecutor(_IO_THREADS, thread_name_prefix="replay-io")
        self._commits = root / "commits" / writer_id
        try:
            self._commits.mkdir(exist_ok=True)
            fsync_path(self._commits.parent)
            names = [n for n in os.listdir(self._commits) if RECORD_NAME.fullmatch(n)]
            last = 1 + max((int(n[:8]) for n in names), default=-1)
        except OSError as error:
            raise self._failed(error) from error
        # A number whose record was deleted stays used: its tombstone would take a new record out as well.
        self._graveyard = Graveyard(root)
        self._graveyard.read()
        self._seq = max(last, self._graveyard.counts().get(writer_id, 0))

    @property
    def seq(self) -> int:
        """Sequence number of the next commit."""
        return self._seq

    def append(self, episode: Episode) -> list[Ack]:
        """Take an episode in, and commit the segment it fills, if it fills one. Its arrays must not be changed until
        it is acknowledged.

        Returns:
            One ack per episode that was committed by this call; often none.

        Raises:
            StoreError: if a commit failed; its episodes stay buffered, and the next `flush` tries again.
        """
        self._io()
        key = repr(signature(episode))
        buffer = self._buffers.setdefault(key, [])
        buffer.append(episode)
        if len(buffer) < self._max_episodes and sum(e.nbytes() for e in buffer) < self._max_bytes:
            return []
        return self._commit(key)

    def flush(self) -> list[Ack]:
        """Commit everything that is buffered.

        Raises:
            StoreError: as in `append`.
        """
        self._io()
        return [ack for key in list(self._buffers) for ack in self._commit(key)]

    def close(self) -> list[Ack]:
        """Commit everything that is buffered and end; closing again does nothing."""
        if self._pool is None:
            return []
        acks = self.flush()
        self._pool.shutdown()
        self._pool = None
        return acks

    def _io(self) -> ThreadPoolExecutor:
        if self._pool is None:
            raise StoreError(f"writer {self._id!r} is closed")
        return self._pool

    def _commit(self, key: str) -> list[Ack]:
        episodes = self._buffers[key]
        pool = self._io()
        hashing = pool.map(Episode.sha256, episodes)  # runs while the disk is waited for
        try:
            segment = self._new_folder()
            try:
                files = write_segment(segment, episodes, pool)
                fsync_path(segment.parent)
            except OSError:
                # Nothing can refer to it yet; on a full disk the space matters.
                shutil.rmtree(segment, ignore_errors=True)
                raise
            hashes = list(hashing)
            starts = np.cumsum([0, *(e.num_rows for e in episodes)])
            body = {
                "writer": self._id,
                "seq": self._seq,
                "committed_at": time.time(),
                "segment": str(segment.relative_to(self._root)),
                "files": files,
                "episodes": [describe(e, h, int(s)) for e, h, s in zip(episodes, hashes, starts, strict=False)],
            }
            while not self._publish(body):
                # Another process of the same name, or our own commit whose last flush failed, has this number.
                self._seq += 1
                body["seq"] = self._seq
        except OSError as error:
            raise self._failed(error) from error
        acks = [Ack(str(e.meta.id), h, self._id, self._seq) for e, h in zip(episodes, hashes, strict=True)]
        self._seq += 1
        del self._buffers[key]
        return acks

    def _publish(self, body: dict[str, Any]) -> bool:
        segment = self._root / body["segment"]
        if not segment.is_dir():  # this process slept for longer than a lease
            raise FileNotFoundError(errno.ENOENT, "the segment was swept before it was committed", str(segment))
        if not create_only(record_path(self._root, self._id, self._seq), encode_record(body)):
            return False
        # A writer that slept for long may have taken a number whose record is deleted already. That the name was free
        # means that its tombstone was there before, so looking now is not too early.
        self._graveyard.read()
        return not self._graveyard.holds(self._id, self._seq)

    def _new_folder(self) -> Path:
        attempt = 0
        while True:
            suffix = f"-{attempt}" if attempt else ""
            path = self._root / "data" / f"{self._id}-{self._seq:08d}{suffix}.zarr"
            try:
                path.mkdir()
                return path
            except FileExistsError:
                attempt += 1  # left by a commit that never ended

    def _failed(self, error: OSError) -> StoreError:
        return StoreError(f"store {self._root} cannot be written by {self._id!r}: {error.strerror} ({error.filename})")
