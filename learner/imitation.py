"""Stage 1: joint imitation and diffusion (Sym-Servo eq. 1-4), with segmentation and matching as auxiliary losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from common.config import ImitationConfig, PhaseConfig
from common.networks.backbone import pool_to_grid
from common.networks.losses import MIN_DIR_NORM, masked_mean, matching_loss, regression_loss, segmentation_loss
from common.networks.servo_net import Encoding, ServoNet, TwistPrediction
from learner.checked_updates import CheckedUpdates
from learner.jitter import any_jitter, draw_jitter, jittered
from learner.module import ENCODING, TWIST
from learner.optimisers import adamw, use_fused
from learner.passes import Tensors, split_pairs

_BETAS = (0.9, 0.99)


def algorithm_config(phase: PhaseConfig) -> AlgorithmConfig:
    """RLlib settings of an imitation phase."""
    settings = phase.imitation
    return (
        AlgorithmConfig()
        .training(lr=settings.lr, grad_clip=settings.grad_clip)
        .learners(learner_class=ImitationLearner)
    )


class ImitationLearner(CheckedUpdates):
    """AdamW, and averaged weights (EMA) that act and are handed on.

    Attributes:
        average: averaged trained parameters by name.
    """

    ROWS = "x0"

    average: dict[str, Tensor]

    def build(self) -> None:
        """Build the learner; the averages start as the weights."""
        super().build()
        self.restart_average()

    def restart_average(self) -> None:
        """Make the averages equal to the weights."""
        trained = ((n, p) for n, p in self.net.named_parameters() if p.requires_grad)
        self.average = {name: parameter.detach().clone() for name, parameter in trained}

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """AdamW that decays matrices and convolution kernels, not biases, norms and scalars."""
        named = self.named_parameters(self.module[module_id])
        fused = use_fused(self.engine, torch.device(self.device), otherwise=True)
        settings = self._settings
        optimizer = adamw(named, lr=settings.lr, weight_decay=settings.weight_decay, betas=_BETAS, fused=fused)
        self.register_optimizer(module_id=module_id, optimizer=optimizer, params=[p for _, p in named])

    def prepare(self, batch: Tensors) -> Tensors:
        """Jitter the colours, where asked for, and draw the noise of the diffusion loss: for the whole batch, so that
        the parts of a batch learn from the same draws as the whole.
        """
        jitter = self._settings.jitter
        if any_jitter(jitter):
            for name in ("image", "goal_image"):
                batch[name] = jittered(batch[name], draw_jitter(len(batch[name]), jitter, self.generator))
        if self.net.diffusion is not None:
            shape = (len(batch["x0"]), self._settings.diffusion_draws)
            batch |= diffusion_draws(shape, self.net.diffusion.levels, self.generator)
        return batch

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        """`imitation_losses` of the batch."""
        encoding, predicted = fwd_out[ENCODING], fwd_out[TWIST]
        loss, terms = imitation_losses(
            self.net, encoding, predicted, batch, self._settings, self.generator, self.shares
        )
        self.add_terms(terms)
        return loss

    def counts(self, batch: Tensors) -> Tensors:
        """Rows, goals, labels, labels with a direction, and visible matches."""
        valid = _labels(batch, self._settings)
        goals = batch.get("goal_weight", batch["goal_image"].new_ones(len(batch["goal_image"]), dtype=torch.float32))
        return {
            "rows": torch.tensor(len(valid), device=valid.device),
            "goals": goals.sum(),
            "labels": valid.sum(),
            "directions": (valid & (batch["expert_twist"].norm(dim=1) >= MIN_DIR_NORM)).sum(),
            "matches": (~torch.isnan(batch["match"]).any(dim=-1)).sum(),
        }

    def split(self, batch: Tensors, parts: int) -> list[Tensors]:
        """Cut by rows; each part has the goals of its own."""
        return split_pairs(batch, parts)

    def after_step(self) -> None:
        """Move the averages; early on these forget faster, for the first weights are noise."""
        decay = min(self._settings.ema_decay, (1 + self.gradient_steps) / (10 + self.gradient_steps))
        current = dict(self.net.named_parameters())
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), [current[n].detach() for n in self.average], 1.0 - decay)

    @property
    def _settings(self) -> ImitationConfig:
        settings: ImitationConfig = self.config.learner_config_dict["settings"]
        return settings


def diffusion_draws(shape: tuple[int, int], levels: int, generator: torch.Generator) -> Tensors:
    """Noise levels int64 (B, D) and standard normal noise (B, D, 6), on the generator's device."""
    device = generator.device
    level = torch.randint(0, levels, shape, generator=generator, device=device)
    return {"level": level, "noise": torch.randn((*shape, 6), generator=generator, device=device)}


