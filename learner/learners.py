"""One object per phase that learns: `build_learner(config, phase)`, then `update` with what the sampler gives.

The RLlib learner lives in this process (`learner.num_learners=0`) or is several actors that share each batch; it is
driven by us, so its whole state can be written to a checkpoint between two updates and a fresh one continues bit for
bit.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.exceptions import RayActorError, RayTaskError
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.learner.learner_group import LearnerGroup

from common.config import PhaseConfig, RunConfig
from common.episode import Episode
from common.errors import CheckpointError, ConfigError, LearnerLostError, ServofleetError, TrainingError, bad_value
from common.networks.servo_net import ServoNet, Weights
from common.rng import Purpose, derived_seed
from learner import imitation, ppo, self_imitation
from learner.acceleration import choose_device
from learner.batches import imitation_batch, ppo_rows, row_owners, self_imitation_rows, successful
from learner.checked_updates import CheckedUpdates, Outcome
from learner.engine_state import acting_weights, enter_with, load_state, read_state
from learner.learner_state import Arrays, seed_everything
from learner.module import module_spec

Metrics = dict[str, float]
T = TypeVar("T")

# What a fresh learner may not meet again: memory that was short, a device that failed.
_DEVICE_ERRORS = (torch.OutOfMemoryError, torch.AcceleratorError)

_LOG = logging.getLogger("servofleet.learner")


def build_learner(config: RunConfig, phase_name: str) -> PhaseLearner:
    """The learner of a phase, with freshly drawn weights, and the process's random generators seeded for it.

    Raises:
        ConfigError: if there is no such phase, it trains parameters that do not exist, or there is no such device.
    """
    if phase_name not in config.phases:
        raise ConfigError(bad_value("phase", phase_name, f"one of {sorted(config.phases)}"))
    torch.set_num_threads(config.learner_threads)
    phase = config.phases[phase_name]
    names = [*config.schedule, *sorted(set(config.phases) - set(config.schedule))]
    seed = derived_seed(config.seed, Purpose.LEARNER, round=names.index(phase_name))
    seed_everything(seed)
    if phase.kind == "imitation":
        return ImitationPhase(phase, imitation.algorithm_config(phase), phase.imitation, config, seed)
    if phase.kind == "self_imitation":
        return SelfImitationPhase(phase, self_imitation.algorithm_config(phase), phase.self_imitation, config, seed)
    return PPOPhase(phase, ppo.algorithm_config(phase), phase.ppo, config, seed)


class PhaseLearner:
    """What the driver knows of a learner.

    Attributes:
        METRICS: names of RLlib's and the loss's numbers that `update` returns.
    """

    METRICS: tuple[str, ...] = ()

    def __init__(
        self, phase: PhaseConfig, algorithm: AlgorithmConfig, settings: Any, config: RunConfig, seed: int
    ) -> None:
        engine = dataclasses.replace(config.learner, device=choose_device(config.learner.device))
        self._phase, self._engine = phase, engine
        about = {"settings": settings, "engine": engine, "samples": phase.samples, "seed": seed}
        algorithm = algorithm.learners(
            num_learners=engine.num_learners,
            num_cpus_per_learner=config.learner_threads,
            num_gpus_per_learner=int(engine.device == "cuda"),
            learner_config_dict=about | {"threads": config.learner_threads},
        )
        self._group = LearnerGroup(config=algorithm, module_spec=module_spec(config.network, phase.train, engine))
        self._learner: CheckedUpdates = self._group._learner

    @property
    def num_samples_learned(self) -> int:
        """Rows learned from in this phase; a row counts once per pass over it."""
        return self._ask(_rows_learned)

    @property
    def net(self) -> ServoNet:
        """The network that trains; only of a learner in this process."""
        return self._learner.net

    def update(self, data: Any, ids: Callable[[], Sequence[str]] | None = None) -> Metrics:
        """Learn from what the phase's sampler gives; see the subclasses.

        A gradient step whose loss or gradient is not finite is not taken: neither parameters nor moments nor averages
        change, and the cause and the episodes are logged.

        Args:
            data: what the sampler gives.
            ids: gives the ids of the episodes of a batch that does not carry them itself; asked only if a step is not
                taken.

        Returns:
            Numbers of the last minibatch, by name; ``skipped_share`` of the gradient steps that were not taken;
            ``compute_s``, seconds from the batch in memory to the last step.

        Raises:
            TrainingError: if as many steps in a row as ``learner.max_skipped`` were not taken, naming cause and
                episodes; or if the learner gave no result.
        """
        raise NotImplementedError

    def get_weights(self) -> Weights:
        """What acts and is handed on to the next phase, by parameter name."""
        return self._ask(acting_weights)

    def set_weights(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Enter the phase with the weights of the one before.

        Raises:
            CheckpointError: if they are not of this network.
        """
        self._tell(enter_with, weights=dict(weights), log_std=self._log_std())

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """All that the coming updates depend on besides their data: named arrays, and a JSON-ready rest."""
        arrays, state = self._ask(read_state)
        return arrays, {"kind": self._phase.kind, **state}

    def load_state(self, arrays: Arrays, state: Mapping[str, Any]) -> None:
        """Inverse of `state`, into a learner fresh from `build_learner`; its updates then equal the saved one's.

        Raises:
            CheckpointError: if the state is of another phase or network, or this learner has already stepped.
        """
        if state.get("kind") != self._phase.kind:
            raise CheckpointError(bad_value("learner state kind", state.get("kind"), repr(self._phase.kind)))
        self._tell(load_state, arrays=arrays, state=dict(state))

    def ask_each(self, function: Callable[[Any], T]) -> list[T]:
        """What `function` of every RLlib learner gives, computed in the process that learns.

        Raises:
            LearnerLostError, TrainingError: if one does not answer, or fails.
        """
        return self._tell(function)

    def close(self) -> None:
        """Let go of the RLlib learner."""
        self._group.shutdown()

    def _log_std(self) -> float | None:
        """The phase's own exploration, if it has one."""
        return None

    def _tell(self, function: Callable[..., T], **arguments: Any) -> list[T]:
        """What `function` of every learner gives.

        Raises:
            LearnerLostError: if the process of one died, or its device failed.
            TrainingError: if one failed otherwise; a fresh learner would fail again.
        """
        if self._engine.num_learners == 0:
            try:
                return [function(self._learner, **arguments)]
            except _DEVICE_ERRORS as e:
                raise LearnerLostError(f"the learner's device failed: {_line(e)}") from e
        # Put once, not once per learner; on one node they share the memory.
        call = partial(_with_arguments, function=function, arguments=ray.put(arguments))
        results = list(self._group.foreach_learner(call))
        errors = [result.get() for result in results if not result.ok]
        # When one dies, the others' sums over all fail too, with an error of their own that says less.
        lost = [e for e in errors if isinstance(e, (RayActorError, *_DEVICE_ERRORS))]
        if lost or len(results) < self._engine.num_learners:
            cause = f": {_line(lost[0])}" if lost else ""
            answered = len(results) - len(errors)
            raise LearnerLostError(
                f"{answered} of {self._engine.num_learners} learners answered: the others died{cause}"
            )
        for error in errors:
            raise error if isinstance(error, ServofleetError) else TrainingError(f"a learner failed: {_line(error)}")
        return [result.get() for result in results]

    def _ask(self, function: Callable[..., T]) -> T:
        """What `function` of the first learner gives; all are alike."""
        return self._tell(function)[0]

    def _learn(
        self, arrays: Mapping[str, NDArray[Any]], ids: Callable[[list[int]], list[str]], **passes: Any
    ) -> Metrics:
        """Learn from arrays; `ids` names the episodes of their rows."""
        outcomes: list[Outcome] = self._tell(_learn, batch=dict(arrays), passes=passes)
        outcome = outcomes[0]
        last = ""
        for skip in outcome.skips:
            names = ids(skip.rows)
            some = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
            last = f"{skip.reason}; episodes {some}"
            _LOG.warning("an update was skipped: %s", last)
        if outcome.gave_up:
            raise TrainingError(f"{self._engine.max_skipped} updates in a row were not finite: {last}")
        # Not finite: the explained variance of constant returns. Losses and gradients were checked already.
        metrics = {k: v for k, v in outcome.metrics.items() if k in self.METRICS and math.isfinite(v)}
        return metrics | {
            "compute_s": outcome.metrics["compute_s"],
            "gradient_steps": float(outcome.steps),
            "skipped_share": len(outcome.skips) / max(1, outcome.steps + len(outcome.skips)),
        }


