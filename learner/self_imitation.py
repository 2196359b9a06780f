"""Stage 3a: imitate own successful trajectories, standing still once successful (Sym-Servo eq. 11-12)."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from torch import Tensor

from common.config import PhaseConfig, SelfImitationConfig
from common.networks.losses import regression_loss
from learner.checked_updates import CheckedUpdates
from learner.module import TWIST


def algorithm_config(phase: PhaseConfig) -> AlgorithmConfig:
    """RLlib settings of a self-imitation phase; ours travel in `learner_config_dict`."""
    settings = phase.self_imitation
    return (
        AlgorithmConfig()
        .training(lr=settings.lr, grad_clip=settings.grad_clip)
        .learners(learner_class=SelfImitationLearner, learner_config_dict={"settings": settings})
    )


class SelfImitationLearner(CheckedUpdates):
    """Regression of the terminal MLP on (z, target), with RLlib's Adam."""

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        """L_norm + loss_dir L_dir (eq. 12) of batch["target"] (N, 6); zero targets count by their norm alone."""
        settings: SelfImitationConfig = self.config.learner_config_dict["settings"]
        target = batch["target"]
        everywhere = target.new_ones(len(target), dtype=torch.bool)
        terms = regression_loss(fwd_out[TWIST], target, everywhere, settings.min_norm, settings.min_dir_norm)
        metrics = {"loss_norm": terms.norm.item(), "loss_dir": terms.direction.item()}
        self.metrics.log_dict(metrics, key=module_id, window=1)
        self.rows_learned += len(target)
        return terms.norm + settings.loss_dir * terms.direction
