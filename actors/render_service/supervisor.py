"""Keeps one render server running: starts, watches, ends, replaces it, and gives up on one that fails too often.

One thread owns the process and makes every decision; callers wait until a server is up, say that one failed, or ask
for a planned replacement. Imports nothing heavy: it serves in a collector, in any other process, or alone (see
`supervisor_command`).
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from actors.render_service.supervisor_policy import COUNTED, End, FailureRecord, Health, end_of_exit, recycle_due
from actors.render_service.supervisor_process import (
    ServerProcess,
    clean_environment,
    last_line,
    log_path,
    socket_folder,
)
from actors.render_service.supervisor_report import Event, Report, State
from common.errors import RendererLostError, RendererQuarantinedError
from common.renderer_config import RendererConfig

_LOG = logging.getLogger(__name__)
_POLL_S = 0.05  # an exit is seen this soon
_ASK_S = 1.0  # a server that starts is given so long for an answer
_EXIT_S = 3.0  # a lost call may be the first sign of an exit, whose code says more


class Supervisor:
    """The keeper of one server at a time. Thread-safe; a context manager that stops it."""

    def __init__(
        self,
        config: RendererConfig,
        make_argv: Callable[[Path], tuple[Sequence[str], str]],
        probe: Callable[[str, float], Health],
        folder: Path,
        *,
        known_machine: Path | None = None,
        alone: bool = False,
    ) -> None:
        """Start the thread, which starts the server; returns before that answers.

        Args:
            config: budgets and limits.
            make_argv: folder for a socket, new for each start -> (command line, address that it will listen at).
            probe: (address, seconds) -> health; raises RendererLostError where no good answer came within that time.
            folder: of the logs.
            known_machine: file that says that a server started here before, so that the next start is a warm one;
                None takes only the first start of this supervisor for a cold one.
            alone: replace a server that is due at once, for nobody asks for it.
        """
        self._config, self._make_argv, self._probe = config, make_argv, probe
        self._folder, self._known_machine, self._alone = folder, known_machine, alone
        self._changed = threading.Condition()
        self._state: State = "starting"
        self._generation, self._address = 0, ""
        self._warm, self._stopping = False, False
        self._wished: End | None = None
        self._failures = FailureRecord(config)
        self._process: ServerProcess | None = None
        self._start_s = self._down_s = self._up_at = 0.0
        self._health, self._due, self._reason, self._log = Health(), "", "", Path()
        self.events: collections.deque[Event] = collections.deque(maxlen=200)
        self._thread = threading.Thread(target=self._run, name="render-server-supervisor", daemon=True)
        self._thread.start()

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_up(self) -> tuple[int, str]:
        """Wait for a server that answers; returns its generation and address. Budgets and quarantine bound the wait.

        Raises:
            RendererQuarantinedError: if there will be none, with the cause.
            RendererLostError: if the supervisor was stopped.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._state in ("up", "quarantined", "stopped"))
            if self._state == "quarantined":
                raise RendererQuarantinedError(f"the render server is not started again: {self._reason}")
            if self._state == "stopped":
                raise RendererLostError("the render server was stopped")
            return self._generation, self._address

    def failed(self, generation: int, cause: Literal["lost", "late", "wrong_answer"], detail: str) -> None:
        """Say that a server failed a caller; returns when that server is gone. One that is gone already is none."""
        self._replace(generation, End(cause, detail))

    def recycle(self, generation: int, reason: str) -> None:
        """Replace a healthy server after it drained; returns when it is gone. Not counted as a failure."""
        self._replace(generation, End("recycled", reason))

    @property
    def due(self) -> str:
        """Why the server should be recycled at the next good moment; "" where it need not."""
        return self._due

    def report(self) -> Report:
        """What an operator wants to know, now."""
        with self._changed:
            counts = dict(self._failures.counts)
            health, reason = self._health, self._reason or self._due
            return Report(
                self._state, self._generation, self._start_s, self._down_s, counts, health, reason, str(self._log)
            )

    def stop(self) -> None:
        """End the server and the supervisor; returns when nothing of them is left."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()

    def _replace(self, generation: int, end: End) -> None:
        def there() -> bool:
            return self._state in ("up", "ending") and self._generation == generation

        with self._changed:
            if there():
                self._wished = self._wished or end
                self._changed.notify_all()
                self._changed.wait_for(lambda: not there())

    def _run(self) -> None:
        try:
            self._keep_running()
        except Exception as e:
            # Callers wait for this thread: they must hear that it is gone.
            self._become("quarantined", f"its supervisor failed: {type(e).__name__}: {e}")
            if self._process is not None:
                self._process.end(0.0)
            raise

    def _keep_running(self) -> None:
        since_down = time.monotonic()
        while True:
            process, end = self._start(since_down)
            if end is None:
                end = self._watch(process)
            up_s = time.monotonic() - self._up_at if self._state == "up" else 0.0
            self._become("ending", end.detail)
            # The caller of a hung server waits for this: grace is for servers that still work.
            process.end(self._config.grace_s if end.cause in ("recycled", "stopped") else 0.0)
            since_down = time.monotonic()
            self._note(end, up_s)
            if end.cause == "stopped":
                return self._become("stopped", "")
            if reason := self._failures.quarantine(end):
                return self._become("quarantined", f"{reason}; log: {self._log}{self._said()}")
            self._become("waiting", end.detail)
            if self._slept(self._failures.delay(end)):
                return self._become("stopped", "")

    def _start(self, since_down: float) -> tuple[ServerProcess, End | None]:
        """Start the next generation and wait for its first answer; an End where none came."""
        config = self._config
        self._generation += 1
        self._become("starting", self._reason)
        self._log = log_path(self._folder, config.keep_logs)
        sockets = socket_folder()
        argv, address = self._make_argv(sockets)
        environment = clean_environment(config.pass_env, config.python)
        process = self._process = ServerProcess(argv, environment, self._log, config.log_bytes, sockets)
        began = time.monotonic()
        warm = self._warm or (self._known_machine is not None and os.path.exists(self._known_machine))
        budget = config.warm_start_s if warm else config.cold_start_s
        while True:
            if (code := _exit_code(process)) is not None:
                end = end_of_exit(code, was_up=False)
                return process, dataclasses.replace(end, detail=f"{end.detail}{self._said()}")
            if self._stopping:
                return process, End("stopped", "")
            now = time.monotonic()
            if now - began > budget:
                self._forget_machine()
                setting = "warm_start_s" if warm else "cold_start_s"
                return process, End(
                    "start_timeout", f"no answer within renderer.{setting} = {budget:.0f}{self._said()}"
                )
            try:
                health = self._probe(address, _ASK_S)
            except RendererLostError:
                self._slept(_POLL_S)
                continue
            now = time.monotonic()
            with self._changed:
                self._warm, self._health, self._due, self._wished = True, health, "", None
                self._start_s, self._down_s = now - began, (now - since_down if self._generation > 1 else 0.0)
                self._address, self._up_at = address, now
            self._remember_machine()
            self._tell(Event(time.time(), self._generation, "up", f"at {address}, pid {process.pid}", now - began))
            self._become("up", "")
            return process, None

    def _watch(self, process: ServerProcess) -> End:
        """Until the server ended or must be ended."""
        config, misses, beat = self._config, 0, time.monotonic() + self._config.heartbeat_s
        while True:
            with self._changed:
                if not (self._stopping or self._wished):
                    self._changed.wait(_POLL_S)
                if self._stopping:
                    return End("stopped", "")
                wished = self._wished
            if wished is not None and (wished.cause != "lost" or not _exits_soon(process)):
                return wished
            if (code := _exit_code(process)) is not None:
                end = end_of_exit(code, was_up=True)
                return dataclasses.replace(end, detail=f"{end.detail}{self._said()}")
            if time.monotonic() < beat:
                continue
            try:
                self._health = self._probe(self._address, config.heartbeat_timeout_s)
                misses = 0
                if self._health.busy_s > config.call_timeout_s:
                    return End(
                        "hung", f"at one request for longer than renderer.call_timeout_s = {config.call_timeout_s:g}"
                    )
            except RendererLostError as e:
                misses += 1
                if misses >= config.heartbeat_misses and _exit_code(process) is None:
                    return End("hung", f"renderer.heartbeat_misses = {misses} in a row: {e}")
            beat = time.monotonic() + config.heartbeat_s
            self._due = recycle_due(self._health, config)
            if self._due and self._alone:
                return End("recycled", self._due)

    def _become(self, state: State, reason: str) -> None:
        with self._changed:
            self._state, self._reason = state, reason
            self._changed.notify_all()

    def _slept(self, seconds: float) -> bool:
        """Wait, but not for longer than until the stop; whether that came."""
        with self._changed:
            return self._changed.wait_for(lambda: self._stopping, timeout=seconds)

    def _note(self, end: End, up_s: float) -> None:
        with self._changed:
            self._failures.add(end, time.monotonic())
        self._tell(Event(time.time(), self._generation, end.cause, end.detail, up_s))

    def _tell(self, event: Event) -> None:
        self.events.append(event)
        level = logging.WARNING if event.what in COUNTED or event.what == "bad_arguments" else logging.INFO
        _LOG.log(level, "render server %d: %s: %s", event.generation, event.what, event.detail)

    def _said(self) -> str:
        line = last_line(self._log)
        return f"; it said: {line}" if line else ""

    def _remember_machine(self) -> None:
        # Where the file cannot be written, the first start of every supervisor has the budget of a cold one.
        if self._known_machine is not None:
            with contextlib.suppress(OSError):
                self._known_machine.parent.mkdir(parents=True, exist_ok=True)
                self._known_machine.touch()

    def _forget_machine(self) -> None:
        """A new driver or a cleared cache makes a warm start cold again."""
        self._warm = False
        if self._known_machine is not None:
            with contextlib.suppress(OSError):
                self._known_machine.unlink()


def _exits_soon(process: ServerProcess) -> bool:
    deadline = time.monotonic() + _EXIT_S
    while _exit_code(process) is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _exit_code(process: ServerProcess) -> int | None:
    try:
        return process.poll()
    except RendererLostError:
        return process.poll()  # the guard was killed; the server is now as well
