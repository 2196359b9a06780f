"""Random looks: colours, patterns, grounds, lights, surfaces and cameras of scenes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from actors.scenes.sky import sample_sky
from common.scene import Camera, Light, Material, Texture, TextureKind, Triple


def round_to(value: float, digits: int) -> float:
    """A number with few digits: hides last-bit differences between maths libraries from recorded scenes."""
    return round(float(value), digits)


def plain(rng: np.random.Generator) -> Texture:
    """One strong colour."""
    return Texture("plain", (_vivid(rng, rng.random()),))


def pattern(rng: np.random.Generator) -> Texture:
    """A colourful pattern that repeats nowhere on the object: patches or cells in four hues."""
    start = rng.random()
    colors = tuple(_vivid(rng, start + (k + rng.uniform(-0.25, 0.25)) / 4.0) for k in range(4))
    if rng.random() < 0.5:
        return Texture("noise", colors, float(rng.integers(3, 6)), int(rng.integers(2**31)))
    return Texture("checker", colors, float(rng.integers(5, 9)), int(rng.integers(2**31)))


def symmetric_pattern(rng: np.random.Generator) -> Texture:
    """A colourful pattern that repeats with every symmetry of a procedural shape."""
    return dataclasses.replace(pattern(rng), symmetric=True)


def ground(rng: np.random.Generator, difficulty: str) -> Texture:
    """Easy: a calm, low-contrast, greyish ground. Hard: strong colours in any pattern."""
    seed = int(rng.integers(2**31))
    if difficulty == "easy":
        grey = rng.uniform(0.35, 0.7)
        tint = rng.uniform(-0.06, 0.06, size=3)
        contrast = rng.uniform(0.10, 0.2)
        dark, bright = (np.clip(grey + tint + side * contrast / 2, 0.0, 1.0).round(4).tolist() for side in (-1, 1))
        return Texture("noise", (tuple(dark), tuple(bright)), float(rng.integers(5, 10)), seed)
    kinds: tuple[TextureKind, ...] = ("noise", "checker", "stripes")
    kind = kinds[int(rng.integers(3))]
    count = int(rng.integers(2, 6))
    colors = tuple(_hsv(rng.random(), rng.uniform(0.2, 1.0), rng.uniform(0.25, 1.0)) for _ in range(count))
    return Texture(kind, colors, float(rng.integers(3, 12)), seed)


def pictured(rng: np.random.Generator, drawn: Texture, images: Sequence[str], share: float) -> Texture:
    """One of the pictures, by content hash, in a share of the draws; else the ground that was drawn."""
    if not images or rng.random() >= share:
        return drawn
    return Texture("image", asset=images[int(rng.integers(len(images)))])


def simple_light(rng: np.random.Generator) -> Light:
    """White light from above over even ambient light."""
    azimuth, height = rng.uniform(-np.pi, np.pi), rng.uniform(0.6, 0.97)
    ambient = rng.uniform(0.35, 0.55)
    return Light(_towards(azimuth, height), round_to(rng.uniform(0.9, 1.1) - ambient, 4), round_to(ambient, 4))


def rich_light(rng: np.random.Generator) -> Light:
    """Warm or cool light, also from low down, strong or weak, under a random sky."""
    azimuth, height = rng.uniform(-np.pi, np.pi), rng.uniform(0.35, 0.97)
    ambient = rng.uniform(0.25, 0.75)
    diffuse = rng.uniform(0.8, 1.2) - ambient
    warmth = rng.uniform(-0.3, 0.3)
    red, green, blue = 1.0 + min(warmth, 0.0), 1.0 - 0.4 * abs(warmth), 1.0 - max(warmth, 0.0)
    return Light(
        _towards(azimuth, height),
        round_to(diffuse, 4),
        round_to(ambient, 4),
        (round_to(red, 4), round_to(green, 4), round_to(blue, 4)),
        sample_sky(rng),
    )


def shaded(rng: np.random.Generator, light: Light) -> Light:
    """The light with shadows, from faint to nearly black."""
    return dataclasses.replace(light, shadow=round_to(rng.uniform(0.4, 0.95), 4))


def shiny(rng: np.random.Generator) -> Material:
    """Matte in two of five draws, else anything from a dull sheen to a small bright highlight."""
    diffuse = round_to(rng.uniform(0.8, 1.0), 4)
    if rng.random() < 0.4:
        return Material(diffuse)
    return Material(diffuse, round_to(rng.uniform(0.1, 0.7), 4), round_to(rng.uniform(0.12, 0.7), 4))


def camera(rng: np.random.Generator, fov_deg: float, spread: float) -> Camera:
    """Intrinsics near those of a centred camera.

    Args:
        rng: where the numbers come from.
        fov_deg: vertical field of view of the centred camera [deg]; images are square.
        spread: the focal length is multiplied or divided by up to 1 + this; the principal point lies up to a quarter of
            this, in image sides, off the centre in x and y.
    """
    focal = 0.5 / np.tan(0.5 * np.deg2rad(fov_deg)) * (1.0 + spread) ** rng.uniform(-1.0, 1.0)
    x, y = 0.5 + 0.25 * spread * rng.uniform(-1.0, 1.0, size=2)
    return Camera(round_to(focal, 6), round_to(focal, 6), round_to(x, 6), round_to(y, 6))


def _towards(azimuth: float, height: float) -> Triple:
    side = np.sqrt(1.0 - height * height)
    x, y, z = (round_to(v, 6) for v in (side * np.cos(azimuth), side * np.sin(azimuth), height))
    return x, y, z


def _hsv(hue: float, saturation: float, value: float) -> Triple:
    """RGB of hue 0..1 (wrapping), saturation and value 0..1; piecewise linear in the hue."""
    ramp = [abs((hue % 1.0 * 6.0 + shift) % 6.0 - 3.0) - 1.0 for shift in (0.0, 4.0, 2.0)]
    r, g, b = (round_to(value * (1.0 - saturation * (1.0 - min(max(x, 0.0), 1.0))), 4) for x in ramp)
    return r, g, b


def _vivid(rng: np.random.Generator, hue: float) -> Triple:
    return _hsv(hue, rng.uniform(0.75, 1.0), rng.uniform(0.65, 1.0))
