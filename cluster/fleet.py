"""The fleet of collectors: gives out tasks, replaces what dies or hangs, and gives lost tasks out again.

A task's outcome does not depend on who does it (`actors.tasks`), so recovery is to do it again: a repeated episode has
the same id and the store keeps one.
"""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from numpy.typing import NDArray
from ray.exceptions import RayTaskError

from actors.tasks import Task, TaskResult
from cluster.crew import Crew
from cluster.crew_member import Loss
from cluster.elastic import bounds
from cluster.role_status import RoleStatus
from cluster.supervision import Cause
from cluster.supervision_processes import packed
from cluster.versions import refusal
from common.config import FleetConfig
from common.errors import ServofleetError
from common.role_events import retell
from replay.disk_space import DiskFullError

Weights = Mapping[str, NDArray[Any]]

_POLL_S = 0.02
_MAX_TASK_FAILURES = 3


class FleetError(ServofleetError):
    """The fleet cannot do its work any more; names the last cause."""


@dataclasses.dataclass
class Totals:
    """What the fleet has done, for rates and for the operator's table.

    `failures` counts collectors that died, hung, raised or were on a node that was lost.
    """

    frames: int = 0
    rows: int = 0
    tasks: int = 0
    failures: int = 0
    last_failure: str = ""
    rss_bytes: int = 0
    seconds: dict[str, float] = dataclasses.field(default_factory=lambda: collections.defaultdict(float))

    def add(self, result: TaskResult) -> None:
        """Count a finished task."""
        self.frames += result.frames
        self.rows += result.rows
        self.tasks += 1
        self.rss_bytes = max(self.rss_bytes, result.rss_bytes)
        retell(result.events)
        for name, value in result.seconds.items():
            self.seconds[name] += value


class Work:
    """A round's tasks under way: `results` fills up in the order of the tasks."""

    def __init__(self, tasks: Sequence[Task], weights: Any) -> None:
        self.tasks = list(tasks)
        self.weights = weights
        self.results: list[TaskResult | None] = [None] * len(tasks)
        self.failures = [0] * len(tasks)

    @property
    def done(self) -> bool:
        """Every task has a result."""
        return all(r is not None for r in self.results)


