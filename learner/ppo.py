"""Stages 2 and 3b: PPO on stored features, with RLlib's loss and its generalised advantage estimation.

Value warm-up is this learner with `train: [value.]`: the policy is frozen, so only the value loss has a gradient.
"""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.ppo.ppo import LEARNER_RESULTS_KL_KEY, PPOConfig
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core.columns import Columns
from torch import Tensor

from common.config import PhaseConfig
from learner.checked_updates import CheckedUpdates


def algorithm_config(phase: PhaseConfig) -> PPOConfig:
    """RLlib settings of a PPO or value warm-up phase; the KL is measured for the early stop, but not in the loss."""
    ppo = phase.ppo
    return (
        PPOConfig()
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
        .learners(learner_class=PPOLearner, learner_config_dict={"kl_stop": ppo.kl_stop})
    )


class PPOLearner(CheckedUpdates, PPOTorchLearner):
    """RLlib's PPO, which ends an update once a minibatch has seen the policy too far from the one that acted.

    Minibatches after that are passed over without a gradient step, and do not count as learned.

    Attributes:
        stopped: the running or last update was ended early.
    """

    stopped = False

    def before_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Start an update."""
        super().before_gradient_based_update(timesteps=timesteps)
        self.stopped = False

    def _update(self, batch: dict[str, Any], **kwargs: Any) -> tuple[Any, Any, Any]:
        if self.stopped:
            return {}, {}, {}
        return super()._update(batch, **kwargs)

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        """RLlib's PPO loss; takes note of the KL and of how many real (not padded) rows there were."""
        loss: Tensor = super().compute_loss_for_module(module_id=module_id, config=config, batch=batch, fwd_out=fwd_out)
        kl = self.metrics.peek((module_id, LEARNER_RESULTS_KL_KEY)).item()
        self.stopped = kl > self.config.learner_config_dict["kl_stop"]
        self.rows_learned += int(batch[Columns.LOSS_MASK].sum())
        return loss
