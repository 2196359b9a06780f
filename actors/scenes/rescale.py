"""The same start seen by another camera, or from another distance (CNSv2 Table I).

The cameras move along their lines of sight through the target's centre while the objects stay as they are, and the
focal length changes; with both by the same factor the target keeps its size in the image, and only the perspective
changes, as in the paper.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from actors.env import EpisodeStart
from actors.scenes.views import scene_intrinsics
from common.protocols import F64
from common.scene import Camera, SceneSpec


def rescale_start(start: EpisodeStart, fov_deg: float, focal_scale: float, distance_scale: float) -> EpisodeStart:
    """A start with another focal length and other distances; with both factors 1 the start itself.

    Args:
        start: of the training camera.
        fov_deg: vertical field of view [deg] where the scene has no camera of its own.
        focal_scale: factor on the focal lengths.
        distance_scale: factor on the distances of both cameras to the target's centre, and so on d*.
    """
    if focal_scale == 1.0 and distance_scale == 1.0:
        return start
    scene = _refocused(start.scene, fov_deg, focal_scale)
    goal_scene = scene if start.goal_scene is start.scene else _refocused(start.goal_scene, fov_deg, focal_scale)
    center = start.scene.target().pose()[:3, 3]
    here, there = (_moved(pose, center, distance_scale) for pose in (start.world_T_cam, start.goal_world_T_cam))
    return EpisodeStart(scene, goal_scene, here, there, start.d_star * distance_scale)


def _refocused(scene: SceneSpec, fov_deg: float, scale: float) -> SceneSpec:
    # Few digits: the suite's hash must not hang on a processor's last bits.
    fx, fy, cx, cy = (round(float(k), 9) for k in scene_intrinsics(scene, fov_deg, 1, 1) * [scale, scale, 1.0, 1.0])
    return dataclasses.replace(scene, camera=Camera(fx, fy, cx, cy))


def _moved(pose: F64, center: F64, scale: float) -> F64:
    moved = pose.copy()
    moved[:3, 3] = np.round(center + scale * (pose[:3, 3] - center), 9)
    return moved
