"""Stage 1: joint imitation and diffusion (Sym-Servo eq. 1-4), with segmentation and matching as auxiliary losses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from torch import Tensor

from common.config import ImitationConfig, PhaseConfig
from common.networks.losses import masked_mean, matching_loss, regression_loss, segmentation_loss
from common.networks.servo_net import Encoding, ServoNet, TwistPrediction
from learner.checked_updates import CheckedUpdates
from learner.module import ENCODING, TWIST

_FINAL_LR = 0.02
_BETAS = (0.9, 0.99)


def algorithm_config(phase: PhaseConfig, seed: int) -> AlgorithmConfig:
    """RLlib settings of an imitation phase; ours travel in `learner_config_dict`."""
    settings = phase.imitation
    return (
        AlgorithmConfig()
        .training(lr=settings.lr, grad_clip=settings.grad_clip)
        .learners(
            learner_class=ImitationLearner,
            learner_config_dict={"settings": settings, "samples": phase.samples, "seed": seed},
        )
    )


class ImitationLearner(CheckedUpdates):
    """AdamW with a cosine schedule over the phase, and averaged weights (EMA) that act and are handed on.

    Attributes:
        average: averaged trained parameters by name.
        generator: where the noise of the diffusion loss comes from.
    """

    average: dict[str, Tensor]
    generator: torch.Generator

    def build(self) -> None:
        """Build the learner; the averages start as the weights."""
        super().build()
        self.generator = torch.Generator(self.device).manual_seed(self.config.learner_config_dict["seed"])
        self.restart_average()

    @property
    def net(self) -> ServoNet:
        """The network that trains."""
        return next(iter(self.module.values())).unwrapped().net

    def restart_average(self) -> None:
        """Make the averages equal to the weights."""
        trained = ((n, p) for n, p in self.net.named_parameters() if p.requires_grad)
        self.average = {name: parameter.detach().clone() for name, parameter in trained}

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """AdamW that decays matrices and convolution kernels, not biases, norms and scalars."""
        parameters = self.get_parameters(self.module[module_id])
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self._settings.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self._settings.lr, betas=_BETAS, fused=True)
        self.register_optimizer(module_id=module_id, optimizer=optimizer, params=parameters)

    def learning_rate(self) -> float:
        """Cosine from the peak to 2 % of it, in samples, so that it does not depend on how they were batched."""
        progress = min(1.0, self.rows_learned / self.config.learner_config_dict["samples"])
        share = _FINAL_LR + (1.0 - _FINAL_LR) * 0.5 * (1.0 + math.cos(math.pi * progress))
        return self._settings.lr * share

    def before_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Set the learning rate of the coming step."""
        super().before_gradient_based_update(timesteps=timesteps)
        for optimizer in self._named_optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate()

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        """`imitation_losses` of the batch."""
        loss, metrics = imitation_losses(
            self.net, fwd_out[ENCODING], fwd_out[TWIST], batch, self._settings, self.generator
        )
        self.metrics.log_dict({k: v.item() for k, v in metrics.items()}, key=module_id, window=1)
        self.rows_learned += len(batch["x0"])
        return loss

    def apply_gradients(self, gradients_dict: dict[Any, Tensor]) -> None:
        """One step of AdamW, then of the averages; early on these forget faster, for the first weights are noise."""
        super().apply_gradients(gradients_dict)
        decay = min(self._settings.ema_decay, (1 + self.gradient_steps) / (10 + self.gradient_steps))
        current = dict(self.net.named_parameters())
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), [current[n].detach() for n in self.average], 1.0 - decay)

    @property
    def _settings(self) -> ImitationConfig:
        settings: ImitationConfig = self.config.learner_config_dict["settings"]
        return settings


def imitation_losses(
    net: ServoNet,
    encoding: Encoding,
    predicted: TwistPrediction,
    batch: Mapping[str, Tensor],
    settings: ImitationConfig,
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, Tensor]]:
    """L_norm + loss_dir L_dir + loss_diff L_diff + loss_seg L_seg + loss_match L_match, and its parts by name.

    Args:
        net: the network that made `encoding` and `predicted` of the batch's images.
        encoding: of B pairs; its goal_seg_logits are of the E goals.
        predicted: regressed twists of the B pairs.
        batch: mask bool (B, H, W), goal_mask bool (E, H, W), match (B, G, G, 2), expert_twist (B, 6), label_valid bool
            (B,), x0 (B, 6).
        settings: loss weights, max_label_norm, diffusion_draws.
        generator: of the diffusion's levels and noise.

    Rows without a valid label, and those with a larger expert twist than max_label_norm, teach segmentation, matching
    and the pose, but no twist.
    """
    target, x0 = batch["expert_twist"], batch["x0"]
    valid = batch["label_valid"] & ~(target.norm(dim=1) > settings.max_label_norm)
    regression = regression_loss(predicted, target, valid)
    seg = 0.5 * segmentation_loss(encoding.seg_logits, batch["mask"])
    seg = seg + 0.5 * segmentation_loss(encoding.goal_seg_logits, batch["goal_mask"])
    match = matching_loss(encoding.match_logits, batch["match"])
    loss = regression.norm + settings.loss_dir * regression.direction
    loss = loss + settings.loss_seg * seg + settings.loss_match * match
    metrics = {
        "loss_norm": regression.norm,
        "loss_dir": regression.direction,
        "loss_seg": seg,
        "loss_match": match,
        "label_share": valid.float().mean(),
    }
    if net.diffusion is not None:
        shape = (len(x0), settings.diffusion_draws)
        level = torch.randint(0, net.diffusion.levels, shape, generator=generator, device=x0.device)
        noise = torch.randn((*shape, 6), generator=generator, device=x0.device)
        errors = net.diffusion.errors(encoding.z, x0, level, noise).mean(dim=(1, 2))
        metrics["loss_diff"] = masked_mean(errors, valid)
        loss = loss + settings.loss_diff * metrics["loss_diff"]
    return loss, metrics


def averaged_weights(learner: ImitationLearner, weights: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """`weights` with the averaged ones in place of those that train."""
    return {**weights, **{name: tensor.cpu().numpy().copy() for name, tensor in learner.average.items()}}
