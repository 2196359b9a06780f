"""Film strips: the same held-out scene under each stage, rendered again from the poses in the replay store."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.rasteriser.renderer import WarpRenderer
from actors.scenes.suite import Suite
from common.config import RunConfig
from common.episode import Episode
from common.geometry import intrinsics_from_fov


@dataclasses.dataclass(frozen=True)
class Film:
    """One scene: `goal` u8 (H, W, 3), `stages` names and `frames` u8 (S, F, H, W, 3), `steps` of the F frames."""

    goal: NDArray[np.uint8]
    stages: list[str]
    frames: NDArray[np.uint8]
    steps: list[int]


def make_film(
    config: RunConfig, suite: Suite, env: int, episodes: dict[str, Episode], count: int, size: int = 160
) -> Film:
    """Render what the camera saw.

    Args:
        config: of the run.
        suite: the held-out suite.
        env: scene of the suite.
        episodes: evaluation episode of that scene by stage.
        count: frames, evenly spread over the episode, first and last included.
        size: side of the square pictures [px].
    """
    start = suite.starts[env]
    renderer = WarpRenderer(max_envs=1)
    one = np.zeros(1, dtype=np.int64)
    intrinsics = intrinsics_from_fov(np.deg2rad(config.env.fov_deg), size, size)

    def picture(poses: NDArray[np.float64]) -> NDArray[Any]:
        n = len(poses)
        frames = renderer.render(np.repeat(one, n), poses, np.tile(intrinsics, (n, 1)), (size, size), ["rgb"])
        assert frames.rgb is not None
        return frames.rgb

    try:
        renderer.load(suite.assets)
        renderer.reset(one, [start.goal_scene])
        goal = picture(start.goal_world_T_cam[None])[0]
        renderer.reset(one, [start.scene])
        rows = next(iter(episodes.values())).num_rows
        steps = np.linspace(0, rows - 1, count).round().astype(int)
        frames = np.stack([picture(e.steps["world_T_cam"][steps]) for e in episodes.values()])
    finally:
        renderer.close()
    return Film(goal, list(episodes), frames, steps.tolist())
