"""The learned policy in a closed loop: the network's twist, steered as the evaluation's settings say.

Evaluation and serving act through this; PPO, DAgger and self-imitation take the network's own twist (`LearnedPolicy`).
"""

from __future__ import annotations

from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from actors.learned_policy import LearnedPolicy
from common.config import EvaluationConfig
from common.control import choose_hypothesis, image_offset, is_far, steer
from common.networks.gravity import gravity_centres
from common.networks.servo_net import Encoding
from common.protocols import F32, F64, I64, Bool, Goal, Observation, PolicyOutput
from common.rng import Purpose, philox


class ClosedLoopPolicy:
    """A `common.protocols.Policy`: what the network sees, by the law and for the camera of `settings`.

    Twists are of the camera at hand and in units of d*: the focal length is applied here, and d* by the environment,
    each once. With default settings the network's twist goes out unchanged, to the bit.
    """

    def __init__(self, policy: LearnedPolicy, settings: EvaluationConfig, *, seed: int = 0, first_env: int = 0) -> None:
        """Steer `policy` from now on.

        Args:
            policy: with its weights set.
            settings: law, source of the twist, and how the camera at hand differs from the one of the training.
            seed: key of the hypotheses' noise.
            first_env: number of the environment with id 0; the noise is keyed by this plus the id, so that it does not
                depend on how environments are cut into tasks.
        """
        self._policy = policy
        self._settings = settings
        self._seed, self._first_env = seed, first_env

    def reset(self, env_ids: I64, goal: Goal) -> None:
        """Encode the desired images; environments are far until their images say otherwise."""
        self._policy.reset(env_ids, goal)
        n, (height, width) = len(env_ids), goal.rgb.shape[1:3]
        self._size = (int(height), int(width))
        self._step = 0
        self._was_near: Bool = np.zeros(n, dtype=bool)
        settings = self._settings
        told = settings.denormalise
        self._focal_ratio = settings.focal_scale if told else 1.0
        # The environment multiplies by the true d*; who does not know of the scale must end up with the unscaled one.
        self._distance = 1.0 if told else 1.0 / settings.distance_scale
        focal = goal.intrinsics[:, :2] if told else goal.intrinsics[:, :2] / settings.focal_scale
        self._intrinsics = np.concatenate([focal, goal.intrinsics[:, 2:]], axis=1)

    def act(self, env_ids: I64, observation: Observation) -> PolicyOutput:
        """Twists for the environments of the last `reset`.

        Returns:
            Twists; as aux those of `LearnedPolicy.act`, and where they apply `hybrid` bool (N,) whether the hybrid law
            steered, `image_offset` f32 (N,) [image sides] and `hypothesis_spread` f32 (N,).
        """
        encoding = self._policy.encode(env_ids, observation)
        out = self._policy.output(encoding)
        aux: dict[str, NDArray[Any]] = dict(out.aux)
        twist: NDArray[Any] = out.twist
        if self._settings.control_source == "diffusion":
            twist, aux["hypothesis_spread"] = self._hypothesis(env_ids, encoding, out.twist)
        if self._settings.control == "hybrid":
            twist = self._hybrid(encoding, twist, aux)
        elif self._focal_ratio != 1.0:
            twist = steer(twist, self._focal_ratio)
        if self._distance != 1.0:
            twist = np.concatenate([twist[:, :3] * self._distance, twist[:, 3:]], axis=1)
        self._step += 1
        return PolicyOutput(twist.astype(np.float32), out.stop, aux)

    def _hypothesis(self, env_ids: I64, encoding: Encoding, twist: F32) -> tuple[F64, F32]:
        settings = self._settings
        streams = [
            philox(self._seed, Purpose.HYPOTHESES, env=self._first_env + int(env), step=self._step) for env in env_ids
        ]
        noise = np.stack([s.standard_normal((settings.hypotheses, 6), dtype=np.float32) for s in streams])
        poses = self._policy.hypotheses(encoding, noise, settings.ddim_steps)
        pick = cast(Literal["nearest", "smallest"], settings.hypothesis_pick)
        chosen, spread = choose_hypothesis(poses, twist, pick)
        return chosen, spread.astype(np.float32)

    def _hybrid(self, encoding: Encoding, twist: NDArray[Any], aux: dict[str, NDArray[Any]]) -> F64:
        current, goal, _ = gravity_centres(encoding)
        center, goal_center = (c.cpu().numpy().astype(np.float64) for c in (current, goal))
        offset = image_offset(center, goal_center, self._size)
        far = is_far(offset, self._was_near, self._settings.hybrid_near, self._settings.hybrid_far)
        self._was_near = ~far
        aux["hybrid"], aux["image_offset"] = far, offset.astype(np.float32)
        return steer(twist, self._focal_ratio, self._normalised(center), self._normalised(goal_center), far)

    def _normalised(self, center: F64) -> F64:
        """(pixel - c) / f (N, 2) of centres (N, 2) with the image from -1 to 1."""
        height, width = self._size
        pixels = 0.5 * (center + 1.0) * np.array([width, height])
        return np.asarray((pixels - self._intrinsics[:, 2:]) / self._intrinsics[:, :2])
