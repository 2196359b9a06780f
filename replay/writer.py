"""Writing to a store: buffer episodes, write a segment, publish its record, acknowledge."""

from __future__ import annotations

import dataclasses
import errno
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import numpy as np

from common.episode import Episode
from common.errors import StoreError, bad_value
from replay.checks import MAX_GAP, MAX_NUMBER, whole
from replay.disk_space import DiskFullError, DiskLimits, wait_for_space
from replay.graveyard import Graveyard
from replay.layout import signature
from replay.record import RECORD_NAME, WRITER_ID, describe, encode_record, record_name
from replay.segment_files import write_segment
from replay.storage import Where, open_storage

_IO_THREADS = 16  # they wait for the disk, so their number has nothing to do with the number of cores
_HASH_THREADS = 2
_HASH_AT_ONCE = 1 << 18  # bytes: to hand fewer to a thread takes longer than to hash them


class Ack(NamedTuple):
    """Promise that an episode is durable and visible to every reader that reads the record (writer, seq)."""

    episode_id: str
    sha256: str
    writer: str
    seq: int


@dataclasses.dataclass(frozen=True)
class _Held:
    """An episode that is not durable yet."""

    episode: Episode
    nbytes: int
    sha256: Future[str]
    since: float


@dataclasses.dataclass(frozen=True)
class _Commit:
    """One that is under way."""

    key: str
    held: list[_Held]
    done: Future[list[Ack]]


