"""Requests wait here for the one thread that owns the renderer: a GPU application may only be driven by its own.

An answer is kept for a while under its request's number, so that a request that is sent again, because its answer was
lost on the way, is not done again.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from actors.render_service.limits import LimitError
from common.errors import LateFrameError, RendererError, RendererLostError, bad_value

KEPT_ANSWERS = 64
KEPT_BYTES = 1 << 27  # of answers whose pixels are sent; the newest is kept whatever its size
_IDLE = 0.5  # seconds after which an idle desk looks around


@dataclasses.dataclass(frozen=True)
class Answer:
    """What is kept of a request that was done: messages to send, and their size in bytes."""

    messages: tuple[Any, ...]
    nbytes: int = 0


@dataclasses.dataclass(frozen=True)
class _Job:
    number: int
    session: str
    digest: bytes
    work: Callable[[], Answer]
    deadline: float  # of time.monotonic
    answer: Future[Answer]


class Desk:
    """`submit` and `open` from any thread; `run` is the thread that works."""

    def __init__(self, max_waiting: int) -> None:
        self.session = ""
        self.stopping = False
        self._max_waiting = max_waiting
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()  # whose `put` a signal handler may call
        self._dropped: set[int] = set()
        self._kept: OrderedDict[int, _Job] = OrderedDict()
        self._last = 0
        self._waiting = 0
        self._began: float | None = None

    @property
    def waiting(self) -> int:
        """Requests that are waiting or being worked on."""
        return self._waiting

    def busy_s(self) -> float:
        """How long the request at work has been at work; 0 where there is none."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    def open(self, session: str) -> bool:
        """Make a session the owner; False if it was already. What an older one still waits for is refused."""
        with self._lock:
            if session == self.session:
                return False
            self.session = session
            self._kept.clear()
            self._dropped.clear()
            self._last = 0
            return True

    def check(self, session: str) -> None:
        """Refuse requests of other sessions than the owner's.

        Raises:
            RendererLostError: saying so.
        """
        if session != self.session:
            why = "another client has taken the server over" if self.session else "the server was started again"
            raise RendererLostError(f"session {session[:8]} is not open here: {why}; connect again")

    def submit(
        self, session: str, number: int, digest: bytes, work: Callable[[], Answer], deadline: float
    ) -> Future[Answer]:
        """Have `work` done by the working thread before `deadline` (of `time.monotonic`), or never.

        Args:
            session, number: the request's id.
            digest: of its content; a number that comes again has its first answer, if the content is the same.
            work: what to do; what it raises is the answer.
            deadline: work that has not begun by then is dropped, and may be asked for again.

        Raises:
            RendererLostError: if the session is not the owner's.
            LimitError: if too many requests wait.
            RendererError: if the server is draining, or the number was used for something else or too long ago.
        """
        with self._lock:
            self.check(session)
            known = self._kept.get(number)
            if known is not None:
                if known.digest != digest:
                    raise RendererError(bad_value("request number", number, "one not used for another request"))
                return known.answer
            if number <= self._last and number not in self._dropped:
                raise RendererError(bad_value("request number", number, f"> {self._last}: its answer is not kept"))
            if self.stopping:
                raise RendererLostError("the server is draining: it takes no new work")
            if self._waiting >= self._max_waiting:
                raise LimitError(bad_value("requests waiting", self._waiting + 1, f"<= {self._max_waiting}"))
            job = _Job(number, session, digest, work, deadline, Future())
            self._kept[number] = job
            self._dropped.discard(number)
            self._last = max(self._last, number)
            self._waiting += 1
            self._jobs.put(job)
        return job.answer

    def stop(self) -> None:
        """Take no new work and have `run` return when what was taken is done. Safe in a signal handler."""
        self.stopping = True
        self._jobs.put(None)

    def run(self, fatal: Callable[[BaseException], bool], idle: Callable[[], None]) -> BaseException | None:
        """Work until `stop`.

        Args:
            fatal: whether to end because of an error, which is still the answer to its request.
            idle: called when there is nothing to do.

        Returns:
            The fatal error, or None after `stop`.
        """
        while True:
            try:
                job = self._jobs.get(timeout=_IDLE)
            except queue.Empty:
                idle()
                continue
            if job is None:
                if self._jobs.empty():
                    return None
                self._jobs.put(None)
                continue
            error = self._do(job)
            if error is not None and fatal(error):
                self._refuse_rest()
                return error

    def _do(self, job: _Job) -> BaseException | None:
        self._began = time.monotonic()
        error: BaseException | None = None
        try:
            if time.monotonic() >= job.deadline:
                self._forget(job)
                raise LateFrameError(f"request {job.number}: its deadline passed before its turn came")
            self.check(job.session)
            job.answer.set_result(job.work())
        except Exception as e:  # noqa: BLE001 - whatever it is, it is the answer, and `fatal` decides what follows
            error = e
            job.answer.set_exception(e)
        finally:
            self._began = None
            with self._lock:
                self._waiting -= 1
                self._trim()
        return error

    def _forget(self, job: _Job) -> None:
        with self._lock:
            if self._kept.get(job.number) is job:
                del self._kept[job.number]
                self._dropped.add(job.number)

    def _refuse_rest(self) -> None:
        self.stopping = True
        while not self._jobs.empty():
            job = self._jobs.get()
            if job is not None:
                job.answer.set_exception(RendererLostError("the renderer failed before this request's turn came"))

    def _trim(self) -> None:
        """Drop the oldest answers that are too many or too large, never the newest nor one still to come."""
        done = [job for job in self._kept.values() if job.answer.done()]
        sizes = [0 if job.answer.exception() else job.answer.result().nbytes for job in done]
        total = sum(sizes)
        for job, size in list(zip(done, sizes, strict=True))[:-1]:
            if len(self._kept) <= KEPT_ANSWERS and total <= KEPT_BYTES:
                return
            del self._kept[job.number]
            total -= size
