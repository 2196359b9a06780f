"""The fleet of collectors: gives out tasks, replaces what dies or hangs, and gives lost tasks out again.

A task's outcome does not depend on who does it (`actors.tasks`), so recovery is to do it again: a repeated episode has
the same id and the store keeps one.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import RayActorError, RayTaskError
from ray.rllib.utils.actor_manager import FaultTolerantActorManager

from actors.tasks import Task, TaskResult
from common.config import FleetConfig
from common.errors import ServofleetError
from replay.disk_space import DiskFullError

Weights = Mapping[str, NDArray[Any]]

# Its messages tell of what the totals count and the operator's display names.
logging.getLogger("ray.rllib.utils.actor_manager").setLevel(logging.CRITICAL)

_POLL_S = 0.02
_PROBE_EVERY_S = 0.5
_MAX_TASK_FAILURES = 3


class FleetError(ServofleetError):
    """The fleet cannot do its work any more; names the last cause."""


@dataclasses.dataclass
class Totals:
    """What the fleet has done, for rates and for the operator's table."""

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
    """Collectors under Ray's FaultTolerantActorManager, one task in flight each."""

    def __init__(self, make_collector: Callable[[int], Any], config: FleetConfig) -> None:
        """Start the collectors; returns before they answer.

        Args:
            make_collector: index -> actor handle.
            config: how many, and when they are taken for hung or lost.
        """
        self.totals = Totals()
        self._config = config
        # Requests over the manager's in-flight limit vanish silently, so we never send a second one to an actor.
        self._manager = FaultTolerantActorManager(
            [make_collector(i) for i in range(config.collectors)], max_remote_requests_in_flight_per_actor=1
        )
        # A collector gets work once it has answered, so that its start does not count as the task's time.
        for actor_id in self._manager.actor_ids():
            self._manager.set_actor_state(actor_id, healthy=False)
        self._queue: collections.deque[tuple[Work, int]] = collections.deque()
        self._busy: dict[int, tuple[Work, int, float]] = {}
        self._probed = 0.0
        self._answered = time.monotonic()
        self._last_error = "none of them ever answered"
        self.broadcast_s = 0.0  # spent putting weights into the object store, altogether

    def start(self, tasks: Sequence[Task], weights: Weights | None = None) -> Work:
        """Queue tasks behind those already queued; returns at once. Weights are put into the object store once."""
        began = time.perf_counter()
        work = Work(tasks, None if weights is None else ray.put(_plain(weights)))
        self.broadcast_s += time.perf_counter() - began
        self._queue.extend((work, i) for i in range(len(work.tasks)))
        self.poll(0.0)
        return work

    def wait(self, work: Work, on_poll: Callable[[], None] | None = None) -> list[TaskResult]:
        """Block until the work is done.

        Raises:
            FleetError: if a task failed three times, collectors died too often, none answers any more, or the store's
                disk is full.
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
        """Collect results, replace the dead and the hung, hand out queued tasks."""
        if self._busy:
            for call in self._manager.fetch_ready_async_reqs(timeout_seconds=timeout_s):
                work, index, _ = self._busy.pop(call.actor_id)
                if call.ok:
                    work.results[index] = call.get()
                    self.totals.add(call.get())
                else:
                    self._failed(work, index, call.get())
        elif timeout_s:
            time.sleep(timeout_s)
        now = time.monotonic()
        for actor_id, (work, index, since) in list(self._busy.items()):
            if now - since > self._config.task_timeout_s:
                ray.kill(self._manager.actors()[actor_id], no_restart=False)
                self._busy[actor_id] = (work, index, now)
        if self._busy or self.healthy or not self._queue:
            self._answered = now
        elif now - self._answered > self._config.start_timeout_s:
            allowed = f"fleet.start_timeout_s = {self._config.start_timeout_s:.0f}"
            raise FleetError(f"no collector answered for {allowed} s; last error: {self._last_error}")
        if self.healthy < self.size and now - self._probed > _PROBE_EVERY_S:
            self._probed = now
            for answer in self._manager.foreach_actor(
                "ping", remote_actor_ids=self._unhealthy(), healthy_only=False, timeout_seconds=0.1, mark_healthy=True
            ):
                if not answer.ok:
                    self._last_error = _line(answer.get())
        for actor_id in self._manager.healthy_actor_ids():
            if self._queue and actor_id not in self._busy:
                self._send(actor_id, *self._queue.popleft())

    @property
    def size(self) -> int:
        """Collectors, alive or not."""
        return int(self._manager.num_actors())

    @property
    def healthy(self) -> int:
        """Collectors that answer."""
        return int(self._manager.num_healthy_actors())

    def _unhealthy(self) -> list[int]:
        healthy = set(self._manager.healthy_actor_ids())
        return [i for i in self._manager.actor_ids() if i not in healthy]

    def call(self, method: str, **kwargs: Any) -> list[Any]:
        """Call a method on every healthy collector and wait (pinning in benchmarks)."""
        return [r.get() for r in self._manager.foreach_actor(method, kwargs=kwargs, timeout_seconds=60.0)]

    def stop(self) -> None:
        """End every collector."""
        for actor in self._manager.actors().values():
            ray.kill(actor, no_restart=True)
        self._manager.clear()
        self._busy.clear()
        self._queue.clear()

    def _send(self, actor_id: int, work: Work, index: int) -> None:
        kwargs = {"task": work.tasks[index], "weights": work.weights}
        sent = self._manager.foreach_actor_async("run", kwargs=kwargs, remote_actor_ids=[actor_id])
        if sent == 1:
            self._busy[actor_id] = (work, index, time.monotonic())
        else:
            self._queue.appendleft((work, index))

    def _failed(self, work: Work, index: int, error: Exception) -> None:
        self.totals.failures += 1
        self._last_error = self.totals.last_failure = _line(error)
        if isinstance(error, DiskFullError):
            # No other collector has another disk, and what is tried again writes more to it.
            raise FleetError(f"{_cause(error)}; started again, the run goes on from its last checkpoint") from error
        # A dead process is the fleet's trouble and is counted there; an exception is likely to come again.
        if not isinstance(error, RayActorError):
            work.failures[index] += 1
        if work.failures[index] >= _MAX_TASK_FAILURES:
            raise FleetError(f"{work.tasks[index]} failed {_MAX_TASK_FAILURES} times: {_line(error)}") from error
        if self.totals.failures > self._config.max_restarts:
            limit = f"fleet.max_restarts = {self._config.max_restarts}"
            raise FleetError(f"{limit} is used up; last: {_line(error)}") from error
        self._queue.appendleft((work, index))


def _plain(weights: Weights) -> dict[str, NDArray[Any]]:
    return {name: np.ascontiguousarray(array) for name, array in weights.items()}


def _cause(error: Exception) -> str:
    """Ray's copy of an exception has the remote traceback in its text."""
    return str(error.cause if isinstance(error, RayTaskError) else error)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error).strip() else ''}"
