"""Fewer triangles, the same look: decimation of the welded surface, and its texture coordinates fetched anew.

Quadric edge collapse (Garland and Heckbert, SIGGRAPH 1997; fast-simplification) knows positions only, so it runs on the
welded surface and keeps it closed. Every new triangle then takes the chart of the original triangle nearest to its
middle, and its corners are looked up in that chart alone: a triangle never spans two charts of the atlas.
"""

from __future__ import annotations

import dataclasses

import fast_simplification  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from actors.assets.finder import Finder
from actors.assets.surface import Surface, oriented, without_loose_points
from common.errors import AssetError, bad_value

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

_NEIGHBOURS = 24
_STRETCH = 3.0  # how much longer than expected a step in the texture may be
_STEPS = (1.0, 0.9, 0.75, 0.6, 0.4, 0.2)


def decimate(original: Finder, max_triangles: int) -> Surface:
    """The surface with at most `max_triangles` triangles; the same surface if it has no more.

    Raises:
        AssetError: if so few triangles are not enough for it.
    """
    surface = original.surface
    if len(surface.faces) <= max_triangles:
        return surface
    # In units of its size: the library's thresholds are absolute.
    size = float(surface.extent().max())
    points, faces = np.ascontiguousarray(surface.points / size), surface.faces.astype(np.int32)
    for aggressiveness in (5.0, 7.0, 9.0):
        new, index = fast_simplification.simplify(points, faces, target_count=max_triangles, agg=aggressiveness)
        if 0 < len(index) <= max_triangles:
            break
    else:
        raise AssetError(bad_value("max_triangles", max_triangles, f"more: this surface needs at least {len(index)}"))
    moved, index = np.asarray(new, dtype=np.float64) * size, np.asarray(index, dtype=np.int64)
    index = _unfolded(index)
    if not len(index) or not np.isfinite(moved).all():
        raise AssetError(bad_value("max_triangles", max_triangles, "more: this surface collapses"))
    count = len(index)
    blank = Surface(moved, index, np.zeros((count, 3, 2)), np.zeros(count, dtype=np.int64), np.zeros((count, 3, 3)))
    reduced = oriented(without_loose_points(blank))
    uvs, origin = transferred_uvs(original, reduced)
    return dataclasses.replace(reduced, uvs=uvs, part=surface.part[origin])


def _unfolded(faces: I64) -> I64:
    """Without the triangles that lie on one another in pairs: what a fold collapses into; a closed surface stays so.

    Triangles without area stay, they keep their neighbours together.
    """
    _, first, count = np.unique(np.sort(faces, axis=1), axis=0, return_index=True, return_counts=True)
    keep = np.zeros(len(faces), dtype=bool)
    keep[first[count % 2 == 1]] = True
    distinct = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    return np.asarray(faces[keep & distinct])


def charts(surface: Surface) -> I64:
    """Chart of every triangle, i64 (F,): triangles hang together that share a point with one texture coordinate."""
    corner = np.concatenate(
        [
            np.repeat(surface.part, 3)[:, None],
            surface.faces.reshape(-1, 1),
            np.round(surface.uvs.reshape(-1, 2) * 1e6).astype(np.int64),
        ],
        axis=1,
    )
    vertex = np.unique(corner, axis=0, return_inverse=True)[1].reshape(-1)
    count = len(surface.faces)
    face = np.repeat(np.arange(count), 3)
    nodes = count + int(vertex.max()) + 1
    graph = coo_matrix((np.ones(len(face)), (face, count + vertex)), shape=(nodes, nodes))
    return np.asarray(connected_components(graph, directed=False)[1][:count], dtype=np.int64)


def transferred_uvs(original: Finder, reduced: Surface) -> tuple[F64, I64]:
    """Texture coordinates (F, 3, 2) of the corners of a surface near the original, and the triangle each comes from.

    A corner may lie beyond its triangle's chart, where the original has a seam. Then the way from the middle to the
    corner is followed as far as the chart goes, and the rest of the triangle shows what is there. A step that is much
    longer in the texture than on the surface has crossed a seam of a chart that comes back to itself.
    """
    source, chart = original.surface, charts(original.surface)
    corners = reduced.corners()
    middle = corners.mean(axis=1)
    origin, weights, _ = original.closest(middle)
    at_middle = np.einsum("nc,ncx->nx", weights, source.uvs[origin])
    scale = _texture_scale(source, chart)[origin]
    uvs = np.repeat(at_middle[:, None], 3, axis=1)
    open_face, open_corner = (a.ravel() for a in np.indices((len(corners), 3)))
    for step in _STEPS:
        start = middle[open_face]
        way = step * (corners[open_face, open_corner] - start)
        faces, weights, distance = original.candidates(start + way, _NEIGHBOURS)
        there = np.einsum("nkc,nkcx->nkx", weights, source.uvs[faces])
        length = np.linalg.norm(way, axis=1)
        jump = np.linalg.norm(there - at_middle[open_face, None], axis=2)
        fits = chart[faces] == chart[origin[open_face]][:, None]
        fits &= jump <= _STRETCH * (scale[open_face] * length)[:, None] + 1e-6
        fits &= distance <= distance.min(axis=1, keepdims=True) + 0.1 * length[:, None]
        best = np.argmin(np.where(fits, distance, np.inf), axis=1)
        found = fits.any(axis=1)
        uvs[open_face[found], open_corner[found]] = there[found, best[found]]
        open_face, open_corner = open_face[~found], open_corner[~found]
        if not len(open_face):
            break
    return uvs, origin


def _texture_scale(surface: Surface, chart: I64) -> F64:
    """Texture length per metre, f64 (F,): of the triangle or of its chart, whichever is larger."""

    def doubled_area(corners: F64) -> F64:
        a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
        return np.asarray(np.linalg.norm(np.cross(a, b), axis=1))

    flat = np.concatenate([surface.uvs, np.zeros((*surface.uvs.shape[:2], 1))], axis=2)
    texture, area = doubled_area(flat), doubled_area(surface.corners())
    whole = np.bincount(chart, texture) / np.bincount(chart, area)
    return np.asarray(np.sqrt(np.maximum(texture / area, whole[chart])))
