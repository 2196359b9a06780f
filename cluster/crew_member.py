"""One process of a fleet, and how it is lost."""

from __future__ import annotations

import dataclasses
from typing import Any

from cluster.supervision import Cause
from cluster.supervision_processes import Whereabouts

WATCH = "watch"  # the concurrency group in which an actor tells how it is, beside its work


@dataclasses.dataclass
class Member:
    """One process: of which slot, since when, where, and what it did."""

    slot: int
    actor: Any
    since: float
    avoids: frozenset[str] = frozenset()  # nodes that it was not to come to
    asked: float = 0.0  # where it is, in watched seconds
    up: bool = False
    doubted: bool = False  # Ray lost contact: it may live
    where: Whereabouts | None = None
    descriptor: int | None = None
    tasks: int = 0
    rss_bytes: int = 0

    @property
    def node(self) -> str:
        """Where it runs, empty while that is not known."""
        return self.where.node if self.where is not None else ""

    @property
    def is_watched(self) -> bool:
        """Whether it tells of its progress while it works."""
        return hasattr(self.actor, "progress")


@dataclasses.dataclass(frozen=True)
class Loss:
    """A member that gave up what it did.

    Attributes:
        member: its number.
        cause: why; None while that is not known: it may come back.
        line: the same for the operator.
        error: what its last call ended in, None where it was we who ended it.
    """

    member: int
    cause: Cause | None
    line: str
    error: Exception | None = None
