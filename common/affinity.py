"""Keeping a whole process on some processors, for benchmarks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable


def pin_process(cpus: Iterable[int]) -> None:
    """Keep every thread of this process on these processors, and so those that they start.

    `os.sched_setaffinity` alone moves one thread: those of libraries that run already would stay on other processors.
    """
    chosen = set(cpus)
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
            os.sched_setaffinity(int(thread), chosen)
