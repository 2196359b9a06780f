"""Where the arrays of open segments lie, as columns of numbers: a batch finds its rows without Python per segment."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.layout import ArraySpec
from replay.segment import Segment
from replay.segments import OpenSegments

Int64s = NDArray[np.int64]


class Column:
    """Addresses of one stored array in S segments. They are good for as long as the column is held.

    Attributes:
        address: i64 (S,) of its first byte; 0 where the segment was not asked for it yet.
        count: i64 (S,) its entries.
    """

    def __init__(self, size: int, old: Column | None = None) -> None:
        """A column of `size` segments, the first of which are those of `old`."""
        self.address, self.count = np.zeros(size, np.int64), np.zeros(size, np.int64)
        self._held: list[NDArray[Any] | None] = [None] * size
        if old is not None:
            n = len(old.address)
            self.address[:n], self.count[:n], self._held[:n] = old.address, old.count, old._held

    def put(self, number: int, array: NDArray[Any], address: int) -> None:
        """Enter the array of a segment."""
        self._held[number] = array
        self.count[number] = len(array)
        self.address[number] = address  # last: who sees it may read


class Tables:
    """Numbers for segments, and a `Column` for each of their stored arrays. Any thread may use it.

    A segment keeps its number for as long as this lives, open or not. When segments are closed all columns are made
    anew; who reads at that moment still holds the old ones, and with them the maps.
    """

    def __init__(self, segments: OpenSegments) -> None:
        """Tables of `segments`, which opens them."""
        self._segments = segments
        self._lock = threading.Lock()
        self._numbers: dict[str, int] = {}
        self._paths: list[str] = []
        self._records: list[tuple[str, int] | None] = []
        self._layout = np.empty(0, np.int64)  # of each segment; -1 where it was not opened yet
        self._layouts: dict[tuple[Any, ...], int] = {}
        self._columns: dict[str, Column] = {}
        self._closings = segments.closings

    def numbers(self, paths: Sequence[str], records: Sequence[tuple[str, int] | None] | None = None) -> Int64s:
        """The number of each segment, i64 (N,).

        Args:
            paths: (N,) relative to the store.
            records: (N,) of the records that name them, where they are known; see `OpenSegments.get`.
        """
        with self._lock:
            out = np.empty(len(paths), np.int64)
            for i, path in enumerate(paths):
                number = self._numbers.setdefault(path, len(self._paths))
                if number == len(self._paths):
                    self._paths.append(path)
                    self._records.append(None)
                if records is not None and records[i] is not None:
                    self._records[number] = records[i]
                out[i] = number
            return out

    def segment(self, number: int) -> Segment:
        """The open segment with this number; errors as in `OpenSegments.get`."""
        return self._segments.get(self._paths[number], self._records[number])

    def layouts(self, numbers: Int64s) -> Int64s:
        """Which layout segments have, i64 (N,): equal numbers where their fields and shapes are equal.

        Raises:
            StoreError: if one cannot be read.
        """
        with self._lock:
            if len(self._layout) < len(self._paths):
                new = np.full(len(self._paths) - len(self._layout), -1, np.int64)
                self._layout = np.concatenate([self._layout, new])
            known = self._layout
        out = known[numbers]
        if out.min(initial=0) < 0:
            for number in np.unique(numbers[out < 0]).tolist():
                signature = tuple(self.segment(number).signature.items())
                with self._lock:
                    known[number] = self._layout[number] = self._layouts.setdefault(signature, len(self._layouts))
            out = known[numbers]
        return out

    def column(self, spec: ArraySpec, numbers: Int64s, cache: bool) -> Column:
        """A column that has the array of `spec` of these segments.

        Args:
            spec: the array.
            numbers: (N,) of segments that have it.
            cache: hold arrays that are opened now in RAM.

        Raises:
            StoreError: if one is damaged.
        """
        with self._lock:
            if self._closings != self._segments.closings:
                self._closings, self._columns = self._segments.closings, {}
            column = self._columns.get(spec.name)
            if column is None or len(column.address) < len(self._paths):
                column = self._columns[spec.name] = Column(len(self._paths), column)
        missing = column.address[numbers] == 0
        if missing.any():
            for number in np.unique(numbers[missing]).tolist():
                column.put(number, *self.segment(number).located(spec.name, cache))
        return column

    def clear(self) -> None:
        """Let go of all arrays."""
        with self._lock:
            self._columns = {}
