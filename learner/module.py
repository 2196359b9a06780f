"""The policy network as an RLlib module: one module serves imitation, PPO and self-imitation."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor

from common.config import LearnerConfig, NetworkConfig
from common.errors import ConfigError, bad_value
from common.networks.frozen import frozen_prefixes
from common.networks.servo_net import Encoding, ServoNet
from learner.acceleration import autocast, compiled

# Ray 2.60's own RLModule builds its own deprecated RLModuleConfig, and warns the user of it.
logging.getLogger("ray._common.deprecation").addFilter(lambda record: "RLModuleConfig" not in record.getMessage())

IMAGE, GOAL_IMAGE, EPISODE_INDEX = "image", "goal_image", "episode_index"
ENCODING, TWIST = "encoding", "twist"


class ServoModule(TorchRLModule, ValueFunctionAPI):
    """`ServoNet` with z as its observation, so that RL never runs the encoder.

    `model_config` holds `network` (NetworkConfig as a dict), `precision`, `compile` and `channels_last` of the
    LearnerConfig, and `train` (parameter prefixes that learn; everything else is frozen here, because a parameter
    without a gradient breaks distributed learners and hides mistakes elsewhere).
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
        frozen = frozen_prefixes(self.net)
        for name, parameter in self.net.named_parameters():
            parameter.requires_grad_(name.startswith(prefixes) and not name.startswith(frozen))
        if self.model_config["channels_last"]:
            self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._compiled: Callable[..., Encoding] | None = None

    def _encode_pairs(self, image: Tensor, goal_image: Tensor, index: Tensor) -> Encoding:
        """`encode_pairs`, compiled where that is asked for: at the first batch, when it is known on which device."""
        if not self.model_config["compile"]:
            return encode_pairs(self.net, image, goal_image, index)
        if self._compiled is None:
            self._compiled = compiled(encode_pairs, image.device)
        return self._compiled(self.net, image, goal_image, index)

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """What the heads say of z = batch["obs"] (N, feature_dim): the Gaussian's inputs (N, 12)."""
        return {Columns.ACTION_DIST_INPUTS: self.net.action_dist_inputs(batch[Columns.OBS])}

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """For batches of z as `_forward`, and the regressed parts; batches of images are encoded first.

        Images are u8 (B, H, W, 3) with unique goals u8 (E, H, W, 3) that `episode_index` int64 (B,) points into, so a
        goal that several rows share is encoded once.
        """
        if IMAGE in batch:
            image = batch[IMAGE]
            with autocast(image.device, self.model_config["precision"]):
                encoding = self._encode_pairs(image, batch[GOAL_IMAGE], batch[EPISODE_INDEX])
            # Heads and losses are float32 always: what they say of a z must not depend on how it was computed.
            encoding = Encoding(**{f.name: getattr(encoding, f.name).float() for f in dataclasses.fields(encoding)})
            return {ENCODING: encoding, TWIST: self.net.regress(encoding.z)}
        regressed = self.net.regress(batch[Columns.OBS])
        return {TWIST: regressed, Columns.ACTION_DIST_INPUTS: self.net.with_log_std(regressed.twist)}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """Value estimates (N,) of z = batch["obs"]."""
        return self.net.value(batch[Columns.OBS])


def encode_pairs(net: ServoNet, image: Tensor, goal_image: Tensor, index: Tensor) -> Encoding:
    """Encode images u8 (B, H, W, 3) with their goals, u8 (E, H, W, 3), that `index` int64 (B,) points into.

    Each goal is encoded once, and its segmentation logits are given once.
    """
    goal = net.encode_image(goal_image)
    encoding = net.fuse(net.encode_image(image), goal.gather(index))
    return dataclasses.replace(encoding, goal_seg_logits=goal.seg_logits)


def action_space() -> gym.spaces.Box:
    """Normalised twists, unbounded: clamping is the environment's, so log-probabilities stay those of a Gaussian."""
    return gym.spaces.Box(-np.inf, np.inf, (6,), np.float32)


def observation_space(network: NetworkConfig) -> gym.spaces.Box:
    """Features z."""
    return gym.spaces.Box(-np.inf, np.inf, (network.feature_dim,), np.float32)


def module_spec(network: NetworkConfig, train: list[str], engine: LearnerConfig) -> RLModuleSpec:
    """What RLlib builds the module from."""
    how = {"precision": engine.precision, "compile": engine.compile, "channels_last": engine.channels_last}
    return RLModuleSpec(
        module_class=ServoModule,
        observation_space=observation_space(network),
        action_space=action_space(),
        model_config={"network": dataclasses.asdict(network), "train": list(train), **how},
    )
