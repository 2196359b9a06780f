"""Replay records -> learner inputs: imitation batches, rows of rollouts for PPO, (z, target) for self-imitation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from ray.rllib.core.columns import Columns

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

_PPO_FIELDS = {
    Columns.OBS: "z",
    Columns.ACTIONS: "action",
    Columns.ACTION_LOGP: "logp",
    Columns.ACTION_DIST_INPUTS: "action_dist_inputs",
    Columns.REWARDS: "reward",
    Columns.LOSS_MASK: "action_valid",
}


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


def ppo_rows(episodes: Sequence[Episode]) -> Weights:
    """Rows of episodes one behind the other: T that acted, and the final observation, whose value is bootstrapped from.

    An episode that did not end for good counts as cut, so its last value is bootstrapped.

    Returns:
        By RLlib's names, for N rows: obs f32 (N, feature_dim), actions f32 (N, 6), action_logp f32 (N,),
        action_dist_inputs f32 (N, 12), rewards f32 (N,), terminateds and truncateds bool (N,), true in the last row
        that acted, and loss_mask bool (N,), false in the final one.

    Raises:
        SchemaError: if a record is not one episode of at least one action, all rows but the last acted.
    """
    for episode in episodes:
        steps, t = episode.steps, episode.num_rows - 1
        acted = steps["action_valid"]
        if t < 1 or not acted[:-1].all() or acted[-1]:
            raise SchemaError(f"episode {episode.meta.id}: action_valid must hold in every row but the last")
        if steps["terminated"][: t - 1].any() or steps["truncated"][: t - 1].any():
            raise SchemaError(f"episode {episode.meta.id}: it goes on after it ended")
    out = {to: np.concatenate([e.steps[name] for e in episodes]) for to, name in _PPO_FIELDS.items()}
    ends = np.cumsum([e.num_rows for e in episodes]) - 2
    terminated = np.array([bool(e.steps["terminated"][-2]) for e in episodes])
    for name, flags in ((Columns.TERMINATEDS, terminated), (Columns.TRUNCATEDS, ~terminated)):
        out[name] = np.zeros(len(out[Columns.OBS]), dtype=np.bool_)
        out[name][ends] = flags
    out[Columns.REWARDS][ends + 1] = 0.0
    return out


def row_owners(episodes: Sequence[Episode]) -> NDArray[np.int64]:
    """Of which episode each row is, (N,)."""
    return np.repeat(np.arange(len(episodes)), [e.num_rows for e in episodes])


def successful(episodes: Sequence[Episode], success_iou: float) -> list[Episode]:
    """The trajectories whose IoU exceeds `success_iou` somewhere.

    Raises:
        TrainingError: if there is none.
    """
    found = [e for e in episodes if (e.steps["iou"] > success_iou).any()]
    if not found:
        raise TrainingError(
            f"none of {len(episodes)} trajectories reaches an IoU above {success_iou}: nothing to imitate"
        )
    return found


def self_imitation_rows(episodes: Sequence[Episode], success_iou: float) -> Weights:
    """Rows of successful trajectories with the targets of Sym-Servo eq. 11.

    Until the first row whose IoU exceeds `success_iou` the target is the action that was taken, from that row on zero.
    The final observation has no action; it counts where its target is zero.

    Returns:
        obs f32 (N, feature_dim) and target f32 (N, 6).

    Raises:
        TrainingError: if no trajectory is successful.
    """
    targets = []
    for episode in (found := successful(episodes, success_iou)):
        target = episode.steps["action"].astype(np.float32, copy=True)
        target[np.flatnonzero(episode.steps["iou"] > success_iou)[0] :] = 0.0
        targets.append(target)
    return {Columns.OBS: np.concatenate([e.steps["z"] for e in found]), "target": np.concatenate(targets)}