class Fleet:
    """Collectors, one task in flight each."""

    def __init__(self, make_collector: Callable[..., Any], config: FleetConfig) -> None:
        """Start the collectors; returns before they answer.

        Args:
            make_collector: index -> actor handle; with the keyword `avoid`, ids of nodes that it shall not come to,
                where some are quarantined. An actor with a method `progress` (see `actors.collector`) has a
                concurrency group "watch" and is asked for its progress; another one hangs when its task takes too long.
            config: how many, and when they are taken for hung or lost.
        """
        self.totals = Totals()
        self._config = config
        self._crew = Crew(make_collector, config)
        self._queue: collections.deque[tuple[Work, int]] = collections.deque()
        self._busy: dict[int, tuple[Work, int, float]] = {}
        self._enough = 0.0  # when there were last as many as there must be, in watched seconds
        self.broadcast_s = 0.0  # spent putting weights into the object store, altogether

    def start(self, tasks: Sequence[Task], weights: Weights | None = None) -> Work:
        """Queue tasks behind those already queued; returns at once. Weights are put into the object store once."""
        began = time.perf_counter()
        work = Work(tasks, None if weights is None else ray.put(packed(weights)))
        self.broadcast_s += time.perf_counter() - began
        self._queue.extend((work, i) for i in range(len(work.tasks)))
        self.poll(0.0)
        return work

    def wait(self, work: Work, on_poll: Callable[[], None] | None = None) -> list[TaskResult]:
        """Block until the work is done.

        Raises:
            FleetError: if a task failed three times, collectors failed too often, too few answer for too long, or the
                store's disk is full.
        """
        while not work.done:
            self.poll(_POLL_S)
            if on_poll is not None:
                on_poll()
        return [r for r in work.results if r is not None]

    def run(self, tasks: Sequence[Task], weights: Weights | None = None) -> list[TaskResult]:
        """`start` and `wait`."""
        return self.wait(self.start(tasks, weights))

    def drain(self, on_poll: Callable[[], None] | None = None) -> None:
        """Drop what is queued and wait for what is under way; nobody waits for its results any more.

        Raises:
            FleetError: as `wait`.
        """
        while self._queue or self._busy:
            # Again each time, for what a dying collector had under way is queued anew.
            self._queue.clear()
            self.poll(_POLL_S)
            if on_poll is not None:
                on_poll()

    def poll(self, timeout_s: float) -> None:
        """Collect results, replace the dead and the hung, hand out queued tasks.

        Raises:
            FleetError: as `wait`.
        """
        if self._busy:
            for member, ok, value in self._crew.results(timeout_s):
                if ok:
                    work, index, _ = self._busy.pop(member)
                    work.results[index] = value
                    self.totals.add(value)
                    self._crew.done(member, value.rss_bytes, time.monotonic())
                else:
                    self._lost(self._crew.failed(member, value, time.monotonic()))
        elif timeout_s:
            time.sleep(timeout_s)
        now = time.monotonic()
        limit = self._config.task_timeout_s
        for member in [m for m, (_, _, since) in self._busy.items() if now - since > limit]:
            line = f"a task took longer than fleet.task_timeout_s = {limit:g} s"
            self._lost(self._crew.end(member, Cause("hung", "task too long"), now, line))
        for loss in self._crew.tend(now, self._busy.keys()):
            self._lost(loss)
        self._check_numbers()
        if self._queue:
            for member in self._crew.up:
                if self._queue and member not in self._busy:
                    self._send(member, *self._queue.popleft())

    @property
    def size(self) -> int:
        """Collectors that there should be, alive or not."""
        return self._crew.slots

    @property
    def healthy(self) -> int:
        """Collectors that answer."""
        return len(self._crew.up)

    def status(self) -> RoleStatus:
        """The collectors for the operator; restarts are counted when a process is lost."""
        causes = dict(self._crew.supervision.causes)
        return RoleStatus(
            role="collectors",
            alive=self.healthy,
            wanted=self.size,
            restarts=sum(causes.values()),
            causes=causes,
            rss_bytes=self._crew.rss_bytes,
            samples=self.totals.rows,
            seconds={"wait_" + k if k.startswith("store_") else k: v for k, v in self.totals.seconds.items()},
            last_failure=self.totals.last_failure,
        )

    def call(self, method: str, **kwargs: Any) -> list[Any]:
        """Call a method on every healthy collector and wait (pinning in benchmarks)."""
        return self._crew.call(method, **kwargs)

    def stop(self) -> None:
        """End every collector."""
        self._crew.stop()
        self._busy.clear()
        self._queue.clear()

    def _send(self, member: int, work: Work, index: int) -> None:
        if self._crew.send(member, work.tasks[index], work.weights):
            self._busy[member] = (work, index, time.monotonic())
        else:
            self._queue.appendleft((work, index))

    def _check_numbers(self) -> None:
        """Too few collectors for too long are an error where there is work for them."""
        least, now = max(bounds(self._config)[0], 1), self._crew.watched.now
        answering = self.healthy
        if answering >= least:
            self._enough = now
        elif (self._queue or self._busy) and now - self._enough > self._config.start_timeout_s:
            raise FleetError(
                f"{answering} collectors answer, fewer than fleet.min_collectors = {least}, for "
                f"fleet.start_timeout_s = {self._config.start_timeout_s:g} s; last error: {self._crew.last_error}"
            )

    def _lost(self, loss: Loss) -> None:
        """Queue again what a lost collector did, and stop where that has no prospects."""
        work, index, _ = self._busy.pop(loss.member, (None, 0, 0.0))
        if loss.cause is not None:
            self.totals.failures += 1
            self.totals.last_failure = loss.line
        if other := refusal(loss.error):
            raise FleetError(other) from loss.error
        if isinstance(loss.error, DiskFullError):
            # No other collector has another disk, and what is tried again writes more to it.
            said = f"{_cause(loss.error)}; started again, the run goes on from its last checkpoint"
            raise FleetError(said) from loss.error
        if work is not None:
            # A dead process is the fleet's trouble and is counted there; what the task does is likely to come again.
            if loss.cause is not None and loss.cause.kind in ("raised", "hung"):
                work.failures[index] += 1
            if work.failures[index] >= _MAX_TASK_FAILURES:
                raise FleetError(f"{work.tasks[index]} failed {_MAX_TASK_FAILURES} times: {loss.line}") from loss.error
        if limit := self._crew.supervision.exceeded(time.monotonic()):
            raise FleetError(f"{limit}; last: {loss.line}") from loss.error
        if work is not None:
            self._queue.appendleft((work, index))


def _cause(error: Exception) -> str:
    """Ray's copy of an exception has the remote traceback in its text."""
    return str(error.cause if isinstance(error, RayTaskError) else error)
