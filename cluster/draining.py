"""Ending a run early because its machine is wanted back: a last checkpoint within the grace, then exit code 75.

SIGTERM (Kubernetes, a preempted machine, `ray job stop`) and SIGUSR1 (Slurm's --signal) ask for it:

signal --> the round under way goes on --> safe point: checkpoint --> `Drained`, exit code 75
                 | three fifths of the grace are over
                 +--> the round is dropped, the last checkpoint stands --> `Drained`, exit code 75
                            | the grace is over, and something still holds the process
                            +--> the process ends there and then with code 75

Ctrl-C, or the signal again after a second, ends the run at once, as without any of this.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType, TracebackType

from common.errors import ServofleetError

EX_TEMPFAIL = 75  # of sysexits.h: start me again
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_ROUND_SHARE = 0.6  # of the grace; the rest is for the checkpoint and for taking the program down
_AGAIN_S = 0.01  # after which an exception is raised again that was lost
_SAME_S = 1.0  # a batch system that signals both a shell, which hands it on, and everything in the job, asks once


class Drained(ServofleetError):  # noqa: N818 - nothing went wrong
    """The run ended because it was asked to; started again it goes on (exit code 75)."""


class Draining:
    """Whether this process was asked to end, and the clock that runs from then on.

    A context manager that listens to the signals; only the main thread can. Outside of the context nobody ever asks.

    Attributes:
        grace_s: from the signal to the end of the process.
        asked_by: name of the signal that asked; "" while nobody did.
    """

    def __init__(self, grace_s: float) -> None:
        self.grace_s = grace_s
        self.asked_by = ""
        self._asked_at = 0.0
        self._too_late = self._at_safe_point = self._interrupted = self._again = False
        # Its put is safe in a signal handler, whatever the handler interrupts.
        self._clock: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._before: dict[int, object] = {}
        self._hook = sys.unraisablehook

    def __enter__(self) -> Draining:
        if threading.current_thread() is threading.main_thread():
            handlers = {signal.SIGINT: self._interrupt, signal.SIGALRM: self._give_up_the_round}
            for number, handler in (handlers | dict.fromkeys(SIGNALS, self._ask)).items():
                self._before[number] = signal.signal(number, handler)
            self._hook, sys.unraisablehook = sys.unraisablehook, self._lost
            threading.Thread(target=self._end_after_grace, name="draining", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            self._clock.put(False)
            sys.unraisablehook = self._hook
            for number, handler in self._before.items():
                signal.signal(number, handler)  # type: ignore[arg-type]
        if self.is_why(error):
            raise Drained(self.verdict) from None

    def is_why(self, error: BaseException | None) -> bool:
        """Whether this error is the round being dropped, and not somebody's Ctrl-C."""
        return isinstance(error, KeyboardInterrupt) and self._too_late and not self._interrupted

    def reached(self) -> None:
        """The run is at a safe point, and drops nothing any more."""
        self._at_safe_point = True

    @property
    def verdict(self) -> str:
        """One line on how the run ended."""
        if self._at_safe_point:
            return f"{self.asked_by}: stopped behind a checkpoint; the same command continues from it"
        return (
            f"{self.asked_by}: no safe point within {_ROUND_SHARE * self.grace_s:g} s (grace_s = {self.grace_s:g}), so "
            f"what was under way is dropped; the same command continues from the last checkpoint"
        )

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked_by:
            if time.monotonic() - self._asked_at > _SAME_S:
                self._interrupt(number, frame)
            return
        self.asked_by, self._asked_at = signal.Signals(number).name, time.monotonic()
        self._clock.put(True)
        signal.setitimer(signal.ITIMER_REAL, _ROUND_SHARE * self.grace_s)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._interrupted = True
        raise KeyboardInterrupt

    def _give_up_the_round(self, number: int, frame: FrameType | None) -> None:
        if self._again:
            self._again = False
            raise KeyboardInterrupt
        if not self._at_safe_point:
            self._too_late = True
            # Of all exceptions of a handler, this is the one that Ray hands on.
            raise KeyboardInterrupt

    def _lost(self, unraisable: sys.UnraisableHookArgs) -> None:
        """What becomes of an exception of a handler that interrupted a finaliser, which hands nothing on."""
        if issubclass(unraisable.exc_type, KeyboardInterrupt) and (self._too_late or self._interrupted):
            self._again = True
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
        else:
            self._hook(unraisable)

    def _end_after_grace(self) -> None:
        if not self._clock.get():
            return
        try:
            self._clock.get(timeout=self.grace_s)
        except queue.Empty:
            # Files are whole or not there at any moment, and Ray's processes end with this one.
            line = f"servofleet: {self.asked_by}: grace_s = {self.grace_s:g} is over; the last checkpoint stands\n"
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, line.encode())
            os._exit(EX_TEMPFAIL)


@contextlib.contextmanager
def own_sigterm() -> Iterator[None]:
    """Keep this process's handler of SIGTERM while Ray starts, whose own would end the process before contexts close.
    A process that has none ends like with Ctrl-C from then on.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before if callable(before) else signal.default_int_handler)
