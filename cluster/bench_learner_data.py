"""Records for the bench of the learner: shaped like the quick start's, with contents that cost nothing to make."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from common.config import RunConfig
from common.episode import Episode, EpisodeMeta
from common.identity import EpisodeId
from common.networks.servo_net import ServoNet, encoder_sha256, get_weights
from common.rng import Purpose, philox


def _meta(kind: Any, phase: str, number: int, sha: str) -> EpisodeMeta:
    return EpisodeMeta(
        EpisodeId("bench", 0, "rollout" if kind == "rollout" else "pairs", 0, number), kind, phase, "learned", None, 1,
        "{}", number, "bench", encoder_sha256=sha,
    )  # fmt: skip


def _poses(rows: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.broadcast_to(np.eye(4), (rows, 4, 4)).copy()


def _fixed(config: RunConfig) -> dict[str, np.ndarray[Any, Any]]:
    half = config.env.image_size / 2
    return {
        "goal_world_T_cam": np.eye(4),
        "intrinsics": np.array([half, half, half, half], np.float64),
        "d_star": np.asarray(0.7, np.float32),
    }


def pair_block(config: RunConfig, phase: str, number: int) -> Episode:
    """A pair block of noise with as many views as the configuration says."""
    rng = philox(config.seed, Purpose.SCENE, env=number)
    rows, side = config.phases[phase].imitation.views_per_scene, config.env.image_size
    grid, mask = config.network.match_grid, config.env.image_size
    steps = {
        "image": rng.integers(0, 256, (rows, side, side, 3), dtype=np.uint8),
        "mask": rng.random((rows, mask, mask)) > 0.5,
        "match": rng.random((rows, grid, grid, 2)).astype(np.float16),
        "expert_twist": (0.3 * rng.standard_normal((rows, 6))).astype(np.float32),
        "label_valid": np.ones(rows, np.bool_),
        "world_T_cam": _poses(rows),
    }
    goal = {
        "goal_image": rng.integers(0, 256, (side, side, 3), dtype=np.uint8),
        "goal_mask": rng.random((mask, mask)) > 0.5,
    }
    return Episode(_meta("pairs", phase, number, ""), steps, _fixed(config) | goal)


def rollout(config: RunConfig, net: ServoNet, number: int, steps: int) -> Episode:
    """A rollout of the network's own Gaussian on random features; it is cut, and near its goal at the end."""
    rng = philox(config.seed, Purpose.EXPLORATION, env=number)
    rows = steps + 1
    z = rng.standard_normal((rows, config.network.feature_dim)).astype(np.float32)
    with torch.no_grad():
        inputs = net.action_dist_inputs(torch.from_numpy(z)).numpy()
        value = net.value(torch.from_numpy(z)).numpy()
    noise = rng.standard_normal((rows, 6)).astype(np.float32)
    acted = np.arange(rows) < steps
    action = (inputs[:, :6] + np.exp(inputs[:, 6:]) * noise) * acted[:, None]
    logp = (-0.5 * noise**2 - inputs[:, 6:] - 0.5 * np.log(2 * np.pi)).sum(1) * acted
    fields = {
        "world_T_cam": _poses(rows),
        "action": action.astype(np.float32),
        "twist_applied": action.astype(np.float32),
        "action_valid": acted,
        "terminated": np.zeros(rows, np.bool_),
        "truncated": np.arange(rows) == steps - 1,
        "iou": np.linspace(0.3, 0.99, rows, dtype=np.float32),
        "reward": (rng.standard_normal(rows) * acted).astype(np.float32),
        "z": z,
        "logp": logp.astype(np.float32),
        "action_dist_inputs": inputs,
        "value": value,
    }
    fields |= {f"reward_{n}": np.zeros(rows, np.float32) for n in ("iou", "center", "visibility", "action", "success")}
    acting = {"dt": np.asarray(0.12, np.float32), "gain": np.asarray(1.0, np.float32)}
    meta = _meta("rollout", "ppo", number, encoder_sha256(get_weights(net)))
    return Episode(meta, fields, _fixed(config) | acting)
