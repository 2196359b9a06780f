"""The policy network as an RLlib module: one module serves imitation, PPO and self-imitation."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import gymnasium as gym
import numpy as np
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor

from common.config import NetworkConfig
from common.errors import ConfigError, bad_value
from common.networks.servo_net import ServoNet

# Ray 2.60's own RLModule builds its own deprecated RLModuleConfig, and warns the user of it.
logging.getLogger("ray._common.deprecation").addFilter(lambda record: "RLModuleConfig" not in record.getMessage())

IMAGE, GOAL_IMAGE, EPISODE_INDEX = "image", "goal_image", "episode_index"
ENCODING, TWIST = "encoding", "twist"


class ServoModule(TorchRLModule, ValueFunctionAPI):
    """`ServoNet` with z as its observation, so that RL never runs the encoder.

    `model_config` holds `network` (NetworkConfig as a dict) and `train` (parameter prefixes that learn; everything else
    is frozen here, because a parameter without a gradient breaks distributed learners and hides mistakes elsewhere).
    """

    net: ServoNet

    def setup(self) -> None:
        """Build the network and freeze what this phase does not train.

        Raises:
            ConfigError: if a prefix of `train` names no parameter.
        """
        self.net = ServoNet(NetworkConfig(**self.model_config["network"]))
        prefixes = tuple(self.model_config["train"])
        names = [name for name, _ in self.net.named_parameters()]
        for prefix in prefixes:
            if not any(name.startswith(prefix) for name in names):
                allowed = sorted({name.split(".")[0] for name in names})
                raise ConfigError(
                    bad_value("train", prefix, f"a prefix of a parameter name; they begin with {allowed}")
                )
        for name, parameter in self.net.named_parameters():
            parameter.requires_grad_(name.startswith(prefixes))

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """What the heads say of z = batch["obs"] (N, feature_dim): the Gaussian's inputs (N, 12)."""
        return {Columns.ACTION_DIST_INPUTS: self.net.action_dist_inputs(batch[Columns.OBS])}

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """For batches of z as `_forward`, and the regressed parts; batches of images are encoded first.

        Images are u8 (B, H, W, 3) with unique goals u8 (E, H, W, 3) that `episode_index` int64 (B,) points into, so a
        goal that several rows share is encoded once.
        """
        if IMAGE in batch:
            goal = self.net.encode_image(batch[GOAL_IMAGE])
            current = self.net.encode_image(batch[IMAGE])
            encoding = self.net.fuse(current, goal.gather(batch[EPISODE_INDEX]))
            # The segmentation loss of goals counts each goal once.
            encoding.goal_seg_logits = goal.seg_logits
            return {ENCODING: encoding, TWIST: self.net.regress(encoding.z)}
        regressed = self.net.regress(batch[Columns.OBS])
        return {TWIST: regressed, Columns.ACTION_DIST_INPUTS: self.net.with_log_std(regressed.twist)}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """Value estimates (N,) of z = batch["obs"]."""
        return self.net.value(batch[Columns.OBS])


def action_space() -> gym.spaces.Box:
    """Normalised twists, unbounded: clamping is the environment's, so log-probabilities stay those of a Gaussian."""
    return gym.spaces.Box(-np.inf, np.inf, (6,), np.float32)


def observation_space(network: NetworkConfig) -> gym.spaces.Box:
    """Features z."""
    return gym.spaces.Box(-np.inf, np.inf, (network.feature_dim,), np.float32)


def module_spec(network: NetworkConfig, train: list[str]) -> RLModuleSpec:
    """What RLlib builds the module from."""
    return RLModuleSpec(
        module_class=ServoModule,
        observation_space=observation_space(network),
        action_space=action_space(),
        model_config={"network": dataclasses.asdict(network), "train": list(train)},
    )
