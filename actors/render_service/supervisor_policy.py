"""What a render server's end means, and what follows from it. Decisions only: no process, no clock of its own."""

from __future__ import annotations

import collections
import dataclasses
import signal
from typing import Literal

from actors.render_service import exit_codes
from common.renderer_config import RendererConfig

Cause = Literal[
    "bad_arguments",
    "cannot_start",
    "start_timeout",
    "out_of_memory",
    "crashed",
    "hung",
    "lost",
    "late",
    "wrong_answer",
    "recycled",
    "stopped",
]
COUNTED = frozenset(
    {"cannot_start", "start_timeout", "out_of_memory", "crashed", "hung", "call_failed", "wrong_answer"}
)


@dataclasses.dataclass(frozen=True)
class Health:
    """What a server says of itself.

    Attributes:
        resets: scenes built since it started.
        rss_bytes: resident memory of its process.
        vram_bytes: GPU memory that it holds; 0 where it does not know.
        busy_s: for how long it has been at work on one request; 0.0 where on none.
        advised: it would be better replaced, for a reason of its own.
    """

    resets: int = 0
    rss_bytes: int = 0
    vram_bytes: int = 0
    busy_s: float = 0.0
    advised: bool = False


@dataclasses.dataclass(frozen=True)
class End:
    """Why a server is not there any more.

    Attributes:
        cause: kind of end; those of `COUNTED` are failures.
        detail: one line for the operator.
    """

    cause: Cause
    detail: str


def end_of_exit(code: int, *, was_up: bool) -> End:
    """What an exit that nobody asked for means.

    Args:
        code: of the process, negative for the signal that killed it.
        was_up: it had answered before.
    """
    if code == exit_codes.BAD_ARGUMENTS:
        return End("bad_arguments", f"exit code {code}: its command line is refused")
    if code == exit_codes.BACKEND_UNAVAILABLE:
        return End("cannot_start", f"exit code {code}: its backend cannot start")
    if code == exit_codes.OUT_OF_MEMORY:
        return End("out_of_memory", f"exit code {code}: out of memory; more fleet.shards make smaller batches")
    if code == exit_codes.RECYCLE and was_up:
        return End("recycled", "it asked to be replaced")
    if code == -signal.SIGKILL:
        return End("crashed", "killed by SIGKILL, which is what the kernel does where memory runs out")
    if code < 0:
        return End("crashed", f"killed by {signal.Signals(-code).name}")
    # Isaac Sim ends with 0 after failures as well: a code of 0 proves nothing.
    return End("crashed", f"exit code {code}, though nobody asked it to end")


def recycle_due(health: Health, config: RendererConfig) -> str:
    """Why a healthy server should be replaced at the next good moment; "" where it need not."""
    limits = (
        ("resets", health.resets, "recycle_resets", config.recycle_resets),
        ("rss_bytes", health.rss_bytes, "recycle_rss_bytes", config.recycle_rss_bytes),
        ("vram_bytes", health.vram_bytes, "recycle_vram_bytes", config.recycle_vram_bytes),
    )
    for name, value, setting, limit in limits:
        if limit and value >= limit:
            return f"{name} = {value} reached renderer.{setting} = {limit}"
    return "its backend advises it" if health.advised else ""


class FailureRecord:
    """The failures of a window of time: how long to wait before the next start, and when to give up."""

    def __init__(self, config: RendererConfig) -> None:
        self._config = config
        self._recent: collections.deque[tuple[float, End]] = collections.deque()
        self.counts: collections.Counter[Cause] = collections.Counter()

    def add(self, end: End, now: float) -> None:
        """Note an end at time `now` [s]; only those that count delay anything."""
        self.counts[end.cause] += 1
        if end.cause in COUNTED:
            self._recent.append((now, end))
        while self._recent and now - self._recent[0][0] > self._config.window_s:
            self._recent.popleft()

    def delay(self, end: End) -> float:
        """Seconds to wait before the start that follows `end`: none after a planned one."""
        if end.cause not in COUNTED:
            return 0.0
        waits = self._config.backoff_s
        return waits[min(len(self._recent), len(waits)) - 1]

    def quarantine(self, end: End) -> str:
        """Why the server must not be started again after `end`; "" where it may."""
        if end.cause == "bad_arguments":
            return end.detail
        if end.cause not in COUNTED or len(self._recent) < self._config.max_failures:
            return ""
        kinds = collections.Counter(e.cause for _, e in self._recent)
        listed = ", ".join(f"{cause} {count} x" for cause, count in sorted(kinds.items()))
        limit = f"renderer.max_failures = {self._config.max_failures} within {self._config.window_s:.0f} s"
        return f"{limit}: {listed}; last: {end.detail}"
