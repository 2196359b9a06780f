"""Losses of the imitation phases, with the edge rules of zero targets and invisible matches."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional

from common.networks.backbone import pool_to_grid
from common.networks.heads import TwistPrediction, sigma_inverse

MIN_NORM = 0.005
MIN_DIR_NORM = 0.003


def masked_mean(values: Tensor, keep: Tensor) -> Tensor:
    """Mean of `values` where `keep` holds; zero, still part of the graph, where nothing is kept."""
    return torch.where(keep, values, torch.zeros_like(values)).sum() / keep.sum().clamp_min(1)


@dataclasses.dataclass
class RegressionLoss:
    """Terms of CNSv2 eq. 23, scalars.

    Attributes:
        norm: L1 of the log-norms.
        direction: one minus the cosine, over the rows whose direction counts.
    """

    norm: Tensor
    direction: Tensor


def regression_loss(
    predicted: TwistPrediction,
    target: Tensor,
    valid: Tensor,
    min_norm: float = MIN_NORM,
    min_dir_norm: float = MIN_DIR_NORM,
) -> RegressionLoss:
    """CNSv2 eq. 23, finite for every target.

    Args:
        predicted: of N rows.
        target: (N, 6) normalised twists.
        valid: bool (N,) rows that count.
        min_norm: smaller target norms count as this in the log-norm (the logarithm of zero is not finite).
        min_dir_norm: rows with a smaller target norm teach no direction (a zero vector has none).
    """
    # Not merely masked afterwards: a NaN in a row that does not count would still reach the gradient.
    target = torch.where(valid[:, None], target, torch.zeros_like(target))
    norm = target.norm(dim=1)
    log_norm_error = (sigma_inverse(norm.clamp_min(min_norm)) - predicted.log_norm).abs()
    cosine = functional.cosine_similarity(predicted.direction, target, dim=1, eps=1e-6)
    return RegressionLoss(
        norm=masked_mean(log_norm_error, valid),
        direction=masked_mean(1.0 - cosine, valid & (norm >= min_dir_norm)),
    )


def segmentation_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Binary cross-entropy of token logits (N, G_y, G_x) against the share of each token under bool masks (N, H, W)."""
    return functional.binary_cross_entropy_with_logits(logits, pool_to_grid(mask, *logits.shape[-2:]))


def matching_loss(logits: Tensor, match: Tensor) -> Tensor:
    """Cross-entropy of matching logits against true correspondences, spread bilinearly over goal tokens.

    Args:
        logits: (N, T, T), [current token, goal token].
        match: (N, G_y, G_x, 2) goal image coordinates (x, y) in units of its sides, NaN where there is none.
    """
    n, tokens, _ = logits.shape
    height, width = match.shape[1:3]
    xy = match.reshape(n, tokens, 2).float()
    seen = ~torch.isnan(xy).any(dim=2)
    xy = torch.nan_to_num(xy)
    along_x = _hat(xy[:, :, 0], width)
    along_y = _hat(xy[:, :, 1], height)
    soft = (along_y[:, :, :, None] * along_x[:, :, None, :]).flatten(2)
    return masked_mean(-(soft * logits.log_softmax(dim=2)).sum(dim=2), seen)


def _hat(at: Tensor, tokens: int) -> Tensor:
    # (N, T, tokens): linear weights of the tokens along a side around positions in units of it.
    centre = (at * tokens - 0.5).clamp(0.0, tokens - 1.0)
    index = torch.arange(tokens, dtype=torch.float32, device=at.device)
    return (1.0 - (centre[..., None] - index).abs()).clamp_min(0.0)
