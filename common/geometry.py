"""Frames and SE(3) in numpy, batched over leading axes.

Camera frame: OpenCV (x right, y down, z forward). `a_T_b` (4x4) maps points of frame b into frame a. Metres and
radians. A twist is ``[v; w]`` of the camera in the camera frame. Computation is float64 whatever comes in.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

F64 = NDArray[np.float64]

_SMALL = 1e-6


def skew(v: ArrayLike) -> F64:
    """Cross-product matrix of vectors (..., 3): ``skew(a) @ b == cross(a, b)``. Returns (..., 3, 3)."""
    a = np.asarray(v, dtype=np.float64)
    out = np.zeros((*a.shape[:-1], 3, 3))
    out[..., 0, 1], out[..., 0, 2] = -a[..., 2], a[..., 1]
    out[..., 1, 0], out[..., 1, 2] = a[..., 2], -a[..., 0]
    out[..., 2, 0], out[..., 2, 1] = -a[..., 1], a[..., 0]
    return out


def so3_exp(rotvec: ArrayLike) -> F64:
    """Rotation matrices (..., 3, 3) of rotation vectors (..., 3) [rad] (Rodrigues)."""
    r = np.asarray(rotvec, dtype=np.float64)
    theta2 = np.sum(r * r, axis=-1)
    theta = np.sqrt(theta2)
    small = theta < _SMALL
    safe = np.where(small, 1.0, theta)
    a = np.where(small, 1.0 - theta2 / 6.0, np.sin(safe) / safe)
    b = np.where(small, 0.5 - theta2 / 24.0, (1.0 - np.cos(safe)) / (safe * safe))
    k = skew(r)
    return np.eye(3) + a[..., None, None] * k + b[..., None, None] * (k @ k)


def so3_log(rotation: ArrayLike) -> F64:
    """Rotation vectors (..., 3) [rad], angle in [0, pi], of rotation matrices (..., 3, 3).

    Goes through the unit quaternion's largest component, so it is accurate near 0 and near pi alike.
    """
    m = np.asarray(rotation, dtype=np.float64)
    quaternion = matrix_to_quaternion(m)
    w, xyz = quaternion[..., 0], quaternion[..., 1:]
    norm = np.linalg.norm(xyz, axis=-1)
    small = norm < _SMALL
    safe = np.where(small, 1.0, norm)
    angle = 2.0 * np.arctan2(norm, w)
    scale = np.where(small, 2.0 / np.where(w == 0.0, 1.0, w), angle / safe)
    return np.asarray(xyz * scale[..., None])


def matrix_to_quaternion(rotation: ArrayLike) -> F64:
    """Unit quaternions (..., 4) as (w, x, y, z) with w >= 0 of rotation matrices (..., 3, 3)."""
    m = np.asarray(rotation, dtype=np.float64)
    trace = m[..., 0, 0] + m[..., 1, 1] + m[..., 2, 2]
    # Four times the outer product q q^T; the row with the largest diagonal is the best conditioned.
    d = np.stack([trace, m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]], axis=-1)
    best = np.argmax(d, axis=-1)
    outer = np.empty((*m.shape[:-2], 4, 4))
    outer[..., 0, 0] = 1.0 + trace
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        outer[..., i + 1, i + 1] = 1.0 + 2.0 * m[..., i, i] - trace
        outer[..., 0, i + 1] = outer[..., i + 1, 0] = m[..., k, j] - m[..., j, k]
        outer[..., j + 1, k + 1] = outer[..., k + 1, j + 1] = m[..., k, j] + m[..., j, k]
    q = np.take_along_axis(outer, best[..., None, None], axis=-2)[..., 0, :]
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    return np.asarray(np.where(q[..., :1] < 0.0, -q, q))


def make_pose(rotation: ArrayLike, translation: ArrayLike) -> F64:
    """Homogeneous transforms (..., 4, 4) of rotations (..., 3, 3) and translations (..., 3) [m]."""
    r = np.asarray(rotation, dtype=np.float64)
    t = np.asarray(translation, dtype=np.float64)
    out = np.zeros((*np.broadcast_shapes(r.shape[:-2], t.shape[:-1]), 4, 4))
    out[..., :3, :3] = r
    out[..., :3, 3] = t
    out[..., 3, 3] = 1.0
    return out


def inverse_pose(a_T_b: ArrayLike) -> F64:
    """b_T_a of a_T_b, (..., 4, 4), exactly rigid (transposed rotation)."""
    pose = np.asarray(a_T_b, dtype=np.float64)
    rotation = np.swapaxes(pose[..., :3, :3], -1, -2)
    return make_pose(rotation, -(rotation @ pose[..., :3, 3:])[..., 0])


def transform_points(a_T_b: ArrayLike, points: ArrayLike) -> F64:
    """Map points (..., N, 3) of frame b into frame a with poses (..., 4, 4)."""
    pose = np.asarray(a_T_b, dtype=np.float64)
    p = np.asarray(points, dtype=np.float64)
    return np.asarray(p @ np.swapaxes(pose[..., :3, :3], -1, -2) + pose[..., None, :3, 3])


def integrate_twist(world_T_cam: ArrayLike, twist: ArrayLike, dt: ArrayLike) -> F64:
    """Move cameras by a constant twist for a time: ``world_T_cam <- world_T_cam [exp(w dt), v dt]``.

    Args:
        world_T_cam: (..., 4, 4) poses.
        twist: (..., 6) ``[v; w]`` in the camera frame [m/s, rad/s].
        dt: seconds, broadcast against the leading axes.

    Returns:
        (..., 4, 4) poses, re-orthonormalised so that long episodes stay on SO(3).
    """
    pose = np.asarray(world_T_cam, dtype=np.float64)
    motion = np.asarray(twist, dtype=np.float64) * np.asarray(dt, dtype=np.float64)[..., None]
    moved = pose @ make_pose(so3_exp(motion[..., 3:]), motion[..., :3])
    # One Newton step towards the nearest rotation keeps the drift at rounding level.
    r = moved[..., :3, :3]
    moved[..., :3, :3] = 0.5 * r @ (3.0 * np.eye(3) - np.swapaxes(r, -1, -2) @ r)
    return np.asarray(moved)


def look_at(eye: ArrayLike, target: ArrayLike, roll: ArrayLike = 0.0) -> F64:
    """world_T_cam (..., 4, 4) of cameras at `eye` that look at `target`, world z up, rolled by `roll` [rad].

    With zero roll the image's x axis is horizontal and world up points up in the image. Straight up or down views take
    the world's x axis as image right.
    """
    e = np.asarray(eye, dtype=np.float64)
    forward = np.asarray(target, dtype=np.float64) - e
    forward = forward / np.linalg.norm(forward, axis=-1, keepdims=True)
    right = np.cross(forward, np.array([0.0, 0.0, 1.0]))
    length = np.linalg.norm(right, axis=-1, keepdims=True)
    right = np.where(length < 1e-9, np.array([1.0, 0.0, 0.0]), right / np.where(length < 1e-9, 1.0, length))
    down = np.cross(forward, right)
    rotation = np.stack([right, down, forward], axis=-1)
    angle = np.broadcast_to(np.asarray(roll, dtype=np.float64), e.shape[:-1])
    axis = np.zeros((*e.shape[:-1], 3))
    axis[..., 2] = angle
    return make_pose(rotation @ so3_exp(axis), e)


def rotation_angle(rotation: ArrayLike) -> F64:
    """Angle [rad] in [0, pi] of rotation matrices (..., 3, 3)."""
    return np.asarray(np.linalg.norm(so3_log(rotation), axis=-1))


def project(points_cam: ArrayLike, intrinsics: ArrayLike) -> F64:
    """Pixel coordinates (..., N, 2) of camera-frame points (..., N, 3).

    Pixel (row i, column j) covers [j, j+1) x [i, i+1): its centre is at (j + 0.5, i + 0.5). Intrinsics are
    ``[fx, fy, cx, cy]`` (..., 4) in pixels of the image; scaling an image scales all four.
    """
    p = np.asarray(points_cam, dtype=np.float64)
    k = np.asarray(intrinsics, dtype=np.float64)[..., None, :]
    return np.asarray(p[..., :2] / p[..., 2:3] * k[..., :2] + k[..., 2:])


def unproject(pixels: ArrayLike, depth: ArrayLike, intrinsics: ArrayLike) -> F64:
    """Camera-frame points (..., N, 3) of pixel coordinates (..., N, 2) at z-depths (..., N) [m]."""
    uv = np.asarray(pixels, dtype=np.float64)
    z = np.asarray(depth, dtype=np.float64)
    k = np.asarray(intrinsics, dtype=np.float64)[..., None, :]
    xy = (uv - k[..., 2:]) / k[..., :2] * z[..., None]
    return np.concatenate([xy, z[..., None]], axis=-1)


def intrinsics_from_fov(fov: float, height: int, width: int) -> F64:
    """``[fx, fy, cx, cy]`` in pixels of a centred pinhole with square pixels and vertical field of view `fov` [rad]."""
    f = 0.5 * height / np.tan(0.5 * fov)
    return np.array([f, f, 0.5 * width, 0.5 * height])


def scale_intrinsics(intrinsics: ArrayLike, factor: float) -> F64:
    """Intrinsics of the same camera for an image whose sides are `factor` times as long."""
    return np.asarray(intrinsics, dtype=np.float64) * factor
