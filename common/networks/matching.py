"""Dense matching scores between two token grids, and the translation-equivariant form the policy reads them in.

CNSv2 eq. 14-17. Tokens lie on a G_y x G_x grid, row by row: token t = (row t // G_x, column t % G_x). Displacements are
in tokens, (x, y) with x along a row.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def quadratic_bspline(a: Tensor) -> Tensor:
    """Kernel kappa of CNSv2 eq. 17, elementwise; integer translates of it sum to one."""
    distance = a.abs()
    near = 0.75 - distance * distance
    far = 0.5 * (1.5 - distance).clamp_min(0.0) ** 2
    return torch.where(distance < 0.5, near, far)


def anchor_positions(grid: int, anchors: int) -> Tensor:
    """Displacement anchors (K,) along one axis [tokens]: centres of K equal cells that cover -G .. G."""
    cell = 2.0 * grid / anchors
    return (torch.arange(anchors, dtype=torch.float64) + 0.5) * cell - grid


def anchor_weights(grid: int, anchors: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """One axis of eq. 16: (G, G, K) weights of [current token, goal token, anchor], normaliser included.

    The 2-D kernel is a product, so its sum over neighbours is a product of sums and each axis can carry its own part.
    An anchor without a neighbour has weight zero.
    """
    index = torch.arange(grid, dtype=torch.float64)
    displacement = index[None, :] - index[:, None]
    cell = 2.0 * grid / anchors
    weights = quadratic_bspline((displacement[..., None] - anchor_positions(grid, anchors)) / cell)
    total = weights.sum(dim=1, keepdim=True)
    return torch.where(total > 0.0, weights / total.clamp_min(1e-12), torch.zeros_like(weights)).to(dtype)


@functools.lru_cache(maxsize=32)
def kept_weights(grid: int, anchors: int, device: torch.device) -> Tensor:
    """`anchor_weights` on a device, computed when they are asked for first."""
    # Inference tensors could not be used in a training step later on.
    with torch.inference_mode(False):
        return anchor_weights(grid, anchors).to(device)


def probabilistic_matching(scores: Tensor, along_y: Tensor, along_x: Tensor) -> Tensor:
    """P of eq. 16 as a feature map, in its separable form P_i = Wy_i^T S_i Wx_i.

    Args:
        scores: (N, T, T) row-softmax scores S, T = G_y * G_x.
        along_y: (G_y, G_y, K) of `anchor_weights`.
        along_x: (G_x, G_x, K).

    Returns:
        (N, K * K, G_y, G_x): channel ay * K + ax of a current token says how much of its score lies near displacement
        anchor (ax, ay).
    """
    n, height, width = scores.shape[0], along_y.shape[0], along_x.shape[0]  # not len(), which a trace takes as constant
    s = scores.view(n, height, width, height, width)
    projected = torch.einsum("nyxvu,xua->nyxva", s, along_x)
    both = torch.einsum("nyxva,yvb->nbayx", projected, along_y)
    return both.reshape(n, -1, height, width)


class MatchMap(nn.Module):
    """Matching scores as a feature map of fixed depth, for any token grid. It has no parameters.

    Args:
        grid: G, side of the training grid, whose weights are kept; other grids get their own when they come.
        anchors: K, anchors per axis.
        kind: what the map holds: "probabilistic", P of eq. 16, the paper's phi_P, times the tokens per anchor cell, so
            that a certain match has an entry near one at any resolution; "raw_score", the rows of S sampled bilinearly
            to K x K (phi_S), scaled alike; "explicit", the expected displacement of eq. 15 (phi_M), the image 2 x 2.
    """

    def __init__(self, grid: int, anchors: int, kind: str = "probabilistic"):
        super().__init__()
        self.grid = grid
        self.anchors = anchors
        self.kind = kind
        self.axis_weights: Tensor
        self.register_buffer("axis_weights", anchor_weights(grid, anchors), persistent=False)

    @property
    def channels(self) -> int:
        """Depth of the map."""
        return 2 if self.kind == "explicit" else self.anchors**2

    def weights_of(self, grid: int) -> Tensor:
        """`anchor_weights` of a side of `grid` tokens, on this module's device."""
        if grid == self.grid:
            return self.axis_weights
        if torch.compiler.is_compiling():  # a tracer's stand-ins must not be kept
            return anchor_weights(grid, self.anchors).to(self.axis_weights.device)
        return kept_weights(grid, self.anchors, self.axis_weights.device)

    def probabilistic(self, scores: Tensor, height: int | None = None, width: int | None = None) -> Tensor:
        """P of eq. 16, (N, K * K, G_y, G_x), of scores (N, T, T); the training grid where no other is given."""
        along_y, along_x = self.weights_of(height or self.grid), self.weights_of(width or self.grid)
        return probabilistic_matching(scores, along_y, along_x)

    def feature_map(self, scores: Tensor, xy: Tensor, height: int, width: int) -> Tensor:
        """The map (N, channels, G_y, G_x) of this kind.

        Args:
            scores: (N, T, T) row-softmax scores S.
            xy: (T, 2) token coordinates, the image being 2 x 2.
            height, width: G_y, G_x.
        """
        n, k = scores.shape[0], self.anchors
        if self.kind == "explicit":
            return (scores @ xy - xy).transpose(1, 2).reshape(n, 2, height, width)
        if self.kind == "raw_score":
            rows = scores.reshape(-1, 1, height, width)
            sampled = functional.interpolate(rows, (k, k), mode="bilinear", align_corners=False)
            depth_last = sampled.view(n, height * width, k * k) * (height * width / k**2)
            return depth_last.transpose(1, 2).reshape(n, k * k, height, width)
        # Eq. 16 averages over a cell of anchors; multiplied by its area, a certain match has an entry near one.
        return self.probabilistic(scores, height, width) * ((2.0 * height / k) * (2.0 * width / k))


class Matching(MatchMap):
    """Scores of normalised descriptors under a learned temperature, and their map."""

    def __init__(self, grid: int, anchors: int, kind: str = "probabilistic"):
        super().__init__(grid, anchors, kind)
        self.log_scale = nn.Parameter(torch.tensor([math.log(10.0)]))

    def logits(self, current: Tensor, goal: Tensor) -> Tensor:
        """Matching logits (N, T, T), [current token, goal token], of unit descriptors (N, T, D).

        Unit vectors with a learned temperature stand in for the fixed 1/sqrt(C) of eq. 14.
        """
        scale = self.log_scale.clamp(max=math.log(100.0)).exp()
        return scale * torch.bmm(current, goal.transpose(1, 2))


def scaled_logits(current: Tensor, goal: Tensor) -> Tensor:
    """Logits (N, T, T) of eq. 14, whose row-softmax is S: products of features (N, T, C) over sqrt(C)."""
    return torch.bmm(current, goal.transpose(1, 2)) * (1.0 / math.sqrt(current.shape[2]))


def dual_softmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Row-softmax scores S (N, T, T), and the product of row and column softmax, high only for mutual matches."""
    rows = logits.softmax(dim=2)
    return rows, rows * logits.softmax(dim=1)
