"""Keeping a disk from being filled to the last byte: writers are slowed first, then stopped, and told why."""

from __future__ import annotations

import dataclasses
import time

from common.errors import StoreError, bad_value
from replay.storage import Where, open_storage


class DiskFullError(StoreError):
    """A commit was refused, or failed, because too little of the disk is left. Nothing acknowledged is lost."""


@dataclasses.dataclass(frozen=True)
class DiskLimits:
    """How much of the disk a store leaves free.

    Attributes:
        slow_free_bytes: a commit that leaves less than this waits first, the longer the less is left.
        stop_free_bytes: one that would leave less than this is refused.
        max_delay_s: how long the commit waits that leaves hardly more than `stop_free_bytes`.
    """

    slow_free_bytes: int = 2_000_000_000
    stop_free_bytes: int = 500_000_000
    max_delay_s: float = 2.0

    def __post_init__(self) -> None:
        if self.stop_free_bytes < 0:
            raise StoreError(bad_value("stop_free_bytes", self.stop_free_bytes, "at least 0"))
        if self.slow_free_bytes < self.stop_free_bytes:
            allowed = f"at least stop_free_bytes = {self.stop_free_bytes}"
            raise StoreError(bad_value("slow_free_bytes", self.slow_free_bytes, allowed))
        if not 0.0 <= self.max_delay_s < float("inf"):
            raise StoreError(bad_value("max_delay_s", self.max_delay_s, "0 or more seconds"))

    def delay(self, free_bytes: int) -> float:
        """Seconds that a commit waits which leaves so much free."""
        if free_bytes >= self.slow_free_bytes:
            return 0.0
        span = self.slow_free_bytes - self.stop_free_bytes
        return self.max_delay_s * min(1.0, (self.slow_free_bytes - free_bytes) / span) if span else 0.0


def wait_for_space(where: Where, nbytes: int, limits: DiskLimits) -> float:
    """Before `nbytes` are written to a store: return, return later, or refuse. Object stores have no end.

    Returns:
        Seconds waited.

    Raises:
        DiskFullError: if too little would be left.
        OSError: if the disk does not answer.
    """
    storage = open_storage(where)
    free = storage.free_bytes()
    if free is None:
        return 0.0
    left = free - nbytes
    if left < limits.stop_free_bytes:
        raise DiskFullError(
            f"disk of store {storage.url} is full: {nbytes / 1e6:.1f} MB more would leave {max(left, 0) / 1e6:.1f} MB, "
            f"stop_free_bytes = {limits.stop_free_bytes}: free space or prune the store; nothing is lost, what was "
            "not acknowledged is still buffered"
        )
    delay = limits.delay(left)
    if delay:  # sleeping for no time gives the processor away all the same
        time.sleep(delay)
    return delay
