"""The check of a lathe's polyline: it must bound a body."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from actors.scenes.mesh import F64
from actors.scenes.revolution import capped
from common.errors import SceneError, bad_value

MAX_POINTS = 64
NEAR = 1e-4  # of the size: points, and a point and a line, must be further apart
_FIELD = "shape.params of a lathe"


def check_profile(params: tuple[float, ...]) -> None:
    """Check radius, z, radius, z, ... of a lathe [m]; the numbers themselves are finite.

    Raises:
        SceneError: naming what keeps the polyline from bounding a body.
    """
    if len(params) % 2 or not 4 <= len(params) <= 2 * MAX_POINTS:
        raise SceneError(bad_value(f"number of {_FIELD}", len(params), f"an even number, 4 .. {2 * MAX_POINTS}"))
    points = np.array(params, dtype=np.float64).reshape(-1, 2)
    ring = np.array_equal(points[0], points[-1])
    if ring and len(points) < 4:
        raise SceneError(bad_value(_FIELD, params, "three different points or more where the last is the first"))
    inner = points if ring else points[1:-1]
    size = max(points[:, 0].max(), np.ptp(points[:, 1]))
    if (points[:, 0] < 0.0).any() or ((points[:, 0] > 0.0) & (points[:, 0] < NEAR * size)).any():
        allowed = f"0, or {NEAR:g} of the size and more"
        raise SceneError(bad_value(f"radii of {_FIELD}", points[:, 0].tolist(), allowed))
    if (inner[:, 0] == 0.0).any():
        allowed = "0 only at the two ends of a polyline that is not a ring"
        raise SceneError(bad_value(f"radii of {_FIELD}", points[:, 0].tolist(), allowed))
    corners = points[:-1] if ring else capped(points)
    ends = np.roll(corners, -1, axis=0)
    if (np.linalg.norm(ends - corners, axis=1) <= NEAR * size).any():
        allowed = f"points at least {NEAR:g} of the size apart, and ends at different heights"
        raise SceneError(bad_value(_FIELD, params, allowed))
    if not _is_simple(corners, ends, NEAR * size):
        raise SceneError(bad_value(_FIELD, params, f"a line that keeps {NEAR:g} of the size away from itself"))
    if np.sum(_cross(corners, ends)) <= 0.0:
        raise SceneError(bad_value(_FIELD, params, "a line with the body on its left (up along the outside)"))


def _is_simple(corners: F64, ends: F64, near: float) -> bool:
    """Whether no two edges of a closed polygon cross, and no corner comes near an edge that it does not end."""
    count = len(corners)
    edge = (ends - corners)[:, None]
    offset = corners[None] - corners[:, None]
    share = np.clip(np.sum(offset * edge, axis=2) / np.sum(edge * edge, axis=2), 0.0, 1.0)
    distance = np.linalg.norm(offset - share[..., None] * edge, axis=2)
    number = np.arange(count)
    own = (number[None] == number[:, None]) | (number[None] == (number[:, None] + 1) % count)
    if (distance[~own] <= near).any():
        return False
    # Edges i and k cross if the ends of each lie on both sides of the other; neighbours were judged by their corners.
    side = _cross(edge, offset) > 0.0
    apart = side != np.roll(side, -1, axis=1)
    neighbours = own | own.T
    return not (apart & apart.T & ~neighbours).any()


def _cross(a: F64, b: F64) -> NDArray[np.float64]:
    return np.asarray(a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0])
