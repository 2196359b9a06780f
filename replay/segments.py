"""The segments of a store that are open: found without a lock, closed when too many are."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path

from replay.record import read_record
from replay.segment import Segment, Usage


def _max_maps() -> int:
    """A quarter of what the system lets one process map; the rest of the process needs its share."""
    try:
        return max(16, int(Path("/proc/sys/vm/max_map_count").read_text()) // 4)
    except OSError:
        return 16_000  # the usual limit is 65,530; a system that does not tell has no smaller one that we know of


class OpenSegments:
    """Open segments by path relative to the store. Any thread may use it."""

    def __init__(self, root: Path, ram_bytes: int, named: Callable[[str], tuple[str, int]]) -> None:
        """Of the store at `root`.

        Args:
            root: of the store.
            ram_bytes: that small arrays may be held in.
            named: finds (writer, seq) of the record that names a segment; raises StoreError where none does.
        """
        self.usage = Usage()
        self.max_files = _max_maps()
        self.closings = 0  # counts how often segments were closed, for those who remember where arrays lie
        self._root, self._ram_bytes, self._named = root, ram_bytes, named
        self._segments: dict[str, Segment] = {}
        self._used: dict[str, int] = {}
        self._clock = itertools.count()
        self._lock = threading.Lock()

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
        with self._lock:
            segment = self._segments.get(path)
            if segment is None:
                sums = lambda: read_record(self._root, *(record or self._named(path))).files
                segment = self._segments[path] = Segment(self._root / path, self.usage, sums)
            if len(self._segments) > 1 and self.usage.files > self.max_files:
                self._close_oldest(path)
            return segment

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

    def close(self) -> None:
        """Close all."""
        with self._lock:
            self.closings += 1
            for segment in self._segments.values():
                segment.close()
            self._segments.clear()
            self._used.clear()
