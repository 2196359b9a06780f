"""One object per phase that learns: `build_learner(config, phase)`, then `update` with what the sampler gives.

The RLlib learner lives in this process (`num_learners=0`) and is driven by us, so its whole state can be written to a
checkpoint between two updates and a fresh one continues bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from torch import nn

from common.config import PhaseConfig, RunConfig
from common.episode import Episode
from common.errors import CheckpointError, ConfigError, TrainingError, bad_value
from common.networks.servo_net import ServoNet, Weights, get_weights, set_weights
from common.rng import Purpose, derived_seed
from learner import imitation, ppo, self_imitation
from learner.batches import imitation_batch, ppo_episodes, self_imitation_rows
from learner.checked_updates import CheckedUpdates
from learner.learner_state import (
    Arrays,
    load_optimizer_state,
    load_random_state,
    optimizer_state,
    random_state,
    seed_everything,
)
from learner.module import module_spec

Metrics = dict[str, float]


def build_learner(config: RunConfig, phase_name: str) -> PhaseLearner:
    """The learner of a phase, with freshly drawn weights, and the process's random generators seeded for it.

    Raises:
        ConfigError: if there is no such phase, or it trains parameters that do not exist.
    """
    if phase_name not in config.phases:
        raise ConfigError(bad_value("phase", phase_name, f"one of {sorted(config.phases)}"))
    torch.set_num_threads(config.learner_threads)
    phase = config.phases[phase_name]
    names = [*config.schedule, *sorted(set(config.phases) - set(config.schedule))]
    seed = derived_seed(config.seed, Purpose.LEARNER, round=names.index(phase_name))
    seed_everything(seed)
    if phase.kind == "imitation":
        return ImitationPhase(phase, imitation.algorithm_config(phase, seed), config)
    if phase.kind == "self_imitation":
        return SelfImitationPhase(phase, self_imitation.algorithm_config(phase), config)
    return PPOPhase(phase, ppo.algorithm_config(phase), config)


class PhaseLearner:
    """What the driver knows of a learner.

    Attributes:
        METRICS: names of RLlib's and the loss's numbers that `update` returns.
    """

    METRICS: tuple[str, ...] = ()

    def __init__(self, phase: PhaseConfig, algorithm: AlgorithmConfig, config: RunConfig) -> None:
        self._phase = phase
        # `CheckedUpdates` looks at the loss and the gradient norm; RLlib would look at every parameter, and zero NaN.
        algorithm = algorithm.learners(num_learners=0, num_gpus_per_learner=0)
        algorithm.torch_skip_nan_gradients = True
        self._group = LearnerGroup(config=algorithm, module_spec=module_spec(config.network, phase.train))
        self._learner: CheckedUpdates = self._group._learner

    @property
    def num_samples_learned(self) -> int:
        """Rows learned from in this phase; a row counts once per pass over it."""
        return self._learner.rows_learned

    @property
    def net(self) -> ServoNet:
        """The network that trains."""
        net: ServoNet = self._learner.module[DEFAULT_MODULE_ID].unwrapped().net
        return net

    def update(self, data: Any) -> Metrics:
        """Learn from what the phase's sampler gives; see the subclasses.

        Returns:
            Numbers of the last minibatch, by name.

        Raises:
            TrainingError: if a loss or gradient is not finite, or the learner gave no result.
        """
        raise NotImplementedError

    def get_weights(self) -> Weights:
        """What acts and is handed on to the next phase, by parameter name."""
        return get_weights(self.net)

    def set_weights(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Enter the phase with the weights of the one before.

        Raises:
            CheckpointError: if they are not of this network.
        """
        set_weights(self.net, weights)

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """All that the coming updates depend on besides their data: named arrays, and a JSON-ready rest."""
        moments, settings = optimizer_state(self._optimizer, self._names)
        generators, rest = random_state(self._learner.device)
        arrays = {f"weights/{k}": v for k, v in get_weights(self.net).items()}
        arrays |= {f"optimizer/{k}": v for k, v in moments.items()}
        arrays |= {f"random/{k}": v for k, v in generators.items()}
        counters = {"rows_learned": self._learner.rows_learned, "gradient_steps": self._learner.gradient_steps}
        return arrays, {"kind": self._phase.kind, "optimizer": settings, "random": rest, "counters": counters}

    def load_state(self, arrays: Arrays, state: Mapping[str, Any]) -> None:
        """Inverse of `state`, into a learner fresh from `build_learner`; its updates then equal the saved one's.

        Raises:
            CheckpointError: if the state is of another phase or network, or this learner has already stepped.
        """
        if state.get("kind") != self._phase.kind:
            raise CheckpointError(bad_value("learner state kind", state.get("kind"), repr(self._phase.kind)))
        load_optimizer_state(self._optimizer, self._names, part(arrays, "optimizer/"), state["optimizer"])
        set_weights(self.net, part(arrays, "weights/"))
        self._learner.rows_learned = int(state["counters"]["rows_learned"])
        self._learner.gradient_steps = int(state["counters"]["gradient_steps"])
        load_random_state(part(arrays, "random/"), state["random"], self._learner.device)

    def close(self) -> None:
        """Let go of the RLlib learner."""
        self._group.shutdown()

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        (optimizer,) = self._learner._named_optimizers.values()
        return optimizer

    @property
    def _names(self) -> dict[nn.Parameter, str]:
        return {parameter: name for name, parameter in self.net.named_parameters()}

    def _run(self, **kwargs: Any) -> Metrics:
        steps = self._learner.gradient_steps
        results = self._group.update(**kwargs)
        # A learner that died raises once; after that its group answers with nothing.
        if not results or not results[0] or self._learner.gradient_steps == steps:
            raise TrainingError("the learner returned no result: it did not learn from this update")
        metrics = {}
        for key, value in results[0][DEFAULT_MODULE_ID].items():
            number = float(value.peek())
            # Not finite: the explained variance of constant returns. Losses and gradients were checked already.
            if key in self.METRICS and math.isfinite(number):
                metrics[key] = number
        return metrics | {"gradient_steps": float(self._learner.gradient_steps - steps)}


