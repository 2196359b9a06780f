"""The driver's own side of the status: gathers the numbers, writes them every few seconds, and logs what happens.

Everything here is cheap, since the driver calls it between gradient steps: a write takes well under a millisecond, and
what takes longer (counting a large store) is done so seldom that it stays below one percent of the time.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.draining import Drained
from cluster.role_status import RoleStatus
from cluster.status import RoleRates, RunStatus, own_process, utc, write_status
from cluster.status_numbers import (
    as_metrics,
    limiter_numbers,
    newest_checkpoint,
    rates,
    replay_counts,
)
from cluster.status_writer import WriterWatch
from common.processes import rss_bytes
from common.role_events import cause, tell

if TYPE_CHECKING:
    from cluster.program import Program
    from replay.store import Store

WRITE_EVERY_S = 2.0
_WINDOW_S = 10.0  # of the rates: long enough for tasks that end every few seconds
_LOOK_EVERY_S = 0.5
_CHECKPOINTS_EVERY_S = 10.0
_SHARE_OF_COUNTING = 100.0
_SHOWN = ("total_loss", "reward", "iou_final")


@dataclasses.dataclass(frozen=True)
class _Look:
    """Counters at a moment."""

    at: float
    frames: int
    roles: Mapping[str, RoleStatus]


class StatusBoard:
    """What is known of a run under way. Methods are called by the driver's thread, through the display."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """Nothing is written before `open`.

        Args:
            say: gets a line when the status cannot be written, once.
        """
        self._say = say
        self._run: Path | None = None
        self._program: Program | None = None
        host, pid, began = own_process()
        now = utc(time.time())
        self._status = RunStatus("", 0, host, pid, began, started=now, written=now)
        self._looks: collections.deque[_Look] = collections.deque()
        self._written = self._checkpoints_at = self._counted_at = -math.inf
        self._count_cost = 0.0
        self._complained = False
        self._phase_began, self._first = 0.0, 0
        self._learner = RoleStatus("learner", 0, 0)
        self._learner_rates: tuple[float, dict[str, float]] = (0.0, {})
        self._driver_waits: dict[str, float] = {"wait_checkpoint": 0.0}
        self._before = RoleStatus("collectors", 0, 0)
        self._failures = 0
        self._writer: WriterWatch | None = None
        self._writer_failure = ""

    def open(self, run: Path, run_id: str, attempt: int) -> None:
        """Write to the run directory `run` from now on."""
        self._run = run
        self._status = dataclasses.replace(self._status, run_id=run_id, attempt=attempt)
        tell("driver", logging.INFO, "started", run_id=run_id, attempt=attempt, pid=self._status.pid)
        self._write()

    def attach(self, program: Program) -> None:
        """The run's parts are there."""
        self._program = program
        if program.writer is not None:
            self._writer = WriterWatch(program.writer, program.config.fleet.hang_timeout_s)
        learners = max(program.config.learner.num_learners, 1)
        self._learner = dataclasses.replace(self._learner, alive=learners, wanted=learners)
        self._look(force=True)

    def detach(self) -> None:
        """The run's parts are about to go; what was known of them stays."""
        self._checkpoints_at = -math.inf
        self._status = self.status()
        self._program = None
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def phase(self, name: str, rounds: int, done: int) -> None:
        """A phase begins or continues."""
        self._phase_began, self._first = time.monotonic(), done
        lags = {"policy_lag_versions": None, "policy_lag_s": None}
        self._change(state="training", phase=name, round=done, rounds=rounds, metrics={}, limiter={}, **lags)
        tell("learner", logging.INFO, "phase", phase=name, rounds=rounds, done=done)
        self._write()

    def round(self, done: int, row: Mapping[str, Any], limiter: Mapping[str, Any] | None = None) -> None:
        """A round ended.

        Args:
            done: rounds of the phase so far.
            row: its metrics.
            limiter: the limiter's state as in a checkpoint; None or empty where there is none.
        """
        spent = {
            "learn": row.get("learn_s", 0.0),
            "wait_data": row.get("sample_s", 0.0),
            "wait_collectors": row.get("wait_s", 0.0),
        }
        total = sum(spent.values())
        rows, slowed = int(row["samples"]), row.get("slowed_s", 0.0)
        if total > 0.0:
            waits = {name.removeprefix("wait_"): s / total for name, s in spent.items() if name.startswith("wait_")}
            self._learner_rates = rows / total, waits
        seconds = {name: self._learner.seconds.get(name, 0.0) + s for name, s in spent.items()}
        self._learner = dataclasses.replace(self._learner, samples=self._learner.samples + rows, seconds=seconds)
        self._driver_waits["wait_checkpoint"] += row.get("checkpoint_s", 0.0)
        self._change(
            round=done,
            # Rounds in which nothing arrived measure none.
            policy_lag_versions=row.get("policy_lag_versions", self._status.policy_lag_versions),
            policy_lag_s=row.get("policy_lag_s", self._status.policy_lag_s),
            limiter=limiter_numbers(limiter or {}, row),
            metrics={k: row[k] for k in _SHOWN if k in row} | ({"slowed_s": slowed} if slowed > 0.0 else {}),
        )
        self._look(force=False)
        tell("driver", logging.INFO, "round", phase=self._status.phase, round=done, **self.numbers())

    def evaluating(self, stage: str, scenes: int) -> None:
        """An evaluation begins."""
        self._change(state="evaluating")
        tell("evaluator", logging.INFO, "evaluation begins", stage=stage, scenes=scenes)

    def evaluated(self, stage: str, text: str, metrics: Mapping[str, Any]) -> None:
        """An evaluation ended with these METRICS."""
        self._change(state="training" if self._status.phase else "starting", evaluation=text)
        tell("evaluator", logging.INFO, "evaluation ends", stage=stage, **metrics)

    def learner_lost(self, error: BaseException) -> None:
        """A learner died; another one takes its place."""
        text = cause(error)
        causes = {**self._learner.causes, "lost": self._learner.causes.get("lost", 0) + 1}
        self._learner = dataclasses.replace(
            self._learner, restarts=self._learner.restarts + 1, causes=causes, last_failure=text
        )
        self._change(last_failure=f"learner: {text}")
        tell("learner", logging.ERROR, "lost", cause=text)

    def tick(self) -> str:
        """Called often: looks and writes when that is due.

        Returns:
            A line about what failed since the last call; empty if nothing did.
        """
        line = self._failed()
        self._look(force=False)
        if time.monotonic() - self._written >= WRITE_EVERY_S:
            self._write()
        return line

    def close(self, error: BaseException | None) -> None:
        """The driver ends, by `error` if there is one: an end that was asked for is no failure."""
        if error is None:
            self._change(state="finished", eta_s=None)
            tell("driver", logging.INFO, "finished")
        elif isinstance(error, Exception) and not isinstance(error, Drained):
            self._change(state="failed", eta_s=None, last_failure=cause(error))
            tell("driver", logging.ERROR, "failed", cause=cause(error))
        else:
            self._change(state="stopped", eta_s=None)
            tell("driver", logging.WARNING, "stopped", cause=cause(error))
        # The processes are gone, what they did is not.
        roles = tuple(
            dataclasses.replace(r, status=dataclasses.replace(r.status, alive=0, wanted=0), waits={})
            for r in self._status.roles
        )
        self._change(roles=roles, frames_per_s=0.0)
        self._write()
        self._run = None

    def status(self) -> RunStatus:
        """All of it, as of now."""
        self._look(force=True)
        now = self._looks[-1] if self._looks else None
        if now is None or self._program is None:
            return self._status
        then = self._looks[0]
        roles = [rates(role, then.roles.get(name), now.at - then.at) for name, role in now.roles.items()]
        speed, waits = self._learner_rates
        roles = [RoleRates(r.status, speed, waits) if r.status.role == "learner" else r for r in roles]
        return dataclasses.replace(
            self._status,
            roles=tuple(roles),
            eta_s=self._left(),
            frames_per_s=(now.frames - then.frames) / (now.at - then.at) if now.at > then.at else 0.0,
        )

    def _left(self) -> float | None:
        done = self._status.round - self._first
        if done <= 0 or not self._status.rounds:
            return None
        return (time.monotonic() - self._phase_began) / done * (self._status.rounds - self._status.round)

    def numbers(self) -> dict[str, float]:
        """Numbers of the status by name, for MLflow."""
        return as_metrics(self.status())

    def _change(self, **fields: Any) -> None:
        self._status = dataclasses.replace(self._status, **fields)

    def _failed(self) -> str:
        if self._program is None:
            return ""
        totals = self._program.fleet.totals
        if totals.failures == self._failures:
            return ""
        more, self._failures = totals.failures - self._failures, totals.failures
        self._change(last_failure=f"collectors: {totals.last_failure}")
        tell("collectors", logging.ERROR, "failed", cause=totals.last_failure, failures=totals.failures, new=more)
        return f"collector failure {totals.failures}, its task is done again: {totals.last_failure}"

    def _look(self, force: bool) -> None:
        """Note the counters, now and then; rates are of the oldest note in the window until the newest."""
        program, now = self._program, time.monotonic()
        if program is None or (not force and self._looks and now - self._looks[-1].at < _LOOK_EVERY_S):
            return
        if self._looks and now - self._looks[-1].at < _LOOK_EVERY_S and len(self._looks) > 1:
            self._looks.pop()
        collectors = program.fleet.status()
        self._note_restarts(collectors)
        memory = rss_bytes()
        driver = RoleStatus(
            "driver", 1, 1, rss_bytes=memory, seconds={"cpu": time.process_time(), **self._driver_waits}
        )
        # A learner in the driver's process is as large as that; others are processes of their own.
        learner = dataclasses.replace(self._learner, rss_bytes=0 if program.config.learner.num_learners else memory)
        parts = [driver, learner, collectors]
        if self._writer is not None:
            parts.append(self._writer.look(now))
            self._note_writer(parts[-1].last_failure)
        roles = {r.role: r for r in parts}
        self._looks.append(_Look(now, program.fleet.totals.frames, roles))
        while len(self._looks) > 2 and now - self._looks[1].at >= _WINDOW_S:
            self._looks.popleft()
        self._count(program.store, now)
        if now - self._checkpoints_at >= _CHECKPOINTS_EVERY_S:
            self._checkpoints_at = now
            self._change(**newest_checkpoint(program.checkpoints))

    def _note_restarts(self, now: RoleStatus) -> None:
        before, self._before = self._before, now
        new = {why: n - before.causes.get(why, 0) for why, n in now.causes.items() if n > before.causes.get(why, 0)}
        if new:
            tell("collectors", logging.WARNING, "restarted", causes=new, restarts=now.restarts)
        if (now.alive, now.wanted) != (before.alive, before.wanted):
            tell("collectors", logging.INFO, "alive", alive=now.alive, wanted=now.wanted)

    def _note_writer(self, failure: str) -> None:
        if failure and failure != self._writer_failure:
            self._writer_failure = failure
            self._change(last_failure=f"writer: {failure}")

    def _count(self, store: Store, now: float) -> None:
        """Count the store's rows, at most one percent of the time."""
        if now - self._counted_at < _SHARE_OF_COUNTING * self._count_cost:
            return
        began = time.perf_counter()
        self._change(replay=replay_counts(store))
        self._count_cost, self._counted_at = time.perf_counter() - began, now

    def _write(self) -> None:
        self._written = time.monotonic()
        if self._run is None:
            return
        self._status = dataclasses.replace(self.status(), written=utc(time.time()))
        try:
            write_status(self._run, self._status)
        except OSError as e:
            if not self._complained:
                self._complained = True
                self._say(f"warning: status.json cannot be written and is out of date: {e.strerror or e}")
