"""Heads on the feature z: twist regression, value, and a diffusion model of the relative pose."""

from __future__ import annotations

import dataclasses
import itertools
import math

import torch
from torch import Tensor, nn

# Relative poses (translation / d*, rotation vector) spread by about 0.4; the noise model expects about 1.
POSE_SCALE = 2.5
_TIME_FREQUENCIES = 8


def sigma(x: Tensor) -> Tensor:
    """CNSv2 eq. 22: exp(x - 1) up to 1, identity above; turns a log-norm into a norm."""
    return torch.where(x <= 1.0, (x.clamp(max=1.0) - 1.0).exp(), x)


def sigma_inverse(y: Tensor) -> Tensor:
    """Inverse of `sigma` for y > 0."""
    return torch.where(y <= 1.0, 1.0 + y.clamp(max=1.0).log(), y)


def mlp(inputs: int, hidden: list[int], outputs: int) -> nn.Sequential:
    """Linear layers with SiLU between them."""
    sizes = [inputs, *hidden]
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))


@dataclasses.dataclass
class TwistPrediction:
    """Regressed twist.

    Attributes:
        twist: (N, 6) normalised twist [v; w].
        log_norm: (N,) l of eq. 22.
        direction: (N, 6) before normalisation.
    """

    twist: Tensor
    log_norm: Tensor
    direction: Tensor


class TwistHead(nn.Module):
    """The terminal MLP: z -> log-norm and direction of the normalised twist (CNSv2 eq. 22)."""

    def __init__(self, feature_dim: int, hidden: list[int]):
        super().__init__()
        self.mlp = mlp(feature_dim, hidden, 7)

    def forward(self, z: Tensor) -> TwistPrediction:
        """Twist of features (N, feature_dim)."""
        out = self.mlp(z)
        log_norm, direction = out[:, 0], out[:, 1:]
        unit = direction / direction.norm(dim=1, keepdim=True).clamp_min(1e-6)
        return TwistPrediction(sigma(log_norm)[:, None] * unit, log_norm, direction)


class ValueHead(nn.Module):
    """Value network on z."""

    def __init__(self, feature_dim: int, hidden: list[int]):
        super().__init__()
        self.mlp = mlp(feature_dim, hidden, 1)

    def forward(self, z: Tensor) -> Tensor:
        """Value estimate (N,) of features (N, feature_dim)."""
        return self.mlp(z).squeeze(1)


def cosine_alpha_bar(levels: int) -> Tensor:
    """Signal share alpha-bar (L,) f32, falling with the noise level along a squared cosine (never exactly 0 or 1)."""
    t = (torch.arange(levels, dtype=torch.float64) + 1.0) / (levels + 1.0)
    return (torch.cos(0.5 * math.pi * t) ** 2).float()


class PoseDiffusion(nn.Module):
    """Noise predictor and DDIM sampler of the relative pose given z (Sym-Servo eq. 2-3).

    Poses are x0 (N, 6) = [t / d*; rotation vector] of the goal camera in the current camera frame.
    """

    def __init__(self, feature_dim: int, hidden: int, levels: int):
        super().__init__()
        self.alpha_bar: Tensor
        self.frequencies: Tensor
        self.register_buffer("alpha_bar", cosine_alpha_bar(levels), persistent=False)
        frequencies = math.pi * torch.arange(1, _TIME_FREQUENCIES + 1, dtype=torch.float32) / levels
        self.register_buffer("frequencies", frequencies, persistent=False)
        # The condition enters by addition, so that its layer runs once per sample however many draws share it.
        self.condition = nn.Linear(feature_dim, hidden)
        self.noisy = nn.Linear(6 + 2 * _TIME_FREQUENCIES, hidden)
        self.trunk = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 6))

    @property
    def levels(self) -> int:
        """Number of noise levels."""
        return len(self.alpha_bar)

    def predict_noise(self, z: Tensor, x: Tensor, level: Tensor) -> Tensor:
        """Noise (N, D, 6) in scaled noisy poses x (N, D, 6) at levels (N, D) int64, given z (N, feature_dim)."""
        phase = level[..., None].float() * self.frequencies
        inputs = torch.cat([x, phase.sin(), phase.cos()], dim=-1)
        return self.trunk(self.noisy(inputs) + self.condition(z)[:, None])

    def errors(self, z: Tensor, x0: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        """Absolute error of the predicted noise (N, D, 6); its mean is eq. 3.

        Args:
            z: (N, feature_dim).
            x0: (N, 6) relative poses.
            level: int64 (N, D) noise levels, 0 .. levels - 1.
            noise: (N, D, 6) standard normal.
        """
        a = self.alpha_bar[level][..., None]
        x = a.sqrt() * (POSE_SCALE * x0)[:, None] + (1.0 - a).sqrt() * noise
        return (noise - self.predict_noise(z, x, level)).abs()

    def sample(self, z: Tensor, noise: Tensor, steps: int = 10) -> Tensor:
        """Deterministic DDIM: pose hypotheses (N, K, 6) from starting noise (N, K, 6), all levels visited in `steps`.

        Raises:
            ValueError: if `steps` is not within 1 .. levels.
        """
        if not 1 <= steps <= self.levels:
            raise ValueError(f"DDIM steps = {steps}: allowed is 1 .. {self.levels}")
        visited = torch.linspace(self.levels - 1, 0, steps).round().long().tolist()
        x = noise
        for i, level in enumerate(visited):
            a = self.alpha_bar[level]
            predicted = self.predict_noise(z, x, torch.full(noise.shape[:2], level, device=z.device))
            clean = (x - (1.0 - a).sqrt() * predicted) / a.sqrt()
            # Poses lie within about three spreads; unclamped, the first steps divide by a tiny alpha.
            clean = clean.clamp(-3.0 * POSE_SCALE, 3.0 * POSE_SCALE)
            following = self.alpha_bar[visited[i + 1]] if i + 1 < len(visited) else torch.ones_like(a)
            x = following.sqrt() * clean + (1.0 - following).sqrt() * predicted
        return x / POSE_SCALE
