"""Processes of this machine as /proc shows them (Linux)."""

from __future__ import annotations

import os
from typing import NamedTuple


class ProcessStat(NamedTuple):
    """A process.

    Attributes:
        state: "R", "S", "T" for stopped, "Z" for dead, ...
        parent: process id of its parent.
        born: when it began [clock ticks since the boot]; with the process id it names a process for ever.
    """

    state: str
    parent: int
    born: int


def process_stat(pid: int) -> ProcessStat:
    """Of a process.

    Raises:
        OSError: if there is none.
    """
    # The name before it, in parentheses, may hold anything.
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rpartition(")")[2].split()
    return ProcessStat(fields[0], int(fields[1]), int(fields[19]))


def rss_bytes() -> int:
    """Resident memory of this process."""
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
