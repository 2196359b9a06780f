"""The rules of supervision: given what happened when, what to do. Nothing here touches a process or a clock.

What happened to a collector has a named cause. Three kinds are held against it: it died, hung or raised. The loss of
its node and our own recycling are not. The rules for those three:

- Back-off: the first time a slot loses its process it gets another at once, and after each further loss without a
  finished task in between it waits twice as long, 30 s at most.
- Budget: more than `fleet.max_restarts` within any `fleet.restart_window_s` stop the run.
- Quarantine: a node with three in a row, no task finished on it in between, gets no collectors for
  `fleet.quarantine_s`, as long as collectors of another node answer. After that one more is enough.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Set
from typing import Literal

from common.config import FleetConfig

Kind = Literal["died", "hung", "raised", "node lost", "recycled"]

BACKOFF_S, BACKOFF_MAX_S = 0.5, 30.0
IN_A_ROW = 3
_LOOK_S = 1.0  # the longest time between two looks that counts as watched


@dataclasses.dataclass(frozen=True)
class Cause:
    """Why a process is no more.

    Attributes:
        kind: what happened to it.
        detail: by which signal, exit code, exception or limit; empty where there is nothing to add.
    """

    kind: Kind
    detail: str = ""

    @property
    def blamed(self) -> bool:
        """Whether it is held against the process, its node and the budget."""
        return self.kind in ("died", "hung", "raised")

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}" if self.detail else self.kind


class WatchedTime:
    """Seconds during which somebody looked: what passes while the driver learns is held against nobody."""

    def __init__(self) -> None:
        self.now = 0.0
        self._looked: float | None = None

    def look(self, now: float) -> float:
        """Somebody looks at time `now` [s]; returns the watched seconds so far."""
        if self._looked is not None:
            self.now += min(max(now - self._looked, 0.0), _LOOK_S)
        self._looked = now
        return self.now


class Supervision:
    """What happened to the processes of one fleet, and what follows. Times are seconds of one monotonic clock."""

    def __init__(self, config: FleetConfig) -> None:
        """Supervise by the settings of `config`."""
        self.causes: collections.Counter[str] = collections.Counter()
        self._config = config
        self._blamed: collections.deque[float] = collections.deque()
        self._streak: collections.Counter[int] = collections.Counter()  # by slot
        self._start_at: dict[int, float] = {}
        self._node_streak: collections.Counter[str] = collections.Counter()
        self._quarantine: dict[str, float] = {}  # node -> until when

    def lost(self, slot: int, node: str, cause: Cause, now: float, others: Set[str]) -> str:
        """A slot lost its process.

        Args:
            slot: whose.
            node: on which it ran, empty where that is not known.
            cause: why.
            now: when [s].
            others: nodes on which collectors answer.

        Returns:
            One line if the node is quarantined from now on, else nothing.
        """
        self.causes[str(cause)] += 1
        if not cause.blamed:
            self._start_at[slot] = now
            return ""
        self._blamed.append(now)
        self._streak[slot] += 1
        again = self._streak[slot] - 2
        self._start_at[slot] = now + (min(BACKOFF_S * 2.0 ** min(again, 10), BACKOFF_MAX_S) if again >= 0 else 0.0)
        if not node:
            return ""
        self._node_streak[node] += 1
        shut = self.quarantined(now)
        if self._node_streak[node] < IN_A_ROW or node in shut or not set(others) - shut - {node}:
            return ""
        self._quarantine[node] = now + self._config.quarantine_s
        # Back from it, the node is on probation until a task is done there.
        self._node_streak[node] = IN_A_ROW - 1
        return f"node {node[:12]} quarantined for {self._config.quarantine_s:.0f} s after {IN_A_ROW} in a row ({cause})"

    def done(self, slot: int, node: str) -> None:
        """A task was finished: its slot and its node are sound."""
        self._streak.pop(slot, None)
        self._node_streak.pop(node, None)

    def start_at(self, slot: int) -> float:
        """When a slot without a process may get one [s]."""
        return self._start_at.get(slot, 0.0)

    def quarantined(self, now: float) -> frozenset[str]:
        """Nodes that get no collectors at time `now` [s]."""
        self._quarantine = {node: until for node, until in self._quarantine.items() if until > now}
        return frozenset(self._quarantine)

    def exceeded(self, now: float) -> str:
        """Which limit is used up at time `now` [s], in words; empty while none is."""
        window = self._config.restart_window_s
        while self._blamed and window and self._blamed[0] <= now - window:
            self._blamed.popleft()
        if len(self._blamed) <= self._config.max_restarts:
            return ""
        within = f" within fleet.restart_window_s = {window:g}" if window else ""
        return f"fleet.max_restarts = {self._config.max_restarts} is used up{within}"

    def recycling(self, age_s: float, tasks: int, rss_bytes: int) -> Cause | None:
        """Why a process that has just ended a task should be renewed; None if it should not."""
        config = self._config
        if config.max_rss_bytes and rss_bytes > config.max_rss_bytes:
            return Cause("recycled", "memory")
        if config.max_age_s and age_s > config.max_age_s:
            return Cause("recycled", "age")
        if config.max_tasks and tasks >= config.max_tasks:
            return Cause("recycled", "tasks")
        return None


class Beats:
    """Who was last heard of when, whom to ask, and who hangs: in watched seconds (`WatchedTime`)."""

    def __init__(self, timeout_s: float) -> None:
        """Who makes no progress for `timeout_s` hangs; it is asked ten times meanwhile, and at least every 5 s."""
        self.timeout_s = timeout_s
        self.every_s = min(timeout_s / 10.0, 5.0)
        self._news: dict[int, float] = {}
        self._asked: dict[int, float] = {}
        self._counts: dict[int, int] = {}

    def news(self, member: int, now: float) -> None:
        """It did something that only a sound process does: it came up, took a task or ended one."""
        self._news[member] = self._asked[member] = now

    def heard(self, member: int, count: int, working: bool, now: float) -> None:
        """It answered: its progress counter stands at `count`. Without work an answer is all that it can give."""
        if not working or count != self._counts.get(member):
            self._news[member] = now
        self._counts[member] = count

    def due(self, now: float) -> list[int]:
        """Whom to ask now; whoever is named counts as asked."""
        due = [member for member, asked in self._asked.items() if now - asked >= self.every_s]
        self._asked.update(dict.fromkeys(due, now))
        return due

    def hung(self, now: float) -> list[int]:
        """Who made no progress for too long."""
        return [member for member, news in self._news.items() if now - news > self.timeout_s]

    def forget(self, member: int) -> None:
        """It is no more."""
        for known in (self._news, self._asked, self._counts):
            known.pop(member, None)
