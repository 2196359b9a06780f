"""The papers' encoder (CNSv2 III-C, III-D and Fig. 2; Sym-Servo III-A) around any transformer backbone.

Coarse tokens of a transformer go through self- and cross-attention, which makes their scores S and the representation P
of the matches; with fine convolutional features they become the matching features F, which attention pools into z. No
layer knows the number of tokens, so weights learned at one resolution run at any other.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.config import NetworkConfig
from common.network_config import FOUNDATION_PATCH, token_stride
from common.networks.attention import Attention, AxialRope, CrossLayer, SelfLayer
from common.networks.backbone import ImageFeatures, images_to_float
from common.networks.encoding import Encoding
from common.networks.foundation import load_foundation
from common.networks.frozen import Frozen
from common.networks.geometry_block import GeometryBlock, expected_displacement, token_coordinates
from common.networks.matching import MatchMap, dual_softmax, scaled_logits
from common.networks.vit import VIT_SIZES, VisionTransformer


def coarse_backbone(cfg: NetworkConfig) -> tuple[nn.Module, int]:
    """The transformer that a configuration names, u8 images (N, H, W, 3) -> tokens (N, T, width), and its width."""
    if cfg.backbone in FOUNDATION_PATCH:
        model = load_foundation(cfg)
        return (Frozen(model) if cfg.freeze_backbone else model), model.width
    width, heads = VIT_SIZES[cfg.backbone]
    return VisionTransformer(width, heads, cfg.vit_layers, cfg.patch, cfg.match_grid), width


class FineFeatures(nn.Module):
    """Two convolutions at half resolution, gathered per token: what is left of the error once matches are close.

    Args:
        width: channels.
        patch: side of a token [px], even.
    """

    def __init__(self, width: int, patch: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 5, stride=2, padding=2)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.GroupNorm(1, width)
        self.gather = nn.Conv2d(width, width, patch // 2, stride=patch // 2)

    def forward(self, rgb: Tensor) -> Tensor:
        """(N, width, H / patch, W / patch) of u8 images (N, H, W, 3)."""
        x = functional.relu(self.conv1(images_to_float(rgb)))
        return self.gather(functional.relu(self.norm(self.conv2(x))))


class TransformerBackbone(nn.Module):
    """What is computed of one image alone: coarse tokens, fine features, and a soft mask of the target."""

    def __init__(self, cfg: NetworkConfig):
        super().__init__()
        width, fine = cfg.transformer_width, cfg.fine_width
        self.coarse, coarse_width = coarse_backbone(cfg)
        self.project = nn.Linear(coarse_width, width)
        self.fine = FineFeatures(fine, token_stride(cfg))
        self.segment = nn.Sequential(nn.Linear(width + fine, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, rgb: Tensor) -> ImageFeatures:
        """Features of u8 images (N, H, W, 3): `tokens` the fine map, `descriptors` the coarse tokens."""
        fine = self.fine(rgb)
        coarse = self.project(self.coarse(rgb))
        both = torch.cat([coarse, fine.flatten(2).transpose(1, 2)], dim=2)
        return ImageFeatures(fine, coarse, self.segment(both).view(-1, *fine.shape[2:]))


class MatchingEncoder(nn.Module):
    """Backbone, matching transformer, match map, feature fusion and geometry block."""

    def __init__(self, cfg: NetworkConfig):
        super().__init__()
        grid, width, heads = cfg.match_grid, cfg.transformer_width, cfg.transformer_heads
        self.backbone = TransformerBackbone(cfg)
        self.rope = AxialRope(grid, width // heads)
        self.match_layers = nn.ModuleList([CrossLayer(width, heads) for _ in range(cfg.match_layers)])
        self.match_norm = nn.LayerNorm(width)
        self.matching = MatchMap(grid, cfg.anchors, cfg.matching)
        # The matches, matched tokens, both images' fine features and soft masks, and token coordinates.
        self.mix = nn.Linear(self.matching.channels + width + 2 * cfg.fine_width + 2 + 2, width)
        self.fuse_layers = nn.ModuleList([SelfLayer(width, heads) for _ in range(cfg.fuse_layers)])
        self.fuse_norm = nn.LayerNorm(width)
        self.queries = nn.Parameter(torch.randn(cfg.pool_queries, width))
        self.pool = Attention(width, heads)
        self.flat = nn.Linear(cfg.pool_queries * width, cfg.feature_dim)
        self.geometry = GeometryBlock(grid, 128, cfg.feature_dim) if cfg.geometry_block else None
        self.out_norm = nn.LayerNorm(cfg.feature_dim)

    def matched_tokens(self, current: Tensor, goal: Tensor, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Eq. 13: coarse tokens (N, T, width) of both images, made distinctive by looking at each other."""
        both = torch.cat([current, goal])
        for layer in self.match_layers:
            both = layer(both, turn)
        both, n = self.match_norm(both), current.shape[0]
        return both[:n], both[n:]

    def fuse(self, current: ImageFeatures, goal: ImageFeatures) -> Encoding:
        """Encode N pairs of image features.

        Raises:
            ValueError: if current and goal images differ in size.
        """
        n, _, height, width = current.tokens.shape
        if goal.tokens.shape[2:] != current.tokens.shape[2:]:
            seen = tuple(goal.tokens.shape[2:])
            raise ValueError(f"goal token grid = {seen}: allowed is that of the current image, {(height, width)}")
        turn = self.rope(height, width)
        xy = token_coordinates(width, height).to(current.tokens.device)
        first, second = self.matched_tokens(current.descriptors, goal.descriptors, turn)
        logits = scaled_logits(first, second)
        scores, mutual = dual_softmax(logits)
        displacement, confidence = expected_displacement(mutual, xy)
        mask, goal_mask = current.seg_logits.sigmoid(), goal.seg_logits.sigmoid()
        maps = [
            self.matching.feature_map(scores, xy, height, width),
            current.tokens,
            goal.tokens,
            mask[:, None],
            goal_mask[:, None],
        ]
        per_token = torch.cat(maps, dim=1).flatten(2).transpose(1, 2)
        x = self.mix(torch.cat([per_token, first, xy.expand(n, -1, -1)], dim=2))
        for layer in self.fuse_layers:
            x = layer(x, turn)
        pooled = self.pool(self.queries.expand(n, -1, -1), self.fuse_norm(x))
        feature = self.flat(pooled.flatten(1))
        if self.geometry is not None:
            on_grid = (displacement, confidence, mask.flatten(1), goal_mask.flatten(1))
            feature = feature + self.geometry(*on_grid, xy=xy)
        z = self.out_norm(feature)
        return Encoding(z, logits, current.seg_logits, goal.seg_logits, displacement, confidence)
