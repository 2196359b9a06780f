"""The writer actor as the operator sees it. It is asked now and then and never waited for."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from cluster.role_status import RoleStatus
from common.role_events import cause, tell

_ASK_EVERY_S = 2.0
_SILENT_S = 30.0  # it answers between two commits, each of which waits for the disk


class WriterWatch:
    """Knows whether the store's writer actor answers, how often it was started again, and what it did."""

    def __init__(self, actor: Any) -> None:
        """Watch a `ReplayWriter`."""
        self._actor = actor
        self._answer: Any = None
        self._asked = float("-inf")
        self._pid: int | None = None
        self._status = RoleStatus("writer", 0, 1)
        self._before = 0  # rows of its processes that are gone
        self._rows = 0

    def look(self, now: float) -> RoleStatus:
        """Take an answer if one is there, ask again if that is due; `now` is of a monotonic clock [s]."""
        if self._answer is not None:
            self._take(now)
        elif now - self._asked >= _ASK_EVERY_S:
            self._asked, self._answer = now, self._actor.report.remote()
        return self._status

    def _take(self, now: float) -> None:
        ready, _ = ray.wait([self._answer], timeout=0.0)
        if not ready:
            if now - self._asked > _SILENT_S:
                self._change(alive=0)
            return
        answer, self._answer = self._answer, None
        try:
            found = ray.get(answer)
        except RayError as error:
            line = cause(error)
            self._change(alive=0, last_failure=line)
            tell("writer", logging.ERROR, "gone" if isinstance(error, RayActorError) else "failed", cause=line)
            return
        if found["pid"] != self._pid:
            restarted = self._pid is not None
            self._pid, self._before, self._rows = found["pid"], self._before + self._rows, 0
            restarts = self._status.restarts + restarted
            self._change(restarts=restarts, causes={"died": restarts} if restarts else {})
            level = logging.WARNING if restarted else logging.INFO
            tell("writer", level, "restarted" if restarted else "ready", pid=self._pid, host=found["host"])
        self._rows = found["rows"]
        seconds = {"total": found["committing_s"], "wait_store_disk": found["slowed_s"]}
        self._change(alive=1, rss_bytes=found["rss_bytes"], samples=self._before + self._rows, seconds=seconds)

    def _change(self, **fields: Any) -> None:
        self._status = dataclasses.replace(self._status, **fields)
