"""The vectorised servo environment: render, act, move the camera, score.

All environments of a call start and end together; an episode is a fixed horizon (Sym-Servo III-B). Actions are
normalised twists; the environment clamps them, denormalises them by each goal's distance d* and moves the cameras.

An episode's camera is that of its scene, else the configured one; each scene's sensor works on the pictures of it. The
noise of a picture is a function of the scene and of how many pictures the episode had before, so neither the place in
the batch nor the renderer's own counting changes it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import time
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from actors.rewards import mask_iou, servo_reward
from actors.scenes.mesh import Mesh
from actors.scenes.sensor import apply_sensor, check_sensor
from actors.scenes.views import check_camera, scene_intrinsics
from common.config import EnvConfig, RewardConfig
from common.errors import SceneError, StaleFrameError
from common.geometry import integrate_twist, intrinsics_from_fov, scale_intrinsics
from common.protocols import F32, F64, I64, U8, Bool, Channel, Frames, Goal, Renderer
from common.scene import SceneSpec
from common.servo import clamp_twist, denormalise_twist


@dataclasses.dataclass(frozen=True)
class EpisodeStart:
    """Where an episode starts and where it should end.

    Attributes:
        scene: what the camera sees while it moves.
        goal_scene: what the desired image shows; the same target and camera, perhaps another ground, light or sensor.
        world_T_cam: (4, 4) start pose.
        goal_world_T_cam: (4, 4) desired pose.
        d_star: distance [m] of the desired camera to the target.
    """

    scene: SceneSpec
    goal_scene: SceneSpec
    world_T_cam: F64
    goal_world_T_cam: F64
    d_star: float


@dataclasses.dataclass(frozen=True)
class Sight:
    """What was rendered at the current poses; None where it was not asked for.

    Attributes:
        rgb: u8 (N, H, W, 3) at the image size.
        depth: f32 (N, H, W) [m] at the image size.
        image_mask: bool (N, H, W) target at the image size.
        mask: bool (N, M, M) target at the mask size.
    """

    rgb: U8 | None
    depth: F32 | None
    image_mask: Bool | None
    mask: Bool | None


@dataclasses.dataclass(frozen=True)
class Step:
    """What one step did: `twist_applied` f32 (N, 6) [m/s, rad/s], reward terms by name f32 (N,), IoU f32 (N,)."""

    twist_applied: F32
    rewards: dict[str, F32]
    iou: F32


class ServoEnv:
    """N servo episodes in lock-step over one renderer."""

    def __init__(
        self,
        renderer: Renderer,
        config: EnvConfig,
        reward: RewardConfig,
        num_envs: int,
        meshes: Mapping[str, Mesh] | None = None,
    ) -> None:
        """Environments 0 .. num_envs-1 of `renderer` belong to this object; `meshes` are those loaded into it."""
        self.config = config
        self.reward = reward
        self.num_envs = num_envs
        self.frames_rendered = 0
        self.render_seconds = 0.0
        self._renderer = renderer
        self._meshes = meshes
        self._ids: I64 = np.arange(num_envs, dtype=np.int64)
        size = config.image_size
        one = intrinsics_from_fov(np.deg2rad(config.fov_deg), size, size)
        self.intrinsics: F64 = np.tile(one, (num_envs, 1))

    def reset(self, starts: Sequence[EpisodeStart], masks: bool = True) -> Sight:
        """Build the scenes, render the desired images and put the cameras at their starts.

        Args:
            starts: one per environment.
            masks: also render goal masks at the mask size (IoU and rewards need them).

        Returns:
            What the desired cameras see: rgb, depth, image_mask and, if asked for, mask.

        Raises:
            SceneError: naming the environment, if a camera starts or should end below the ground or in an object, the
                two scenes have different cameras, or a camera or sensor is none.
        """
        if len(starts) != self.num_envs:
            raise ValueError(f"len(starts) = {len(starts)}: allowed is num_envs = {self.num_envs}")
        self.intrinsics = np.stack([self._checked_intrinsics(i, s) for i, s in enumerate(starts)])
        self._target_ids = np.array([s.scene.target_id for s in starts], dtype=np.int32)
        self.world_T_cam: F64 = np.stack([s.world_T_cam for s in starts])
        self.goal_world_T_cam: F64 = np.stack([s.goal_world_T_cam for s in starts])
        self.d_star: F64 = np.array([s.d_star for s in starts], dtype=np.float64)
        self._pictures = 0
        self._shown = [s.goal_scene for s in starts]
        self._renderer.reset(self._ids, self._shown)
        goal = self.look(self.goal_world_T_cam, image=True, geometry=True, masks=masks)
        changed = [i for i, s in enumerate(starts) if s.scene is not s.goal_scene and s.scene != s.goal_scene]
        if changed:
            self._renderer.reset(self._ids[changed], [starts[i].scene for i in changed])
        self._shown = [s.scene for s in starts]
        self.goal_mask = goal.mask
        self._starts = list(starts)
        self._goal_rgb = goal.rgb
        self._goal_image_mask = goal.image_mask
        return goal

    def goal(self) -> Goal:
        """The goals, privileged parts included, as policies take them."""
        assert self._goal_rgb is not None
        mask = self.goal_mask if self.goal_mask is not None else self._goal_image_mask
        scenes = [s.scene for s in self._starts]
        return Goal(self._goal_rgb, mask, self.intrinsics, self.d_star, self.goal_world_T_cam, scenes)

    def look(self, world_T_cam: F64 | None = None, *, image: bool, geometry: bool = False, masks: bool) -> Sight:
        """Render from the given poses (default: the current ones).

        Args:
            world_T_cam: (N, 4, 4) or None.
            image: rgb at the image size.
            geometry: depth and target mask at the image size.
            masks: target mask at the mask size.

        Raises:
            StaleFrameError: if the renderer answers with a frame of another pose.
        """
        poses = self.world_T_cam if world_T_cam is None else world_T_cam
        size, mask_size = self.config.image_size, self.config.mask_size
        target = self._target_ids[:, None, None]
        rgb = depth = image_mask = mask = None
        if image or geometry:
            wanted: dict[Channel, bool] = {"rgb": image, "instance_id": geometry, "depth": geometry}
            channels = [channel for channel, on in wanted.items() if on]
            frames = self._render(poses, self.intrinsics, size, channels)
            rgb, depth = None if frames.rgb is None else self._sense(frames.rgb), frames.depth
            image_mask = None if frames.instance_id is None else frames.instance_id == target
        if masks:
            scaled = scale_intrinsics(self.intrinsics, mask_size / size)
            frames = self._render(poses, scaled, mask_size, ["instance_id"])
            assert frames.instance_id is not None
            mask = frames.instance_id == target
        return Sight(rgb, depth, image_mask, mask)

    def iou(self, sight: Sight) -> F32:
        """IoU (N,) of the sight's masks with the goal masks."""
        assert sight.mask is not None and self.goal_mask is not None
        return mask_iou(sight.mask, self.goal_mask)

    def move(self, action: ArrayLike) -> tuple[F32, F32]:
        """Apply normalised twists (N, 6) for one control period.

        Returns:
            The clamped normalised twist and the applied twist [m/s, rad/s], each f32 (N, 6).
        """
        clamped = clamp_twist(action, self.config.max_twist)
        applied = denormalise_twist(clamped, self.d_star) * self.config.gain
        poses = integrate_twist(self.world_T_cam, applied, np.full(self.num_envs, self.config.dt))
        # A real arm has a workspace: the camera slides along its lower bound instead of entering the ground.
        poses[:, 2, 3] = np.maximum(poses[:, 2, 3], self.config.min_height)
        self.world_T_cam = poses
        return clamped.astype(np.float32), applied.astype(np.float32)

    def step(self, action: ArrayLike, *, image: bool) -> tuple[Step, Sight]:
        """Move, look and score: rewards of Sym-Servo eq. 5-10 from the masks after the motion."""
        clamped, applied = self.move(action)
        sight = self.look(image=image, masks=True)
        assert sight.mask is not None and self.goal_mask is not None
        rewards = servo_reward(sight.mask, self.goal_mask, clamped, self.reward)
        # Eq. 5 is IoU - 1, so the IoU need not be computed a second time.
        return Step(applied, rewards, (rewards["reward_iou"] + 1.0).astype(np.float32)), sight

    def _checked_intrinsics(self, env: int, start: EpisodeStart) -> F64:
        try:
            if start.scene.camera != start.goal_scene.camera:
                raise SceneError(f"the scene's camera {start.scene.camera} is not the goal's {start.goal_scene.camera}")
            for which, scene, pose in (
                ("goal", start.goal_scene, start.goal_world_T_cam),
                ("start", start.scene, start.world_T_cam),
            ):
                check_sensor(scene.sensor)
                try:
                    check_camera(scene, pose, self._meshes)
                except SceneError as e:
                    raise SceneError(f"{which} pose: {e}") from e
            return scene_intrinsics(start.scene, self.config.fov_deg, self.config.image_size, self.config.image_size)
        except SceneError as e:
            raise SceneError(f"environment {env}: {e}") from e

    def _sense(self, rgb: U8) -> U8:
        """The pictures of the scenes shown, as their sensors give them; counts them."""
        sensors = [scene.sensor for scene in self._shown]
        # The seed of a scene is that of its run; without the rest of it all scenes of a run had the same noise.
        seeds = [_content(s) if s.sensor.noise > 0.0 else 0 for s in self._shown]
        picture = self._pictures
        self._pictures += 1
        return apply_sensor(rgb, sensors, seeds, [picture] * len(sensors))

    def _render(self, poses: F64, intrinsics: F64, size: int, channels: list[Channel]) -> Frames:
        began = time.perf_counter()
        frames = self._renderer.render(self._ids, poses, intrinsics, (size, size), channels)
        self.render_seconds += time.perf_counter() - began
        self.frames_rendered += len(poses)
        if not np.array_equal(frames.pose_used, poses):
            worst = int(np.argmax(np.abs(frames.pose_used - poses).max(axis=(1, 2))))
            raise StaleFrameError(f"environment {worst}: frame {frames.frame_id[worst]} shows another pose than asked")
        return frames


@functools.lru_cache(maxsize=1024)
def _content(scene: SceneSpec) -> int:
    """A number that stands for a scene's content, 0 .. 2^64-1."""
    return int.from_bytes(hashlib.blake2b(scene.to_json().encode(), digest_size=8).digest(), "little")
