"""Pre-norm attention layers and the 2-D axial rotary positions they see, for token grids of any size."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_BASE = 100.0


def axial_angles(height: int, width: int, head_dim: int, span: int, device: torch.device | None = None) -> Tensor:
    """Rotation angles (T, head_dim / 2) f32 of the tokens of a grid, row by row.

    Args:
        height, width: G_y, G_x.
        head_dim: channels of one head, a multiple of 4: half turn with the row, half with the column.
        span: length of each side of the image, whatever the grid: the tokens per side in training, so that one token
            of the training grid is one unit and a finer grid has the same content at the same angles.
        device: where they are computed.
    """
    frequency = _BASE ** -(torch.arange(head_dim // 4, dtype=torch.float32, device=device) / (head_dim // 4))
    y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) * (span / height)
    x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) * (span / width)
    rows = (y[:, None] * frequency)[:, None, :].expand(height, width, -1)
    columns = (x[:, None] * frequency)[None, :, :].expand(height, width, -1)
    return torch.cat([rows, columns], dim=2).reshape(height * width, head_dim // 2)


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn channel pairs (i, i + D / 2) of x (N, heads, T, D) by angles of (cos, sin), each (T, D / 2).

    Products of two tokens turned so depend on the difference of their angles alone.
    """
    cos, sin = turn
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)


class AxialRope(nn.Module):
    """(cos, sin) of `axial_angles`; those of the training grid, span x span, are kept."""

    def __init__(self, span: int, head_dim: int):
        super().__init__()
        self.span = span
        self.head_dim = head_dim
        angles = axial_angles(span, span, head_dim, span)
        self.cos: Tensor
        self.sin: Tensor
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Turns (T, head_dim / 2) of a grid."""
        if height == width == self.span:
            return self.cos, self.sin
        angles = axial_angles(height, width, self.head_dim, self.span, self.cos.device)
        return angles.cos(), angles.sin()


class Attention(nn.Module):
    """Multi-head attention of queries to a context; values are not turned."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor, turn: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """(N, A, width) of queries x (N, A, width) and context (N, B, width).

        Args:
            x: what asks.
            context: what is asked.
            turn: of the tokens of both, for self-attention; None compares content alone.
        """
        q = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.key_value(context).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        if turn is not None:
            q, k = rotate(q, turn), rotate(k, turn)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).flatten(2))


class SelfLayer(nn.Module):
    """Self-attention and MLP, each added to what it normalises first."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        """(N, T, width) -> (N, T, width)."""
        y = self.norm1(x)
        x = x + self.attention(y, y, turn)
        return x + self.mlp(self.norm2(x))


class CrossLayer(nn.Module):
    """One layer of the matching transformer (CNSv2 eq. 13): each image attends to itself, then to the other."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.self_attention = Attention(width, heads)
        self.cross_norm = nn.LayerNorm(width)
        self.cross_attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, both: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        """(2 N, T, width) -> the same: N current images, then their N goals; weights are shared between the two."""
        y = self.norm(both)
        both = both + self.self_attention(y, y, turn)
        y = self.cross_norm(both)
        # A roll swaps the halves; with chunks or slices, a traced program has the size of the batch as a constant.
        both = both + self.cross_attention(y, y.roll(y.shape[0] // 2, dims=0))
        return both + self.mlp(self.mlp_norm(both))