class ImitationPhase(PhaseLearner):
    """Stage 1; averaged weights act."""

    METRICS = (
        "total_loss", "loss_norm", "loss_dir", "loss_diff", "loss_seg", "loss_match", "label_share", "grad_norm",
    )  # fmt: skip
    _learner: imitation.ImitationLearner

    def update(self, data: Mapping[str, NDArray[Any]]) -> Metrics:
        """One gradient step on one batch of `learner.batches.IMITATION_FIELDS` and `episode_index`."""
        batch = imitation_batch(data)
        rows = len(batch["image"])
        metrics = self._run(batch=MultiAgentBatch({DEFAULT_MODULE_ID: SampleBatch(batch)}, env_steps=rows))
        return metrics | {"lr": self._learner.learning_rate()}

    def get_weights(self) -> Weights:
        """The averaged weights."""
        return imitation.averaged_weights(self._learner, super().get_weights())

    def set_weights(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Enter the phase with these weights; the averages start from them."""
        super().set_weights(weights)
        self._learner.restart_average()

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """Also the averages and the generator of diffusion noise."""
        arrays, rest = super().state()
        arrays |= {f"average/{k}": v.cpu().numpy().copy() for k, v in self._learner.average.items()}
        arrays["random/diffusion"] = self._learner.generator.get_state().numpy().copy()
        return arrays, rest

    def load_state(self, arrays: Arrays, state: Mapping[str, Any]) -> None:
        """Inverse of `state`."""
        super().load_state(arrays, state)
        for name, array in part(arrays, "average/").items():
            self._learner.average[name].copy_(torch.from_numpy(array.copy()))
        self._learner.generator.set_state(torch.from_numpy(arrays["random/diffusion"].copy()))


class PPOPhase(PhaseLearner):
    """Value warm-up and PPO."""

    METRICS = (
        "total_loss", "policy_loss", "vf_loss", "vf_explained_var", "entropy", "mean_kl_loss", "grad_norm",
    )  # fmt: skip
    _learner: ppo.PPOLearner

    def update(self, data: Sequence[Episode]) -> Metrics:
        """`epochs` passes over the episodes in minibatches, ended early by the KL to the policy that acted."""
        settings = self._phase.ppo
        rows = sum(episode.num_rows for episode in data)
        metrics = self._run(
            episodes=ppo_episodes(data),
            num_epochs=settings.epochs,
            minibatch_size=min(settings.minibatch, rows),
            shuffle_batch_per_epoch=True,
        )
        return metrics | {"stopped_by_kl": float(self._learner.stopped)}

    def set_weights(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Enter the phase with these weights and its own exploration: the log-std starts at log(ppo.std)."""
        super().set_weights(weights)
        with torch.no_grad():
            self.net.log_std.fill_(math.log(self._phase.ppo.std))


class SelfImitationPhase(PhaseLearner):
    """Stage 3a."""

    METRICS = ("total_loss", "loss_norm", "loss_dir", "grad_norm")

    def update(self, data: Sequence[Episode]) -> Metrics:
        """`epochs` passes over the successful ones of the episodes in shuffled minibatches."""
        settings = self._phase.self_imitation
        rows = self_imitation_rows(data, settings.success_iou)
        n = len(rows["target"])
        # RLlib shuffles from the second pass on only.
        order = np.random.permutation(n)
        batch = SampleBatch({key: value[order] for key, value in rows.items()})
        metrics = self._run(
            batch=MultiAgentBatch({DEFAULT_MODULE_ID: batch}, env_steps=n),
            num_epochs=settings.epochs,
            minibatch_size=min(settings.minibatch, n),
            shuffle_batch_per_epoch=True,
        )
        return metrics | {"rows": float(n)}


def part(arrays: Mapping[str, NDArray[Any]], prefix: str) -> Arrays:
    """Entries whose name begins with `prefix`, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
