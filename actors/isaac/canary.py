"""A known scene, drawn once at the start: what is black, flat or elsewhere then will be so for ever."""

from __future__ import annotations

import numpy as np

from actors.isaac.version import IsaacError
from common.errors import bad_value
from common.geometry import look_at
from common.protocols import Renderer
from common.scene import Light, SceneObject, SceneSpec, Shape, Symmetry, Texture

_MEAN = (20.0, 235.0)
_SPREAD = 3.0
_EDGE = 0.3
_DISTANCE = 1.2


def canary_scene() -> SceneSpec:
    """A red cube on a grey checker."""
    texture = Texture("plain", ((0.8, 0.1, 0.1),))
    ground = Texture("checker", ((0.3, 0.3, 0.3), (0.6, 0.6, 0.6)))
    pose = np.eye(4)
    pose[2, 3] = _EDGE / 2
    cube = SceneObject(Shape("cube", (_EDGE,)), texture, Symmetry(), 1, tuple(pose.ravel().tolist()))
    return SceneSpec((cube,), 1, ground, Light())


def check_canary(renderer: Renderer, size: tuple[int, int]) -> None:
    """Draw the scene in environment 0 from straight above, and look.

    Raises:
        IsaacError: if the picture is black, white or flat, if the cube is not in its middle, or not as far as it is.
    """
    ids = np.zeros(1, dtype=np.int64)
    renderer.reset(ids, [canary_scene()])
    height, width = size
    focal = float(min(size))
    intrinsics = np.array([[focal, focal, width / 2, height / 2]])
    pose = look_at([[0.0, 0.0, _DISTANCE]], [[0.0, 0.0, 0.0]])
    frames = renderer.render(ids, pose, intrinsics, size, ("rgb", "instance_id", "depth"))
    assert frames.rgb is not None and frames.instance_id is not None and frames.depth is not None
    mean, spread = float(frames.rgb.mean()), float(frames.rgb.std())
    if not _MEAN[0] <= mean <= _MEAN[1] or spread < _SPREAD:
        allowed = f"a mean of {_MEAN[0]:g} .. {_MEAN[1]:g} and a deviation of {_SPREAD:g} or more"
        raise IsaacError(bad_value("first picture (mean, deviation)", (round(mean, 1), round(spread, 1)), allowed))
    middle = frames.instance_id[0, height // 2, width // 2], frames.instance_id[0, 0, 0]
    if middle != (1, 0):
        raise IsaacError(bad_value("first picture's ids (middle, corner)", tuple(map(int, middle)), "(1, 0)"))
    top, seen = _DISTANCE - _EDGE, float(frames.depth[0, height // 2, width // 2])
    if abs(seen - top) > 0.01:
        raise IsaacError(bad_value("first picture's depth in the middle", seen, f"{top:g} m, to 1 cm"))
