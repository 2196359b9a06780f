"""How far a stored mesh is from its model, in space and in colour, and from the symmetry that it is said to have."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import trimesh
from numpy.typing import NDArray

from actors.assets.finder import Finder, surface_samples
from actors.assets.formats import Part
from actors.assets.surface import Surface
from common.geometry import so3_exp
from common.scene import Symmetry

F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]

_SAMPLES = 10_000
_TURNS = 12  # angles at which a continuous symmetry is tried
_GOLDEN = np.pi * (3.0 - np.sqrt(5.0))  # no multiple of it is a symmetry of a regular polygon


def deviation(original: Finder, reduced: Surface) -> tuple[float, float]:
    """Largest and mean distance [m] between two surfaces, at points of each to the other."""
    there = original.closest(surface_samples(reduced.corners(), _SAMPLES)[0])[2]
    back = Finder(reduced).closest(surface_samples(original.surface.corners(), _SAMPLES)[0])[2]
    both = np.concatenate([there, back])
    return float(both.max()), float(both.mean())


def color_error(original: Finder, parts: Sequence[Part], reduced: Surface, uvs: F64, texels: U8) -> tuple[float, float]:
    """Mean and 95 % quantile of the difference in colour (0..1, mean over RGB) between the stored look and the model's.

    Both are looked up bilinearly at the same points: the stored texels at the stored coordinates, and the model's
    pictures, vertex colours and plain colours at the nearest point of the model. What the texture loses by its
    smaller size counts.
    """
    points, face = surface_samples(reduced.corners(), _SAMPLES)
    weights = trimesh.triangles.points_to_barycentric(reduced.corners()[face], points, method="cross")
    stored = sample_texture(texels, np.einsum("nc,ncx->nx", weights, uvs[face]))
    source = original.surface
    nearest, inner, _ = original.closest(points)
    wanted = np.einsum("nc,ncx->nx", inner, source.colors[nearest])
    at = np.einsum("nc,ncx->nx", inner, source.uvs[nearest])
    for i in np.unique(source.part[nearest]):
        mine, part = source.part[nearest] == i, parts[i]
        if part.image is not None:
            wanted[mine] = sample_texture(np.asarray(part.image), at[mine])
        elif part.colors is None:
            wanted[mine] = part.color
    error = np.abs(stored - wanted).mean(axis=1) / 255.0
    return float(error.mean()), float(np.quantile(error, 0.95))


def sample_texture(texels: U8, uvs: F64) -> F64:
    """Colours f64 (N, 3) on the scale of `texels` u8 (H, W, 3) at texture coordinates (N, 2): bilinear, repeating."""
    height, width = texels.shape[:2]
    x, y = uvs[:, 0] * width - 0.5, uvs[:, 1] * height - 0.5
    column, row = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    fx, fy = (x - column)[:, None], (y - row)[:, None]
    out = np.zeros((len(uvs), 3))
    for dx, wx in ((0, 1.0 - fx), (1, fx)):
        for dy, wy in ((0, 1.0 - fy), (1, fy)):
            out += wx * wy * texels[(row + dy) % height, (column + dx) % width]
    return out


def asymmetry(surface: Surface, symmetry: Symmetry) -> float:
    """The largest distance of the turned surface from itself over its longest edge, over the rotations of `symmetry`.

    The surface is turned about the centre of its bounding box; a continuous axis is tried at angles spread over a turn.
    """
    center = (surface.points.min(axis=0) + surface.points.max(axis=0)) / 2.0
    turns = [np.array(r) for r in symmetry.rotations]
    if symmetry.axis_continuous is not None:
        axis = np.array(symmetry.axis_continuous)
        turns += [axis * (k * _GOLDEN % (2.0 * np.pi)) for k in range(1, _TURNS + 1)]
    if not turns:
        return 0.0
    finder = Finder(surface)
    points = (
        np.concatenate(
            [
                surface_samples(surface.corners(), _SAMPLES // 5)[0],
                surface.points[:: len(surface.points) // _SAMPLES + 1],
            ]
        )
        - center
    )
    turned = np.concatenate([points @ so3_exp(turn).T for turn in turns]) + center
    return float(finder.closest(turned)[2].max() / surface.extent().max())
