"""Replay records -> learner inputs: imitation batches, RLlib episodes for PPO, (z, target) rows for self-imitation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from common.episode import Episode
from common.errors import EncoderMismatchError, SchemaError, TrainingError
from common.geometry import inverse_pose, so3_log
from common.networks.servo_net import Weights

# Step-level and episode-level fields that an imitation batch is made of.
IMITATION_FIELDS: tuple[str, ...] = (
    "image",
    "mask",
    "match",
    "expert_twist",
    "label_valid",
    "world_T_cam",
    "goal_image",
    "goal_mask",
    "goal_world_T_cam",
    "d_star",
)
_PASSED_ON = ("image", "goal_image", "episode_index", "mask", "goal_mask", "match", "expert_twist", "label_valid")


def relative_pose(world_T_cam: ArrayLike, goal_world_T_cam: ArrayLike, d_star: ArrayLike) -> NDArray[np.float32]:
    """What the diffusion head models: the goal camera in the current camera frame.

    Args:
        world_T_cam: (N, 4, 4) current poses.
        goal_world_T_cam: (N, 4, 4).
        d_star: (N,) [m].

    Returns:
        f32 (N, 6) = [translation of c_T_d / d*; rotation vector of c_T_d in rad].
    """
    c_T_d = inverse_pose(world_T_cam) @ np.asarray(goal_world_T_cam, dtype=np.float64)
    t = c_T_d[:, :3, 3] / np.asarray(d_star, dtype=np.float64)[:, None]
    return np.concatenate([t, so3_log(c_T_d[:, :3, :3])], axis=1).astype(np.float32)


def imitation_batch(raw: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """What `ImitationLearner` learns from.

    Args:
        raw: `IMITATION_FIELDS`, step fields (B, ...) and episode fields (E, ...), and `episode_index` int (B,), the
            episode of each row.

    Returns:
        The fields the losses read, and x0 f32 (B, 6) of `relative_pose`.

    Raises:
        SchemaError: naming a missing field, or an index that points nowhere.
    """
    missing = [name for name in (*IMITATION_FIELDS, "episode_index") if name not in raw]
    if missing:
        raise SchemaError(f"imitation batch lacks {missing}")
    index = np.asarray(raw["episode_index"], dtype=np.int64)
    episodes = len(raw["goal_image"])
    if len(index) == 0 or index.min() < 0 or index.max() >= episodes:
        raise SchemaError(f"episode_index = {index.tolist()[:8]}...: allowed is 0 .. {episodes - 1}, at least one row")
    out = {name: np.ascontiguousarray(raw[name]) for name in _PASSED_ON}
    out["episode_index"] = index
    out["match"] = out["match"].astype(np.float32)
    out["x0"] = relative_pose(raw["world_T_cam"], raw["goal_world_T_cam"][index], raw["d_star"][index])
    return out


def check_encoder(episodes: Sequence[Episode], sha256: str) -> None:
    """Refuse features of another encoder than `sha256`; z of two encoders share nothing but their shape.

    Raises:
        EncoderMismatchError: naming the episode and both hashes.
    """
    for episode in episodes:
        if episode.meta.encoder_sha256 != sha256:
            raise EncoderMismatchError(
                f"episode {episode.meta.id}: z is of encoder {episode.meta.encoder_sha256 or '(none)'}, "
                f"the learner's encoder is {sha256}"
            )


def ppo_episodes(episodes: Sequence[Episode]) -> list[SingleAgentEpisode]:
    """RLlib episodes with z as observation; T actions between T + 1 observations.

    An episode that did not end for good counts as cut, so its last value is bootstrapped.

    Raises:
        SchemaError: if a record is not one episode of at least one action, all rows but the last acted.
    """
    out = []
    for episode in episodes:
        steps, t = episode.steps, episode.num_rows - 1
        acted = steps["action_valid"]
        if t < 1 or not acted[:-1].all() or acted[-1]:
            raise SchemaError(f"episode {episode.meta.id}: action_valid must hold in every row but the last")
        if steps["terminated"][: t - 1].any() or steps["truncated"][: t - 1].any():
            raise SchemaError(f"episode {episode.meta.id}: it goes on after it ended")
        terminated = bool(steps["terminated"][t - 1])
        out.append(
            SingleAgentEpisode(
                id_=str(episode.meta.id),
                observations=list(steps["z"]),
                actions=list(steps["action"][:t]),
                rewards=steps["reward"][:t].astype(np.float64).tolist(),
                terminated=terminated,
                truncated=not terminated,
                extra_model_outputs={
                    Columns.ACTION_LOGP: list(steps["logp"][:t]),
                    Columns.ACTION_DIST_INPUTS: list(steps["action_dist_inputs"][:t]),
                },
                len_lookback_buffer=0,
            )
        )
    return out


def self_imitation_rows(episodes: Sequence[Episode], success_iou: float) -> Weights:
    """Rows of successful trajectories with the targets of Sym-Servo eq. 11.

    Until the first row whose IoU exceeds `success_iou` the target is the action that was taken, from that row on zero.
    The final observation has no action; it counts where its target is zero.

    Returns:
        obs f32 (N, feature_dim) and target f32 (N, 6).

    Raises:
        TrainingError: if no trajectory is successful.
    """
    obs, targets = [], []
    for episode in episodes:
        successful = np.flatnonzero(episode.steps["iou"] > success_iou)
        if not len(successful):
            continue
        target = episode.steps["action"].astype(np.float32, copy=True)
        target[successful[0] :] = 0.0
        obs.append(episode.steps["z"])
        targets.append(target)
    if not obs:
        raise TrainingError(
            f"none of {len(episodes)} trajectories reaches an IoU above {success_iou}: nothing to imitate"
        )
    return {Columns.OBS: np.concatenate(obs), "target": np.concatenate(targets)}
