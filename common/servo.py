"""Servo laws: from a relative pose to a camera twist and back. numpy float64, batched over leading axes.

`d_T_c` maps points of the current camera frame c into the desired camera frame d. A twist is ``[v; w]`` of the camera
in the current camera frame. A *normalised* twist belongs to a world in which the desired camera stands at distance 1
from the target and has the focal length that the policy was trained with (CNSv2 III-E). Equation numbers are CNSv2's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import bad_value
from common.geometry import inverse_pose, make_pose, skew, so3_exp, so3_log

F64 = NDArray[np.float64]

# Below about this translation (in units of d*) the essential matrix says nothing reliable about the rotation.
_EPIPOLAR_BASELINE = 0.01
# The hybrid law never takes the target for nearer than this share of d*: its Jacobian grows with 1 / depth.
_MIN_DEPTH = 0.1


def relative_pose(world_T_cam: ArrayLike, goal_world_T_cam: ArrayLike) -> F64:
    """``d_T_c`` (..., 4, 4) of current and desired camera poses (..., 4, 4)."""
    return np.asarray(inverse_pose(goal_world_T_cam) @ np.asarray(world_T_cam, dtype=np.float64))


def pbvs_twist(d_T_c: ArrayLike, gain: float = 1.0, d_star: ArrayLike = 1.0) -> F64:
    """Position-based servo law (eq. 5): ``v = -gain R^T t / d*``, ``w = -gain theta u``.

    Args:
        d_T_c: (..., 4, 4) current camera in the desired camera's frame.
        gain: decay rate of the error [1/s].
        d_star: distance of the desired camera to the target [m], broadcast against the leading axes; given, the twist
            is normalised by it. With 1 it is metric.

    Returns:
        (..., 6). Applied as it is (in metric form), every pose error decays as ``exp(-gain time)`` along a straight
        line; a camera moved by it turns about one axis, by at most pi.

    Raises:
        ValueError: if a distance is not positive.
    """
    pose = np.asarray(d_T_c, dtype=np.float64)
    r, t = pose[..., :3, :3], pose[..., :3, 3]
    v = -(np.swapaxes(r, -1, -2) @ t[..., None])[..., 0] / _positive("d_star", d_star)[..., None]
    return gain * np.concatenate([v, -so3_log(r)], axis=-1)


def pbvs_inverse(twist: ArrayLike) -> F64:
    """``d_T_c`` (..., 4, 4) for which `pbvs_twist` with gain 1 and d* = 1 gives this twist (..., 6) (eq. 18).

    The rotation is recovered for turns below pi; larger ones are the same rotation as a shorter turn.
    """
    x = np.asarray(twist, dtype=np.float64)
    r = so3_exp(-x[..., 3:])
    return make_pose(r, -(r @ x[..., :3, None])[..., 0])


def denormalise_twist(twist: ArrayLike, d_star: ArrayLike, focal_ratio: ArrayLike = 1.0) -> F64:
    """Metric twist for a real scene and camera from a normalised one (eq. 18-21).

    Distance: translation scales with d* (eq. 20). Focal length: the policy took its image for one of the training
    camera, so the pose error it believes in is transferred through the essential matrix ``S E S`` with
    ``S = diag(s, s, 1)`` (`refocus_pose`).

    Args:
        twist: (..., 6) normalised.
        d_star: distance of the desired camera to the target [m], broadcast against the leading axes.
        focal_ratio: s = focal length of the real camera / of the training camera, both in pixels of the same size of
            image; broadcast. 1 leaves rotation and direction untouched, to the bit.

    Returns:
        (..., 6) [m/s per gain, rad/s per gain].

    Raises:
        ValueError: if a distance or a focal ratio is not positive.
    """
    x = np.asarray(twist, dtype=np.float64)
    scale, ratio = _positive("d_star", d_star), _positive("focal_ratio", focal_ratio)
    if np.any(ratio != 1.0):
        refocused = pbvs_twist(refocus_pose(pbvs_inverse(x), ratio))
        x = np.where(np.broadcast_to(ratio != 1.0, x.shape[:-1])[..., None], refocused, x)
    return np.concatenate([x[..., :3] * scale[..., None], np.broadcast_to(x[..., 3:], (*x.shape[:-1], 3))], axis=-1)


def refocus_pose(d_T_c: ArrayLike, focal_ratio: ArrayLike) -> F64:
    """Relative pose seen by a camera whose focal length is s times that of the camera which saw `d_T_c` (eq. 21).

    The matrix to decompose is ``S [t]x R S = s^2 [S^-1 t]x (S^-1 R S)``. Its left null vector is ``S^-1 t``: that is
    the translation, sign and length included, so of the four solutions of the decomposition only a pair of rotations,
    half a turn about t apart, is left. The one that R turns into as s goes from 1 to its value is the orthonormal
    factor of the two rows of ``S^-1 R S`` orthogonal to t; it is unique, and continuous in s, R and t.

    At t = 0 the essential matrix vanishes. There the image motion of a small pure rotation decides: its x and y parts
    scale with 1 / s. A blend over translations of about 0.01 joins the two, so that the law has no jump.

    Args:
        d_T_c: (..., 4, 4) in units of d*.
        focal_ratio: s > 0, broadcast against the leading axes.
    """
    pose = np.asarray(d_T_c, dtype=np.float64)
    s = _positive("focal_ratio", focal_ratio)[..., None]
    pose = np.broadcast_to(pose, (*np.broadcast_shapes(pose.shape[:-2], s.shape[:-1]), 4, 4))
    inverse_s = np.concatenate([1.0 / s, 1.0 / s, np.ones_like(s)], axis=-1)
    r, t = pose[..., :3, :3], inverse_s * pose[..., :3, 3]
    length = np.linalg.norm(t, axis=-1, keepdims=True)
    basis = _basis(np.where(length > 0.0, t / np.where(length > 0.0, length, 1.0), np.array([0.0, 0.0, 1.0])))
    similar = inverse_s[..., :, None] * r / inverse_s[..., None, :]
    u, _, vt = np.linalg.svd(basis[..., :2, :] @ similar, full_matrices=False)
    rows = u @ vt
    rows = np.concatenate([rows, np.cross(rows[..., 0, :], rows[..., 1, :])[..., None, :]], axis=-2)
    epipolar = np.swapaxes(basis, -1, -2) @ rows
    turning = so3_exp(so3_log(r) * inverse_s)
    share = length**2 / (length**2 + _EPIPOLAR_BASELINE**2)
    between = so3_log(np.swapaxes(turning, -1, -2) @ epipolar)
    return make_pose(turning @ so3_exp(share * between), t)


def hybrid_twist(
    d_T_c: ArrayLike, center: ArrayLike, goal_center: ArrayLike, gain: float = 1.0, d_star: ArrayLike = 1.0
) -> F64:
    """Hybrid servo law (eq. 24): a straight camera path that also keeps the target in view.

    The errors are the camera position in the desired frame, the offset of the target's gravity centre in the image and
    the z part of the rotation vector of ``d_R_c``. All decay as ``exp(-gain time)`` while the centre's depth is right.

    Args:
        d_T_c: (..., 4, 4) [m].
        center: (..., 2) gravity centre in the current image, normalised coordinates (pixel - c) / f.
        goal_center: (..., 2) the same in the desired image.
        gain: decay rate [1/s].
        d_star: distance of the desired camera to the target [m], broadcast; the result is normalised by it.

    Returns:
        (..., 6) normalised twist. Turns that the errors cannot tell apart (a singular Jacobian) are not made.

    Raises:
        ValueError: if a distance is not positive.
    """
    pose = np.asarray(d_T_c, dtype=np.float64)
    r, t = pose[..., :3, :3], pose[..., :3, 3] / _positive("d_star", d_star)[..., None]
    now, goal = np.asarray(center, dtype=np.float64), np.asarray(goal_center, dtype=np.float64)
    v = -gain * (np.swapaxes(r, -1, -2) @ t[..., None])[..., 0]
    # The centre's surface point, from its place in the desired image at distance 1, gives its depth now.
    point = np.concatenate([goal, np.ones_like(goal[..., :1])], axis=-1)
    depth = np.maximum((np.swapaxes(r, -1, -2) @ (point - t)[..., None])[..., 2, 0], _MIN_DEPTH)
    x, y = now[..., 0], now[..., 1]
    one, zero = np.ones_like(x), np.zeros_like(x)
    by_v = np.stack([np.stack([-one, zero, x], -1), np.stack([zero, -one, y], -1)], -2) / depth[..., None, None]
    by_w = np.stack([np.stack([x * y, -1.0 - x * x, y], -1), np.stack([1.0 + y * y, -x * y, -x], -1)], -2)
    turn = so3_log(r)
    jacobian = np.concatenate([by_w, rotvec_rate(turn)[..., 2:, :]], axis=-2)
    wanted = np.concatenate([-gain * (now - goal) - (by_v @ v[..., None])[..., 0], -gain * turn[..., 2:]], axis=-1)
    w = (np.linalg.pinv(jacobian, rcond=1e-3) @ wanted[..., None])[..., 0]
    return np.concatenate([v, w], axis=-1)


def rotvec_rate(rotvec: ArrayLike) -> F64:
    """(..., 3, 3) matrix that maps a body angular velocity to the rate of change of the rotation vector (..., 3) [rad].

    The inverse right Jacobian of SO(3): with R = exp(phi) and dR/dt = R [w]x, dphi/dt = this @ w. Finite up to pi.
    """
    phi = np.asarray(rotvec, dtype=np.float64)
    theta = np.linalg.norm(phi, axis=-1)
    small = theta < 1e-4
    safe = np.where(small, 1.0, theta)
    # 1/theta^2 - (1 + cos) / (2 theta sin), written with the half angle so that pi is no special case.
    c = np.where(small, 1.0 / 12.0 + theta**2 / 720.0, (1.0 - 0.5 * safe / np.tan(0.5 * safe)) / safe**2)
    k = skew(phi)
    return np.asarray(np.eye(3) + 0.5 * k + c[..., None, None] * (k @ k))


def clamp_twist(twist: ArrayLike, max_norm: float) -> F64:
    """Twists (..., 6), shortened to `max_norm` where their norm is larger; the direction is kept."""
    x = np.asarray(twist, dtype=np.float64)
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    return np.asarray(x * np.where(norm > max_norm, max_norm / np.where(norm > 0.0, norm, 1.0), 1.0))


def _basis(axis: F64) -> F64:
    """Right-handed orthonormal rows (e1, e2, axis), (..., 3, 3), for unit vectors (..., 3)."""
    helper = np.eye(3)[np.argmin(np.abs(axis), axis=-1)]
    first = np.cross(helper, axis)
    first = first / np.linalg.norm(first, axis=-1, keepdims=True)
    return np.stack([first, np.cross(axis, first), axis], axis=-2)


def _positive(name: str, value: ArrayLike) -> F64:
    array = np.asarray(value, dtype=np.float64)
    if not np.all(array > 0.0):
        raise ValueError(bad_value(name, value, "> 0"))
    return array
