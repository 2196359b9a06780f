"""Small configurations and records that the learner tests share."""

import dataclasses

import numpy as np
import torch

from common.config import NetworkConfig, PhaseConfig, PPOConfig, RunConfig, SelfImitationConfig
from common.episode import Episode, EpisodeMeta
from common.geometry import make_pose, so3_exp
from common.identity import EpisodeId
from common.networks.servo_net import ServoNet, encoder_sha256, get_weights

NETWORK = NetworkConfig(feature_dim=32, policy_hidden=[32], value_hidden=[32], diffusion_hidden=32)
KINDS = ("il", "value_warmup", "ppo", "sil")


def run_config(seed=0, **ppo):
    settings = PPOConfig(**{"minibatch": 20, "epochs": 3, "kl_stop": 1e9} | ppo)
    sil = SelfImitationConfig(minibatch=20, epochs=2)
    return RunConfig(
        seed=seed,
        network=NETWORK,
        schedule=list(KINDS),
        phases={
            "il": PhaseConfig(kind="imitation", train=["encoder.", "diffusion.", "policy."], samples=80),
            "value_warmup": PhaseConfig(kind="value_warmup", train=["value."], samples=100, ppo=settings),
            "ppo": PhaseConfig(kind="ppo", train=["policy.", "log_std", "value."], samples=100, ppo=settings),
            "sil": PhaseConfig(kind="self_imitation", train=["policy."], samples=100, self_imitation=sil),
        },
    )


def poses(rng, n, spread=0.2):
    return make_pose(so3_exp(rng.normal(size=(n, 3)) * spread), rng.normal(size=(n, 3)) * spread)


def raw_batch(seed=0, rows=8, episodes=4):
    rng = np.random.default_rng(seed)
    match = rng.random((rows, 8, 8, 2)).astype(np.float16)
    match[:, :2] = np.nan
    return {
        "image": rng.integers(0, 256, (rows, 64, 64, 3), dtype=np.uint8),
        "mask": rng.random((rows, 64, 64)) > 0.5,
        "match": match,
        "expert_twist": (rng.normal(size=(rows, 6)) * 0.3).astype(np.float32),
        "label_valid": np.arange(rows) != 1,
        "world_T_cam": poses(rng, rows),
        "goal_image": rng.integers(0, 256, (episodes, 64, 64, 3), dtype=np.uint8),
        "goal_mask": rng.random((episodes, 64, 64)) > 0.5,
        "goal_world_T_cam": poses(rng, episodes),
        "d_star": np.full(episodes, 0.7, np.float32),
        "episode_index": np.arange(rows) * episodes // rows,
    }


def make_episode(net, seed, steps=10, *, terminated=False, iou=None, sha=None):
    """A rollout of the network's own Gaussian on random features, with the log-probabilities computed here."""
    rng = np.random.default_rng(seed)
    rows = steps + 1
    z = rng.normal(size=(rows, net.cfg.feature_dim)).astype(np.float32)
    with torch.no_grad():
        # One row at a time: the learner computes in minibatches, and must still agree.
        inputs = torch.cat([net.action_dist_inputs(torch.from_numpy(row[None])) for row in z]).numpy()
        value = net.value(torch.from_numpy(z)).numpy()
    mean, log_std = inputs[:, :6], inputs[:, 6:]
    noise = rng.normal(size=(rows, 6)).astype(np.float32)
    action = mean + np.exp(log_std) * noise
    logp = (-0.5 * ((action - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)).sum(1)
    valid = np.arange(rows) < steps
    action[~valid] = 0.0
    ends = np.arange(rows) == steps - 1
    zeros = np.zeros(rows, np.float32)
    fields = {
        "world_T_cam": poses(rng, rows),
        "action": action,
        "twist_applied": action,
        "action_valid": valid,
        "terminated": ends & terminated,
        "truncated": ends & (not terminated),
        "iou": np.linspace(0.5, 0.9, rows, dtype=np.float32) if iou is None else np.asarray(iou, np.float32),
        "reward": (rng.normal(size=rows) * valid).astype(np.float32),
        "z": z,
        "logp": logp.astype(np.float32) * valid,
        "action_dist_inputs": inputs,
        "value": value,
    }
    for name in ("iou", "center", "visibility", "action", "success"):
        fields[f"reward_{name}"] = zeros
    fixed = {
        "goal_world_T_cam": np.eye(4),
        "intrinsics": np.array([60.0, 60.0, 32.0, 32.0]),
        "d_star": np.float32(0.7).reshape(()),
        "dt": np.float32(0.12).reshape(()),
        "gain": np.float32(1.0).reshape(()),
    }
    meta = EpisodeMeta(
        id=EpisodeId("test", 0, "rollout", 0, seed),
        kind="rollout",
        phase="ppo",
        policy="learned",
        policy_version=None,
        target_id=1,
        scene="{}",
        scene_seed=0,
        collector="here",
        encoder_sha256=encoder_sha256(get_weights(net)) if sha is None else sha,
    )
    return Episode(meta, fields, {k: np.asarray(v) for k, v in fixed.items()})


def make_episodes(net, count=6, seed=0, **kwargs):
    return [make_episode(net, seed * 100 + i, **kwargs) for i in range(count)]


def fresh_net(seed=0):
    torch.manual_seed(seed)
    return ServoNet(dataclasses.replace(NETWORK))