class ImitationPhase(PhaseLearner):
    """Stage 1; averaged weights act."""

    METRICS = (
        "total_loss", "loss_norm", "loss_dir", "loss_diff", "loss_seg", "loss_match", "label_share", "grad_norm",
    )  # fmt: skip

    def update(self, data: Mapping[str, NDArray[Any]], ids: Callable[[], Sequence[str]] | None = None) -> Metrics:
        """One gradient step on one batch of `learner.batches.IMITATION_FIELDS` and `episode_index`; `ids` are those of
        its E episodes.
        """
        batch = imitation_batch(data)

        def named(rows: list[int]) -> list[str]:
            known = ids() if ids is not None else [f"number {k} of the batch" for k in range(len(batch["goal_image"]))]
            return [known[k] for k in np.unique(batch["episode_index"][rows]).tolist()]

        metrics = self._learn(batch, named, samples=len(batch["image"]))
        return metrics | {"lr": self._ask(_rate)}


class PPOPhase(PhaseLearner):
    """Value warm-up and PPO."""

    METRICS = (
        "total_loss", "policy_loss", "vf_loss", "vf_explained_var", "entropy", "mean_kl_loss", "grad_norm",
        "stopped_by_kl",
    )  # fmt: skip

    def update(self, data: Sequence[Episode], ids: Callable[[], Sequence[str]] | None = None) -> Metrics:
        """`epochs` passes over the episodes in minibatches, ended early by the KL to the policy that acted."""
        settings = self._phase.ppo
        rows = ppo_rows(data)
        return self._learn(
            rows,
            partial(_owners, data),
            samples=sum(episode.num_rows - 1 for episode in data),
            epochs=settings.epochs,
            minibatch=min(settings.minibatch, len(rows["obs"])),
        )

    def _log_std(self) -> float:
        """Log of `ppo.std`."""
        return math.log(self._phase.ppo.std)


