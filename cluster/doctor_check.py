"""One finding of `servofleet doctor`, and how it asks processes that may crash or hang."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from typing import Any

GB = 1e9


@dataclasses.dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: what was looked at.
        ok: false if a run would fail, or crawl, because of it.
        seen: what was found.
        advice: what to do about it, "" where there is nothing to do.
    """

    name: str
    ok: bool
    seen: str
    advice: str = ""

    def __post_init__(self) -> None:
        if self.ok:
            object.__setattr__(self, "advice", "")


def probe(command: tuple[str, ...], deadline_s: float) -> dict[str, Any] | str:
    """The JSON object on the last line that a process prints, or one line about why there is none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=deadline_s, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return f"no answer within {deadline_s:g} s"
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        found: dict[str, Any] = json.loads(lines[-1])
        return found
    if done.returncode == 0:
        return "no answer"
    complaint = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return f"exit status {done.returncode}: {complaint[:200]}"
