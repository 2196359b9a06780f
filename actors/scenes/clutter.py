"""Where objects stand: at rest on the ground, and apart from each other.

Two objects whose shadows straight down do not overlap cannot touch. So the convex hulls of the ground projections are
kept apart; two convex polygons are disjoint exactly if the normal of one of their edges separates them (separating axis
theorem).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.spatial import ConvexHull

from actors.scenes.models import Model, hull_of, rests_of
from common.geometry import make_pose, so3_exp
from common.protocols import F64

_TRIES = 16  # places tried at once, before the disc grows
_GROWTH = 1.25


@dataclasses.dataclass(frozen=True)
class Footprint:
    """Convex hull of an object's projection to the ground.

    Attributes:
        at: f64 (2,) where the object's origin is [m].
        corners: f64 (n, 2) relative to it [m].
        normals: f64 (m, 2) outward unit normals of the edges.
        support: f64 (m,) how far the polygon reaches along each normal [m].
    """

    at: F64
    corners: F64
    normals: F64
    support: F64

    def moved(self, at: F64) -> Footprint:
        """The same footprint somewhere else."""
        return dataclasses.replace(self, at=at)


def footprint(model: Model, world_T_obj: F64) -> Footprint:
    """Footprint of a model at a pose (4, 4)."""
    points = hull_of(model) @ world_T_obj[:2, :3].T
    hull = ConvexHull(points)
    return Footprint(world_T_obj[:2, 3].copy(), points[hull.vertices], hull.equations[:, :2], -hull.equations[:, 2])


def separation(a: Footprint, b: Footprint, b_at: F64) -> F64:
    """How far an edge normal separates `a` from `b` moved to positions (B, 2) [m], f64 (B,).

    Positive exactly if the two polygons are disjoint; their distance is then at least this.
    """
    offset = (b_at - a.at).T
    of_a = a.normals @ offset + ((b.corners @ a.normals.T).min(axis=0) - a.support)[:, None]
    of_b = -b.normals @ offset + ((a.corners @ b.normals.T).min(axis=0) - b.support)[:, None]
    return np.asarray(np.maximum(of_a.max(axis=0), of_b.max(axis=0)))


def at_rest(rng: np.random.Generator, model: Model, at: Sequence[float]) -> F64:
    """world_T_obj (4, 4) of a model that rests on the ground, its origin above `at` [m], turned at random."""
    rests = rests_of(model)
    which = int(np.searchsorted(np.cumsum(rests.probabilities), rng.random(), side="right"))
    rotation = so3_exp([0.0, 0.0, rng.uniform(-np.pi, np.pi)]) @ rests.rotations[min(which, len(rests.heights) - 1)]
    return on_ground(hull_of(model), rotation, at)


def on_ground(points: F64, rotation: F64, at: Sequence[float]) -> F64:
    """world_T_obj (4, 4) that puts the lowest of the points (V, 3) at height 0 and the origin above `at`, rounded."""
    low = (points @ rotation[2]).min()
    return np.asarray(np.round(make_pose(rotation, [at[0], at[1], -low]), 9) + 0.0)


def place(
    rng: np.random.Generator, model: Model, standing: Sequence[Footprint], spread: float, gap: float
) -> tuple[F64, Footprint]:
    """A pose (4, 4) at rest near the first of the footprints that stand already and apart from all, and its footprint.

    Positions are drawn even over a disc that grows until one is free: the ground is endless, so this ends.

    Args:
        rng: where the numbers come from.
        model: to be placed.
        standing: footprints of the objects that stand already, the one to stay near first.
        spread: radius of the first disc [m].
        gap: free ground between two footprints at least [m].
    """
    pose = at_rest(rng, model, (0.0, 0.0))
    mine, radius = footprint(model, pose), spread
    while True:
        way, angle = radius * np.sqrt(rng.random(_TRIES)), rng.uniform(-np.pi, np.pi, size=_TRIES)
        at = np.round(standing[0].at + np.stack([way * np.cos(angle), way * np.sin(angle)], axis=1), 4)
        free = np.all([separation(other, mine, at) >= gap for other in standing], axis=0)
        if free.any():
            pose[:2, 3] = at[int(np.argmax(free))]
            return pose, mine.moved(pose[:2, 3].copy())
        radius *= _GROWTH
