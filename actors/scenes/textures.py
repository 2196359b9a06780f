"""Procedural textures as small tileable images, the same bytes on every machine.

Only additions and multiplications of floats go into a texel, no transcendental functions, so that the last bit does
not depend on the maths library.
"""

from __future__ import annotations

import functools
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from common.errors import SceneError, bad_value
from common.rng import Purpose, philox
from common.scene import Texture, TextureKind

SIDE = 64  # texels; a power of two, because coordinates wrap by masking
_KINDS: tuple[TextureKind, ...] = get_args(TextureKind)
F32 = NDArray[np.float32]


def check_texture(texture: Texture, field: str = "texture") -> None:
    """Check a texture's record: the numbers of a pattern, or that a picture is named.

    Raises:
        SceneError: naming the field that cannot be built.
    """
    if texture.kind not in _KINDS:
        raise SceneError(bad_value(f"{field}.kind", texture.kind, f"one of {_KINDS}"))
    if (texture.kind == "image") != bool(texture.asset):
        allowed = "the content hash of a picture" if texture.kind == "image" else "'' for every kind but 'image'"
        raise SceneError(bad_value(f"{field}.asset", texture.asset, allowed))
    if texture.kind == "image":
        return
    colors = np.array(texture.colors, dtype=np.float64)
    if colors.ndim != 2 or colors.shape[1:] != (3,) or not len(colors):
        raise SceneError(bad_value(f"{field}.colors", texture.colors, "one or more RGB triples"))
    if not (np.isfinite(colors).all() and colors.min() >= 0.0 and colors.max() <= 1.0):
        raise SceneError(bad_value(f"{field}.colors", texture.colors, "numbers in 0..1"))
    if not (np.isfinite(texture.scale) and 1.0 <= texture.scale <= SIDE / 2):
        raise SceneError(bad_value(f"{field}.scale", texture.scale, f"1 .. {SIDE // 2}"))
    if not 0 <= texture.seed < 1 << 64:
        raise SceneError(bad_value(f"{field}.seed", texture.seed, "0 .. 2^64-1"))


@functools.lru_cache(maxsize=512)
def build_texture(texture: Texture) -> NDArray[np.uint8]:
    """Texels u8 (S, S, 3) of a pattern, row v, column u; S is 1 for plain textures and `SIDE` otherwise. Read-only.

    - plain: the first colour.
    - checker: `scale` cells per side; two colours alternate, more are drawn cell by cell.
    - noise: smooth random fields of `scale` cells per side, one per colour; the strongest field's colour shows, blended
      softly. With two colours the result runs smoothly from one to the other.
    - stripes: the colours in turn along u + v, `scale` times per side, with random soft waves across.

    Raises:
        SceneError: if the texture cannot be built; a picture is looked up among the assets, not built.
    """
    check_texture(texture)
    if texture.kind == "image":
        raise SceneError(bad_value("texture.kind", texture.kind, "a pattern; pictures are among the assets"))
    colors = np.array(texture.colors, dtype=np.float32)
    cells = max(1, round(texture.scale))
    if texture.kind == "plain":
        image = colors[:1].reshape(1, 1, 3)
    elif texture.kind == "checker":
        image = _checker(colors, cells, texture.seed)
    elif texture.kind == "noise":
        image = _noise(colors, cells, texture.seed)
    else:
        image = _stripes(colors, cells, texture.seed)
    texels = (image * np.float32(255.0) + np.float32(0.5)).astype(np.uint8)
    texels.setflags(write=False)
    return texels


def _checker(colors: F32, cells: int, seed: int) -> F32:
    if len(colors) > 2:
        which = philox(seed, Purpose.TEXTURE).integers(len(colors), size=(cells, cells))
    else:
        which = np.add.outer(np.arange(cells), np.arange(cells)) % len(colors)
    index = np.arange(SIDE) * cells // SIDE
    return np.asarray(colors[which[np.ix_(index, index)]])


def _field(rng: np.random.Generator, cells: int, octaves: int) -> F32:
    """Tileable value noise (S, S) in 0..1: random lattices, smoothly interpolated, each octave half as strong.

    Lattice values and weights are whole numbers below 2^8, so every product and sum below stays under 2^24: exact in
    float32, in whatever order a matrix product adds up.
    """
    total, weight, norm = np.zeros((SIDE, SIDE), np.float32), 1.0, 0.0
    for _ in range(octaves):
        lattice = rng.integers(256, size=(cells, cells)).astype(np.float32)
        steps = _interpolation(cells)
        octave = steps @ lattice @ steps.T
        octave *= np.float32(weight)
        total += octave
        norm += weight
        weight, cells = weight * 0.5, min(cells * 2, SIDE // 2)
    total *= np.float32(1.0 / (norm * 255.0 * 65536.0))
    return total


@functools.lru_cache(maxsize=64)
def _interpolation(cells: int) -> F32:
    """Weights (S, cells) in 1/256ths of the two lattice points around each texel of an axis, smooth at the points."""
    at = np.arange(SIDE) * (cells / SIDE)
    low = at.astype(np.int64)
    f = at - low
    second = np.floor(f * f * (3.0 - 2.0 * f) * 256.0 + 0.5)
    steps = np.zeros((SIDE, cells), np.float32)
    rows = np.arange(SIDE)
    np.add.at(steps, (rows, low), 256.0 - second)
    np.add.at(steps, (rows, (low + 1) % cells), second)
    return steps


def _noise(colors: F32, cells: int, seed: int) -> F32:
    rng = philox(seed, Purpose.TEXTURE)
    if len(colors) == 1:
        return np.broadcast_to(colors[0], (SIDE, SIDE, 3))
    if len(colors) == 2:
        blend = (_field(rng, cells, 3) - np.float32(0.5)) * np.float32(1.6) + np.float32(0.5)
        np.clip(blend, 0.0, 1.0, out=blend)
        planes = np.stack([blend * (b - a) + a for a, b in zip(colors[0], colors[1], strict=True)])
        return planes.transpose(1, 2, 0)
    fields = np.stack([_field(rng, cells, 2) for _ in colors])
    # A clipped ramp below the strongest field: hard patches with edges a few texels soft.
    fields -= fields.max(axis=0) - np.float32(0.03)
    weights = np.maximum(fields, 0.0, out=fields)
    weights /= weights.sum(axis=0)
    planes = np.zeros((3, SIDE, SIDE), np.float32)
    for weight, color in zip(weights, colors, strict=True):
        for plane, value in zip(planes, color, strict=True):
            plane += weight * value
    return planes.transpose(1, 2, 0)


def _stripes(colors: F32, cells: int, seed: int) -> F32:
    at = np.arange(SIDE, dtype=np.float32) / SIDE
    wave = _field(philox(seed, Purpose.TEXTURE), 2, 1) - 0.5
    phase = (np.add.outer(at, at) * cells + wave) % 1.0 * len(colors)
    low = phase.astype(np.int64) % len(colors)
    # Most of a stripe is one colour; its last fifth runs into the next.
    f = np.clip((phase % 1.0 - 0.8) * 5.0, 0.0, 1.0)[..., None]
    return np.asarray(colors[low] * (1.0 - f) + colors[(low + 1) % len(colors)] * f, dtype=np.float32)
