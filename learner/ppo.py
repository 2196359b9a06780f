"""Stages 2 and 3b: PPO on stored features, with RLlib's loss and its generalised advantage estimation.

Value warm-up is this learner with `train: [value.]`: the policy is frozen, so only the value loss has a gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.algorithms.ppo import ppo as rllib
from ray.rllib.algorithms.ppo.ppo import LEARNER_RESULTS_KL_KEY
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.utils.postprocessing.value_predictions import compute_value_targets
from torch import Tensor

from common.config import PhaseConfig, PPOConfig
from learner.checked_updates import CheckedUpdates, Metrics
from learner.optimisers import adam, use_fused
from learner.passes import Tensors, split_rows

# What RLlib's loss logs of itself, as means over a minibatch.
_TERMS = ("policy_loss", "vf_loss", "vf_explained_var", "entropy", LEARNER_RESULTS_KL_KEY)


def algorithm_config(phase: PhaseConfig) -> rllib.PPOConfig:
    """RLlib settings of a PPO or value warm-up phase; the KL is measured for the early stop, but not in the loss."""
    ppo = phase.ppo
    return (
        rllib.PPOConfig()
        .training(
            gamma=ppo.gamma,
            lambda_=ppo.lam,
            clip_param=ppo.clip,
            vf_loss_coeff=ppo.value_weight,
            vf_clip_param=ppo.value_clip,
            entropy_coeff=ppo.entropy_weight,
            use_kl_loss=True,
            kl_coeff=0.0,
            lr=ppo.lr,
            grad_clip=ppo.grad_clip,
        )
        .learners(learner_class=PPOLearner)
    )


class PPOLearner(CheckedUpdates, PPOTorchLearner):
    """RLlib's PPO, which ends an update once a minibatch has seen the policy too far from the one that acted.

    Minibatches after that are passed over without a gradient step, and do not count as learned.
    """

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """Adam; AdamW where there is weight decay."""
        named = self.named_parameters(self.module[module_id])
        fused = use_fused(self.engine, torch.device(self.device), otherwise=None)
        optimizer = adam(named, lr=self._settings.lr, weight_decay=self._settings.weight_decay, fused=fused)
        self.register_optimizer(module_id=module_id, optimizer=optimizer, params=[p for _, p in named])

    def prepare(self, batch: Tensors) -> Tensors:
        """Add advantages and value targets: RLlib's generalised advantage estimation with the values of now."""
        with torch.no_grad():
            values = self.net.value(batch[Columns.OBS]).cpu().numpy()
        known = {k: batch.pop(k).cpu().numpy() for k in (Columns.REWARDS, Columns.TERMINATEDS, Columns.TRUNCATEDS)}
        advantages, targets = advantages_and_targets(values, known, self._settings.gamma, self._settings.lam)
        batch[Postprocessing.ADVANTAGES] = torch.from_numpy(advantages).to(self.device)
        batch[Postprocessing.VALUE_TARGETS] = torch.from_numpy(targets).to(self.device)
        return batch

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        """RLlib's PPO loss; takes note of its terms."""
        loss: Tensor = super().compute_loss_for_module(module_id=module_id, config=config, batch=batch, fwd_out=fwd_out)
        values = {name: torch.as_tensor(self.metrics.peek((module_id, name))) for name in _TERMS}
        self.add_terms({name: self.share("rows", value) for name, value in values.items()})
        return self.share("rows", loss)

    def counts(self, batch: Tensors) -> Tensors:
        """Real rows, not those that a value is bootstrapped from."""
        return {"rows": batch[Columns.LOSS_MASK].sum()}

    def split(self, batch: Tensors, parts: int) -> list[Tensors]:
        """Cut the real rows."""
        mask = batch[Columns.LOSS_MASK]
        return split_rows({name: value[mask] for name, value in batch.items()}, parts)

    def num_learned(self, batch: Tensors) -> int:
        """Real rows."""
        return int(batch[Columns.LOSS_MASK].sum())

    def look_at(self, metrics: Metrics) -> None:
        """End the update where the policy has moved too far."""
        self.stopped = metrics[LEARNER_RESULTS_KL_KEY] > self._settings.kl_stop

    @property
    def _settings(self) -> PPOConfig:
        settings: PPOConfig = self.config.learner_config_dict["settings"]
        return settings


def advantages_and_targets(
    values: NDArray[np.float32], known: Mapping[str, NDArray[Any]], gamma: float, lam: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Standardised advantages and value targets f32 (N,) of episodes one behind the other, as RLlib computes them.

    Args:
        values: f32 (N,) of every row, the one that each episode's last value is bootstrapped from included.
        known: rewards f32 (N,), terminateds and truncateds bool (N,).
        gamma: discount.
        lam: lambda.
    """
    targets = compute_value_targets(
        values=values,
        rewards=known[Columns.REWARDS],
        terminateds=known[Columns.TERMINATEDS],
        truncateds=known[Columns.TRUNCATEDS],
        gamma=gamma,
        lambda_=lam,
    )
    advantages = targets - values
    # Over all rows, as RLlib does it: those that are bootstrapped from count too.
    return (advantages - advantages.mean()) / max(1e-4, advantages.std()), targets
