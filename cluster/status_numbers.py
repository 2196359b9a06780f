"""What the numbers of a run's status are made of: counters of the parts, and rates between two moments."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from cluster.role_status import RoleStatus
from cluster.status import RoleRates, RunStatus, utc

if TYPE_CHECKING:
    from learner.checkpoint import Checkpoints
    from replay.store import Store


def replay_counts(store: Store) -> dict[str, int]:
    """Rows, episodes and bytes that a store's view shows."""
    ((episodes, rows),) = store.index.rows("SELECT count(*), coalesce(sum(rows), 0) FROM episodes")
    ((size,),) = store.index.rows("SELECT coalesce(sum(bytes), 0) FROM records")
    return {"rows": int(rows), "episodes": int(episodes), "bytes": int(size)}


def rates(now: RoleStatus, then: RoleStatus | None, passed: float) -> RoleRates:
    """Rates between two notes; time that no activity was reported for counts as waiting for a task."""
    if then is None or passed <= 0.0:
        return RoleRates(now)
    spent = {name: s - then.seconds.get(name, 0.0) for name, s in now.seconds.items()}
    available = passed * max(now.alive, 1)
    waits = {
        name.removeprefix("wait_"): min(max(s / available, 0.0), 1.0)
        for name, s in spent.items()
        if name.startswith("wait_")
    }
    if "total" in spent and "tasks" not in waits:
        waits["tasks"] = min(max(1.0 - spent["total"] / available, 0.0), 1.0)
    return RoleRates(now, (now.samples - then.samples) / passed, waits)


def limiter_numbers(state: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, float]:
    """The limiter's state as in a checkpoint, and the round's wait fractions, as in `RunStatus`."""
    if not state:
        return {}
    counts = {"inserts": float(state["inserts"]), "samples": float(state["samples"])}
    waits = {name: float(row[name]) for name in ("insert_wait", "sample_wait") if name in row}
    # Without a ratio to keep, what is drawn is not made up for by anything.
    ratio = state["settings"]["error_band"] != "inf"
    return counts | ({"balance": float(Fraction(state["balance"]))} if ratio else {}) | waits


def newest_checkpoint(checkpoints: Checkpoints) -> dict[str, Any]:
    """Number and time of the newest complete checkpoint, as fields of `RunStatus`; nothing before the first."""
    numbers = checkpoints.numbers()
    if not numbers:
        return {}
    try:
        written = (checkpoints.path(numbers[-1]) / "done").stat().st_mtime
    except FileNotFoundError:  # pruned meanwhile: a newer one is there at the next look
        return {}
    return {"checkpoint": numbers[-1], "checkpoint_written": utc(written)}


def as_metrics(status: RunStatus) -> dict[str, float]:
    """Numbers of a status by name, for MLflow and the log."""
    out: dict[str, float] = {"frames_per_s": status.frames_per_s}
    for role in status.roles:
        name, s = role.status.role, role.status
        out |= {f"{name}/alive": s.alive, f"{name}/wanted": s.wanted, f"{name}/restarts": s.restarts}
        out |= {f"{name}/rss_bytes": s.rss_bytes, f"{name}/samples_per_s": role.samples_per_s}
        out |= {f"{name}/wait/{why}": share for why, share in role.waits.items()}
    out |= {f"replay/{name}": count for name, count in status.replay.items()}
    out |= {f"limiter/{name}": value for name, value in status.limiter.items()}
    lags = {"policy_lag_versions": status.policy_lag_versions, "policy_lag_s": status.policy_lag_s}
    out |= {name: value for name, value in lags.items() if value is not None}
    return {name: float(value) for name, value in out.items()}
