"""Small convolutional backbone: image -> tokens, descriptors to match, and a soft mask of the target.

Normalisation is per sample (group norm). Batch statistics would make a feature depend on what else is in the batch, and
a collector and the learner could then disagree about the same image.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclasses.dataclass
class ImageFeatures:
    """What is computed of one image alone; those of a goal can be kept for a whole episode.

    Attributes:
        tokens: f32 (N, C, G_y, G_x) feature map that is fused beside the matches.
        descriptors: f32 (N, T, D) what is matched: unit vectors of conv_small, the coarse tokens that the matching
            transformer starts from of every other backbone.
        seg_logits: f32 (N, G_y, G_x) logits of the target's share of each token.
    """

    tokens: Tensor
    descriptors: Tensor
    seg_logits: Tensor

    def gather(self, index: Tensor) -> ImageFeatures:
        """The features of entries `index` (int64 (M,)), repeats allowed."""
        return ImageFeatures(self.tokens[index], self.descriptors[index], self.seg_logits[index])


def images_to_float(rgb: Tensor) -> Tensor:
    """u8 (N, H, W, 3) -> f32 (N, 3, H, W), roughly zero mean and unit spread, in channels-last memory."""
    return (rgb.permute(0, 3, 1, 2).float() - 127.5) * (1.0 / 64.0)


class ConvBackbone(nn.Module):
    """Three strided convolutions and a dilated residual block: H x W pixels -> H/8 x W/8 tokens.

    Args:
        widths: channels of the three convolutions.
        match_dim: channels of the descriptors.
    """

    def __init__(self, widths: list[int], match_dim: int):
        super().__init__()
        a, b, c = widths
        self.conv1 = nn.Conv2d(3, a, 5, stride=2, padding=2)
        self.conv2 = nn.Conv2d(a, b, 3, stride=2, padding=1)
        self.norm2 = nn.GroupNorm(4, b)
        self.conv3 = nn.Conv2d(b, c, 3, stride=2, padding=1)
        self.norm3 = nn.GroupNorm(4, c)
        self.dilated1 = nn.Conv2d(c, c, 3, padding=2, dilation=2)
        self.dilated2 = nn.Conv2d(c, c, 3, padding=1)
        self.norm4 = nn.GroupNorm(4, c)
        self.describe = nn.Conv2d(c, match_dim, 1)
        self.segment = nn.Sequential(nn.Conv2d(c, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 1, 1))

    def forward(self, rgb: Tensor) -> ImageFeatures:
        """Features of u8 images (N, H, W, 3)."""
        x = functional.relu(self.conv1(images_to_float(rgb)))
        x = functional.relu(self.norm2(self.conv2(x)))
        x = functional.relu(self.norm3(self.conv3(x)))
        x = functional.relu(x + self.norm4(self.dilated2(functional.relu(self.dilated1(x)))))
        descriptors = functional.normalize(self.describe(x).flatten(2).transpose(1, 2), dim=2)
        return ImageFeatures(x, descriptors, self.segment(x).squeeze(1))


def pool_to_grid(mask: Tensor, height: int, width: int | None = None) -> Tensor:
    """Share of each token that a mask covers: bool (N, H, W) -> f32 (N, height, width), square where no width is given.

    H and W are multiples of the grid's sides.
    """
    width = width or height
    n, h, w = mask.shape
    return mask.view(n, height, h // height, width, w // width).to(torch.float32).mean(dim=(2, 4))
