"""Colour jitter on the learner's device: brightness, contrast, saturation and hue, one draw per image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from common.learning_config import JitterConfig

_GREY = (0.299, 0.587, 0.114)


def any_jitter(settings: JitterConfig) -> bool:
    """Whether there is anything to draw."""
    return bool(settings.brightness or settings.contrast or settings.saturation or settings.hue)


def draw_jitter(images: int, settings: JitterConfig, generator: torch.Generator) -> Tensor:
    """Factors of brightness, contrast and saturation, and turns of hue [rad], f32 (images, 4) on the generator's
    device.
    """
    ranges = torch.tensor(
        [settings.brightness, settings.contrast, settings.saturation, 2.0 * math.pi * settings.hue],
        device=generator.device,
    )
    uniform = 2.0 * torch.rand((images, 4), generator=generator, device=generator.device) - 1.0
    neutral = torch.tensor([1.0, 1.0, 1.0, 0.0], device=generator.device)
    return neutral + ranges * uniform


def jittered(rgb: Tensor, draws: Tensor) -> Tensor:
    """u8 images (N, H, W, 3) with the colours that `draws` (N, 4) of `draw_jitter` says, u8 again.

    They are rounded to bytes, as the images that the policy will meet are.
    """
    x = rgb.float()
    brightness, contrast, saturation, hue = (d[:, None, None, None] for d in draws.unbind(1))
    weights = torch.tensor(_GREY, device=rgb.device)
    x = x * brightness
    mean = (x * weights).sum(dim=3, keepdim=True).mean(dim=(1, 2), keepdim=True)
    x = mean + (x - mean) * contrast
    grey = (x * weights).sum(dim=3, keepdim=True)
    x = grey + (x - grey) * saturation
    # Rodrigues' rotation about (1, 1, 1): greys stay where they are.
    cos, sin, third = hue.cos(), hue.sin(), 1.0 / 3.0
    parallel = x.sum(dim=3, keepdim=True) * third
    cross = (x.roll(1, dims=3) - x.roll(-1, dims=3)) * math.sqrt(third)
    turned = x * cos + cross * sin + parallel * (1.0 - cos)
    x = torch.where(hue == 0.0, x, turned)
    return x.round().clamp(0.0, 255.0).to(torch.uint8)
