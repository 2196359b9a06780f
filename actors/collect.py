"""The collection loops: each turns a task into episodes. Plain functions, batched over environments.

`collect` is the way in. What they need stands in a `Workshop`, built once per collector process.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.classical import make_policy
from actors.correspondence import match_grid
from actors.env import EpisodeStart, ServoEnv, Sight
from actors.learned_policy import LearnedPolicy
from actors.mesh_library import mesh_library
from actors.poses import shrink_pose
from actors.starts import sample_start
from actors.suite import held_out_suite
from actors.tasks import Task
from common.config import PhaseConfig, RewardConfig, RunConfig
from common.episode import Episode, EpisodeMeta
from common.identity import EpisodeId
from common.protocols import F32, I64, Observation, Policy, Renderer
from common.rng import Purpose, philox
from common.servo import pbvs_twist, relative_pose


@dataclasses.dataclass
class Workshop:
    """What collection needs and a collector builds once.

    Attributes:
        config: of the run.
        run_id: first part of every episode id.
        renderer: with room for the largest task's environments.
        policy: the learned policy; weights are set before each task.
        collector: name of the process, for provenance.
        hashes: renderer, assets_sha256, code_sha256 and config_sha256 of every episode's meta.
    """

    config: RunConfig
    run_id: str
    renderer: Renderer
    policy: LearnedPolicy
    collector: str
    hashes: dict[str, str]
    frames: int = 0
    seconds: dict[str, float] = dataclasses.field(default_factory=lambda: {"render": 0.0, "policy": 0.0})

    def __post_init__(self) -> None:
        scenes = self.config.scenes
        self.library = mesh_library(self.config.seed, scenes.train_meshes, scenes.shapes, split="train")

    def env(self, num_envs: int, reward: RewardConfig) -> ServoEnv:
        """An environment over the first `num_envs` slots of the renderer."""
        return ServoEnv(self.renderer, self.config.env, reward, num_envs)

    def account(self, env: ServoEnv) -> None:
        """Add an environment's rendering to the totals."""
        self.frames += env.frames_rendered
        self.seconds["render"] += env.render_seconds

    def starts(self, task: Task, mix: dict[str, float], purpose: Purpose) -> list[EpisodeStart]:
        """The task's starts, drawn by (seed, purpose, round, env)."""
        scenes, seed = self.config.scenes, self.config.seed
        return [
            sample_start(
                scenes, self.config.env, self.library, mix, seed=seed, purpose=purpose, round=task.round, env=e
            )
            for e in range(task.first_env, task.last_env)
        ]

    def meta(self, task: Task, env: int, start: EpisodeStart) -> EpisodeMeta:
        """Provenance of one episode."""
        role = f"{task.phase}_{task.kind}"
        return EpisodeMeta(
            id=EpisodeId(self.run_id, task.lineage, role, task.round, env),
            kind=task.kind,
            phase=task.phase,
            policy=task.policy,
            policy_version=task.version,
            target_id=start.scene.target_id,
            scene=start.scene.to_json(),
            scene_seed=start.scene.seed,
            collector=self.collector,
            encoder_sha256=self.policy.encoder_sha256 if task.kind == "rollout" else "",
            **self.hashes,
        )


def collect(shop: Workshop, task: Task) -> Iterator[Episode]:
    """Do a task; episodes come in order of their environment.

    Raises:
        KeyError: if the task names a phase that the configuration lacks.
    """
    if task.kind == "evaluation":
        yield from _evaluation(shop, task)
    elif task.kind == "pairs":
        yield from _pairs(shop, task, shop.config.phases[task.phase])
    elif task.kind == "dagger":
        yield from _dagger(shop, task, shop.config.phases[task.phase])
    else:
        yield from _rollouts(shop, task, shop.config.phases[task.phase])


def _pairs(shop: Workshop, task: Task, phase: PhaseConfig) -> Iterator[Episode]:
    """Uniform pairs: per scene one desired view and several current views, some pulled close to the goal."""
    settings = phase.imitation
    starts = shop.starts(task, shop.config.scenes.imitation_mix, Purpose.SCENE)
    env = shop.env(task.num_envs, phase.reward)
    goal = env.reset(starts, masks=False)
    views: list[Sight] = []
    poses, twists = [], []
    for view in range(settings.views_per_scene):
        env.world_T_cam = np.stack([_view_pose(shop, task, settings, start, i, view) for i, start in enumerate(starts)])
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
        yield Episode(shop.meta(task, task.first_env + i, start), rows, _fixed(env, i, goal))


