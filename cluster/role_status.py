"""What is known of the processes of one role: the same for console, status.json, `servofleet status` and MLflow."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class RoleStatus:
    """The processes of a role (driver, learner, collectors, writer, render servers), counted since the driver's start.

    Attributes:
        role: name of the role, plural where there may be several.
        alive: processes that answer.
        wanted: processes that should.
        restarts: processes started in place of another.
        causes: restarts by named cause ("died: SIGKILL", "hung", "recycled: age", ...); they add up to `restarts`.
        rss_bytes: resident memory of the largest process; 0 where it is not known.
        samples: rows written or learned from.
        seconds: what the processes' time went to, added over them; waits are named `wait_...`.
        last_failure: one line; empty if nothing failed.
    """

    role: str
    alive: int
    wanted: int
    restarts: int = 0
    causes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    rss_bytes: int = 0
    samples: int = 0
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    last_failure: str = ""
