"""Image moments of a mask, and the servo law on them (Chaumette 2004; Tahri and Chaumette 2005).

For a target seen as a flat patch parallel to the image, the features

    a_n = sqrt(a* / a),   x_n = a_n x_g,   y_n = a_n y_g,   theta = atan2(2 n11, n20 - n02) / 2

of area a, centroid (x_g, y_g) and second moments n are nearly decoupled: a_n follows v_z, x_n and y_n follow v_x and
v_y, theta follows w_z, all at unit rate in a world where the desired distance is 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.protocols import F64

# Eccentricity (0 round .. 1 a line) at which the orientation counts by half.
_HALF_ECCENTRICITY = 0.08


def image_moments(mask: NDArray[Any], intrinsics: F64) -> F64:
    """Area, centroid and central second moments (N, 6): ``[a, x_g, y_g, n20, n11, n02]``.

    Args:
        mask: bool (N, H, W).
        intrinsics: (N, 4) ``[fx, fy, cx, cy]`` in pixels of the mask.

    Returns:
        In normalised image coordinates (pixel - c) / f; the second moments are divided by the area. Zeros where the
        mask is empty.
    """
    m = np.asarray(mask, dtype=np.float32)
    height, width = m.shape[1:]
    j, i = np.arange(width) + 0.5, np.arange(height) + 0.5
    columns, rows = m.sum(axis=1, dtype=np.float64), m.sum(axis=2, dtype=np.float64)
    area = columns.sum(axis=-1)
    count = np.maximum(area, 1.0)
    u, v = columns @ j / count, rows @ i / count
    du, dv = j - u[:, None], i - v[:, None]
    uu, vv = (columns * du**2).sum(-1) / count, (rows * dv**2).sum(-1) / count
    # float32 rows: the sums stay exact below 2^24 because the mask is 0 or 1 and offsets are at most a few hundred.
    uv = ((m @ j.astype(np.float32)).astype(np.float64) * dv).sum(-1) / count
    fx, fy, cx, cy = intrinsics.T
    out = np.stack([area / (fx * fy), (u - cx) / fx, (v - cy) / fy, uu / fx**2, uv / (fx * fy), vv / fy**2], axis=-1)
    return np.where(area[:, None] > 0.0, out, 0.0)


def moment_twist(now: F64, goal: F64, angle_before: F64) -> tuple[F64, F64]:
    """Normalised twists (N, 6) that let the moment features decay to the goal's, and the orientation errors (N,).

    The four features leave two of six degrees of freedom open; the twist of least norm is taken, which shares the
    centring between moving sideways and turning. An orientation that is hard to see (a round mask) counts less. An
    orientation is only known up to half a turn: of the two errors the one nearer to `angle_before` is taken, so that
    the camera does not turn back when it passes the middle.

    Args:
        now: (N, 6) from `image_moments`.
        goal: (N, 6) of the desired mask.
        angle_before: (N,) [rad] orientation error of the previous step; 0 at the first.
    """
    visible = (now[:, 0] > 0.0) & (goal[:, 0] > 0.0)
    now_safe, goal_safe = np.where(visible[:, None], now, 1.0), np.where(visible[:, None], goal, 1.0)
    raw = _orientation(now) - _orientation(goal)
    angle = np.where(visible, raw - np.pi * np.round((raw - angle_before) / np.pi), angle_before)
    certain = np.minimum(_eccentricity(now), _eccentricity(goal))
    weight = certain**2 / (certain**2 + _HALF_ECCENTRICITY**2)
    distance = patch_features(now_safe, goal_safe) - patch_features(goal_safe, goal_safe)
    error = np.concatenate([distance, (weight * angle)[:, None]], axis=-1)
    twist = -(np.linalg.pinv(interaction_matrix(now_safe, goal_safe)) @ error[..., None])[..., 0]
    return np.where(visible[:, None], twist, 0.0), angle


def patch_features(now: F64, goal: F64) -> F64:
    """``[x_n, y_n, a_n]`` (N, 3) of moments (N, 6); `goal` gives the desired area."""
    a_n = np.sqrt(goal[:, 0] / now[:, 0])
    return np.stack([a_n * now[:, 1], a_n * now[:, 2], a_n], axis=-1)


def interaction_matrix(now: F64, goal: F64) -> F64:
    """Rates (N, 4, 6) of ``[x_n, y_n, a_n, theta]`` per normalised twist, for a patch parallel to the image.

    The row of theta keeps only its main part: turning about the optical axis.
    """
    _, x, y, n20, n11, n02 = now.T
    a_n = np.sqrt(goal[:, 0] / now[:, 0])
    e20, e11, e02 = 4.0 * n20 - 0.5 * x * x, 4.0 * n11 - 0.5 * x * y, 4.0 * n02 - 0.5 * y * y
    one, zero = np.ones_like(x), np.zeros_like(x)
    return np.stack(
        [
            np.stack([-one, zero, zero, a_n * e11, -a_n * (1.0 + e20), a_n * y], axis=-1),
            np.stack([zero, -one, zero, a_n * (1.0 + e02), -a_n * e11, -a_n * x], axis=-1),
            np.stack([zero, zero, -one, -1.5 * a_n * y, 1.5 * a_n * x, zero], axis=-1),
            np.stack([zero, zero, zero, zero, zero, -one], axis=-1),
        ],
        axis=1,
    )


def _orientation(moments: F64) -> F64:
    """Angle (N,) [rad] in (-pi/2, pi/2] of the long axis from the image's x axis towards its y axis."""
    return np.asarray(0.5 * np.arctan2(2.0 * moments[:, 4], moments[:, 3] - moments[:, 5]))


def _eccentricity(moments: F64) -> F64:
    """(largest - smallest) / (largest + smallest) second moment, (N,), 0 for round or empty masks."""
    spread = np.hypot(moments[:, 3] - moments[:, 5], 2.0 * moments[:, 4])
    return np.asarray(spread / np.maximum(moments[:, 3] + moments[:, 5], 1e-12))
