"""Dense matching scores between two token grids, and the translation-equivariant form the policy reads them in.

CNSv2 eq. 14-17. Tokens lie on a G x G grid, row by row: token t = (row t // G, column t % G). Displacements are in
tokens, (x, y) with x along a row.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


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


def anchor_weights(grid: int, anchors: int) -> Tensor:
    """One axis of eq. 16: (G, G, K) weights of [current token, goal token, anchor], normaliser included.

    The 2-D kernel is a product, so its sum over neighbours is a product of sums and each axis can carry its own part.
    An anchor without a neighbour has weight zero.
    """
    index = torch.arange(grid, dtype=torch.float64)
    displacement = index[None, :] - index[:, None]
    cell = 2.0 * grid / anchors
    weights = quadratic_bspline((displacement[..., None] - anchor_positions(grid, anchors)) / cell)
    total = weights.sum(dim=1, keepdim=True)
    return torch.where(total > 0.0, weights / total.clamp_min(1e-12), torch.zeros_like(weights)).float()


class Matching(nn.Module):
    """Scores of normalised descriptors under a learned temperature, and their projection onto anchors.

    Args:
        grid: G, side of the token grid.
        anchors: K, anchors per axis.
    """

    def __init__(self, grid: int, anchors: int):
        super().__init__()
        self.grid = grid
        self.anchors = anchors
        self.log_scale = nn.Parameter(torch.tensor([math.log(10.0)]))
        self.axis_weights: Tensor
        self.register_buffer("axis_weights", anchor_weights(grid, anchors), persistent=False)

    def logits(self, current: Tensor, goal: Tensor) -> Tensor:
        """Matching logits (N, T, T), [current token, goal token], of unit descriptors (N, T, D).

        Unit vectors with a learned temperature stand in for the fixed 1/sqrt(C) of eq. 14.
        """
        scale = self.log_scale.clamp(max=math.log(100.0)).exp()
        return scale * torch.bmm(current, goal.transpose(1, 2))

    def probabilistic(self, scores: Tensor) -> Tensor:
        """P of eq. 16 as a feature map.

        Args:
            scores: (N, T, T) row-softmax scores S.

        Returns:
            (N, K * K, G, G): channel ay * K + ax of a current token says how much of its score lies near displacement
            anchor (ax, ay).
        """
        n, g, k = scores.shape[0], self.grid, self.anchors  # not len(), which a trace takes for a constant
        s = scores.view(n, g, g, g, g)
        along_x = torch.einsum("nyxvu,xua->nyxva", s, self.axis_weights)
        both = torch.einsum("nyxva,yvb->nbayx", along_x, self.axis_weights)
        return both.reshape(n, k * k, g, g)


def dual_softmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Row-softmax scores S (N, T, T), and the product of row and column softmax, high only for mutual matches."""
    rows = logits.softmax(dim=2)
    return rows, rows * logits.softmax(dim=1)
