"""The triangle mesh that renderers draw, and the checks of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import SceneError, bad_value

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

_UNIT = 0.05  # how far the length of a normal may be from 1


@dataclasses.dataclass(frozen=True)
class Mesh:
    """A triangle mesh in the object frame. Vertices are split where normals or texture coordinates jump.

    Attributes:
        vertices: f32 (V, 3) [m].
        faces: i32 (F, 3) vertex indices; the winding carries no meaning unless `closed`.
        normals: f32 (V, 3) unit normals, outward.
        uvs: f32 (V, 2) texture coordinates; 1 is one texture side, (0, 0) the first texel's corner.
        closed: the surface is watertight and wound counter-clockwise seen from outside, so that from outside no back
            face can be seen; `is_closed` tells.
    """

    vertices: F32
    faces: I32
    normals: F32
    uvs: F32
    closed: bool = False

    def extent(self) -> F64:
        """Edge lengths [m] of the bounding box, f64 (3,)."""
        return np.ptp(self.vertices.astype(np.float64), axis=0)


def recorded_mesh(vertices: F64, faces: NDArray[np.integer[Any]], normals: F64, uvs: F64) -> Mesh:
    """A mesh of arrays as a recipe gives them; the arrays are not writable, and `closed` is found out.

    Args:
        vertices: (V, 3) [m].
        faces: (F, 3) vertex indices.
        normals: (V, 3) unit.
        uvs: (V, 2).
    """
    # Rounding to a nanometre hides last-bit differences between maths libraries: same recipe, same bytes.
    arrays = [np.round(a, 9).astype(np.float32) for a in (vertices, normals, uvs)]
    index = np.asarray(faces, dtype=np.int32)
    for array in (*arrays, index):
        array.setflags(write=False)
    return Mesh(arrays[0], index, arrays[1], arrays[2], is_closed(arrays[0], index))


def check_mesh(mesh: Mesh, name: str) -> None:
    """Check that a mesh can be drawn.

    Args:
        mesh: to check.
        name: what the error calls it.

    Raises:
        SceneError: naming the array that is malformed, or `closed` where the surface is not.
    """
    count = np.shape(mesh.vertices)[:1]
    for field, kind, shape in (
        ("vertices", np.floating, (*count, 3)),
        ("normals", np.floating, (*count, 3)),
        ("uvs", np.floating, (*count, 2)),
        ("faces", np.integer, (*np.shape(mesh.faces)[:1], 3)),
    ):
        array = np.asarray(getattr(mesh, field))
        if array.shape != shape or not np.issubdtype(array.dtype, kind):
            columns = (
                f"{'floats' if kind is np.floating else 'integers'} (n, {shape[-1]}), as many as there are vertices"
            )
            allowed = columns if field != "faces" else "integers (F, 3)"
            raise SceneError(bad_value(f"{name}: {field}", f"{array.dtype} {array.shape}", allowed))
        if not np.isfinite(array).all():
            raise SceneError(bad_value(f"{name}: {field}", "nan or inf", "finite numbers"))
    if not len(mesh.faces):
        raise SceneError(bad_value(f"{name}: len(faces)", 0, "one triangle or more"))
    low, high = int(mesh.faces.min()), int(mesh.faces.max())
    if low < 0 or high >= len(mesh.vertices):
        allowed = f"vertices 0 .. {len(mesh.vertices) - 1}"
        raise SceneError(bad_value(f"{name}: faces", f"indices {low} .. {high}", allowed))
    if not np.linalg.norm(_area_vectors(mesh.vertices.astype(np.float64), mesh.faces), axis=1).sum() > 0.0:
        raise SceneError(bad_value(f"{name}: area", 0.0, "more than 0"))
    length = np.linalg.norm(mesh.normals.astype(np.float64), axis=1)
    worst = float(length[np.argmax(np.abs(length - 1.0))])
    if abs(worst - 1.0) > _UNIT:
        raise SceneError(bad_value(f"{name}: length of a normal", worst, f"1, to {_UNIT}"))
    if mesh.closed and not is_closed(mesh.vertices, mesh.faces):
        raise SceneError(bad_value(f"{name}: closed", True, "True only for a watertight surface that is wound outward"))


def is_closed(vertices: F32, faces: I32) -> bool:
    """Whether a surface is watertight and wound outward: then from outside no back face can be seen.

    Vertices at equal positions are one. Each directed edge must occur once and once the other way round, and every
    connected part must enclose a positive volume. A hollow, whose surface is wound inward, therefore counts as not
    closed; so does an empty mesh. Faces that have two corners at one position are ignored.

    Args:
        vertices: (V, 3) finite [m].
        faces: (F, 3) vertex indices in range.
    """
    corner = _weld(vertices)[faces]
    a, b, c = corner[:, 0], corner[:, 1], corner[:, 2]
    real = (a != b) & (b != c) & (c != a)
    if not real.any():
        return False
    corner = corner[real]
    start, end = corner.ravel(), np.roll(corner, -1, axis=1).ravel()
    count = int(corner.max()) + 1
    edges, reverse = np.sort(start * count + end), np.sort(end * count + start)
    if (edges[1:] == edges[:-1]).any() or not np.array_equal(edges, reverse):
        return False
    # Here, for they are slow to import, and a collector that was lost is soon to be replaced.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(start), np.int8), (start, end)), shape=(count, count))
    part = connected_components(graph, directed=False)[1][corner[:, 0]]
    # About the middle of the box, so that a small part far off does not drown in rounding.
    points = vertices.astype(np.float64)
    points -= (points.max(axis=0) + points.min(axis=0)) / 2.0
    first = points[faces[real, 0]]
    volume = np.bincount(part, weights=np.sum(first * _area_vectors(points, faces[real]), axis=1))
    return bool((volume[np.unique(part)] > 0.0).all())


def _weld(vertices: F32) -> I64:
    """Number (V,) of the position of each vertex; equal positions have equal numbers."""
    order = np.lexsort(vertices.T)
    placed = vertices[order]
    new = np.zeros(len(vertices), np.int64)
    new[1:] = (placed[1:] != placed[:-1]).any(axis=1)
    out = np.empty_like(new)
    out[order] = np.cumsum(new)
    return out


def _area_vectors(points: F64, faces: I32) -> F64:
    """Twice the area of each face along its normal (F, 3)."""
    a, b, c = (points[faces[:, k]] for k in range(3))
    return np.cross(b - a, c - a)
