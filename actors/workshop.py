"""What collection needs, built once per collector process, and how tracks of steps become episodes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.env import EpisodeStart, ServoEnv, Sight
from actors.learned_policy import LearnedPolicy
from actors.scenes.models import open_stock
from actors.scenes.starts import sample_start
from actors.tasks import Task
from common.config import RewardConfig, RunConfig
from common.episode import Episode, EpisodeMeta
from common.identity import EpisodeId
from common.protocols import F32, I64, Observation, Policy, PolicyOutput, Renderer
from common.rng import Purpose

Track = dict[str, list[NDArray[Any]]]


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
        self._env: ServoEnv | None = None
        self._steps = 0
        scenes = self.config.scenes
        self.stock = open_stock(scenes, self.config.seed, scenes.train_meshes, "train")
        self.renderer.load(self.stock.assets)

    def env(self, num_envs: int, reward: RewardConfig) -> ServoEnv:
        """An environment over the first `num_envs` slots of the renderer."""
        self._steps = self.progress + 1
        self._env = ServoEnv(self.renderer, self.config.env, reward, num_envs, self.stock.assets)
        return self._env

    @property
    def progress(self) -> int:
        """A number that grows with every frame and every action; any thread may ask."""
        env = self._env
        return self._steps + (env.frames_rendered if env is not None else 0)

    def step(self) -> None:
        """Something was done."""
        self._steps += 1

    def account(self, env: ServoEnv) -> None:
        """Add an environment's rendering to the totals."""
        self.frames += env.frames_rendered
        self.seconds["render"] += env.render_seconds

    def starts(self, task: Task, mix: dict[str, float], purpose: Purpose) -> list[EpisodeStart]:
        """The task's starts, drawn by (seed, purpose, round, env)."""
        scenes, seed = self.config.scenes, self.config.seed
        return [
            sample_start(
                scenes,
                self.config.env,
                self.stock.models,
                mix,
                seed=seed,
                purpose=purpose,
                round=task.round,
                env=e,
                meshes=self.stock.assets,
                images=self.stock.images,
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


def act(shop: Workshop, policy: Policy, ids: I64, observation: Observation, noise: F32 | None = None) -> PolicyOutput:
    """Let a policy act, and count its time; `noise` (N, 6) is for the learned policy, which alone explores."""
    began = time.perf_counter()
    out = policy.act(ids, observation) if noise is None else shop.policy.act(ids, observation, noise)
    shop.seconds["policy"] += time.perf_counter() - began
    shop.step()
    return out


def flags(n: int, step: int, steps: int) -> dict[str, NDArray[Any]]:
    """Episodes have a fixed horizon: never terminated, truncated by their last action."""
    return {
        "action_valid": np.full(n, step < steps),
        "terminated": np.zeros(n, dtype=bool),
        "truncated": np.full(n, step == steps - 1),
    }


def append(track: Track, row: dict[str, NDArray[Any]]) -> None:
    """Add one step of all environments, arrays (N, ...), to a track."""
    for name, array in row.items():
        track.setdefault(name, []).append(array)


def fixed_fields(env: ServoEnv, i: int, goal: Sight) -> dict[str, NDArray[Any]]:
    """Episode-level arrays of environment `i`, images included."""
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


def episodes(
    shop: Workshop,
    task: Task,
    env: ServoEnv,
    starts: Sequence[EpisodeStart],
    track: Track,
    goal: Sight,
) -> Iterator[Episode]:
    """Cut a track into one episode per environment; images are kept where the track has them."""
    stacked = {name: np.stack(arrays, axis=1) for name, arrays in track.items()}
    for i, start in enumerate(starts):
        rows = {name: np.ascontiguousarray(array[i]) for name, array in stacked.items()}
        fixed = fixed_fields(env, i, goal) if "image" in rows else _geometry(env, i)
        yield Episode(shop.meta(task, task.first_env + i, start), rows, fixed)
