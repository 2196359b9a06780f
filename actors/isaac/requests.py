"""What the renderer is asked for, checked before the stage is touched, and cut into passes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import get_args

import numpy as np

from actors.isaac.stage import REACH
from actors.scenes.checks import is_rigid
from common.errors import SceneError, bad_value
from common.protocols import F64, I64, Channel
from common.scene import Light


@dataclasses.dataclass(frozen=True)
class Pass:
    """Frames that are drawn together: their rows in the request, under one light."""

    light: Light
    rows: tuple[int, ...]


def check_env_ids(env_ids: I64, envs: int) -> I64:
    """The ids as i64 (N,).

    Raises:
        SceneError: if they are not numbers 0 .. envs-1.
    """
    ids = np.asarray(env_ids)
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise SceneError(bad_value("env_ids", f"{ids.dtype} {ids.shape}", "integers (N,)"))
    if len(ids) and (ids.min() < 0 or ids.max() >= envs):
        raise SceneError(bad_value("env_ids", ids.tolist(), f"0 .. {envs - 1}"))
    return ids.astype(np.int64)


def check_views(poses: F64, intrinsics: F64, count: int) -> None:
    """Check camera poses (N, 4, 4) and intrinsics (N, 4).

    Raises:
        SceneError: if one is not finite, not rigid, not positive, or further from its environment than `REACH`.
    """
    if poses.shape != (count, 4, 4) or not np.isfinite(poses).all() or not is_rigid(poses).all():
        raise SceneError(bad_value("world_T_cam", f"shape {poses.shape}", f"finite rigid poses ({count}, 4, 4)"))
    if intrinsics.shape != (count, 4) or not np.isfinite(intrinsics).all() or (intrinsics[:, :2] <= 0.0).any():
        allowed = f"finite ({count}, 4), focal lengths > 0"
        raise SceneError(bad_value("intrinsics", f"shape {intrinsics.shape}", allowed))
    far = np.abs(poses[:, :3, 3]).max(axis=1) > REACH if count else np.zeros(0, bool)
    if far.any():
        worst = poses[np.argmax(far), :3, 3].tolist()
        raise SceneError(bad_value("camera position", worst, f"within {REACH:g} m of the origin: cells are isolated"))


def check_size(size: tuple[int, int], allowed: tuple[int, int]) -> None:
    """Refuse another size of image than the one of this process.

    Raises:
        SceneError: if it is another; earlier tiles would become wrong.
    """
    if (int(size[0]), int(size[1])) != allowed:
        raise SceneError(bad_value("size", tuple(size), f"{allowed}: one size of tiles in the life of a process"))


def check_channels(channels: Sequence[Channel]) -> None:
    """Refuse unknown channels, and none.

    Raises:
        SceneError: naming them.
    """
    if not channels or any(c not in get_args(Channel) for c in channels):
        raise SceneError(bad_value("channels", list(channels), f"one or more of {get_args(Channel)}"))


def passes(lights: Sequence[Light], most: int) -> list[Pass]:
    """Cut frames into passes of one light and at most `most` frames, in the order that the lights first occur.

    The stage has one sun and one sky, so scenes under different light are never drawn together.
    """
    groups: dict[Light, list[int]] = {}
    for row, light in enumerate(lights):
        groups.setdefault(light, []).append(row)
    return [
        Pass(light, tuple(rows[start : start + most]))
        for light, rows in groups.items()
        for start in range(0, len(rows), most)
    ]
