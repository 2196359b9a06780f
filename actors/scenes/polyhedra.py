"""Boxes, prisms and pyramids about z, with texture coordinates laid two ways.

Ordinarily every face shows texels of its own, so that a pattern breaks all symmetries. A symmetric layout gives points
that a rotational symmetry of the body maps onto each other the same texel: every face is folded along its own mirror
lines, and faces that can take each other's place share their texels.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from actors.scenes.mesh import F64, Mesh, recorded_mesh

# Corners of a face in its own coordinates, counter-clockwise, and the same with the middles of the edges between.
_CORNERS = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
_BORDER = np.stack([_CORNERS, (_CORNERS + np.roll(_CORNERS, -1, axis=0)) / 2.0], axis=1).reshape(8, 2)


@dataclasses.dataclass(frozen=True)
class _Face:
    """A flat, convex face: points (n, 3) counter-clockwise from outside, the first in the middle where `centred`."""

    points: F64
    uvs: F64
    centred: bool = False


def box_mesh(x: float, y: float, z: float) -> Mesh:
    """A box of 12 triangles; its faces lie side by side in a 3 x 2 atlas, so that no two show the same texels."""
    vertices, normals, uvs, faces = [], [], [], []
    for face, points in enumerate(_box_faces(x, y, z)):
        vertices.append(points)
        normals.append(np.tile(np.eye(3)[face // 2] * (1.0 - 2.0 * (face % 2)), (4, 1)))
        uvs.append((np.array([face % 3, face // 3]) + 0.5 + 0.46 * _CORNERS) / [3.0, 2.0])
        faces.append(np.array([[0, 1, 2], [0, 2, 3]]) + 4 * face)
    return recorded_mesh(np.concatenate(vertices), np.concatenate(faces), np.concatenate(normals), np.concatenate(uvs))


def folded_box_mesh(x: float, y: float, z: float) -> Mesh:
    """A box whose texture has all its symmetries.

    Faces of different sizes take different columns of the texture. Across a face, u runs from the middle along the
    longer edge and v along the shorter; on a square, whose edges can be exchanged, u is the larger of both.
    """
    edges = (x, y, z)
    sizes = sorted({tuple(sorted((edges[i], edges[(i + 1) % 3]))) for i in range(3)})
    made = []
    for number, points in enumerate(_box_faces(x, y, z)):
        a, b = edges[(number // 2 + 1) % 3], edges[(number // 2 + 2) % 3]
        face = _folded_rectangle(points)
        ab = face.uvs
        if a == b:
            ab = np.sort(ab, axis=1)[:, ::-1]
        elif a < b:
            ab = ab[:, ::-1]
        made.append(dataclasses.replace(face, uvs=_column(ab, sizes.index(tuple(sorted((a, b)))), len(sizes))))
    return _assembled(made)


def prism_mesh(count: int, radius: float, height: float, symmetric: bool) -> Mesh:
    """A regular prism; a corner of its bases lies on the x axis.

    Args:
        count: corners of a base.
        radius: of the circle through them [m].
        height: [m].
        symmetric: the texture has the symmetries of the prism; sides in its left half, bases in the right.
    """
    low, high = _ring(count, radius, -height / 2), _ring(count, radius, height / 2)
    sides = [np.stack([low[k], low[k + 1], high[k + 1], high[k]]) for k in range(count)]
    bases = low[-2::-1], high[:-1]
    if symmetric:
        made = [_folded_rectangle(side) for side in sides] + [_folded_polygon(base) for base in bases]
        return _assembled([_in_column(face, int(i >= count), 2) for i, face in enumerate(made)])
    made = [_Face(side, _strip(k, count, _CORNERS)) for k, side in enumerate(sides)]
    made += [_Face(base, _disc(base, radius, corner)) for base, corner in zip(bases, (0.02, 0.52), strict=True)]
    return _assembled(made)


def pyramid_mesh(count: int, radius: float, height: float, symmetric: bool) -> Mesh:
    """A regular pyramid with its tip up; arguments as of `prism_mesh`."""
    low, tip = _ring(count, radius, -height / 2), np.array([0.0, 0.0, height / 2])
    base = low[-2::-1]
    if symmetric:
        made = []
        for k in range(count):
            points = np.stack([tip, low[k], (low[k] + low[k + 1]) / 2.0, low[k + 1]])
            made.append(_Face(points, np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])))
        made.append(_folded_polygon(base))
        return _assembled([_in_column(face, int(i == count), 2) for i, face in enumerate(made)])
    corners = np.array([[-1.0, -1.0], [1.0, -1.0], [0.0, 1.0]])
    made = [_Face(np.stack([low[k], low[k + 1], tip]), _strip(k, count, corners)) for k in range(count)]
    return _assembled([*made, _Face(base, _disc(base, radius, 0.02))])


def _box_faces(x: float, y: float, z: float) -> list[F64]:
    """Corners (4, 3) of the faces +x, -x, +y, -y, +z, -z."""
    out = []
    for face in range(6):
        axis, sign = face // 2, 1.0 - 2.0 * (face % 2)
        quad = np.zeros((4, 3))
        quad[:, axis] = sign
        quad[:, (axis + 1) % 3], quad[:, (axis + 2) % 3] = _CORNERS[:, 0] * sign, _CORNERS[:, 1]
        out.append(quad * (np.array([x, y, z]) / 2))
    return out


def _ring(count: int, radius: float, z: float) -> F64:
    """Corners (count + 1, 3) of a regular polygon, the first again at the end."""
    angle = 2.0 * np.pi * np.arange(count) / count
    out = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.full(count, z)], axis=1)
    return np.concatenate([out, out[:1]])


def _folded_rectangle(corners: F64) -> _Face:
    """Eight triangles about the middle; texture coordinates are the distances from the two middle lines, 0..1."""
    border = np.stack([corners, (corners + np.roll(corners, -1, axis=0)) / 2.0], axis=1).reshape(8, 3)
    return _Face(np.concatenate([corners.mean(axis=0)[None], border]), np.abs(np.pad(_BORDER, ((1, 0), (0, 0)))), True)


def _folded_polygon(corners: F64) -> _Face:
    """Triangles between middle, edge middles and corners, which have (0, 0), (1, 0) and (1, 1)."""
    count = len(corners)
    border = np.stack([corners, (corners + np.roll(corners, -1, axis=0)) / 2.0], axis=1).reshape(2 * count, 3)
    uvs = np.concatenate([[[0.0, 0.0]], np.tile([[1.0, 1.0], [1.0, 0.0]], (count, 1))])
    return _Face(np.concatenate([[[0.0, 0.0, corners[0, 2]]], border]), uvs, True)


def _in_column(face: _Face, column: int, columns: int) -> _Face:
    return dataclasses.replace(face, uvs=_column(face.uvs, column, columns))


def _column(uvs: F64, column: int, columns: int) -> F64:
    """Texture coordinates 0..1 moved into one of several columns of the texture, off its borders.

    The columns are half as high as the texture, and one alone is half as wide: each texel shows many times, and a whole
    texture in every fold would be too fine.
    """
    return np.asarray((np.array([column, 0.0]) + 0.04 + 0.92 * uvs) / [max(columns, 2), 2.0])


def _strip(index: int, count: int, corners: F64) -> F64:
    """Face coordinates -1..1 in one of `count` fields that share the lower 70 % of the texture."""
    return np.asarray(np.array([(index + 0.5) / count, 0.35]) + corners * [0.47 / count, 0.34])


def _disc(points: F64, radius: float, corner: float) -> F64:
    """A base seen along z, in a square above the strip that begins at u = `corner`."""
    disc = points[:, :2] / radius * 0.5 + 0.5
    return np.stack([corner + 0.46 * disc[:, 0], 0.71 + 0.28 * disc[:, 1]], axis=1)


def _assembled(parts: list[_Face]) -> Mesh:
    """Each face as a fan about its first point."""
    faces: list[NDArray[np.int64]] = []
    normals, start = [], 0
    for part in parts:
        count = len(part.points)
        around = np.arange(1, count)
        fan = np.stack([np.zeros(count - 1, np.int64), around, np.roll(around, -1)], axis=1)
        faces.append(start + (fan if part.centred else fan[:-1]))
        up = np.cross(part.points[1] - part.points[0], part.points[2] - part.points[0])
        normals.append(np.tile(up / np.linalg.norm(up), (count, 1)))
        start += count
    points, uvs = np.concatenate([p.points for p in parts]), np.concatenate([p.uvs for p in parts])
    return recorded_mesh(points, np.concatenate(faces), np.concatenate(normals), uvs)
