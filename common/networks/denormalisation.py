"""The servo laws between network and robot in torch, so that an exported program holds them (CNSv2 eq. 18-21).

The same laws as `common.servo.denormalise_twist` and `clamp_twist`, which are numpy and say why they are as they are.
Here everything is arithmetic on whole batches: no branch looks at a value, so `torch.export` can follow it, and the one
decomposition that eq. 21 needs is written out in closed form, so that runtimes without an SVD can run it.
"""

from __future__ import annotations

import torch
from torch import Tensor

_SMALL = 1e-6
_EPIPOLAR_BASELINE = 0.01  # as in `common.servo`


def clamp_twist(twist: Tensor, max_norm: float) -> Tensor:
    """Twists (N, 6), shortened to `max_norm` where their norm is larger; the direction is kept."""
    norm = twist.norm(dim=-1, keepdim=True)
    return twist * torch.where(norm > max_norm, max_norm / norm.clamp_min(1e-30), 1.0)


def denormalise_twist(twist: Tensor, d_star: Tensor, focal_ratio: Tensor) -> Tensor:
    """Metric twist for a real scene and camera from a normalised one (eq. 18-21).

    Args:
        twist: float (N, 6) normalised [v; w].
        d_star: (N,) distance of the desired camera to the target [m].
        focal_ratio: (N,) s = focal length of the real camera / of the training camera, in pixels of the same size of
            image. Where it is 1, rotation and direction are left as they are, to the bit.

    Returns:
        f64 (N, 6) [m/s per gain, rad/s per gain]; NaN where a distance or a ratio is not positive.
    """
    return scale_twist(refocus_twist(twist, focal_ratio), d_star)


def refocus_twist(twist: Tensor, focal_ratio: Tensor) -> Tensor:
    """Twists f64 (N, 6) for the camera at hand, still in units of d*; arguments as in `denormalise_twist`."""
    x, ratio = twist.double(), _positive(focal_ratio)
    turn = so3_exp(-x[:, 3:])
    turn, shift = refocus_pose(turn, -(turn @ x[:, :3, None])[..., 0], ratio)
    refocused = torch.cat([-(turn.mT @ shift[..., None])[..., 0], -so3_log(turn)], dim=1)
    # Not a number stays one in every part: a program cannot raise, and half a command is worse than none.
    return torch.where((ratio == 1.0)[:, None], x, refocused) + 0.0 * ratio[:, None]


def scale_twist(twist: Tensor, d_star: Tensor) -> Tensor:
    """Metric twists f64 (N, 6) from twists (N, 6) in units of d* (eq. 20)."""
    x, scale = twist.double(), _positive(d_star)
    return torch.cat([x[:, :3] * scale[:, None], x[:, 3:] + 0.0 * scale[:, None]], dim=1)


