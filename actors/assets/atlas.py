"""One square texture for a whole model: its pictures, its plain colours and the colours of its vertices.

The texture is cut into bands from the top: the pictures side by side, a patch for every two triangles that are
coloured by vertices, and a palette of plain colours. A single picture alone takes all of it and may repeat; in every
other case no triangle leaves its own cell. Texels that no triangle shows take the colour of the nearest one that is
shown, so that a bilinear look-up at a seam finds no background.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import distance_transform_edt

from actors.assets.finder import Finder
from actors.assets.formats import Part
from actors.assets.surface import Surface
from common.errors import AssetError, bad_value

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]

_SWATCH = 8  # texels a plain colour is wide
_BORDER = 2  # texels around a picture that shares the texture
_SMALLEST_PATCH, _WANTED_PATCH, _LARGEST_PATCH = 4, 12, 32  # texels of the square of two painted triangles
_MOST_REPEATS = 8
_MASK_SIDE = 2048
_COVERED = 64  # of 255: a texel shown less than this has lost its colour to rounding


def make_texture(original: Finder, surface: Surface, parts: Sequence[Part], side: int) -> tuple[F64, U8]:
    """Texture coordinates f64 (F, 3, 2) of a surface's corners, and the texels u8 (S, S, 3) that they look into.

    Args:
        original: the surface with the colours of its vertices.
        surface: what to dress: the original one or a decimated one.
        parts: `surface.part` counts these.
        side: S is a power of two, at most this, and not larger than the colours there are.

    Raises:
        AssetError: if a texture of this side cannot hold them.
    """
    keys = _looks(parts)
    used = [keys[i] for i in np.unique(surface.part)]
    pictures = list(dict.fromkeys(k for k in used if k[0] == "picture"))
    plain = list(dict.fromkeys(k for k in used if k[0] == "plain"))
    is_painted = np.array([k[0] == "painted" for k in keys])[surface.part]
    if len(pictures) == 1 and not plain and not is_painted.any():
        part = parts[keys.index(pictures[0])]
        return _single(surface, part, side)
    images = {key: _tiled(parts, keys, surface, key) for key in pictures}
    texels = sum(i.width * i.height for i, _ in images.values()) + len(plain) * _SWATCH**2
    texels += math.ceil(is_painted.sum() / 2) * _WANTED_PATCH**2
    size = min(side, _power_of_two(math.sqrt(texels)))
    columns = max(1, size // _SWATCH)
    palette = _SWATCH * math.ceil(len(plain) / columns)
    free = size - palette
    height = (free // 2 if is_painted.any() else free) if pictures else 0
    if free < 0 or (pictures and height < 8 * _BORDER):
        raise AssetError(
            bad_value("texture_side", side, f"more, for {len(plain)} colours and {len(pictures)} pictures")
        )
    canvas, shown = np.zeros((size, size, 3), np.uint8), np.zeros((size, size), bool)
    uvs = np.zeros_like(surface.uvs)
    part_key = np.array([keys.index(k) for k in keys])[surface.part]
    for (x, y, w, h), key in zip(_grid(len(pictures), size, height), pictures, strict=True):
        faces = part_key == keys.index(key)
        image, wrapped = images[key]
        inner = (w - 2 * _BORDER, h - 2 * _BORDER)
        at = np.s_[y + _BORDER : y + _BORDER + inner[1], x + _BORDER : x + _BORDER + inner[0]]
        canvas[at], shown[at] = _shrunk(image, wrapped[faces], inner)
        uvs[faces] = (wrapped[faces] * inner + [x + _BORDER, y + _BORDER]) / size
    if is_painted.any():
        _paint(original, surface, is_painted, canvas, shown, uvs, (height, free - height))
    for i, key in enumerate(plain):
        x, y = _SWATCH * (i % columns), free + _SWATCH * (i // columns)
        canvas[y : y + _SWATCH, x : x + _SWATCH] = parts[keys.index(key)].color
        shown[y : y + _SWATCH, x : x + _SWATCH] = True
        uvs[part_key == keys.index(key)] = (np.array([x, y]) + _SWATCH / 2) / size
    return uvs, _filled(canvas, shown)


def _looks(parts: Sequence[Part]) -> list[tuple[str, object]]:
    """The kind of every part's look, and what parts of the same look have in common."""
    digests = {id(p.image): hashlib.sha256(p.image.tobytes()).digest() for p in parts if p.image is not None}
    looks: list[tuple[str, object]] = []
    for part in parts:
        if part.image is not None:
            looks.append(("picture", (part.image.size, digests[id(part.image)])))
        else:
            looks.append(("plain", part.color) if part.colors is None else ("painted", None))
    return looks


def _single(surface: Surface, part: Part, side: int) -> tuple[F64, U8]:
    assert part.image is not None
    size = min(side, _power_of_two(max(part.image.size)))
    uvs = surface.uvs
    if uvs.min() < -1e-6 or uvs.max() > 1.0 + 1e-6:
        # The picture repeats, so that its every texel may be shown.
        return uvs, np.array(part.image.resize((size, size), Image.Resampling.BOX), dtype=np.uint8)
    return uvs, _filled(*_shrunk(part.image, uvs, (size, size)))


