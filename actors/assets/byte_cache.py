"""A bounded memory of arrays: the least recently used go first."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class ByteCache(Generic[T]):
    """Key -> value, at most `max_bytes` of values together; a value larger than that is not kept at all."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._values: OrderedDict[str, tuple[T, int]] = OrderedDict()
        self.nbytes = 0

    def get(self, key: str) -> T | None:
        """The value, now the most recently used one, or None."""
        found = self._values.get(key)
        if found is None:
            return None
        self._values.move_to_end(key)
        return found[0]

    def put(self, key: str, value: T, nbytes: int) -> None:
        """Keep a value of `nbytes` bytes and forget the oldest that no longer fit."""
        if nbytes > self._max_bytes:
            return
        if key in self._values:
            self.nbytes -= self._values.pop(key)[1]
        self._values[key] = (value, nbytes)
        self.nbytes += nbytes
        while self.nbytes > self._max_bytes:
            self.nbytes -= self._values.popitem(last=False)[1][1]
