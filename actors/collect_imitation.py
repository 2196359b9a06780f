"""Imitation data: uniform pairs, and DAgger, where the policy acts and the expert labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.correspondence import match_grid
from actors.env import EpisodeStart, ServoEnv, Sight
from actors.scenes.poses import CameraSampler, shrink_pose
from actors.tasks import Task
from actors.workshop import Track, Workshop, act, append, episodes, fixed_fields, flags
from common.config import ImitationConfig, PhaseConfig
from common.episode import Episode
from common.protocols import F32, Observation
from common.rng import Purpose, philox
from common.servo import pbvs_twist, relative_pose


def collect_pairs(shop: Workshop, task: Task, phase: PhaseConfig) -> Iterator[Episode]:
    """Uniform pairs: per scene one desired view and several current views, some pulled close to the goal."""
    settings = phase.imitation
    starts = shop.starts(task, shop.config.scenes.imitation_mix, Purpose.SCENE)
    env = shop.env(task.num_envs, phase.reward)
    goal = env.reset(starts, masks=False)
    scenes, meshes = shop.config.scenes, shop.stock.assets
    cameras = [CameraSampler(scenes, shop.config.env, start.scene, meshes) for start in starts]
    views: list[Sight] = []
    poses, twists = [], []
    for view in range(settings.views_per_scene):
        drawn = [_view_pose(shop, task, settings, cameras[i], start, i, view) for i, start in enumerate(starts)]
        env.world_T_cam = np.stack(drawn)
        poses.append(env.world_T_cam)
        twists.append(_expert(env))
        views.append(env.look(image=True, geometry=True, masks=False))
    shop.account(env)
    matches = [_match(shop, env, sight, goal, pose) for sight, pose in zip(views, poses, strict=True)]
    for i, start in enumerate(starts):
        rows = {
            "image": _rows(views, "rgb", i),
            "mask": _rows(views, "image_mask", i),
            "match": np.stack([m[i] for m in matches]),
            "expert_twist": np.stack([t[i] for t in twists]),
            "world_T_cam": np.stack([p[i] for p in poses]),
        }
        rows["label_valid"] = _label_valid(rows["expert_twist"], rows["mask"], settings.max_label_norm)
        yield Episode(shop.meta(task, task.first_env + i, start), rows, fixed_fields(env, i, goal))


def _view_pose(
    shop: Workshop,
    task: Task,
    settings: ImitationConfig,
    cameras: CameraSampler,
    start: EpisodeStart,
    index: int,
    view: int,
) -> NDArray[np.float64]:
    """Start pose of one view: the scene's own for view 0, a fresh one otherwise, pulled to the goal for a share."""
    key = {"round": task.round, "env": task.first_env + index, "step": view}
    rng = philox(shop.config.seed, Purpose.PAIR_SHRINK, **key)
    pose = start.world_T_cam
    if view:
        pose = cameras.start(philox(shop.config.seed, Purpose.CAMERA, **key), start.goal_world_T_cam)
    if rng.random() < settings.shrink_share:
        pose = shrink_pose(start.goal_world_T_cam, pose, float(np.exp(-rng.uniform(0.0, settings.shrink_max))))
    return pose


def collect_dagger(shop: Workshop, task: Task, phase: PhaseConfig) -> Iterator[Episode]:
    """The policy acts, the expert labels every state it comes to."""
    settings = phase.imitation
    starts = shop.starts(task, shop.config.scenes.imitation_mix, Purpose.DAGGER_MIX)
    env = shop.env(task.num_envs, phase.reward)
    goal = env.reset(starts, masks=False)
    policy, ids = shop.policy, np.arange(task.num_envs, dtype=np.int64)
    policy.reset(ids, env.goal())
    track: Track = {}
    for step in range(settings.dagger_steps + 1):
        sight = env.look(image=True, geometry=True, masks=False)
        assert sight.rgb is not None and sight.image_mask is not None
        twist = _expert(env)
        row: dict[str, NDArray[Any]] = {
            "image": sight.rgb,
            "mask": sight.image_mask,
            "match": _match(shop, env, sight, goal, env.world_T_cam),
            "expert_twist": twist,
            "label_valid": _label_valid(twist, sight.image_mask, settings.max_label_norm),
            "world_T_cam": env.world_T_cam,
        }
        if step < settings.dagger_steps:
            action = act(shop, policy, ids, Observation(sight.rgb)).twist
            _, applied = env.move(action)
        else:
            action = applied = np.zeros((task.num_envs, 6), dtype=np.float32)
        row |= {"action": action, "twist_applied": applied} | flags(task.num_envs, step, settings.dagger_steps)
        append(track, row)
    shop.account(env)
    yield from episodes(shop, task, env, starts, track, goal)


def _expert(env: ServoEnv) -> F32:
    """PBVS on the true poses (CNSv2 eq. 5), normalised."""
    return pbvs_twist(relative_pose(env.world_T_cam, env.goal_world_T_cam), d_star=env.d_star).astype(np.float32)


def _label_valid(twist: NDArray[Any], mask: NDArray[Any], max_norm: float) -> NDArray[np.bool_]:
    """A label counts if it is not extreme and the target is in view."""
    return np.asarray((np.linalg.norm(twist, axis=-1) <= max_norm) & mask.any(axis=(-2, -1)))


def _match(shop: Workshop, env: ServoEnv, sight: Sight, goal: Sight, poses: NDArray[np.float64]) -> NDArray[Any]:
    assert sight.depth is not None and goal.depth is not None
    grid = shop.config.network.match_grid
    return match_grid(sight.depth, goal.depth, poses, env.goal_world_T_cam, env.intrinsics, grid)


def _rows(views: list[Sight], name: str, i: int) -> NDArray[Any]:
    return np.stack([getattr(v, name)[i] for v in views])
