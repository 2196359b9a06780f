"""Procedural textures as small tileable images, the same bytes on every machine.

Only additions and multiplications of float64 go into a texel, no transcendental functions, so that the last bit does
not depend on the maths library.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from common.errors import SceneError, bad_value
from common.rng import Purpose, philox
from common.scene import Texture

SIDE = 128  # texels; a power of two, because coordinates wrap by masking
_KINDS = ("plain", "checker", "noise", "stripes")
F64 = NDArray[np.float64]


def check_texture(texture: Texture, field: str = "texture") -> None:
    """Check a texture's numbers.

    Raises:
        SceneError: naming the field that cannot be built.
    """
    if texture.kind not in _KINDS:
        raise SceneError(bad_value(f"{field}.kind", texture.kind, f"one of {_KINDS}"))
    colors = np.array(texture.colors, dtype=np.float64)
    if colors.ndim != 2 or colors.shape[1:] != (3,) or not len(colors):
        raise SceneError(bad_value(f"{field}.colors", texture.colors, "one or more RGB triples"))
    if not (np.isfinite(colors).all() and colors.min() >= 0.0 and colors.max() <= 1.0):
        raise SceneError(bad_value(f"{field}.colors", texture.colors, "numbers in 0..1"))
    if not (np.isfinite(texture.scale) and 1.0 <= texture.scale <= SIDE / 2):
        raise SceneError(bad_value(f"{field}.scale", texture.scale, f"1 .. {SIDE // 2}"))
    if texture.seed < 0:
        raise SceneError(bad_value(f"{field}.seed", texture.seed, ">= 0"))


@functools.lru_cache(maxsize=512)
def build_texture(texture: Texture) -> NDArray[np.uint8]:
    """Texels u8 (S, S, 3), row v, column u; S is 1 for plain textures and `SIDE` otherwise. Read-only.

    - plain: the first colour.
    - checker: `scale` cells per side; two colours alternate, more are drawn cell by cell.
    - noise: smooth random fields of `scale` cells per side, one per colour; the strongest field's colour shows, blended
      softly. With two colours the result runs smoothly from one to the other.
    - stripes: the colours in turn along u + v, `scale` times per side, with random soft waves across.

    Raises:
        SceneError: if the texture cannot be built.
    """
    check_texture(texture)
    colors = np.array(texture.colors, dtype=np.float64)
    cells = max(1, round(texture.scale))
    if texture.kind == "plain":
        image = colors[:1].reshape(1, 1, 3)
    elif texture.kind == "checker":
        image = _checker(colors, cells, texture.seed)
    elif texture.kind == "noise":
        image = _noise(colors, cells, texture.seed)
    else:
        image = _stripes(colors, cells, texture.seed)
    texels = np.floor(image * 255.0 + 0.5).astype(np.uint8)
    texels.setflags(write=False)
    return texels


def _checker(colors: F64, cells: int, seed: int) -> F64:
    if len(colors) > 2:
        which = philox(seed, Purpose.TEXTURE).integers(len(colors), size=(cells, cells))
    else:
        which = np.add.outer(np.arange(cells), np.arange(cells)) % len(colors)
    index = np.arange(SIDE) * cells // SIDE
    return np.asarray(colors[which[np.ix_(index, index)]])


def _field(rng: np.random.Generator, cells: int, octaves: int) -> F64:
    """Tileable value noise (S, S) in 0..1: random lattices, smoothly interpolated, each octave half as strong."""
    total, weight, norm = np.zeros((SIDE, SIDE)), 1.0, 0.0
    for _ in range(octaves):
        lattice = rng.random((cells, cells))
        at = np.arange(SIDE) * (cells / SIDE)
        low = at.astype(np.int64)
        f = at - low
        f = f * f * (3.0 - 2.0 * f)
        high = (low + 1) % cells
        rows = lattice[low] + (lattice[high] - lattice[low]) * f[:, None]
        total += weight * (rows[:, low] + (rows[:, high] - rows[:, low]) * f)
        norm += weight
        weight, cells = weight * 0.5, min(cells * 2, SIDE // 2)
    return np.asarray(total / norm)


def _noise(colors: F64, cells: int, seed: int) -> F64:
    rng = philox(seed, Purpose.TEXTURE)
    if len(colors) == 1:
        return np.broadcast_to(colors[0], (SIDE, SIDE, 3))
    if len(colors) == 2:
        blend = np.clip((_field(rng, cells, 3) - 0.5) * 1.6 + 0.5, 0.0, 1.0)
        return np.asarray(colors[0] + blend[..., None] * (colors[1] - colors[0]))
    fields = np.stack([_field(rng, cells, 2) for _ in colors])
    # A clipped ramp below the strongest field: hard patches with edges a few texels soft.
    weights = np.maximum(fields - fields.max(axis=0) + 0.03, 0.0)
    weights = weights / weights.sum(axis=0)
    image = np.zeros((SIDE, SIDE, 3))
    for weight, color in zip(weights, colors, strict=True):
        image += weight[..., None] * color
    return image


def _stripes(colors: F64, cells: int, seed: int) -> F64:
    at = np.arange(SIDE) / SIDE
    wave = _field(philox(seed, Purpose.TEXTURE), 2, 1) - 0.5
    phase = (np.add.outer(at, at) * cells + wave) % 1.0 * len(colors)
    low = phase.astype(np.int64) % len(colors)
    # Most of a stripe is one colour; its last fifth runs into the next.
    f = np.clip((phase % 1.0 - 0.8) * 5.0, 0.0, 1.0)[..., None]
    return np.asarray(colors[low] * (1.0 - f) + colors[(low + 1) % len(colors)] * f)
