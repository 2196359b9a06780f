"""The segments of a store that are open: found without a lock, closed when too many are."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

from common.errors import StoreError
from replay.record import Record, read_record
from replay.segment import Segment, Usage
from replay.storage import Sums, Where, open_storage

_SUMS = 1024  # records whose sums are remembered: each array of a segment asks for them when it is opened


def _max_maps() -> int:
    """A quarter of what the system lets one process map; the rest of the process needs its share."""
    try:
        return max(16, int(Path("/proc/sys/vm/max_map_count").read_text()) // 4)
    except OSError:
        return 16_000  # the usual limit is 65,530; a system that does not tell has no smaller one that we know of


class OpenSegments:
    """Open segments by path relative to the store. Any thread may use it."""

    def __init__(self, where: Where, ram_bytes: int, named: Callable[[str], tuple[str, int]]) -> None:
        """Of a store.

        Args:
            where: the store.
            ram_bytes: that small arrays may be held in.
            named: finds (writer, seq) of the record that names a segment; raises StoreError where none does.
        """
        self.usage = Usage()
        self.max_files = _max_maps()
        self.closings = 0  # counts how often segments were closed, for those who remember where arrays lie
        self._storage, self._ram_bytes, self._named = open_storage(where), ram_bytes, named
        self._sums: dict[str, Sums] = {}  # the last ones that were told or read come last
        self._segments: dict[str, Segment] = {}
        self._used: dict[str, int] = {}
        self._clock = itertools.count()
        self._lock = threading.Lock()

    def tell(self, record: Record) -> None:
        """A record was just read: who opens its segment soon need not read it again."""
        with self._lock:
            self._remember(record.segment, record.files)

    @property
    def cache(self) -> bool:
        """Whether there is room for more small arrays in RAM."""
        return self.usage.cached_bytes < self._ram_bytes

    def get(self, path: str, record: tuple[str, int] | None = None) -> Segment:
        """An open segment; the least recently used are closed when many are open.

        Args:
            path: relative to the store.
            record: (writer, seq) of the record that names it, if known. The record is read, for its sums, when an
                array is opened first.

        Raises:
            StoreError: if it cannot be read.
        """
        self._used[path] = next(self._clock)
        segment = self._segments.get(path)
        if segment is not None and self.usage.files <= self.max_files:
            return segment
        # Outside of the lock: it may have to be fetched, and others at the same time.
        opened = segment or self._open(path, record)
        with self._lock:
            segment = self._segments.setdefault(path, opened)
            if len(self._segments) > 1 and self.usage.files > self.max_files:
                self._close_oldest(path)
            return segment

    def get_all(self, paths: Sequence[str], records: Sequence[tuple[str, int] | None]) -> None:
        """Open segments, at the same time where they must be fetched; arguments and errors as in `get`."""
        closed = [(p, r) for p, r in zip(paths, records, strict=True) if p not in self._segments]
        for _ in self._storage.each(lambda place: self.get(*place), closed):
            pass

    def _open(self, path: str, record: tuple[str, int] | None) -> Segment:
        sums = partial(self._sums_of, path, record)
        # Of a copy there is an original.
        renew = partial(self._storage.map_segment, path, sums, anew=True) if self._storage.folder is None else None
        try:
            try:
                return Segment(self._storage.map_segment(path, sums), self.usage, sums, renew)
            except StoreError:
                if renew is None:
                    raise
                return Segment(renew(), self.usage, sums, renew)
        except OSError as error:
            why = f"{error.strerror} ({error.filename})"
            raise StoreError(f"segment {path} of store {self._storage.url} cannot be fetched: {why}") from error

    def _sums_of(self, path: str, record: tuple[str, int] | None) -> Sums:
        with self._lock:
            known = self._sums.get(path)
        if known is not None:
            return known
        found = read_record(self._storage, *(record or self._named(path))).files
        with self._lock:
            self._remember(path, found)
        return found

    def _remember(self, path: str, sums: Sums) -> None:
        self._sums.pop(path, None)
        self._sums[path] = sums
        while len(self._sums) > _SUMS:
            del self._sums[next(iter(self._sums))]

    def _close_oldest(self, keep: str) -> None:
        # Somewhat more than needed, so that not every call sorts.
        enough = self.max_files - self.max_files // 16
        for path in sorted(self._segments, key=lambda p: self._used.get(p, 0)):
            if self.usage.files <= enough:
                return
            if path != keep:
                self.closings += 1
                self._segments.pop(path).close()
                self._used.pop(path, None)

    def forget(self, paths: Collection[str]) -> None:
        """Close segments that were deleted; nobody looks for the arrays of one of them any more."""
        with self._lock:
            for path in paths:
                self._sums.pop(path, None)
                self._used.pop(path, None)
                if (segment := self._segments.pop(path, None)) is not None:
                    segment.close()
            names = {path.rpartition("/")[2] for path in paths}
            # A copy of a segment of an object store has more before its name.
            gone = [top for top in self.usage.whole if top.rpartition("/")[2].rpartition("data_")[2] in names]
            for top in gone:
                del self.usage.whole[top]

    def close(self) -> None:
        """Close all."""
        with self._lock:
            self.closings += 1
            for segment in self._segments.values():
                segment.close()
            self._segments.clear()
            self._used.clear()
            self._sums.clear()
