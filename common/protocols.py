"""The interfaces that the parts meet in. Read this file first: everything else implements or calls what stands here.

Shapes: N environments of a call, H x W pixels. Everything is batched, always.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from common.scene import SceneSpec

U8 = NDArray[np.uint8]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

Channel = Literal["rgb", "instance_id", "depth"]


@dataclasses.dataclass(frozen=True)
class Frames:
    """What a renderer answers; a channel that was not asked for is None.

    Attributes:
        rgb: u8 (N, H, W, 3).
        instance_id: i32 (N, H, W); 0 is ground and sky, k >= 1 the object with that instance id. Never smoothed.
        depth: f32 (N, H, W) [m] along the optical axis; +inf where nothing is hit. Never smoothed.
        frame_id: i64 (N,), counts the frames of an environment since its reset.
        pose_used: f64 (N, 4, 4), the world_T_cam that the frame was rendered from. A frame whose pose is not the one
            asked for is stale, and an error.
    """

    rgb: U8 | None
    instance_id: I32 | None
    depth: F32 | None
    frame_id: I64
    pose_used: F64


class Renderer(Protocol):
    """Batched renderer of scenes. Implementations: `actors.rasteriser.renderer` (embedded), Isaac Sim, remote."""

    def load(self, assets: Mapping[str, Any]) -> None:
        """Make imported meshes known, by content hash; procedural shapes need no loading."""

    def reset(self, env_ids: I64, scenes: Sequence[SceneSpec]) -> None:
        """Build `scenes[i]` in environment `env_ids[i]`.

        Raises:
            SceneError: if a scene cannot be built; then no environment was changed.
        """

    def render(
        self, env_ids: I64, world_T_cam: F64, intrinsics: F64, size: tuple[int, int], channels: Sequence[Channel]
    ) -> Frames:
        """Render environment `env_ids[i]` from `world_T_cam[i]` (N, 4, 4).

        Args:
            env_ids: (N,); an id may occur more than once (several cameras of one scene).
            world_T_cam: (N, 4, 4) OpenCV camera poses.
            intrinsics: (N, 4) ``[fx, fy, cx, cy]`` in pixels of `size`.
            size: (height, width).
            channels: which of rgb, instance_id and depth to compute.

        Raises:
            SceneError: if a pose or an intrinsic is not finite, or an environment was never reset.
        """

    def close(self) -> None:
        """Free what the renderer holds; it cannot be used afterwards."""


@dataclasses.dataclass(frozen=True)
class Goal:
    """What to servo to, one entry per environment.

    Attributes:
        rgb: u8 (N, H, W, 3) desired image.
        mask: bool (N, H, W) of the target in the desired image, or None where a policy must do without.
        intrinsics: f64 (N, 4) ``[fx, fy, cx, cy]`` in pixels of the image.
        d_star: f64 (N,) [m] distance of the desired camera to the target.
        world_T_cam: f64 (N, 4, 4) desired pose; only privileged policies (PBVS) may look at it, else None.
        scenes: the scenes, for privileged policies (nearest symmetric goal), else None.
    """

    rgb: U8
    mask: Bool | None
    intrinsics: F64
    d_star: F64
    world_T_cam: F64 | None = None
    scenes: Sequence[SceneSpec] | None = None


@dataclasses.dataclass(frozen=True)
class Observation:
    """What a policy sees at one step. `mask` and `world_T_cam` are privileged: learned policies never read them."""

    rgb: U8
    mask: Bool | None = None
    world_T_cam: F64 | None = None


@dataclasses.dataclass(frozen=True)
class PolicyOutput:
    """What a policy answers.

    Attributes:
        twist: f32 (N, 6) normalised twist: unit world (distance d* = 1), gain 1, of the camera that made the pictures.
            A policy that takes them for another camera's carries its twist over itself; the environment applies d*.
        stop: bool (N,) the policy's own wish to stop (the evaluator may apply another rule).
        aux: arrays (N, ...) a collector may store: z, logp, action_dist_inputs, value.
    """

    twist: F32
    stop: Bool
    aux: Mapping[str, NDArray[Any]] = dataclasses.field(default_factory=dict)


class Policy(Protocol):
    """Learned and classical controllers alike. May keep state per environment between `reset` and `act`."""

    def reset(self, env_ids: I64, goal: Goal) -> None:
        """Start new episodes in these environments."""

    def act(self, env_ids: I64, observation: Observation) -> PolicyOutput:
        """Choose twists for these environments."""
