"""What a supervisor tells of its render server."""

from __future__ import annotations

import dataclasses
from typing import Literal

from actors.render_service.supervisor_policy import Cause, Health

State = Literal["starting", "up", "ending", "waiting", "quarantined", "stopped"]


@dataclasses.dataclass(frozen=True)
class Event:
    """One thing that happened to the server.

    Attributes:
        time: Unix time [s].
        generation: number of the start, from 1.
        what: "up", or the cause of an end.
        detail: one line.
        seconds: of "up": since the start; of an end: how long the server was up.
    """

    time: float
    generation: int
    what: Cause | Literal["up"]
    detail: str
    seconds: float


@dataclasses.dataclass(frozen=True)
class Report:
    """What an operator wants to know.

    Attributes:
        state: now.
        generation: starts so far.
        start_s: what the last start took until the first answer [s].
        down_s: how long the server was away at its last replacement, from the end of the last one to the first answer
            of the next, waits included [s].
        ends: number of ends by cause.
        health: what the server said last.
        reason: why it is quarantined or replaced, or should be; "" where neither.
        log: file of the last start's log.
    """

    state: State
    generation: int
    start_s: float
    down_s: float
    ends: dict[Cause, int]
    health: Health
    reason: str
    log: str
