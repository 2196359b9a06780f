"""The quick start's encoder: convolutional features, matched descriptors, fusion by convolutions, at one resolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.config import NetworkConfig
from common.networks.backbone import ConvBackbone, ImageFeatures
from common.networks.encoding import Encoding
from common.networks.geometry_block import GeometryBlock, expected_displacement, token_coordinates
from common.networks.matching import Matching, dual_softmax


class ConvEncoder(nn.Module):
    """Backbone, matching, fusion and geometry block."""

    def __init__(self, cfg: NetworkConfig):
        super().__init__()
        grid, channels = cfg.match_grid, cfg.widths[-1]
        self.backbone = ConvBackbone(cfg.widths, cfg.match_dim)
        self.matching = Matching(grid, cfg.anchors, cfg.matching)
        self.xy: Tensor
        self.register_buffer("xy", token_coordinates(grid), persistent=False)
        # The matches, both feature maps, both soft masks, token coordinates, displacement and confidence.
        inputs = self.matching.channels + 2 * channels + 2 + 2 + 3
        self.mix = nn.Conv2d(inputs, 96, 1)
        self.mix_norm = nn.GroupNorm(4, 96)
        self.reduce = nn.Conv2d(96, 128, 3, stride=2, padding=1)
        self.reduce_norm = nn.GroupNorm(4, 128)
        self.squeeze = nn.Conv2d(128, 32, 1)
        self.flat = nn.Linear(32 * ((grid + 1) // 2) ** 2, cfg.feature_dim)
        self.geometry = GeometryBlock(grid, 128, cfg.feature_dim) if cfg.geometry_block else None
        self.out_norm = nn.LayerNorm(cfg.feature_dim)

    def fuse(self, current: ImageFeatures, goal: ImageFeatures) -> Encoding:
        """Encode N pairs of image features."""
        n, _, grid, _ = current.tokens.shape
        logits = self.matching.logits(current.descriptors, goal.descriptors)
        scores, mutual = dual_softmax(logits)
        displacement, confidence = expected_displacement(mutual, self.xy)
        mask, goal_mask = current.seg_logits.sigmoid(), goal.seg_logits.sigmoid()
        maps = [
            self.matching.feature_map(scores, self.xy, grid, grid),
            current.tokens,
            goal.tokens,
            mask[:, None],
            goal_mask[:, None],
            self.xy.T.reshape(1, 2, grid, grid).expand(n, -1, -1, -1),
            displacement.transpose(1, 2).reshape(n, 2, grid, grid),
            confidence.view(n, 1, grid, grid),
        ]
        x = functional.relu(self.mix_norm(self.mix(torch.cat(maps, dim=1))))
        x = functional.relu(self.reduce_norm(self.reduce(x)))
        feature = self.flat(functional.relu(self.squeeze(x)).flatten(1))
        if self.geometry is not None:
            feature = feature + self.geometry(displacement, confidence, mask.flatten(1), goal_mask.flatten(1))
        z = self.out_norm(feature)
        return Encoding(z, logits, current.seg_logits, goal.seg_logits, displacement, confidence)