class SelfImitationPhase(PhaseLearner):
    """Stage 3a."""

    METRICS = ("total_loss", "loss_norm", "loss_dir", "grad_norm")

    def update(self, data: Sequence[Episode], ids: Callable[[], Sequence[str]] | None = None) -> Metrics:
        """`epochs` passes over the successful ones of the episodes in shuffled minibatches."""
        settings = self._phase.self_imitation
        rows = self_imitation_rows(data, settings.success_iou)
        n = len(rows["target"])
        # The first of several passes is in order. Every learner draws it, so that their generators stay alike.
        order = self._tell(_permutation, n=n)[0]
        metrics = self._learn(
            {key: value[order] for key, value in rows.items()},
            lambda picked: _owners(successful(data, settings.success_iou), [int(k) for k in order[picked]]),
            samples=n,
            epochs=settings.epochs,
            minibatch=min(settings.minibatch, n),
        )
        return metrics | {"rows": float(n)}


def _line(error: Exception) -> str:
    cause = error.cause if isinstance(error, RayTaskError) else error  # Ray's copy has the remote traceback in its text
    return f"{type(cause).__name__}: {(str(cause).strip().splitlines() or [''])[0]}"


_NAMED = 8  # ids in a line of the log


def _owners(episodes: Sequence[Episode], rows: list[int]) -> list[str]:
    """Ids of the episodes that rows of `ppo_rows` or `self_imitation_rows` are of."""
    return [str(episodes[k].meta.id) for k in np.unique(row_owners(episodes)[rows]).tolist()]


def _with_arguments(learner: CheckedUpdates, *, function: Callable[..., T], arguments: ray.ObjectRef[Any]) -> T:
    return function(learner, **ray.get(arguments))


def _learn(learner: CheckedUpdates, batch: dict[str, NDArray[Any]], passes: dict[str, Any]) -> Outcome:
    return learner.learn(batch, **passes)


def _rows_learned(learner: CheckedUpdates) -> int:
    return learner.rows_learned


def _rate(learner: CheckedUpdates) -> float:
    return learner.rate(learner.samples)


def _permutation(learner: CheckedUpdates, n: int) -> NDArray[np.int64]:
    return np.random.permutation(n)