def _view_pose(
    shop: Workshop, task: Task, settings: Any, start: EpisodeStart, index: int, view: int
) -> NDArray[np.float64]:
    """Start pose of one view: the scene's own for view 0, a fresh one otherwise, pulled to the goal for a share."""
    key = {"round": task.round, "env": task.first_env + index, "step": view}
    rng = philox(shop.config.seed, Purpose.PAIR_SHRINK, **key)
    pose = start.world_T_cam
    if view:
        pose = sample_view(shop, start, **key)
    if rng.random() < settings.shrink_share:
        pose = shrink_pose(start.goal_world_T_cam, pose, float(np.exp(-rng.uniform(0.0, settings.shrink_max))))
    return pose


def sample_view(shop: Workshop, start: EpisodeStart, *, round: int, env: int, step: int) -> NDArray[np.float64]:
    """Another start pose for the same scene and goal."""
    from actors.poses import sample_start_pose

    rng = philox(shop.config.seed, Purpose.CAMERA, round=round, env=env, step=step)
    return sample_start_pose(rng, shop.config.scenes, shop.config.env, start.scene, start.goal_world_T_cam)


def _dagger(shop: Workshop, task: Task, phase: PhaseConfig) -> Iterator[Episode]:
    """The policy acts, the expert labels every state it comes to."""
    settings = phase.imitation
    starts = shop.starts(task, shop.config.scenes.imitation_mix, Purpose.DAGGER_MIX)
    env = shop.env(task.num_envs, phase.reward)
    goal = env.reset(starts, masks=False)
    policy, ids = shop.policy, np.arange(task.num_envs, dtype=np.int64)
    policy.reset(ids, env.goal())
    track: dict[str, list[NDArray[Any]]] = {}
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
            action = _act(shop, policy, ids, Observation(sight.rgb)).twist
            _, applied = env.move(action)
        else:
            action = applied = np.zeros((task.num_envs, 6), dtype=np.float32)
        row |= {"action": action, "twist_applied": applied} | _flags(task.num_envs, step, settings.dagger_steps)
        _append(track, row)
    shop.account(env)
    yield from _episodes(shop, task, env, starts, track, goal)


def _rollouts(shop: Workshop, task: Task, phase: PhaseConfig) -> Iterator[Episode]:
    """RL and self-imitation rollouts: z is computed once, while acting, and stored instead of images."""
    steps = phase.self_imitation.steps if phase.kind == "self_imitation" else phase.ppo.steps
    starts = shop.starts(task, shop.config.scenes.rl_mix, Purpose.SCENE)
    yield from _episodes(shop, task, *_run(shop, task, starts, phase.reward, steps, shop.policy))


def _evaluation(shop: Workshop, task: Task) -> Iterator[Episode]:
    """Deterministic episodes on the held-out suite, by any policy."""
    settings = shop.config.evaluation
    starts = held_out_suite(shop.config).starts[task.first_env : task.last_env]
    policy: Policy = shop.policy if task.policy == "learned" else make_policy(task.policy)
    env, _, track, goal = _run(shop, task, starts, RewardConfig(), settings.steps, policy)
    keep = ("world_T_cam", "action", "twist_applied", "action_valid", "terminated", "truncated", "iou")
    yield from _episodes(shop, task, env, starts, {k: track[k] for k in keep}, goal)


