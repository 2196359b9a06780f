"""Random camera poses: where an episode should end and where it starts.

The desired camera stands in the upper hemisphere around the target and looks near it. The start camera is the desired
one orbited about the target, rolled, moved to another distance and turned a little off the target. The spreads below
give, over random scenes, a mean rotation error of 39 deg, a mean translation error of 237 mm and a mean IoU of the
two target masks of 0.50.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from common.config import EnvConfig, SceneConfig
from common.errors import SceneError
from common.geometry import inverse_pose, look_at, make_pose, so3_exp, so3_log
from common.protocols import F64
from common.rng import Purpose, philox
from common.scene import SceneSpec

ELEVATION = (np.deg2rad(25.0), np.deg2rad(75.0))  # of the desired camera above the horizon
GOAL_ROLL = np.deg2rad(30.0)  # largest roll of the desired camera
AIM = np.deg2rad(1.9)  # standard deviation of the angle between optical axis and target, per image axis
ORBIT = np.deg2rad(14.0)  # standard deviation of the start camera's way round the target, per axis
ROLL = np.deg2rad(63.5)  # largest roll between the two cameras
MARGIN = 0.15  # the target's centre stays this far inside the image, in units of its sides
CLEARANCE = 0.08  # metres that cameras start above the lowest height they may move to
_TRIES = 1000


def sample_cameras(
    config: SceneConfig,
    env_config: EnvConfig,
    scene: SceneSpec,
    *,
    seed: int,
    purpose: Purpose,
    round: int,
    env: int,
) -> tuple[F64, F64, float]:
    """Desired pose, start pose (both world_T_cam, (4, 4)) and d*, the desired camera's distance to the target's centre.

    Args:
        config: range of distances [m].
        env_config: field of view and lowest camera height.
        scene: whose target is looked at.
        seed: of the run or suite; with the next three the key of the draw.
        purpose: what the scene is for.
        round: of collection.
        env: within the round.

    Raises:
        SceneError: if no such pose can be found.
    """
    rng = philox(seed, purpose, round=round, env=env, step=1)
    goal = sample_goal_pose(rng, config, env_config, scene)
    start = sample_start_pose(rng, config, env_config, scene, goal)
    d_star = float(np.linalg.norm(goal[:3, 3] - scene.target().pose()[:3, 3]))
    return goal, start, d_star


def sample_goal_pose(rng: np.random.Generator, config: SceneConfig, env_config: EnvConfig, scene: SceneSpec) -> F64:
    """A desired world_T_cam (4, 4): even over a belt of the upper hemisphere and over the range of distances.

    Raises:
        SceneError: if no pose keeps the target in view and the camera above the ground.
    """
    center = scene.target().pose()[:3, 3]
    for _ in range(_TRIES):
        azimuth = rng.uniform(-np.pi, np.pi)
        up = rng.uniform(np.sin(ELEVATION[0]), np.sin(ELEVATION[1]))
        side = np.sqrt(1.0 - up * up)
        distance = rng.uniform(config.min_distance, config.max_distance)
        eye = center + distance * np.array([side * np.cos(azimuth), side * np.sin(azimuth), up])
        pose = _aside(rng, look_at(eye, center, rng.uniform(-GOAL_ROLL, GOAL_ROLL)))
        if _sees(pose, center, env_config):
            return pose
    raise SceneError(f"no desired camera pose found in {_TRIES} draws: distances {config.min_distance} .. "
                     f"{config.max_distance} m, field of view {env_config.fov_deg} deg")  # fmt: skip


def sample_start_pose(
    rng: np.random.Generator, config: SceneConfig, env_config: EnvConfig, scene: SceneSpec, goal_world_T_cam: F64
) -> F64:
    """A start world_T_cam (4, 4) for a desired pose.

    Raises:
        SceneError: if no pose keeps the target in view and the camera above the ground.
    """
    center = scene.target().pose()[:3, 3]
    goal = np.asarray(goal_world_T_cam, dtype=np.float64)
    offset = goal[:3, 3] - center
    facing = _turned_to(goal[:3, :3], -offset)
    for _ in range(_TRIES):
        about_x, about_y = rng.normal(0.0, ORBIT, size=2)
        orbit = facing @ _rotation(about_x, about_y, rng.uniform(-ROLL, ROLL))
        distance = rng.uniform(config.min_distance, config.max_distance)
        pose = _aside(rng, make_pose(orbit, center - distance * orbit[:, 2]))
        if _sees(pose, center, env_config):
            return pose
    raise SceneError(f"no start camera pose found in {_TRIES} draws near the desired camera at {goal[:3, 3].tolist()}")


def shrink_pose(goal_world_T_cam: ArrayLike, start_world_T_cam: ArrayLike, factor: ArrayLike) -> F64:
    """Poses (..., 4, 4) on the way from the goal (factor 0) to the start (factor 1).

    In the goal's frame the rotation vector and the translation are both scaled by the factor, which broadcasts against
    the leading axes.
    """
    goal = np.asarray(goal_world_T_cam, dtype=np.float64)
    relative = inverse_pose(goal) @ np.asarray(start_world_T_cam, dtype=np.float64)
    scale = np.asarray(factor, dtype=np.float64)[..., None]
    near = make_pose(so3_exp(so3_log(relative[..., :3, :3]) * scale), relative[..., :3, 3] * scale)
    return np.asarray(goal @ near)


def _turned_to(rotation: F64, forward: F64) -> F64:
    """The orientation turned the shortest way so that its optical axis points along `forward`."""
    target = forward / np.linalg.norm(forward)
    # In the camera's frame the target direction is (x, y, z) and the axis to turn about (-y, x, 0).
    x, y, z = (rotation.T @ target).tolist()
    sine = math.hypot(x, y)
    scale = math.atan2(sine, z) / max(sine, 1e-12)
    return np.asarray(rotation @ _rotation(-y * scale, x * scale, 0.0))


def _aside(rng: np.random.Generator, pose: F64) -> F64:
    """The camera turned a little off its target, in numbers of few digits (equal on every machine)."""
    about_x, about_y = rng.normal(0.0, AIM, size=2)
    turned = pose.copy()
    turned[:3, :3] = pose[:3, :3] @ _rotation(about_x, about_y, 0.0)
    return np.asarray(np.round(turned, 9))


def _rotation(x: float, y: float, z: float) -> F64:
    """`so3_exp` of one rotation vector in scalar arithmetic: ten times cheaper than a batch of one."""
    theta2 = x * x + y * y + z * z
    theta = math.sqrt(theta2)
    a = math.sin(theta) / theta if theta > 1e-8 else 1.0
    b = (1.0 - math.cos(theta)) / theta2 if theta > 1e-4 else 0.5
    return np.array(
        [
            [1.0 - b * (y * y + z * z), b * x * y - a * z, b * x * z + a * y],
            [b * x * y + a * z, 1.0 - b * (x * x + z * z), b * y * z - a * x],
            [b * x * z - a * y, b * y * z + a * x, 1.0 - b * (x * x + y * y)],
        ]
    )


def _sees(pose: F64, point: F64, env_config: EnvConfig) -> bool:
    """True if the camera is high enough and shows the point well inside its (square) image."""
    x, y, z = (pose[:3, :3].T @ (point - pose[:3, 3])).tolist()
    limit = (1.0 - 2.0 * MARGIN) * np.tan(0.5 * np.deg2rad(env_config.fov_deg))
    high = pose[2, 3] >= env_config.min_height + CLEARANCE
    return bool(high and z > 0.0 and abs(x) <= limit * z and abs(y) <= limit * z)
