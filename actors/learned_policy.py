"""The learned policy as collectors and evaluators run it: goal features once per episode, z once per step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.config import NetworkConfig
from common.errors import ConfigError, bad_value
from common.networks.backbone import ImageFeatures
from common.networks.servo_net import Encoding, ServoNet
from common.networks.weights import encoder_sha256, set_weights
from common.protocols import F32, I64, Goal, Observation, PolicyOutput

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


class LearnedPolicy:
    """A `common.protocols.Policy` around the network; exploration noise comes from outside, so it can be keyed."""

    def __init__(self, config: NetworkConfig, device: str = "cpu") -> None:
        """Build the network; it acts with random weights until `set_weights`."""
        self._net = ServoNet(config).to(device).eval()
        self._device = device
        self._goal: ImageFeatures | None = None
        self.encoder_sha256 = ""

    def set_weights(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Act with these weights from now on; z is stamped with the hash of their encoder part."""
        set_weights(self._net, weights)
        self.encoder_sha256 = encoder_sha256(weights)

    @torch.inference_mode()
    def reset(self, env_ids: I64, goal: Goal) -> None:
        """Encode the desired images (N, H, W, 3); `act` takes the same environments in the same order."""
        self._env_ids = np.array(env_ids)
        self._goal = self._net.encode_image(self._tensor(goal.rgb))

    @torch.inference_mode()
    def act(self, env_ids: I64, observation: Observation, noise: F32 | None = None) -> PolicyOutput:
        """Twists for the environments of the last `reset`.

        Args:
            env_ids: (N,) the ids given to `reset`, in the same order.
            observation: current images.
            noise: (N, 6) standard normal draws; the action is the Gaussian's mean without them.

        Returns:
            Twists, and as aux what RL stores: z, action_dist_inputs (mean, log-std), logp, value.
        """
        return self.output(self.encode(env_ids, observation), noise)

    @torch.inference_mode()
    def encode(self, env_ids: I64, observation: Observation) -> Encoding:
        """What the encoder makes of the current images and the goals of the last `reset`."""
        if self._goal is None or not np.array_equal(env_ids, self._env_ids):
            raise ValueError("act: env_ids must be those of the last reset")
        return self._net.fuse(self._net.encode_image(self._tensor(observation.rgb)), self._goal)

    @torch.inference_mode()
    def output(self, encoding: Encoding, noise: F32 | None = None) -> PolicyOutput:
        """What `act` answers, from an encoding; arguments as there."""
        z = encoding.z.float()
        mean = self._net.twist(z)
        log_std = self._net.log_std.expand_as(mean)
        draw = torch.zeros_like(mean) if noise is None else torch.from_numpy(noise).to(mean)
        action = mean + log_std.exp() * draw
        logp = (-0.5 * ((action - mean) / log_std.exp()) ** 2 - log_std - _HALF_LOG_2PI).sum(-1)
        aux = {
            "z": z,
            "action_dist_inputs": torch.cat([mean, log_std], dim=-1),
            "logp": logp,
            "value": self._net.value(z),
        }
        twist = action.cpu().numpy()
        stop = np.zeros(len(twist), dtype=bool)
        return PolicyOutput(twist, stop, {name: t.float().cpu().numpy() for name, t in aux.items()})

    @torch.inference_mode()
    def hypotheses(self, encoding: Encoding, noise: F32, steps: int) -> F32:
        """Pose hypotheses (N, K, 6) of the diffusion head: ``[t / d*; rotation vector]`` of the goal camera.

        Args:
            encoding: of N pairs.
            noise: (N, K, 6) standard normal draws.
            steps: of DDIM.

        Raises:
            ConfigError: if the network has no diffusion head.
        """
        if self._net.diffusion is None:
            raise ConfigError(bad_value("network.diffusion", False, "True, where hypotheses are asked for"))
        z = encoding.z.float()
        poses: F32 = self._net.pose_hypotheses(z, torch.from_numpy(noise).to(z), steps).cpu().numpy()
        return poses

    def _tensor(self, rgb: NDArray[np.uint8]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(rgb)).to(self._device)