def segmentation_losses(logits: Tensor, mask: Tensor) -> Tensor:
    """`segmentation_loss` of each image (N,)."""
    target = pool_to_grid(mask, logits.shape[-1])
    return binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=(1, 2))


def _labels(batch: Mapping[str, Tensor], settings: ImitationConfig) -> Tensor:
    return batch["label_valid"] & ~(batch["expert_twist"].norm(dim=1) > settings.max_label_norm)


def imitation_losses(
    net: ServoNet,
    encoding: Encoding,
    predicted: TwistPrediction,
    batch: Mapping[str, Tensor],
    settings: ImitationConfig,
    generator: torch.Generator,
    shares: Mapping[str, Tensor] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """L_norm + loss_dir L_dir + loss_diff L_diff + loss_seg L_seg + loss_match L_match, and its parts by name.

    Args:
        net: the network that made `encoding` and `predicted` of the batch's images.
        encoding: of B pairs; its goal_seg_logits are of the E goals.
        predicted: regressed twists of the B pairs.
        batch: mask bool (B, H, W), goal_mask bool (E, H, W), match (B, G, G, 2), expert_twist (B, 6), label_valid bool
            (B,), x0 (B, 6); level and noise of `diffusion_draws`, if they are drawn already.
        settings: loss weights, max_label_norm, diffusion_draws.
        generator: of the diffusion's levels and noise.
        shares: for a part of a batch, by what its means over rows, goals, labels, directions and matches are multiplied
            to add up over the parts; the batch then has goal_weight (E,).

    Rows without a valid label, and those with a larger expert twist than max_label_norm, teach segmentation, matching
    and the pose, but no twist.
    """
    target, x0 = batch["expert_twist"], batch["x0"]
    valid = _labels(batch, settings)
    regression = regression_loss(predicted, target, valid)
    seg = 0.5 * segmentation_loss(encoding.seg_logits, batch["mask"])
    if shares is None:
        seg = seg + 0.5 * segmentation_loss(encoding.goal_seg_logits, batch["goal_mask"])
    else:
        each = segmentation_losses(encoding.goal_seg_logits, batch["goal_mask"])
        weight = batch["goal_weight"]
        seg = shares["rows"] * seg + shares["goals"] * 0.5 * (weight * each).sum() / weight.sum().clamp_min(1)
    match = matching_loss(encoding.match_logits, batch["match"])
    terms = {
        "loss_norm": (regression.norm, "labels"),
        "loss_dir": (regression.direction, "directions"),
        "loss_match": (match, "matches"),
        "label_share": (valid.float().mean(), "rows"),
    }
    if net.diffusion is not None:
        draws = (
            batch
            if "noise" in batch
            else diffusion_draws((len(x0), settings.diffusion_draws), net.diffusion.levels, generator)
        )
        errors = net.diffusion.errors(encoding.z, x0, draws["level"], draws["noise"]).mean(dim=(1, 2))
        terms["loss_diff"] = (masked_mean(errors, valid), "labels")
    metrics = {name: value if shares is None else value * shares[over] for name, (value, over) in terms.items()}
    metrics["loss_seg"] = seg
    loss = metrics["loss_norm"] + settings.loss_dir * metrics["loss_dir"]
    loss = loss + settings.loss_seg * seg + settings.loss_match * metrics["loss_match"]
    if net.diffusion is not None:
        loss = loss + settings.loss_diff * metrics["loss_diff"]
    return loss, metrics


def averaged_weights(learner: ImitationLearner, weights: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """`weights` with the averaged ones in place of those that train."""
    return {**weights, **{name: tensor.cpu().numpy().copy() for name, tensor in learner.average.items()}}
