"""How a policy's twists steer a camera in evaluation and serving: another camera, the hybrid law, pose hypotheses.

A network regresses the twist of a unit world seen by the camera it was trained with (CNSv2 III-E). Here that becomes
the twist of the camera at hand: recover the pose error (eq. 18), carry it over to the real focal length (eq. 21), steer
by the hybrid law far from the goal and by PBVS near it (eq. 24). All twists stay in units of d*: the distance is
applied once, by whoever moves the camera. numpy float64; N environments, K hypotheses.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from common.errors import bad_value
from common.protocols import F64, Bool
from common.servo import denormalise_twist, hybrid_twist, pbvs_inverse

# Hypotheses that differ by less (units of d* and rad) belong to one mode of the distribution.
MODE_RADIUS = 0.3
# A mode holds at least this share of what the fullest one holds; fewer are strays of the sampler.
_MODE_SHARE = 0.5


def image_offset(center: ArrayLike, goal_center: ArrayLike, size: tuple[int, int]) -> F64:
    """Distance (N,) of two gravity centres in image sides: 0.1 here is the paper's ``0.1 sqrt(N_16)`` patches.

    Args:
        center: (N, 2), (x, y) with the image from -1 to 1.
        goal_center: (N, 2) the same in the desired image.
        size: (height, width) of the images [px]; the side is the root of their product.
    """
    height, width = size
    pixels = 0.5 * (_f64(center) - _f64(goal_center)) * np.array([width, height])
    return np.asarray(np.linalg.norm(pixels, axis=-1) / np.sqrt(height * width))


def is_far(offset: ArrayLike, was_near: Bool, near: float, far: float) -> Bool:
    """Which environments (N,) steer by the hybrid law now.

    CNSv2 III-G takes it where the centres are more than `near` apart. An environment that has been near comes back
    only beyond `far`, so that a noisy offset within far - near cannot make the law chatter.

    Args:
        offset: (N,) of `image_offset`.
        was_near: (N,) whether PBVS steered before; False in new episodes.
        near: offset above which the hybrid law is taken [image sides].
        far: offset above which it is taken again [image sides].

    Raises:
        ValueError: if `far` is smaller than `near`.
    """
    if far < near:
        raise ValueError(bad_value("far", far, f">= near = {near}"))
    return np.asarray(_f64(offset) > np.where(was_near, far, near))


def steer(
    twist: ArrayLike,
    focal_ratio: ArrayLike,
    center: ArrayLike | None = None,
    goal_center: ArrayLike | None = None,
    far: Bool | None = None,
) -> F64:
    """Twists (N, 6) of the camera at hand, in units of d*, from twists of the training camera.

    Args:
        twist: (N, 6) as the network regresses them.
        focal_ratio: (N,) or one: focal length of the camera at hand / of the training camera. 1 changes no bit.
        center: (N, 2) gravity centre in the current image, normalised coordinates (pixel - c) / f of the camera at
            hand; only where `far` is given.
        goal_center: (N, 2) the same in the desired image.
        far: (N,) where the hybrid law steers; None is nowhere.

    Raises:
        ValueError: if a focal ratio is not positive, or `far` comes without centres.
    """
    near = denormalise_twist(twist, 1.0, focal_ratio)
    if far is None or not np.any(far):
        return near
    if center is None or goal_center is None:
        raise ValueError(bad_value("center", None, "gravity centres (N, 2), where an environment is far"))
    # PBVS and its inverse undo each other, so the twist carried over is the pose carried over.
    return np.where(np.asarray(far)[:, None], hybrid_twist(pbvs_inverse(near), center, goal_center), near)


def choose_hypothesis(hypotheses: ArrayLike, twist: ArrayLike, pick: Literal["nearest", "smallest"]) -> tuple[F64, F64]:
    """One of K pose hypotheses per environment, and how far they spread.

    A hypothesis is the goal camera in the current camera's frame, ``[t / d*; rotation vector]``, and that is also the
    PBVS twist towards it (eq. 5).

    Args:
        hypotheses: (N, K, 6).
        twist: (N, 6) regressed twist.
        pick: "nearest" to the regressed twist, or "smallest": of the modes, the one with the smallest motion.

    Returns:
        Twists (N, 6): the hypothesis itself, or the mean of the mode's. Spread (N,): root mean square distance of the
        hypotheses to their mean.

    Raises:
        ValueError: if `pick` is neither.
    """
    x, wanted = _f64(hypotheses), _f64(twist)
    spread = np.sqrt(((x - x.mean(axis=1, keepdims=True)) ** 2).sum(axis=-1).mean(axis=1))
    rows = np.arange(len(x))
    if pick == "nearest":
        return x[rows, np.linalg.norm(x - wanted[:, None], axis=-1).argmin(axis=1)], spread
    if pick != "smallest":
        raise ValueError(bad_value("pick", pick, "nearest|smallest"))
    same = np.linalg.norm(x[:, :, None] - x[:, None], axis=-1) < MODE_RADIUS
    held = same.sum(axis=2)
    modes = np.einsum("nkj,njd->nkd", same.astype(np.float64), x) / held[..., None]
    full = held >= _MODE_SHARE * held.max(axis=1, keepdims=True)
    motion = np.where(full, np.linalg.norm(modes, axis=-1), np.inf)
    return modes[rows, motion.argmin(axis=1)], spread


def _f64(x: ArrayLike) -> F64:
    return np.asarray(x, dtype=np.float64)