def _run(
    shop: Workshop, task: Task, starts: Sequence[EpisodeStart], reward: RewardConfig, steps: int, policy: Policy
) -> tuple[ServoEnv, Sequence[EpisodeStart], dict[str, list[NDArray[Any]]], Sight]:
    """Act for a fixed horizon; the final row holds the last observation, and for learned policies its z and value."""
    env = shop.env(task.num_envs, reward)
    learned = isinstance(policy, LearnedPolicy)
    goal = env.reset(starts)
    ids = np.arange(task.num_envs, dtype=np.int64)
    policy.reset(ids, env.goal())
    noise = _noise(shop, task, steps) if task.explore else None
    sight = env.look(image=learned, masks=True)
    iou = env.iou(sight)
    zeros = np.zeros(task.num_envs, dtype=np.float32)
    track: dict[str, list[NDArray[Any]]] = {}
    blank = np.zeros((task.num_envs, 1, 1, 3), dtype=np.uint8)
    for step in range(steps + 1):
        rgb = sight.rgb if sight.rgb is not None else blank
        row: dict[str, NDArray[Any]] = {"world_T_cam": env.world_T_cam, "iou": iou}
        if learned:
            began = time.perf_counter()
            out = shop.policy.act(ids, Observation(rgb), None if noise is None or step == steps else noise[:, step])
            shop.seconds["policy"] += time.perf_counter() - began
        else:
            out = _act(shop, policy, ids, Observation(rgb, sight.mask, env.world_T_cam))
        row |= out.aux
        if step < steps:
            result, sight = env.step(out.twist, image=learned)
            row |= {"action": out.twist, "twist_applied": result.twist_applied, **result.rewards}
            iou = result.iou
        else:
            still = np.zeros((task.num_envs, 6), dtype=np.float32)
            row |= {"action": still, "twist_applied": still} | dict.fromkeys(_reward_names(track), zeros)
        _append(track, row | _flags(task.num_envs, step, steps))
    shop.account(env)
    return env, starts, track, goal


def _noise(shop: Workshop, task: Task, steps: int) -> F32:
    """Exploration noise (N, steps, 6), one stream per environment, so that it does not depend on the sharding."""
    seed, round_ = shop.config.seed, task.round
    streams = [
        philox(seed, Purpose.EXPLORATION, round=round_, env=e, step=task.version.counter if task.version else 0)
        for e in range(task.first_env, task.last_env)
    ]
    return np.stack([s.standard_normal((steps, 6), dtype=np.float32) for s in streams])


def _act(shop: Workshop, policy: Policy, ids: I64, observation: Observation) -> Any:
    began = time.perf_counter()
    out = policy.act(ids, observation)
    shop.seconds["policy"] += time.perf_counter() - began
    return out


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


def _flags(n: int, step: int, steps: int) -> dict[str, NDArray[Any]]:
    """Episodes have a fixed horizon: never terminated, truncated by their last action."""
    return {
        "action_valid": np.full(n, step < steps),
        "terminated": np.zeros(n, dtype=bool),
        "truncated": np.full(n, step == steps - 1),
    }


def _reward_names(track: dict[str, list[NDArray[Any]]]) -> list[str]:
    return [name for name in track if name.startswith("reward")]


def _append(track: dict[str, list[NDArray[Any]]], row: dict[str, NDArray[Any]]) -> None:
    for name, array in row.items():
        track.setdefault(name, []).append(array)


def _rows(views: list[Sight], name: str, i: int) -> NDArray[Any]:
    return np.stack([getattr(v, name)[i] for v in views])


def _fixed(env: ServoEnv, i: int, goal: Sight) -> dict[str, NDArray[Any]]:
    assert goal.rgb is not None and goal.image_mask is not None
    return {"goal_image": goal.rgb[i], "goal_mask": goal.image_mask[i], **_geometry(env, i)}


def _geometry(env: ServoEnv, i: int) -> dict[str, NDArray[Any]]:
    return {
        "goal_world_T_cam": env.goal_world_T_cam[i],
        "intrinsics": env.intrinsics[i],
        "d_star": np.array(env.d_star[i], dtype=np.float32),
        "dt": np.array(env.config.dt, dtype=np.float32),
        "gain": np.array(env.config.gain, dtype=np.float32),
    }


def _episodes(
    shop: Workshop,
    task: Task,
    env: ServoEnv,
    starts: Sequence[EpisodeStart],
    track: dict[str, list[NDArray[Any]]],
    goal: Sight,
) -> Iterator[Episode]:
    stacked = {name: np.stack(arrays, axis=1) for name, arrays in track.items()}
    for i, start in enumerate(starts):
        rows = {name: np.ascontiguousarray(array[i]) for name, array in stacked.items()}
        fixed = _fixed(env, i, goal) if "image" in rows else _geometry(env, i)
        yield Episode(shop.meta(task, task.first_env + i, start), rows, fixed)
