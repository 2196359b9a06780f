"""The surface of a model while it is imported: welded positions, and what the corners of its triangles look like."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import trimesh
from numpy.typing import NDArray
from scipy.sparse import coo_matrix

from actors.assets.formats import Part
from actors.scenes.mesh import Mesh, recorded_mesh
from common.errors import AssetError, bad_value

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

SMALLEST, LARGEST = 0.001, 5.0  # metres: the longest edge of the bounding box
CREASE = np.deg2rad(40.0)  # triangles that meet at a larger angle are shaded apart


@dataclasses.dataclass(frozen=True)
class Surface:
    """Triangles over welded positions.

    Attributes:
        points: f64 (V, 3) [m], no two alike.
        faces: i64 (F, 3).
        uvs: f64 (F, 3, 2) texture coordinates of the corners in the picture of their part, v down; 0 where it has none.
        part: i64 (F,) index of the part that a triangle comes from.
        colors: f64 (F, 3, 3) colours 0..255 of the corners, where their part is coloured by vertices.
    """

    points: F64
    faces: I64
    uvs: F64
    part: I64
    colors: F64

    def corners(self) -> F64:
        """Positions of the corners, f64 (F, 3, 3)."""
        return self.points[self.faces]

    def extent(self) -> F64:
        """Edge lengths [m] of the bounding box, f64 (3,)."""
        return np.asarray(np.ptp(self.points, axis=0))


def merge_parts(parts: Sequence[Part], scale: float = 1.0, y_up: bool = False) -> Surface:
    """One surface in metres, z up, of all parts: welded, without degenerate or doubled triangles, checked.

    Args:
        parts: of one model.
        scale: metres per unit of the file.
        y_up: the file's y axis points up: y becomes z, and z becomes -y.

    Raises:
        AssetError: if nothing is left, it has no area, or its size is implausible.
    """
    position = np.concatenate([p.vertices[p.faces.ravel()] for p in parts]) * scale
    if y_up:
        position = position[:, [0, 2, 1]] * [1.0, -1.0, 1.0]
    uvs = [np.zeros((p.faces.size, 2)) if p.uvs is None else p.uvs[p.faces.ravel()] for p in parts]
    colors = [np.zeros((p.faces.size, 3)) if p.colors is None else p.colors[p.faces.ravel()] for p in parts]
    part = np.repeat(np.arange(len(parts)), [len(p.faces) for p in parts])
    size = float(np.ptp(position, axis=0).max())
    _check_size(size, scale)
    # Corners closer than a millionth of the size are one: files hold about six digits.
    keys = np.round(position / (size * 1e-6)).astype(np.int64)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    points, faces = position[first], inverse.reshape(-1, 3).astype(np.int64)
    keep = _proper(points, faces, size)
    if not keep.any():
        raise AssetError("all triangles are degenerate: the surface has no area")
    surface = Surface(
        points,
        faces[keep],
        _by_face(uvs, 2)[keep],
        part[keep],
        _by_face([c.astype(np.float64) for c in colors], 3)[keep],
    )
    return oriented(without_loose_points(surface))


def _by_face(arrays: Sequence[F64], width: int) -> F64:
    return np.concatenate(arrays).reshape(-1, 3, width)


def _check_size(size: float, scale: float) -> None:
    if SMALLEST <= size <= LARGEST:
        return
    allowed = f"{SMALLEST} .. {LARGEST} m"
    if np.isfinite(size) and size > LARGEST and SMALLEST <= size / 1000.0 <= LARGEST:
        allowed += f"; it looks like millimetres: --scale {scale / 1000.0:g}"
    raise AssetError(bad_value("longest edge of the bounding box", float(f"{size:.6g}"), allowed))


def _proper(points: F64, faces: I64, size: float) -> NDArray[np.bool_]:
    """Triangles that have an area and stand there for the first time."""
    a, b, c = points[faces].transpose(1, 0, 2)
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    distinct = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    once = np.zeros(len(faces), dtype=bool)
    once[np.unique(np.sort(faces, axis=1), axis=0, return_index=True)[1]] = True
    return np.asarray(distinct & once & (area > 1e-12 * size * size))


def without_loose_points(surface: Surface) -> Surface:
    """The surface without points that no triangle uses."""
    used, faces = np.unique(surface.faces, return_inverse=True)
    return dataclasses.replace(surface, points=surface.points[used], faces=faces.reshape(-1, 3).astype(np.int64))


def oriented(surface: Surface) -> Surface:
    """The surface with its triangles wound counter-clockwise as seen from outside, as far as there is an outside.

    Winding that contradicts itself is repaired; the sign of the enclosed volume then tells outside from inside.
    """
    mesh = trimesh.Trimesh(surface.points, surface.faces, process=False)
    faces, flipped = surface.faces, np.zeros(len(surface.faces), dtype=bool)
    if not mesh.is_winding_consistent:
        trimesh.repair.fix_winding(mesh)
        fixed = np.asarray(mesh.faces, dtype=np.int64)
        # The repair reverses rows; which ones, tells whether the cyclic order is still there.
        flipped = ~np.any([(np.roll(fixed, k, axis=1) == faces).all(axis=1) for k in range(3)], axis=0)
    a, b, c = surface.corners().transpose(1, 0, 2) - surface.points.mean(axis=0)
    volumes = np.einsum("ij,ij->i", a, np.cross(b, c)) * np.where(flipped, -1.0, 1.0)
    if volumes.sum() < 0.0:
        flipped = ~flipped
    order = np.where(flipped[:, None], [0, 2, 1], [0, 1, 2])
    return dataclasses.replace(
        surface,
        faces=np.take_along_axis(faces, order, axis=1),
        uvs=np.take_along_axis(surface.uvs, order[..., None], axis=1),
        colors=np.take_along_axis(surface.colors, order[..., None], axis=1),
    )


def corner_normals(surface: Surface) -> F64:
    """Unit normals of the corners, f64 (F, 3, 3): triangles around a point that meet below `CREASE` are shaded as one.

    Each triangle counts with its angle at the point. Normals of the file are not used: many have none, or broken ones.
    """
    corners = surface.corners()
    ahead = np.roll(corners, -1, axis=1) - corners
    back = np.roll(corners, 1, axis=1) - corners
    cosine = np.einsum("fcx,fcx->fc", ahead, back)
    angle = np.arctan2(np.linalg.norm(np.cross(ahead, back), axis=2), cosine)
    normal = np.cross(ahead[:, 0], back[:, 0])
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    # A triangle without area shows nowhere; its normal only has to be one.
    normal = np.where(length > 0.0, normal / np.where(length > 0.0, length, 1.0), [0.0, 0.0, 1.0])
    count = len(surface.faces)
    face = np.repeat(np.arange(count), 3)
    incidence = coo_matrix((np.ones(3 * count), (np.arange(3 * count), surface.faces.ravel()))).tocsr()
    pairs = (incidence @ incidence.T).tocoo()
    smooth = np.einsum("ij,ij->i", normal[face[pairs.row]], normal[face[pairs.col]]) > np.cos(CREASE)
    # Every corner counts for itself, be its angle as small as it may.
    angle = np.maximum(angle, 1e-6)
    row, col = pairs.row[smooth], pairs.col[smooth]
    weight = coo_matrix((angle.ravel()[col], (row, col)), shape=(3 * count, 3 * count)).tocsr()
    summed = np.asarray(weight @ normal[face])
    return np.asarray((summed / np.linalg.norm(summed, axis=1, keepdims=True)).reshape(count, 3, 3))


def as_mesh(surface: Surface, uvs: F64) -> tuple[Mesh, F64]:
    """The mesh to store, its origin at the centre of the bounding box, and that centre [m], f64 (3,).

    Args:
        surface: what to store.
        uvs: f64 (F, 3, 2) texture coordinates of its corners.
    """
    low, high = surface.points.min(axis=0), surface.points.max(axis=0)
    center = (low + high) / 2.0
    corners = np.concatenate(
        [
            surface.faces.reshape(-1, 1),
            np.round(uvs.reshape(-1, 2), 7),
            np.round(corner_normals(surface).reshape(-1, 3), 6),
        ],
        axis=1,
    )
    # Vertices are split where texture coordinates or normals jump, and only there.
    rows, index = np.unique(corners, axis=0, return_inverse=True)
    points = (surface.points - center)[rows[:, 0].astype(np.int64)]
    return recorded_mesh(points, index.reshape(-1, 3), rows[:, 3:], rows[:, 1:3]), center
