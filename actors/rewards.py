"""Reward terms of Sym-Servo eq. 5-10, from target masks. Batched over N environments, pure numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.config import RewardConfig
from common.errors import bad_value

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]


def mask_iou(a: NDArray[Any], b: NDArray[Any]) -> F32:
    """IoU (N,) of masks (N, H, W), bool or uint8 (0 is outside); 0 where both are empty.

    Raises:
        ValueError: if the shapes or dtypes do not fit.
    """
    x, y = _bytes("a", a), _bytes("b", b)
    if x.shape != y.shape:
        raise ValueError(bad_value("shape of mask b", y.shape, f"that of mask a, {x.shape}"))
    return _iou(x, y)


def mask_center(mask: NDArray[Any]) -> F64:
    """Centre (N, 2) of masks (N, H, W) as (x, y) in image widths from the upper left corner; NaN where empty."""
    return _area_center(_bytes("mask", mask))[1]


def servo_reward(
    mask: NDArray[Any], goal_mask: NDArray[Any], twist: ArrayLike, weights: RewardConfig
) -> dict[str, F32]:
    """Reward of one step from what the camera sees after it.

    An empty current mask has IoU 0, the visibility penalty, and the largest centre penalty there can be: that of a
    whole image diagonal. Seeing a corner of the target is so always better than seeing nothing.

    Args:
        mask: (N, H, W) target in the current image, bool or uint8.
        goal_mask: (N, H, W) target in the desired image.
        twist: (N, 6) the clamped normalised action.
        weights: lambda_c, lambda_v, lambda_a, R_succ and the IoU that counts as success.

    Returns:
        reward_iou (eq. 5), reward_center (6), reward_visibility (7), reward_action (8), reward_success (9) and their
        sum reward (10), each f32 (N,).
    """
    now, goal = _bytes("mask", mask), _bytes("goal_mask", goal_mask)
    if now.shape != goal.shape:
        raise ValueError(bad_value("shape of mask goal_mask", goal.shape, f"that of mask, {now.shape}"))
    iou = _iou(now, goal)
    area, center = _area_center(now)
    distance = np.linalg.norm(center - _area_center(goal)[1], axis=-1)
    height, width = now.shape[1:]
    farthest = np.hypot(1.0, height / width)
    terms = {
        "reward_iou": iou - 1.0,
        "reward_center": -weights.center * np.where(np.isnan(distance), farthest, distance),
        "reward_visibility": np.where(area > 0, 0.0, -weights.visibility),
        "reward_action": -weights.action * np.linalg.norm(np.asarray(twist, dtype=np.float64), axis=-1),
        "reward_success": np.where(iou > weights.success_iou, weights.success, 0.0),
    }
    terms["reward"] = np.sum(list(terms.values()), axis=0)
    return {name: term.astype(np.float32) for name, term in terms.items()}


def _bytes(name: str, mask: NDArray[Any]) -> U8:
    """The mask as bytes 0 and 1, contiguous; bool masks are not copied."""
    if mask.ndim != 3 or mask.dtype not in (np.bool_, np.uint8):
        raise ValueError(bad_value(f"mask {name}", f"{mask.dtype} {mask.shape}", "bool or uint8 (N, H, W)"))
    return np.ascontiguousarray(mask if mask.dtype == np.bool_ else mask != 0).view(np.uint8)


def _iou(a: U8, b: U8) -> F32:
    both = _columns(a & b).sum(axis=-1)
    either = _columns(a | b).sum(axis=-1)
    return (both / np.maximum(either, 1)).astype(np.float32)


def _columns(mask: U8) -> NDArray[np.int64]:
    """Pixels per column (N, W). Adding whole rows of bytes is many times faster than adding along rows."""
    counts = np.zeros((len(mask), mask.shape[2]), dtype=np.int64)
    for top in range(0, mask.shape[1], 255):  # a byte counts to 255
        counts += np.add.reduce(mask[:, top : top + 255], axis=1, dtype=np.uint8)
    return counts


def _area_center(mask: U8) -> tuple[NDArray[np.int64], F64]:
    """Pixels (N,) and centre (N, 2) in image widths, NaN where empty."""
    height, width = mask.shape[1:]
    columns, rows = _columns(mask), mask.sum(axis=2, dtype=np.uint32)
    area = columns.sum(axis=-1)
    x = columns @ (np.arange(width) + 0.5)
    y = rows @ (np.arange(height) + 0.5)
    total = np.where(area > 0, area, np.nan)[:, None]
    return area, np.asarray(np.stack([x, y], axis=-1) / total / width)
