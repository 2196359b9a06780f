"""The writer actor as the driver sees it. It is asked now and then and never waited for; when it hangs, it is ended."""

from __future__ import annotations

import dataclasses
import logging
import os
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from cluster.crew_member import WATCH
from cluster.role_status import RoleStatus
from cluster.supervision import WatchedTime
from cluster.supervision_processes import Whereabouts, end_process, has_ended, open_process
from common.role_events import cause, tell

_ASK_EVERY_S = 2.0
_SILENT_S = 30.0  # what the operator sees; a thread beside the commits answers


class WriterWatch:
    """Knows whether the store's writer actor answers, how often it was started again, and what it did."""

    def __init__(self, actor: Any, hang_timeout_s: float) -> None:
        """Watch a `ReplayWriter`.

        Args:
            actor: its handle.
            hang_timeout_s: a process that answered before and is silent for this long is ended; Ray starts the actor
                again, and who waits for an ack sends again. A commit that takes long is no silence.
        """
        self._actor, self._hang_timeout_s = actor, hang_timeout_s
        self._watched = WatchedTime()
        self._answer: Any = None
        self._asked = float("-inf")
        self._where: Whereabouts | None = None
        self._descriptor: int | None = None
        self._end = "died"  # how the process that is there will have ended
        self._status = RoleStatus("writer", 0, 1)
        self._before = 0  # rows of its processes that are gone
        self._rows = 0

    def look(self, now: float) -> RoleStatus:
        """Take an answer if one is there, ask again if that is due; `now` is of a monotonic clock [s]."""
        watched = self._watched.look(now)
        if self._answer is not None:
            self._take(watched)
        elif watched - self._asked >= _ASK_EVERY_S:
            self._asked = watched
            self._answer = self._actor.report.options(concurrency_group=WATCH).remote()
        return self._status

    def close(self) -> None:
        """Let go of the process."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _take(self, now: float) -> None:
        ready, _ = ray.wait([self._answer], timeout=0.0)
        if not ready:
            self._silent(now - self._asked)
            return
        answer, self._answer = self._answer, None
        try:
            found = ray.get(answer)
        except RayError as error:
            line = cause(error)
            self._change(alive=0, last_failure=line)
            tell("writer", logging.ERROR, "gone" if isinstance(error, RayActorError) else "failed", cause=line)
            return
        if found["where"] != self._where:
            self._meet(found["where"], found["host"])
        self._rows = found["rows"]
        seconds = {"total": found["committing_s"], "wait_store_disk": found["slowed_s"]}
        self._change(alive=1, rss_bytes=found["rss_bytes"], samples=self._before + self._rows, seconds=seconds)

    def _silent(self, for_s: float) -> None:
        if for_s > min(_SILENT_S, self._hang_timeout_s):
            self._change(alive=0)
        if for_s <= self._hang_timeout_s or self._end == "hung":
            return
        # Of one that never answered nothing is known, and it may start for long: senders have a limit of their own.
        if self._descriptor is not None and not has_ended(self._descriptor):
            end_process(self._descriptor)
            self._end = "hung"
            line = f"hung: no answer for fleet.hang_timeout_s = {self._hang_timeout_s:g} s"
            self._change(last_failure=line)
            tell("writer", logging.ERROR, "ended", cause=line)

    def _meet(self, where: Whereabouts, host: str) -> None:
        """A process answers for the first time."""
        restarted, ended = self._where is not None, self._end
        self.close()
        self._where, self._descriptor, self._end = where, open_process(where), "died"
        self._before, self._rows = self._before + self._rows, 0
        if restarted:
            causes = {**self._status.causes, ended: self._status.causes.get(ended, 0) + 1}
            self._change(restarts=self._status.restarts + 1, causes=causes)
        level = logging.WARNING if restarted else logging.INFO
        tell("writer", level, "restarted" if restarted else "ready", pid=where.pid, host=host)

    def _change(self, **fields: Any) -> None:
        self._status = dataclasses.replace(self._status, **fields)
