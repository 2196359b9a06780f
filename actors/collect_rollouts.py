"""Rollouts for RL and self-imitation, which store z instead of images, and evaluation episodes of any policy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.classical import make_policy
from actors.closed_loop import ClosedLoopPolicy
from actors.env import EpisodeStart, ServoEnv, Sight
from actors.scenes.suite import held_out_suite
from actors.tasks import Task
from actors.workshop import Track, Workshop, act, append, episodes, flags
from common.config import PhaseConfig, RewardConfig
from common.episode import Episode
from common.networks.exported_policy import load_export
from common.protocols import F32, Observation, Policy
from common.rng import Purpose, philox

EXPORT = "export:"  # before the folder of an exported policy, where the name of a policy is asked for


def collect_rollouts(shop: Workshop, task: Task, phase: PhaseConfig) -> Iterator[Episode]:
    """RL and self-imitation rollouts: z is computed once, while acting, and stored instead of images."""
    steps = phase.self_imitation.steps if phase.kind == "self_imitation" else phase.ppo.steps
    starts = shop.starts(task, shop.config.scenes.rl_mix, Purpose.SCENE)
    yield from episodes(shop, task, *_run(shop, task, starts, phase.reward, steps, shop.policy))


def collect_evaluation(shop: Workshop, task: Task) -> Iterator[Episode]:
    """Deterministic episodes on the held-out suite, by any policy."""
    settings = shop.config.evaluation
    starts = held_out_suite(shop.config).starts[task.first_env : task.last_env]
    policy: Policy
    if task.policy == "learned":
        policy = ClosedLoopPolicy(shop.policy, settings, seed=settings.seed, first_env=task.first_env)
    elif task.policy.startswith(EXPORT):
        policy = load_export(task.policy.removeprefix(EXPORT))
    else:
        policy = make_policy(task.policy)
    env, _, track, goal = _run(shop, task, starts, RewardConfig(), settings.steps, policy)
    keep = ("world_T_cam", "action", "twist_applied", "action_valid", "terminated", "truncated", "iou")
    yield from episodes(shop, task, env, starts, {k: track[k] for k in keep}, goal)


def _run(
    shop: Workshop, task: Task, starts: Sequence[EpisodeStart], reward: RewardConfig, steps: int, policy: Policy
) -> tuple[ServoEnv, Sequence[EpisodeStart], Track, Sight]:
    """Act for a fixed horizon; the final row holds the last observation, and for learned policies its z and value."""
    env = shop.env(task.num_envs, reward)
    learned = task.policy == "learned" or task.policy.startswith(EXPORT)
    goal = env.reset(starts)
    ids = np.arange(task.num_envs, dtype=np.int64)
    policy.reset(ids, env.goal())
    noise = _noise(shop, task, steps) if task.explore else None
    sight = env.look(image=learned, masks=True)
    iou = env.iou(sight)
    zeros = np.zeros(task.num_envs, dtype=np.float32)
    track: Track = {}
    blank = np.zeros((task.num_envs, 1, 1, 3), dtype=np.uint8)
    for step in range(steps + 1):
        rgb = sight.rgb if sight.rgb is not None else blank
        row: dict[str, NDArray[Any]] = {"world_T_cam": env.world_T_cam, "iou": iou}
        seen = Observation(rgb) if learned else Observation(rgb, sight.mask, env.world_T_cam)
        out = act(shop, policy, ids, seen, None if noise is None or step == steps else noise[:, step])
        row |= out.aux
        if step < steps:
            result, sight = env.step(out.twist, image=learned)
            row |= {"action": out.twist, "twist_applied": result.twist_applied, **result.rewards}
            iou = result.iou
        else:
            still = np.zeros((task.num_envs, 6), dtype=np.float32)
            row |= {"action": still, "twist_applied": still} | dict.fromkeys(_reward_names(track), zeros)
        append(track, row | flags(task.num_envs, step, steps))
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


def _reward_names(track: Track) -> list[str]:
    return [name for name in track if name.startswith("reward")]
