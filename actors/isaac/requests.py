"""What the renderer is asked for, checked before the stage is touched, and cut into passes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from actors.isaac.stage import REACH
from common.errors import SceneError, bad_value
from common.protocols import F64
from common.scene import Light


@dataclasses.dataclass(frozen=True)
class Pass:
    """Frames that are drawn together: their rows in the request, under one light."""

    light: Light
    rows: tuple[int, ...]


def check_reach(poses: F64) -> None:
    """Check positions of camera poses (N, 4, 4).

    Raises:
        SceneError: if one is further from its environment than `REACH`.
    """
    far = np.abs(poses[:, :3, 3]).max(axis=1) > REACH if len(poses) else np.zeros(0, bool)
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
