"""Random camera poses: where an episode should end and where it starts.

`SceneConfig.poses` says how: by the published ranges of `actors.scenes.pose_presets`, or "quickstart". There the
desired camera stands in the upper hemisphere around the target and looks near it. The start camera is the desired one
orbited about the target, rolled, moved to another distance and turned a little off the target. The spreads below
give, over random scenes, a mean rotation error of 39 deg, a mean translation error of 237 mm and a mean IoU of the
two target masks of 0.50.

Whatever the ranges: every camera is above the lowest height by `CLEARANCE`, in no object's box, and has at least
`SceneConfig.min_visible` of the target's surface points in its image with no other object before them (see
`actors.scenes.views`). A pose that fails is drawn again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from actors.scenes.mesh import Mesh
from actors.scenes.pose_presets import PoseRange, draw_pose, is_same_view, preset, sphere_center
from actors.scenes.views import Outline, in_a_box, outline, scene_intrinsics, visible_share
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
    goal_scene: SceneSpec | None = None,
    meshes: Mapping[str, Mesh] | None = None,
) -> tuple[F64, F64, float]:
    """Desired pose, start pose (both world_T_cam, (4, 4)) and d*, the desired camera's distance to the target's centre.

    Args:
        config: ranges of the poses and the share of the target that must be seen.
        env_config: field of view and lowest camera height.
        scene: whose target is looked at.
        seed: of the run or suite; with the next three the key of the draw.
        purpose: what the scene is for.
        round: of collection.
        env: within the round.
        goal_scene: what the desired camera sees, if it is not `scene`; its target stands where that of `scene` does.
        meshes: imported meshes by content hash.

    Raises:
        SceneError: if no such pose can be found.
    """
    rng = philox(seed, purpose, round=round, env=env, step=1)
    cameras = CameraSampler(config, env_config, scene, meshes)
    desired = cameras if goal_scene is None else CameraSampler(config, env_config, goal_scene, meshes)
    goal = desired.goal(rng)
    start = cameras.start(rng, goal)
    d_star = float(np.linalg.norm(goal[:3, 3] - scene.target().pose()[:3, 3]))
    return goal, start, d_star


class CameraSampler:
    """Draws poses for one scene; what they must not run into or look past is worked out once for all draws."""

    def __init__(
        self,
        config: SceneConfig,
        env_config: EnvConfig,
        scene: SceneSpec,
        meshes: Mapping[str, Mesh] | None = None,
    ) -> None:
        """For the target of `scene`; the other arguments are those of `sample_cameras`."""
        self._config, self._scene = config, scene
        self._outline: Outline = outline(scene, meshes)
        self._intrinsics = scene_intrinsics(scene, env_config.fov_deg, 1, 1)
        self._lowest = env_config.min_height + CLEARANCE
        self._best = 0.0

    def goal(self, rng: np.random.Generator) -> F64:
        """A desired world_T_cam (4, 4): by default even over a belt of the upper hemisphere and the distances.

        Raises:
            SceneError: if no pose keeps the target in view and the camera above the ground.
        """
        config = self._config
        if config.poses != "quickstart":
            return self._draw_in(rng, preset(config.poses).desired, "desired", None)
        center = self._scene.target().pose()[:3, 3]
        for _ in range(_TRIES):
            azimuth = rng.uniform(-np.pi, np.pi)
            up = rng.uniform(np.sin(ELEVATION[0]), np.sin(ELEVATION[1]))
            side = np.sqrt(1.0 - up * up)
            distance = rng.uniform(config.min_distance, config.max_distance)
            eye = center + distance * np.array([side * np.cos(azimuth), side * np.sin(azimuth), up])
            pose = _aside(rng, look_at(eye, center, rng.uniform(-GOAL_ROLL, GOAL_ROLL)))
            if self._centered(pose, center) and self._accepts(pose):
                return pose
        distances = f"distances {config.min_distance} .. {config.max_distance} m"
        raise SceneError(f"no desired camera pose found in {_TRIES} draws: {distances}, {self._wanted}")

    def start(self, rng: np.random.Generator, goal_world_T_cam: F64) -> F64:
        """A start world_T_cam (4, 4) for a desired pose.

        Raises:
            SceneError: if no pose keeps the target in view and the camera above the ground.
        """
        config, goal = self._config, np.asarray(goal_world_T_cam, dtype=np.float64)
        if config.poses != "quickstart":
            return self._draw_in(rng, preset(config.poses).initial, "start", goal)
        center = self._scene.target().pose()[:3, 3]
        offset = goal[:3, 3] - center
        facing = _turned_to(goal[:3, :3], -offset)
        for _ in range(_TRIES):
            about_x, about_y = rng.normal(0.0, ORBIT, size=2)
            orbit = facing @ _rotation(about_x, about_y, rng.uniform(-ROLL, ROLL))
            distance = rng.uniform(config.min_distance, config.max_distance)
            pose = _aside(rng, make_pose(orbit, center - distance * orbit[:, 2]))
            if self._centered(pose, center) and self._accepts(pose):
                return pose
        near = f"near the desired camera at {goal[:3, 3].tolist()}"
        raise SceneError(f"no start camera pose found in {_TRIES} draws {near}: {self._wanted}")

    def _accepts(self, pose: F64) -> bool:
        """Whether the camera is high enough, in the open, and sees enough of the target."""
        if pose[2, 3] < self._lowest or in_a_box(self._outline, pose[:3, 3]):
            return False
        share = visible_share(self._outline, pose, self._intrinsics)
        self._best = max(self._best, share)
        # At least one point, also where the wanted share is zero.
        return share >= self._config.min_visible and share > 0.0

    def _centered(self, pose: F64, point: F64) -> bool:
        """Whether the camera shows the point well inside its image."""
        x, y, z = (pose[:3, :3].T @ (point - pose[:3, 3])).tolist()
        fx, fy, cx, cy = self._intrinsics.tolist()
        limit = (0.5 - MARGIN) * z
        return bool(z > 0.0 and abs(fx * x + (cx - 0.5) * z) <= limit and abs(fy * y + (cy - 0.5) * z) <= limit)

    def _draw_in(self, rng: np.random.Generator, within: PoseRange, which: str, other: F64 | None) -> F64:
        """A pose of a preset's range that will do and is not the same view as `other`."""
        center = sphere_center(preset(self._config.poses), self._scene)
        for _ in range(_TRIES):
            pose = draw_pose(rng, within, center)
            if self._accepts(pose) and (other is None or not is_same_view(pose, other)):
                return pose
        ranges = f"radii {within.radius} m, elevations {within.elevation} deg about {center.tolist()}"
        raise SceneError(f"no {which} camera pose found in {_TRIES} draws: {ranges}, {self._wanted}")

    @property
    def _wanted(self) -> str:
        """What a pose needed, for messages."""
        fx, fy = self._intrinsics[:2].round(3).tolist()
        return (
            f"at least {self._lowest:.3g} m high, outside of all objects, {self._config.min_visible} of the target "
            f"visible (at most {self._best:.2f} was), focal lengths {fx} and {fy} image sides"
        )


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
