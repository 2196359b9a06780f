"""The state of a run as its driver tells it, in `status.json` of the run directory: the same for the console,
`servofleet status` and MLflow.

The file is replaced as a whole every few seconds. It is no record (that is metrics.jsonl and the checkpoints): nothing
reads it to go on from, and it is not flushed to the device.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster.role_status import RoleStatus
from common.errors import ServofleetError, bad_value
from common.processes import process_stat

FILE = "status.json"
VERSION = 1
STATES = ("starting", "training", "evaluating", "reporting", "finished", "stopped", "failed")
OVER = ("finished", "stopped", "failed")


@dataclasses.dataclass(frozen=True)
class RoleRates:
    """A role, and what it did lately.

    Attributes:
        status: of its processes.
        samples_per_s: rows written or learned from, over the last seconds; of the learner over the last round.
        waits: by cause, the fraction (0 .. 1) of the processes' time that was spent waiting for it.
    """

    status: RoleStatus
    samples_per_s: float = 0.0
    waits: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class RunStatus:
    """Where a run stands. Times are ISO 8601 in UTC, by the clock of the driver's machine.

    Attributes:
        run_id, attempt: name of the run; how many times it was started before.
        host, pid, pid_began: the driver; clock ticks from its machine's start to its own, since a pid is used again.
        started, written: of this attempt; of this status.
        state: one of STATES.
        phase, round, rounds: of the schedule; rounds learned from, and all of the phase.
        eta_s: until the phase is over; None while that cannot be said [s].
        roles: driver, learner, collectors and, where it exists, the writer actor.
        frames_per_s: rendered, over the last seconds.
        policy_lag_versions, policy_lag_s: how old the policy is whose data is learned from; None where it is not
            measured [versions], [s].
        replay: what the store shows the driver: rows, episodes, bytes of the segments.
        limiter: inserts, samples (rows so far), balance (sampled rows; where there is a ratio to keep), insert_wait,
            sample_wait (fractions of the last round's time, 0 .. 1); empty in phases without one.
        checkpoint, checkpoint_written: number of the newest one and when it was complete; None before the first.
        last_failure: one line; empty if nothing failed.
        evaluation: the last one in words; empty before the first.
        metrics: of the last round: loss, reward and the like.
        version: of this layout.
    """

    run_id: str
    attempt: int
    host: str
    pid: int
    pid_began: int
    started: str
    written: str
    state: str = "starting"
    phase: str = ""
    round: int = 0
    rounds: int = 0
    eta_s: float | None = None
    roles: tuple[RoleRates, ...] = ()
    frames_per_s: float = 0.0
    policy_lag_versions: float | None = None
    policy_lag_s: float | None = None
    replay: Mapping[str, int] = dataclasses.field(default_factory=dict)
    limiter: Mapping[str, float] = dataclasses.field(default_factory=dict)
    checkpoint: int | None = None
    checkpoint_written: str | None = None
    last_failure: str = ""
    evaluation: str = ""
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    version: int = VERSION


def utc(seconds: float) -> str:
    """Seconds since the epoch in words."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def seconds_of(text: str) -> float:
    """Inverse of `utc`."""
    return datetime.fromisoformat(text).timestamp()


def to_json(status: RunStatus) -> dict[str, Any]:
    """JSON-ready; a role's status and its rates stand in one object."""
    out = {f.name: getattr(status, f.name) for f in dataclasses.fields(status)}
    out["roles"] = [
        {f.name: _plain(getattr(r.status, f.name)) for f in dataclasses.fields(r.status)}
        | {"samples_per_s": r.samples_per_s, "waits": dict(r.waits)}
        for r in status.roles
    ]
    return {name: _plain(value) for name, value in out.items()}


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def write_status(run: Path, status: RunStatus) -> None:
    """Replace `run`/status.json, so that a reader sees the old one or the new one.

    Raises:
        OSError: if it cannot be written; the old one stands.
    """
    # One name is enough: whoever writes holds the run directory's lock.
    temporary = run / f".{FILE}.tmp"
    temporary.write_bytes(json.dumps(to_json(status)).encode())
    os.replace(temporary, run / FILE)


def read_status(run: Path) -> RunStatus | None:
    """What `run`/status.json says; None where there is none.

    Raises:
        ServofleetError: if it cannot be read, or is of another version.
    """
    path = run / FILE
    try:
        found = json.loads(path.read_bytes())
        if found["version"] != VERSION:
            raise ServofleetError(bad_value(f"{path}, version", found["version"], str(VERSION)))
        found["roles"] = tuple(_role(role) for role in found["roles"])
        names = {f.name for f in dataclasses.fields(RunStatus)}
        return RunStatus(**{name: value for name, value in found.items() if name in names})
    except FileNotFoundError:
        return None
    except OSError as e:
        raise ServofleetError(f"{path}: cannot be read: {e.strerror or e}") from e
    except (ValueError, KeyError, TypeError) as e:
        raise ServofleetError(f"{path}: not a run's status: {type(e).__name__}: {e}") from e


def _role(found: dict[str, Any]) -> RoleRates:
    names = {f.name for f in dataclasses.fields(RoleStatus)}
    status = RoleStatus(**{name: value for name, value in found.items() if name in names})
    return RoleRates(status, found["samples_per_s"], found["waits"])


def own_process() -> tuple[str, int, int]:
    """Host, pid and beginning of this process, as in `RunStatus`."""
    return socket.gethostname(), os.getpid(), (process(os.getpid()) or ("", 0))[1]


def process(pid: int) -> tuple[str, int] | None:
    """State of a process of this machine ("R", "S", "T" for stopped, "Z" for dead, ...) and when it began [ticks since
    the machine's start]; None where there is none.
    """
    try:
        found = process_stat(pid)
    except (FileNotFoundError, ProcessLookupError):
        return None
    return found.state, found.born
