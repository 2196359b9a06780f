"""Stage 3a: imitate own successful trajectories, standing still once successful (Sym-Servo eq. 11-12)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from torch import Tensor

from common.config import PhaseConfig, SelfImitationConfig
from common.networks.losses import regression_loss
from common.schedules import learning_rate
from learner.checked_updates import CheckedUpdates, Outcome
from learner.module import TWIST
from learner.optimisers import adam, use_fused
from learner.passes import Tensors


def algorithm_config(phase: PhaseConfig) -> AlgorithmConfig:
    """RLlib settings of a self-imitation phase."""
    settings = phase.self_imitation
    training = AlgorithmConfig().training(lr=settings.lr, grad_clip=settings.grad_clip)
    return training.learners(learner_class=SelfImitationLearner)


class SelfImitationLearner(CheckedUpdates):
    """Regression of the terminal MLP on (z, target), with Adam."""

    expected = 0

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """Adam; AdamW where there is weight decay."""
        named = self.named_parameters(self.module[module_id])
        fused = use_fused(self.engine, torch.device(self.device), otherwise=None)
        optimizer = adam(named, lr=self._settings.lr, weight_decay=self._settings.weight_decay, fused=fused)
        self.register_optimizer(module_id=module_id, optimizer=optimizer, params=[p for _, p in named])

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        """L_norm + loss_dir L_dir (eq. 12) of batch["target"] (N, 6); zero targets count by their norm alone."""
        settings, target = self._settings, batch["target"]
        everywhere = target.new_ones(len(target), dtype=torch.bool)
        terms = regression_loss(fwd_out[TWIST], target, everywhere, settings.min_norm, settings.min_dir_norm)
        norm, direction = self.share("rows", terms.norm), self.share("directions", terms.direction)
        self.add_terms({"loss_norm": norm, "loss_dir": direction})
        return norm + settings.loss_dir * direction

    def counts(self, batch: Tensors) -> Tensors:
        """Rows, and those whose target has a direction."""
        norm = batch["target"].norm(dim=1)
        return {"rows": norm.new_tensor(len(norm)), "directions": (norm >= self._settings.min_dir_norm).sum()}

    def rate(self, seen: float) -> float:
        """The phase is one batch: the rate's fall spans the passes over what turned out successful."""
        return learning_rate(self._settings, seen, self.expected)

    def learn(self, arrays: Mapping[str, NDArray[Any]], *, samples: int, **passes: Any) -> Outcome:
        """As `CheckedUpdates.learn`."""
        self.expected = self.samples + samples
        return super().learn(arrays, samples=samples, **passes)

    @property
    def _settings(self) -> SelfImitationConfig:
        settings: SelfImitationConfig = self.config.learner_config_dict["settings"]
        return settings