def refocus_pose(rotation: Tensor, translation: Tensor, focal_ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Relative pose seen by a camera whose focal length is s times that of the camera which saw it (eq. 21).

    Args:
        rotation: f64 (N, 3, 3), the rotation of ``d_T_c``.
        translation: f64 (N, 3) in units of d*.
        focal_ratio: f64 (N,) s > 0.

    Returns:
        rotation (N, 3, 3) and translation (N, 3).
    """
    inverse = 1.0 / focal_ratio
    shrink = torch.stack([inverse, inverse, torch.ones_like(inverse)], dim=1)
    t = shrink * translation
    length = t.norm(dim=1, keepdim=True)
    ahead = torch.cat([torch.zeros_like(t[:, :2]), torch.ones_like(t[:, :1])], dim=1)
    basis = _basis(torch.where(length > 0.0, t / torch.where(length > 0.0, length, 1.0), ahead))
    similar = shrink[:, :, None] * rotation / shrink[:, None, :]
    rows = _orthonormal_rows(basis[:, :2] @ similar)
    epipolar = basis.mT @ torch.cat([rows, torch.linalg.cross(rows[:, 0], rows[:, 1])[:, None]], dim=1)
    turning = so3_exp(so3_log(rotation) * shrink)
    share = length**2 / (length**2 + _EPIPOLAR_BASELINE**2)
    return turning @ so3_exp(share * so3_log(turning.mT @ epipolar)), t


def so3_exp(rotvec: Tensor) -> Tensor:
    """Rotation matrices (N, 3, 3) of rotation vectors (N, 3) [rad] (Rodrigues)."""
    theta2 = (rotvec * rotvec).sum(dim=1)
    theta = theta2.sqrt()
    small = theta < _SMALL
    safe = torch.where(small, 1.0, theta)
    a = torch.where(small, 1.0 - theta2 / 6.0, safe.sin() / safe)
    b = torch.where(small, 0.5 - theta2 / 24.0, (1.0 - safe.cos()) / (safe * safe))
    x, y, z = rotvec.unbind(dim=1)
    o = torch.zeros_like(x)
    k = torch.stack([o, -z, y, z, o, -x, -y, x, o], dim=1).unflatten(1, (3, 3))
    eye = torch.eye(3, dtype=rotvec.dtype, device=rotvec.device)
    return eye + a[:, None, None] * k + b[:, None, None] * (k @ k)


def so3_log(rotation: Tensor) -> Tensor:
    """Rotation vectors (N, 3) [rad], angle in [0, pi], of rotation matrices (N, 3, 3), by way of quaternions."""
    q = _quaternion(rotation)
    w, xyz = q[:, 0], q[:, 1:]
    norm = xyz.norm(dim=1)
    small = norm < _SMALL
    angle = 2.0 * torch.atan2(norm, w)
    scale = torch.where(small, 2.0 / torch.where(w == 0.0, 1.0, w), angle / torch.where(small, 1.0, norm))
    return xyz * scale[:, None]


def _quaternion(m: Tensor) -> Tensor:
    """Unit quaternions (N, 4) as (w, x, y, z), w >= 0, from the best conditioned row of four times q q^T."""
    a, b, c = m[:, 0, 0], m[:, 1, 1], m[:, 2, 2]
    wx, wy, wz = m[:, 2, 1] - m[:, 1, 2], m[:, 0, 2] - m[:, 2, 0], m[:, 1, 0] - m[:, 0, 1]
    xy, xz, yz = m[:, 1, 0] + m[:, 0, 1], m[:, 0, 2] + m[:, 2, 0], m[:, 2, 1] + m[:, 1, 2]
    diagonal = 1.0 + torch.stack([a + b + c, a - b - c, b - a - c, c - a - b], dim=1)
    parts = [diagonal[:, 0], wx, wy, wz, wx, diagonal[:, 1], xy, xz, wy, xy, diagonal[:, 2], yz, wz, xz, yz]
    outer = torch.stack([*parts, diagonal[:, 3]], dim=1).unflatten(1, (4, 4))
    best = diagonal.argmax(dim=1)
    # Chosen by a product: take_along_dim would make the size of the batch a constant of the program.
    q = (torch.eye(4, dtype=m.dtype, device=m.device)[best][:, None] @ outer)[:, 0]
    q = q / q.norm(dim=1, keepdim=True)
    return torch.where(q[:, :1] < 0.0, -q, q)


def _orthonormal_rows(a: Tensor) -> Tensor:
    """The orthonormal polar factor (N, 2, 3) of (N, 2, 3): ``(A A^T)^(-1/2) A``, which an SVD would give as U V^T.

    The root of a 2 x 2 matrix M with determinant d^2 is ``(M + d 1) / sqrt(tr M + 2 d)``, its inverse by the adjugate.
    """
    m = a @ a.mT
    # The determinant by Lagrange's identity: the difference of products would lose half of the digits.
    d = torch.linalg.cross(a[:, 0], a[:, 1]).norm(dim=1)[:, None, None]
    trace = m.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None]
    eye = torch.eye(2, dtype=a.dtype, device=a.device)
    # adj(root) = tr(root) 1 - root with root = (M + d 1) / tau, and det(root) = d.
    tau = (trace + 2.0 * d).sqrt()
    return ((trace + d) * eye - m) / (tau * d) @ a


def _basis(axis: Tensor) -> Tensor:
    """Right-handed orthonormal rows (e1, e2, axis), (N, 3, 3), for unit vectors (N, 3)."""
    eye = torch.eye(3, dtype=axis.dtype, device=axis.device)
    first = torch.linalg.cross(eye[axis.abs().argmin(dim=1)], axis)
    first = first / first.norm(dim=1, keepdim=True)
    return torch.stack([first, torch.linalg.cross(axis, first), axis], dim=1)


def _positive(x: Tensor) -> Tensor:
    """The values in f64, NaN where one is not positive."""
    x = x.double()
    return torch.where(x > 0.0, x, torch.nan)