class SegmentWriter:
    """Commits episodes under one writer id. What was not acknowledged must be sent again after a crash; an episode
    that was committed twice counts once.

    A commit is: (1) write the segment under a path nobody ever used; (2) flush its files and folders; (3) publish the
    record create-only; (4) acknowledge. Until (3) no reader sees anything of it, and a segment folder without a record
    stays unread for ever.
    """

    def __init__(
        self,
        where: Where,
        writer_id: str,
        max_episodes: int,
        max_bytes: int,
        *,
        max_age_s: float | None = None,
        in_flight: int = 1,
        disk: DiskLimits | None = None,
    ) -> None:
        """Continue the sequence of `writer_id` after its last committed record.

        Args:
            where: the store.
            writer_id: unique among those that write at the same time; it is part of file names.
            max_episodes: a segment is committed when it has this many episodes.
            max_bytes: or this many bytes of arrays. Each kind of record fills a segment of its own.
            max_age_s: or when its first episode is this old; looked at by `append` and `poll`. None is never.
            in_flight: segments that are committed at the same time. With 1 every call waits for its commits; with more,
                `append` and `poll` wait only while so many are under way, and a failure surfaces in a later call.
            disk: how much of the disk stays free; None is the default of `DiskLimits`.

        Raises:
            StoreError: if an argument is out of range or the store cannot be written.
        """
        if not WRITER_ID.fullmatch(writer_id):
            raise StoreError(bad_value("writer id", writer_id, f"a name matching {WRITER_ID.pattern}"))
        for name, value in (("max_episodes", max_episodes), ("max_bytes", max_bytes), ("in_flight", in_flight)):
            if value < 1:
                raise StoreError(bad_value(name, value, "at least 1"))
        if max_age_s is not None and not max_age_s > 0.0:
            raise StoreError(bad_value("max_age_s", max_age_s, "more than 0 seconds, or None"))
        self._storage, self._id = open_storage(where), writer_id
        self._max_episodes, self._max_bytes = max_episodes, max_bytes
        self._max_age_s, self._in_flight = max_age_s, in_flight
        self._disk = DiskLimits() if disk is None else disk
        self._buffers: dict[str, list[_Held]] = {}  # by signature
        self._running: list[_Commit] = []  # in the order they were started
        self._acks: list[Ack] = []  # of ended commits, not handed out yet
        self._error: BaseException | None = None
        self._slowed: list[float] = []  # seconds, by commits that may run side by side
        # Three pools: tasks of one never wait for tasks behind them in the same queue.
        self._pool: ThreadPoolExecutor | None = ThreadPoolExecutor(_IO_THREADS, thread_name_prefix="replay-io")
        self._hashing = ThreadPoolExecutor(_HASH_THREADS, thread_name_prefix="replay-hash")
        self._committing = ThreadPoolExecutor(in_flight, thread_name_prefix="replay-commit")
        commits = f"commits/{writer_id}"
        try:
            self._storage.make_folder(commits)
            names = [n for n in self._storage.listing(commits).files if RECORD_NAME.fullmatch(n)]
            last = 1 + max((int(n[:8]) for n in names), default=-1)
        except OSError as error:
            raise self._failed(error) from error
        # A number whose record was deleted stays used: its tombstone would take a new record out as well.
        self._graveyard = Graveyard(self._storage)
        self._graveyard.read()
        self._seq = max(last, self._graveyard.counts().get(writer_id, 0))
        known = {int(n[:8]) for n in names} | self._graveyard.numbers(writer_id)
        if self._seq - len(known) > MAX_GAP:  # what follows would be acknowledged, and never be read
            where = self._storage.where(commits)
            raise StoreError(
                bad_value(
                    f"numbers of the records of writer {writer_id} in {where}",
                    last - 1,
                    "one after the other: repair the store",
                )
            )

    @property
    def seq(self) -> int:
        """Sequence number of the next commit."""
        return self._seq

    def append(self, episode: Episode) -> list[Ack]:
        """Take an episode in, and commit what is due. Its arrays must not be changed until it is acknowledged.

        Returns:
            One ack per episode that became durable and was not acknowledged before; often none.

        Raises:
            StoreError: if a commit failed; its episodes, and this one, stay buffered, and the next `flush` tries again.
        """
        self._io()
        key = repr(signature(episode))
        nbytes = episode.nbytes()
        if nbytes < _HASH_AT_ONCE:
            hashing: Future[str] = Future()
            hashing.set_result(episode.sha256())
        else:
            hashing = self._hashing.submit(episode.sha256)  # long done when the segment is full
        self._buffers.setdefault(key, []).append(_Held(episode, nbytes, hashing, time.monotonic()))
        return self.poll()

    def poll(self) -> list[Ack]:
        """Commit what is due by count, bytes or age; acks and errors as in `append`."""
        self._io()
        for key, held in list(self._buffers.items()):
            if self._due(held):
                self._start(key)
        while self._running and self._running[0].done.done():
            self._settle()
        return self._answer()

    def flush(self) -> list[Ack]:
        """Commit everything that is buffered, and wait until it and all that is under way is durable.

        Raises:
            StoreError: as in `append`.
        """
        self._io()
        for key in list(self._buffers):
            self._start(key)
        while self._running:
            self._settle()
        return self._answer()

    def close(self) -> list[Ack]:
        """Commit everything that is buffered and end; closing again does nothing."""
        if self._pool is None:
            return []
        acks = self.flush()
        for pool in (self._committing, self._hashing, self._pool):
            pool.shutdown()
        self._pool = None
        return acks

    def waits(self) -> dict[str, float]:
        """Seconds that commits waited so far, by cause: "disk", because it fills."""
        return {"disk": sum(self._slowed)}

    def _due(self, held: Sequence[_Held]) -> bool:
        full = len(held) >= self._max_episodes or sum(h.nbytes for h in held) >= self._max_bytes
        return full or (self._max_age_s is not None and time.monotonic() - held[0].since >= self._max_age_s)

    def _start(self, key: str) -> None:
        """Begin the commit of a buffer, unless one has failed that nobody was told of yet."""
        while len(self._running) >= self._in_flight:
            self._settle()
        if self._error is not None:
            return
        held = self._buffers.pop(key)
        before = self._running[-1].done if self._running else None
        done = self._committing.submit(self._commit, held, self._seq + len(self._running), before)
        self._running.append(_Commit(key, held, done))
        if self._in_flight == 1:
            self._settle()

    def _settle(self) -> None:
        """Wait for the oldest commit. Where it failed, its episodes stand again before those that came after them."""
        commit = self._running[0]
        wait([commit.done])
        del self._running[0]
        error = commit.done.exception()
        if error is None:
            self._acks += commit.done.result()
        else:
            self._buffers[commit.key] = commit.held + self._buffers.get(commit.key, [])
            self._error = self._error or error

    def _answer(self) -> list[Ack]:
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        acks, self._acks = self._acks, []
        return acks

    def _io(self) -> ThreadPoolExecutor:
        if self._pool is None:
            raise StoreError(f"writer {self._id!r} is closed")
        return self._pool

    def _commit(self, held: Sequence[_Held], number: int, before: Future[list[Ack]] | None) -> list[Ack]:
        episodes = [h.episode for h in held]
        try:
            if slowed := wait_for_space(self._storage, sum(h.nbytes for h in held), self._disk):
                self._slowed.append(slowed)
            segment = self._storage.new_segment(f"{self._id}-{number:08d}")
            files = write_segment(self._storage, segment, episodes, self._io())
            hashes = [h.sha256.result() for h in held]
            if before is not None:
                wait([before])  # one record after the other, so that their numbers have no gap
            starts = np.cumsum([0, *(e.num_rows for e in episodes)])
            body = {
                "writer": self._id,
                "seq": self._seq,
                "committed_at": time.time(),
                "segment": segment,
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
        return acks

    def _publish(self, body: dict[str, Any]) -> bool:
        # A record of a longer name would be acknowledged and never read.
        whole(f"number of the next record of {self._id!r} in store {self._storage.url}", self._seq, high=MAX_NUMBER)
        segment = body["segment"]
        if not self._storage.exists(f"{segment}/zarr.json"):  # this process slept for longer than a lease
            where = self._storage.where(segment)
            raise FileNotFoundError(errno.ENOENT, "the segment was swept before it was committed", where)
        if not self._storage.create(record_name(self._id, self._seq), encode_record(body)):
            return False
        # A writer that slept for long may have taken a number whose record is deleted already. That the name was free
        # means that its tombstone was there before, so looking now is not too early.
        self._graveyard.read()
        return not self._graveyard.holds(self._id, self._seq)

    def _failed(self, error: OSError) -> StoreError:
        text = f"store {self._storage.url} cannot be written by {self._id!r}: {error.strerror} ({error.filename})"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return DiskFullError(f"{text}: free space or prune the store")
        return StoreError(text)
