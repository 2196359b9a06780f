"""Random but valid episode records of every kind for the tests of the store."""

from __future__ import annotations

from typing import Any

import numpy as np

from common.episode import FIELDS, Episode, EpisodeMeta, Kind
from common.identity import EpisodeId, PolicyVersion

ROLES = {"pairs": "pairs", "dagger": "dagger", "rollout": "ppo", "evaluation": "eval"}


def version(counter: int = 3, lineage: int = 0) -> PolicyVersion:
    return PolicyVersion(lineage, counter, f"{counter:064x}")


def make_episode(
    kind: Kind = "dagger",
    env: int = 0,
    round: int = 0,
    rows: int = 5,
    size: int = 16,
    seed: int = 0,
    phase: str = "il",
    acted: PolicyVersion | None = None,
    **changed: Any,
) -> Episode:
    """An episode whose bytes are random; `changed` replaces single fields."""
    rng = np.random.default_rng([seed, env, round])
    lengths = {"height": size, "width": size, "grid": max(size // 8, 1), "feature": 24}
    groups: dict[str, dict[str, Any]] = {"step": {}, "episode": {}}
    for field in FIELDS.values():
        if kind in field.kinds:
            lead = (rows,) if field.level == "step" else ()
            shape = lead + tuple(d if isinstance(d, int) else lengths[d] for d in field.dims)
            groups[field.level][field.name] = _random(rng, field.dtype, shape)
    if kind in ("rollout", "evaluation"):
        groups["step"]["iou"] = rng.random(rows, dtype=np.float32)
    for name, value in changed.items():
        groups[FIELDS[name].level][name] = value
    meta = EpisodeMeta(
        id=EpisodeId("run-a", 0, ROLES[kind], round, env),
        kind=kind,
        phase=phase,
        policy="uniform" if kind == "pairs" else "learned",
        policy_version=acted,
        target_id=1,
        scene='{"seed": 1}',
        scene_seed=env,
        collector=f"collector-{seed}",
    )
    return Episode(meta, groups["step"], groups["episode"])


def _random(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    if dtype == "bool":
        return np.asarray(rng.random(shape) < 0.6)
    if dtype == "uint8":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return np.asarray(rng.normal(size=shape)).astype(dtype)


def assert_same(a: Episode, b: Episode) -> None:
    assert a.meta == b.meta
    for left, right in ((a.steps, b.steps), (a.fixed, b.fixed)):
        assert set(left) == set(right)
        for name, array in left.items():
            assert right[name].dtype == array.dtype and right[name].shape == array.shape, name
            assert right[name].tobytes() == np.ascontiguousarray(array).tobytes(), name
