"""What the matches say about the camera's motion, in closed form: flow models and mask moments.

For a static scene the image motion of a small camera displacement is close to a quadratic polynomial of the image
coordinates (exactly so for a plane), so a weighted least-squares fit condenses a noisy field of matches into twelve
numbers that determine the twist. Image coordinates here are (x, y) in -1 .. 1 over the token grid.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

FIT_RIDGE = 1e-3
NUM_FEATURES = 40


def axis_coordinates(tokens: int) -> Tensor:
    """Centres of the tokens (tokens,) along a side of the image, in -1 .. 1."""
    return (torch.arange(tokens, dtype=torch.float32) + 0.5) * (2.0 / tokens) - 1.0


def token_coordinates(width: int, height: int | None = None) -> Tensor:
    """Centres of the tokens (T, 2), (x, y) in -1 .. 1, row by row; a square grid where no height is given."""
    y, x = torch.meshgrid(axis_coordinates(height or width), axis_coordinates(width), indexing="ij")
    return torch.stack([x.reshape(-1), y.reshape(-1)], dim=1)


def quadratic_basis(xy: Tensor) -> Tensor:
    """Monomials (T, 6) = (1, x, y, x^2, xy, y^2) of coordinates (T, 2)."""
    x, y = xy[:, 0], xy[:, 1]
    return torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], dim=1)


def expected_displacement(mutual: Tensor, xy: Tensor) -> tuple[Tensor, Tensor]:
    """Where each token goes, and how sure that is.

    Args:
        mutual: (N, T, T) dual-softmax scores.
        xy: (T, 2) token coordinates.

    Returns:
        displacement (N, T, 2), goal minus current coordinates, and confidence (N, T) in 0 .. 1.
    """
    confidence = mutual.sum(dim=2)
    mean = (mutual @ xy) / confidence.clamp_min(1e-8)[..., None]
    return mean - xy, confidence


def fit_flow(basis: Tensor, displacement: Tensor, weights: Tensor, ridge: float = FIT_RIDGE) -> tuple[Tensor, Tensor]:
    """Weighted least-squares fit of the displacement field by the normal equations.

    Args:
        basis: (T, 6) monomials.
        displacement: (N, T, 2).
        weights: (N, T) non-negative; only their ratios count.
        ridge: added to the diagonal (of a matrix whose first entry is 1), so that few tokens still give a solution.

    Returns:
        coefficients (N, 6, 2) and the weighted root-mean-square residual (N,).
    """
    w = weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-8)
    outer = basis[:, :, None] * basis[:, None, :]
    normal = (w @ outer.flatten(1)).view(-1, 6, 6) + ridge * torch.eye(6, dtype=w.dtype, device=w.device)
    right = basis.T @ (w[..., None] * displacement)
    coefficients = torch.cholesky_solve(right, torch.linalg.cholesky(normal))
    error = ((basis @ coefficients - displacement) ** 2).sum(dim=2)
    return coefficients, ((w * error).sum(dim=1) + 1e-6).sqrt()


def mask_moments(mask: Tensor, xy: Tensor) -> Tensor:
    """Area share, centroid and central second moments (N, 6) = (m, cx, cy, mxx, mxy, myy) of soft masks (N, T)."""
    area = mask.mean(dim=1, keepdim=True)
    w = mask / mask.sum(dim=1, keepdim=True).clamp_min(1e-4)
    x, y = xy[:, 0], xy[:, 1]
    cx, cy = w @ x[:, None], w @ y[:, None]
    dx, dy = x - cx, y - cy
    second = torch.stack([(w * dx * dx).sum(1), (w * dx * dy).sum(1), (w * dy * dy).sum(1)], dim=1)
    return torch.cat([area, cx, cy, second], dim=1)


class GeometryBlock(nn.Module):
    """Forty numbers of the matches and masks, through an MLP, to be added to the fused feature.

    Args:
        grid: side of the token grid.
        width: hidden width.
        out: size of the fused feature.
    """

    def __init__(self, grid: int, width: int, out: int):
        super().__init__()
        xy = token_coordinates(grid)
        self.xy: Tensor
        self.basis: Tensor
        self.register_buffer("xy", xy, persistent=False)
        self.register_buffer("basis", quadratic_basis(xy), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(NUM_FEATURES, width), nn.SiLU(), nn.Linear(width, out))

    def features(
        self, displacement: Tensor, confidence: Tensor, mask: Tensor, goal_mask: Tensor, xy: Tensor | None = None
    ) -> Tensor:
        """The numbers (N, 40): flow of all tokens and of the object (12 + 12), fit residuals (2), mean confidences
        (2), current mask moments (6), their differences to the goal's (6; of the area, the difference of logarithms).

        Args:
            displacement: (N, T, 2).
            confidence: (N, T).
            mask: (N, T) soft mask of the target in the current image.
            goal_mask: (N, T) in the goal image.
            xy: (T, 2) token coordinates, where the grid is not the one the block was built for.
        """
        basis = self.basis if xy is None else quadratic_basis(xy)
        xy = self.xy if xy is None else xy
        on_object = confidence * mask
        n = mask.shape[0]  # not len(): a traced program would take it for a constant
        # Both fits in one solve: a batch of 2 N small systems costs hardly more than N.
        both = torch.cat([confidence, on_object])
        flow, residual = fit_flow(basis, torch.cat([displacement, displacement]), both)
        current, goal = mask_moments(mask, xy), mask_moments(goal_mask, xy)
        log_area = ((current[:, :1] + 1e-3) / (goal[:, :1] + 1e-3)).log()
        object_confidence = on_object.sum(1) / mask.sum(1).clamp_min(1e-4)
        parts = [
            flow[:n].flatten(1),
            flow[n:].flatten(1),
            torch.stack([residual[:n], residual[n:], confidence.mean(1), object_confidence], dim=1),
            current,
            log_area,
            current[:, 1:] - goal[:, 1:],
        ]
        return torch.cat(parts, dim=1)

    def forward(
        self, displacement: Tensor, confidence: Tensor, mask: Tensor, goal_mask: Tensor, xy: Tensor | None = None
    ) -> Tensor:
        """Addend (N, out) to the fused feature; arguments as in `features`."""
        return self.mlp(self.features(displacement, confidence, mask, goal_mask, xy))
