"""A compact vision transformer that learns from scratch: image -> tokens, at any resolution."""

from __future__ import annotations

from torch import Tensor, nn

from common.networks.attention import AxialRope, SelfLayer
from common.networks.backbone import images_to_float

VIT_SIZES = {"vit_tiny": (192, 3), "vit_small": (384, 6)}  # width, heads


class VisionTransformer(nn.Module):
    """Patches, pre-norm layers with axial rotary positions, a last norm; no class token.

    Args:
        width, heads, layers: size of the transformer.
        patch: side of a token [px].
        grid: tokens per side in training.
    """

    def __init__(self, width: int, heads: int, layers: int, patch: int, grid: int):
        super().__init__()
        self.width = width
        self.embed = nn.Conv2d(3, width, patch, stride=patch)
        self.rope = AxialRope(grid, width // heads)
        self.layers = nn.ModuleList([SelfLayer(width, heads) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)

    def forward(self, rgb: Tensor) -> Tensor:
        """Tokens (N, T, width) of u8 images (N, H, W, 3), sides multiples of the patch."""
        x = self.embed(images_to_float(rgb))
        turn = self.rope(x.shape[2], x.shape[3])
        x = x.flatten(2).transpose(1, 2)
        for layer in self.layers:
            x = layer(x, turn)
        return self.norm(x)
