"""Evaluation metrics from recorded episodes: IoU, success rates, energy, stability (Sym-Servo IV-A).

Two readings of the same rollouts. `free`: the whole fixed horizon. `stopped`: the episode ends before the first action
whose norm is below a threshold (that action is not taken). Evaluated policies are deterministic, so what they do up to
a stop does not depend on whether a stop rule is watching, and no second rollout is needed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.episode import Episode
from common.errors import SchemaError, bad_value
from common.rng import Purpose, philox

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

# Norms of the last so many actions are averaged into dt_norm.
LAST_STEPS = 10
THRESHOLDS = (50, 75, 90, 95)
_DRAWS = 2000


@dataclasses.dataclass(frozen=True)
class Rollouts:
    """Episodes of one policy side by side, in order of their environments.

    Attributes:
        iou: (E, T + 1) after 0 .. T actions.
        action_norm: (E, T) norm of the normalised action as the policy chose it [1/s]; the stop rule reads this.
        speed: (E, T) norm of the executed twist ``[v / d*; w]`` [1/s]: after clamping, times the gain.
        dt: (E,) seconds per action.
    """

    iou: F64
    action_norm: F64
    speed: F64
    dt: F64


def rollouts(episodes: Sequence[Episode]) -> Rollouts:
    """Arrays of evaluation episodes of one length, sorted by episode id.

    Raises:
        SchemaError: if there is none, one is of another kind, or their lengths differ.
    """
    if not episodes:
        raise SchemaError(bad_value("number of evaluation episodes", 0, "at least 1"))
    episodes = sorted(episodes, key=lambda e: e.meta.id)
    rows = episodes[0].num_rows
    for e in episodes:
        if e.meta.kind != "evaluation":
            raise SchemaError(bad_value(f"kind of episode {e.meta.id}", e.meta.kind, "'evaluation'"))
        if e.num_rows != rows or rows < 2:
            raise SchemaError(bad_value(f"rows of episode {e.meta.id}", e.num_rows, f"at least 2, all alike ({rows})"))
    twist = np.stack([e.steps["twist_applied"][:-1].astype(np.float64) for e in episodes])
    d_star = np.array([float(e.fixed["d_star"]) for e in episodes])
    twist[..., :3] /= d_star[:, None, None]
    return Rollouts(
        iou=np.stack([e.steps["iou"].astype(np.float64) for e in episodes]),
        action_norm=np.stack([np.linalg.norm(e.steps["action"][:-1].astype(np.float64), axis=-1) for e in episodes]),
        speed=np.linalg.norm(twist, axis=-1),
        dt=np.array([float(e.fixed["dt"]) for e in episodes]),
    )


def stop_steps(action_norm: F64, threshold: float) -> I64:
    """Actions taken (E,) before the first whose norm is below `threshold`; T where none is."""
    below = action_norm < threshold
    return np.where(below.any(axis=1), below.argmax(axis=1), action_norm.shape[1]).astype(np.int64)


def final_iou(data: Rollouts, threshold: float | None = None) -> F64:
    """IoU (E,) at the end of each episode; with a threshold, where the stop rule ends it."""
    steps = data.action_norm.shape[1]
    ends = np.full(len(data.iou), steps) if threshold is None else stop_steps(data.action_norm, threshold)
    return np.asarray(data.iou[np.arange(len(data.iou)), ends])


def evaluate_episodes(episodes: Sequence[Episode], stop_dt_norm: float, seed: int = 0) -> dict[str, dict[str, Any]]:
    """``{"free": METRICS, "stopped": METRICS}`` of one policy's episodes on the suite.

    METRICS: `iou` mean final IoU 0..1, `iou_ci95` its bootstrap interval [low, high], `iou50` .. `iou95` percentage of
    episodes whose final IoU is above, `energy` mean over episodes of the sum of ``||[v/d*; w]|| dt``, `dt_norm` mean
    action norm of the last ten actions taken (where a stop rule ended the episode, the one it stopped at counts as the
    last), `steps` mean actions taken, `stopped_pct` percentage of episodes in which the stop rule applied (0 for free).

    Args:
        episodes: kind "evaluation", all of one length.
        stop_dt_norm: threshold of the stop rule on the norm of the normalised action.
        seed: of the bootstrap.

    Raises:
        SchemaError: as `rollouts`.
    """
    data = rollouts(episodes)
    return {"free": _metrics(data, None, seed), "stopped": _metrics(data, stop_dt_norm, seed)}


def _metrics(data: Rollouts, threshold: float | None, seed: int) -> dict[str, Any]:
    episodes, steps = data.action_norm.shape
    ends = np.full(episodes, steps) if threshold is None else stop_steps(data.action_norm, threshold)
    iou = final_iou(data, threshold)
    index = np.arange(steps)
    taken = index < ends[:, None]
    judged = np.minimum(ends + 1, steps)[:, None]
    last = (index < judged) & (index >= judged - LAST_STEPS)
    low, high = bootstrap_ci(iou, seed)
    out: dict[str, Any] = {"iou": float(iou.mean()), "iou_ci95": [low, high]}
    out |= {f"iou{t}": float(100.0 * np.mean(iou > t / 100.0)) for t in THRESHOLDS}
    out["energy"] = float(np.mean(np.sum(data.speed * taken, axis=1) * data.dt))
    out["dt_norm"] = float(np.mean(np.sum(data.action_norm * last, axis=1) / last.sum(axis=1)))
    out["steps"] = float(ends.mean())
    out["stopped_pct"] = float(100.0 * np.mean(ends < steps))
    return out


def bootstrap_ci(values: NDArray[Any], seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean of values (E,); the same for the same values and seed."""
    x = np.asarray(values, dtype=np.float64)
    draws = philox(seed, Purpose.BOOTSTRAP).integers(0, len(x), size=(_DRAWS, len(x)))
    low, high = np.percentile(x[draws].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def paired_bootstrap(a: NDArray[Any], b: NDArray[Any], seed: int = 0) -> dict[str, float]:
    """How much better `b` is than `a` on the same episodes.

    Args:
        a: (E,) a value per episode, for instance `final_iou` of one policy.
        b: (E,) the same episodes under another policy.
        seed: of the bootstrap.

    Returns:
        `difference` mean of b - a, `low` and `high` its 95 % interval over resampled episodes.

    Raises:
        ValueError: if the shapes differ.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(bad_value("shape of b", y.shape, f"that of a, {x.shape}, one axis"))
    low, high = bootstrap_ci(y - x, seed)
    return {"difference": float(np.mean(y - x)), "low": low, "high": high}
