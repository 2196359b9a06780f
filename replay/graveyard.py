"""Which records the tombstones of a store name, in a few bytes each: a run deletes for as long as it goes on."""

from __future__ import annotations

import bisect
import threading
import zlib
from array import array

from replay import fast_json
from replay.storage import Storage, Where, open_storage
from replay.tombstones import Buried, Tombstone, count_tombstones, read_tombstone


class Graveyard:
    """The tombstones of a store; reads each of them once, because none ever changes. Any thread may use it."""

    def __init__(self, where: Where) -> None:
        """Of a store; nothing is read yet."""
        self._storage: Storage = open_storage(where)
        self._packed: list[bytes] = []
        self._named: dict[str, _Numbered] = {}
        self.swept: set[int] = set()  # numbers of those of which a sweep left nothing
        self._lock = threading.Lock()

    def read(self, count: int | None = None) -> int:
        """Read the first `count` tombstones, as far as they are not known; None is all there are by now.

        Returns:
            `count`, or how many there are.

        Raises:
            StoreError: naming the tombstone that cannot be read.
        """
        with self._lock:
            known = len(self._packed)
            count = count_tombstones(self._storage, known) if count is None else count
            for tombstone in self._storage.each(lambda n: read_tombstone(self._storage, n), range(known, count)):
                self._packed.append(_pack(tombstone))
                for r in sorted(tombstone.records):
                    self._named.setdefault(r.writer, _Numbered()).add(r.seq, tombstone.number)
            return count

    def tombstone(self, number: int) -> Tombstone:
        """One of those that were read."""
        return _unpack(self._packed[number])

    def holds(self, writer: str, seq: int, count: int | None = None) -> bool:
        """Whether one of the first `count` tombstones names a record; None asks all that were read so far."""
        number = self.number(writer, seq)
        return number is not None and (count is None or number < count)

    def number(self, writer: str, seq: int) -> int | None:
        """The first of the tombstones read so far that names a record; None if none of them does."""
        with self._lock:
            numbered = self._named.get(writer)
            return None if numbered is None else numbered.get(seq)

    def numbers(self, writer: str) -> set[int]:
        """The sequence numbers of a writer that the tombstones read so far name."""
        with self._lock:
            return self._named[writer].keys() if writer in self._named else set()

    def counts(self) -> dict[str, int]:
        """Per writer one more than the largest sequence number that a tombstone read so far names."""
        with self._lock:
            return {writer: numbered.end for writer, numbered in self._named.items()}


class _Numbered:
    """Whole numbers, each with the first number it was added with; those that follow each other and were added with the
    same one take 24 bytes together. Retention deletes a writer's oldest records, which do.
    """

    def __init__(self) -> None:
        self._first, self._stop, self._with = array("q"), array("q"), array("q")

    def add(self, key: int, number: int) -> None:
        at = bisect.bisect_right(self._first, key)
        if at and key < self._stop[at - 1]:
            return
        if at and key == self._stop[at - 1] and number == self._with[at - 1]:
            self._stop[at - 1] = key + 1
            return
        for numbers, value in ((self._first, key), (self._stop, key + 1), (self._with, number)):
            numbers.insert(at, value)

    def get(self, key: int) -> int | None:
        at = bisect.bisect_right(self._first, key) - 1
        return self._with[at] if at >= 0 and key < self._stop[at] else None

    def keys(self) -> set[int]:
        return {key for a, b in zip(self._first, self._stop, strict=True) for key in range(a, b)}

    @property
    def end(self) -> int:
        """One more than the largest."""
        return self._stop[-1]


def _pack(t: Tombstone) -> bytes:
    fields = [t.number, list(map(list, t.records)), t.reason, dict(t.policy), t.created_at]
    return zlib.compress(fast_json.dumps(fields).encode(), 1)


def _unpack(data: bytes) -> Tombstone:
    number, records, reason, policy, created_at = fast_json.loads(zlib.decompress(data))
    return Tombstone(number, tuple(Buried(*r) for r in records), reason, policy, created_at)