def _tiled(parts: Sequence[Part], keys: Sequence[object], surface: Surface, key: object) -> tuple[Image.Image, F64]:
    """A picture repeated as often as a triangle needs it, and coordinates (F, 3, 2) in 0..1 of the repeated picture."""
    image = parts[keys.index(key)].image
    assert image is not None
    faces = np.array([k == key for k in keys])[surface.part]
    uvs = surface.uvs - np.floor(surface.uvs.min(axis=1, keepdims=True) + 1e-6)
    repeats = np.maximum(1, np.ceil(uvs[faces].max(axis=(0, 1)) - 1e-6)).astype(int)
    if repeats.max() > _MOST_REPEATS:
        raise AssetError(
            bad_value("repeats of a picture across one triangle", repeats.tolist(), f"1 .. {_MOST_REPEATS}")
        )
    if repeats.max() > 1:
        tile = np.tile(np.array(image, dtype=np.uint8), (repeats[1], repeats[0], 1))
        image = Image.fromarray(tile)
    return image, np.clip(uvs / repeats, 0.0, 1.0)


def _shrunk(image: Image.Image, uvs: F64, size: tuple[int, int]) -> tuple[U8, NDArray[np.bool_]]:
    """A picture at `size` (W, H) as texels u8 (H, W, 3), averaged over what triangles show of it; which texels show."""
    if image.width * image.height > 16 * size[0] * size[1]:
        image = image.reduce(max(1, min(image.width // (2 * size[0]), image.height // (2 * size[1]))))
    # Drawn finer than the picture: the outline of a polygon covers a pixel too much.
    fine = max(1, _MASK_SIDE // max(image.size))
    mask = Image.new("L", (fine * image.width, fine * image.height))
    draw = ImageDraw.Draw(mask)
    for triangle in (uvs * mask.size - 0.5).reshape(-1, 6).tolist():
        draw.polygon(triangle, fill=255, outline=255)
    mask = mask.reduce(fine).point([255 if level >= 128 else 0 for level in range(256)])
    # Resampling weighs colours with the mask: no background bleeds into the charts.
    masked = image.copy()
    masked.putalpha(mask)
    resampling = Image.Resampling.BOX if image.width >= size[0] else Image.Resampling.BICUBIC
    out = np.array(masked.resize(size, resampling), dtype=np.uint8)
    return out[..., :3], out[..., 3] >= _COVERED


def _filled(canvas: U8, shown: NDArray[np.bool_]) -> U8:
    if shown.all() or not shown.any():
        return canvas
    row, column = distance_transform_edt(~shown, return_distances=False, return_indices=True)
    return np.asarray(canvas[row, column])


def _paint(
    original: Finder,
    surface: Surface,
    painted: NDArray[np.bool_],
    canvas: U8,
    shown: NDArray[np.bool_],
    uvs: F64,
    band: tuple[int, int],
) -> None:
    """Write a patch for every two painted triangles into rows `band` (first, count); sets their coordinates too.

    The triangles lie point-symmetrically in a square of `p` texels, legs of ``p - 3`` texels, so that no bilinear
    look-up in one of them touches a texel of the other or of the next square.
    """
    faces = np.flatnonzero(painted)
    pairs, width = math.ceil(len(faces) / 2), canvas.shape[1]
    patch = next((p for p in range(_LARGEST_PATCH, 0, -1) if (width // p) * (band[1] // p) >= pairs), 0)
    if patch < _SMALLEST_PATCH:
        raise AssetError(bad_value("texture_side", width, f"more, for {len(faces)} triangles coloured by vertices"))
    leg = patch - 3
    j, i = np.indices((patch, patch)).reshape(2, -1)
    i, j = i[i + j <= leg + 1], j[i + j <= leg + 1]
    weights = np.clip(np.stack([1.0 - (i + j) / leg, i / leg, j / leg], axis=1), 0.0, None)
    weights /= weights.sum(axis=1, keepdims=True)
    # A little inwards: on an edge the triangle beyond it is as close.
    weights = 0.98 * weights + 0.02 / 3.0
    unit = np.array([[0.0, 0.0], [leg, 0.0], [0.0, leg]])
    square = np.arange(len(faces)) // 2
    corner = np.stack([square % (width // patch), square // (width // patch)], axis=1) * patch + [0, band[0]]
    second = (np.arange(len(faces)) % 2 == 1)[:, None]
    for start in range(0, len(faces), 1000):
        part = slice(start, start + 1000)
        points = np.einsum("tc,fcx->ftx", weights, surface.corners()[faces[part]])
        face, inner, _ = original.closest(points.reshape(-1, 3))
        color = np.einsum("nc,ncx->nx", inner, original.surface.colors[face]).reshape(points.shape)
        x = corner[part, :1] + np.where(second[part], patch - 1 - i, i)
        y = corner[part, 1:] + np.where(second[part], patch - 1 - j, j)
        canvas[y, x] = np.round(color).astype(np.uint8)
        shown[y, x] = True
    turned = np.where(second[..., None], patch - 1.0 - unit, unit)
    uvs[faces] = (corner[:, None] + turned + 0.5) / width


def _grid(count: int, width: int, height: int) -> list[tuple[int, int, int, int]]:
    """Cells (x, y, w, h) for `count` pictures, as square as they get."""
    if not count:
        return []
    columns = max(range(1, count + 1), key=lambda c: min(width // c, height // math.ceil(count / c)))
    w, h = width // columns, height // math.ceil(count / columns)
    return [(w * (k % columns), h * (k // columns), w, h) for k in range(count)]


def _power_of_two(value: float) -> int:
    """The smallest power of two that is not smaller."""
    return 1 << max(0, math.ceil(math.log2(max(value, 1.0)) - 1e-9))
