"""Where the arrays of open segments lie, as columns of numbers: a batch finds its rows without Python per segment."""

from __future__ import annotations

import dataclasses
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.layout import ArraySpec
from replay.mapping import Rows
from replay.segment import Segment
from replay.segments import OpenSegments

Int64s = NDArray[np.int64]
_MANY_GONE = 64  # segments that are deleted, at least, before those that stay are numbered anew


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


@dataclasses.dataclass(eq=False)
class Located:
    """Where B entries of fields lie, all of one layout and in open segments.

    Attributes:
        fields: each field and the array that holds it.
        rows: name of the array -> its B entries.
        columns: hold the arrays, also of segments that are closed meanwhile; None after `Tables.clear`.
    """

    fields: list[tuple[str, ArraySpec]]
    rows: dict[str, Rows]
    columns: list[Column] | None


class Tables:
    """Numbers for segments, and a `Column` for each of their stored arrays. Any thread may use it.

    A segment keeps its number for as long as this lives, open or not, also when it is deleted. When segments are closed
    all columns are made anew; who reads at that moment still holds the old ones, and with them the maps.
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
        self._fields_of: list[dict[str, ArraySpec]] = []  # of each layout
        self._columns: dict[str, Column] = {}
        self._located: weakref.WeakSet[Located] = weakref.WeakSet()
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

    def _open_all(self, numbers: Sequence[int]) -> None:
        self._segments.get_all([self._paths[n] for n in numbers], [self._records[n] for n in numbers])

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
        out = known.take(numbers)
        if out.min(initial=0) < 0:
            unknown = np.unique(numbers[out < 0]).tolist()
            self._open_all(unknown)
            for number in unknown:
                segment = self.segment(number)
                signature = tuple(segment.signature.items())
                with self._lock:
                    layout = self._layouts.setdefault(signature, len(self._layouts))
                    if layout == len(self._fields_of):
                        self._fields_of.append({name: segment.spec_of(name) for name in segment.signature})
                    known[number] = self._layout[number] = layout
            out = known.take(numbers)
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
        found = column.address.take(numbers)
        if not found.all():
            missing = np.unique(numbers[found == 0]).tolist()
            self._open_all(missing)
            for number in missing:
                column.put(number, *self.segment(number).located(spec.name, cache))
        return column

    def located(self, fields: Sequence[str], numbers: Int64s, at: Int64s) -> Located | None:
        """Where entries lie; opens nothing.

        Args:
            fields: step-level or episode-level.
            numbers: (B,) of segments.
            at: (B,) entry within the segment.

        Returns:
            None where that cannot be said yet: a segment is not open, lacks a field or the entry, or has not the layout
            of the others. Who reads these one by one is told what is wrong.
        """
        with self._lock:
            known, columns = self._layout, {} if self._closings != self._segments.closings else dict(self._columns)
        if numbers.max() >= len(known):
            return None
        layouts = known.take(numbers)
        if layouts.min() < 0 or (layouts != layouts[0]).any():
            return None
        specs = self._fields_of[int(layouts[0])]
        found = Located([], {}, [])
        held: list[Column] = []
        for name in fields:
            spec = specs.get(name)
            column = None if spec is None else columns.get(spec.name)
            if spec is None or column is None or numbers.max() >= len(column.address):
                return None
            found.fields.append((name, spec))
            if spec.name not in found.rows:
                first = column.address.take(numbers)
                if not first.all() or (at < 0).any() or (at >= column.count.take(numbers)).any():
                    return None
                found.rows[spec.name] = Rows(first + at * spec.row_bytes, spec.row_bytes)
                held.append(column)
        found.columns = held
        with self._lock:
            self._located.add(found)
        return found

    def clear(self) -> None:
        """Let go of all arrays, also of those that were located."""
        with self._lock:
            self._columns = {}
            for found in self._located:
                found.columns = None


class Numberings:
    """The tables of a store. Once as many segments were deleted as are left there are new ones, so that those are
    forgotten; the numbers of older tables stay good with these for as long as somebody holds them.

    Attributes:
        newest: the tables to ask for numbers.
    """

    def __init__(self, segments: OpenSegments) -> None:
        """Tables of `segments`."""
        self._segments = segments
        self.newest = Tables(segments)
        self._all = weakref.WeakSet([self.newest])
        self._gone: tuple[list[str], list[str]] = ([], [])  # segments deleted before the newest were made, and since

    def deleted(self, paths: Sequence[str], left: int) -> None:
        """Segments were deleted, and so many are left. Those that were deleted before the newest tables were made are
        closed when the next ones are: who reads meanwhile may still use the last.
        """
        before, since = self._gone
        since += paths
        if len(since) > _MANY_GONE + left:
            self._segments.forget(before)
            self._gone = since, []
            self.newest = Tables(self._segments)
            self._all.add(self.newest)

    def clear(self) -> None:
        """Let go of all arrays."""
        for tables in self._all:
            tables.clear()
