"""In which poses a rigid object can lie on the ground.

An object rests on a face of its convex hull if its centre of mass stands above that face; from any other face it rolls
on over the edge that the centre of mass is beyond. Dropped in a random orientation without bouncing, it first touches
with the face that lies below its centre of mass; so a rest is as likely as the solid angle, seen from the centre of
mass, of all faces from which the object rolls into it (quasi-static toppling, Goldberg et al. 1999).
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import ConvexHull, QhullError

from common.errors import SceneError, bad_value
from common.protocols import F64

_COPLANAR = 1e-5  # facets whose unit normals differ by less are one face
_ON_EDGE = 1e-6  # of the object's size: a centre of mass as far beyond an edge still counts as above the face


@dataclasses.dataclass(frozen=True)
class Rests:
    """The poses an object can rest in, most likely first.

    Attributes:
        rotations: f64 (K, 3, 3) world_R_obj; turning it about the vertical gives the same rest.
        probabilities: f64 (K,) of a random drop, sum 1.
        heights: f64 (K,) of the object frame's origin above the ground [m].
    """

    rotations: F64
    probabilities: F64
    heights: F64


def resting_poses(vertices: ArrayLike) -> Rests:
    """Rests of a body of even density that fills the convex hull of its vertices (V, 3) [m].

    A polyhedron has few; a surface of revolution rolls, so that each facet of its side is a rest of its own.

    Raises:
        SceneError: if the vertices span no volume.
    """
    points = np.asarray(vertices, dtype=np.float64)
    hull = convex_hull(points)
    corners = points[hull.simplices]
    center = _center_of_mass(corners, points[hull.vertices].mean(axis=0))
    normals, heights = hull.equations[:, :3], -(hull.equations[:, :3] @ center + hull.equations[:, 3])
    face = _faces(hull)
    angle = np.bincount(face, weights=_solid_angles(corners - center))
    rests_on = _topple(hull, corners, center, face, normals, heights, np.ptp(points, axis=0).max())
    probability = np.bincount(rests_on, weights=angle, minlength=len(angle)) / angle.sum()
    down = np.stack([np.bincount(face, weights=normals[:, k]) for k in range(3)], axis=1)
    down = np.round(down / np.linalg.norm(down, axis=1, keepdims=True), 6) + 0.0
    kept = np.flatnonzero(np.bincount(rests_on, minlength=len(angle)))
    # Sorted by rounded numbers, so that the order is not the hull algorithm's.
    share = np.round(probability[kept], 9)
    order = kept[np.lexsort((down[kept, 0], down[kept, 1], down[kept, 2], -share))]
    rotations = _turn_down(down[order])
    lowest = np.min(points[hull.vertices] @ np.swapaxes(rotations, 1, 2)[:, :, 2:], axis=1)[:, 0]
    share = np.round(probability[order], 9)
    return Rests(rotations, share / share.sum(), -lowest)


def convex_hull(points: ArrayLike) -> ConvexHull:
    """Scipy's convex hull of points (V, 3) [m].

    Raises:
        SceneError: if they span no volume.
    """
    array = np.asarray(points, dtype=np.float64)
    if array.ndim != 2 or array.shape[1:] != (3,) or len(array) < 4 or not np.isfinite(array).all():
        raise SceneError(bad_value("vertices", array.shape, "(V, 3) with four or more finite points"))
    try:
        return ConvexHull(array)
    except QhullError as e:
        raise SceneError(bad_value("vertices", f"{len(array)} points in one plane", "a body with a volume")) from e


def _center_of_mass(corners: F64, inside: F64) -> F64:
    """Centroid of the hull: tetrahedra from a point inside to its triangles (F, 3, 3)."""
    edges = corners - inside
    volume = np.abs(np.linalg.det(edges))
    return np.asarray(inside + np.average(edges.sum(axis=1) / 4.0, axis=0, weights=volume))


def _solid_angles(corners: F64) -> F64:
    """Solid angles [sr] (F,) of triangles (F, 3, 3) seen from the origin (van Oosterom and Strackee 1983)."""
    a, b, c = np.moveaxis(corners, 1, 0)
    la, lb, lc = (np.linalg.norm(x, axis=1) for x in (a, b, c))
    volume = np.abs(np.sum(a * np.cross(b, c), axis=1))
    dots = la * lb * lc + np.sum(a * b, axis=1) * lc + np.sum(a * c, axis=1) * lb + np.sum(b * c, axis=1) * la
    return np.asarray(2.0 * np.arctan2(volume, dots))


def _faces(hull: ConvexHull) -> NDArray[np.int64]:
    """Number (F,) of the face that each triangle of the hull belongs to: neighbours in one plane are one face."""
    label = np.arange(len(hull.simplices))
    normals = hull.equations[:, :3]
    flat = np.abs(normals[:, None] - normals[hull.neighbors]).max(axis=2) < _COPLANAR
    while True:
        # The smallest number spreads over each face; a face of n triangles takes at most n rounds.
        spread = np.minimum(label, np.where(flat, label[hull.neighbors], len(label)).min(axis=1))
        if np.array_equal(spread, label):
            return np.asarray(np.unique(label, return_inverse=True)[1].reshape(-1))
        label = spread


def _topple(
    hull: ConvexHull, corners: F64, center: F64, face: NDArray[np.int64], normals: F64, heights: F64, size: float
) -> NDArray[np.int64]:
    """The face (K,) that the body comes to rest on when it is put down on face 0 .. K-1."""
    count = int(face.max()) + 1
    worst, target = np.full(count, _ON_EDGE * size), np.arange(count)
    # Neighbour k of a triangle lies across the edge opposite its corner k.
    for k in range(3):
        a, b, opposite = corners[:, (k + 1) % 3], corners[:, (k + 2) % 3], corners[:, k]
        outward = np.cross(b - a, normals)
        outward /= np.linalg.norm(outward, axis=1, keepdims=True)
        outward *= np.where(np.sum(outward * (opposite - a), axis=1) > 0.0, -1.0, 1.0)[:, None]
        # The foot of the centre of mass differs from the centre by the normal alone, which is across to `outward`.
        beyond = np.sum(outward * (center - a), axis=1)
        for i in np.flatnonzero((face != face[hull.neighbors[:, k]]) & (beyond > worst[face])):
            if beyond[i] > worst[face[i]]:
                worst[face[i]], target[face[i]] = beyond[i], face[hull.neighbors[i, k]]
    # Each roll brings the centre of mass down, but within rounding a chain may stand still.
    height = np.full(count, np.inf)
    np.minimum.at(height, face, heights)
    target = np.where(height[target] < height, target, np.arange(count))
    while not np.array_equal(target[target], target):
        target = target[target]
    return target


def _turn_down(normals: F64) -> F64:
    """Rotations (K, 3, 3) that turn unit vectors (K, 3) straight down; no sine, no cosine.

    The smallest ones for vectors that look level or down; one that looks up is turned over about x first, since the
    smallest rotation of one that looks straight up is not defined, and hardly defined near by.
    """
    over = np.diag([1.0, -1.0, -1.0])
    out = np.empty((len(normals), 3, 3))
    for i, normal in enumerate(normals):
        x, y, z = normal if normal[2] <= 0.0 else over @ normal
        # Rodrigues about n x (0, 0, -1) = (-y, x, 0), whose length is the sine, with cosine -z.
        k = np.array([[0.0, 0.0, x], [0.0, 0.0, y], [-x, -y, 0.0]])
        turn = np.eye(3) + k + k @ k / (1.0 - z)
        out[i] = turn if normal[2] <= 0.0 else turn @ over
    # Rounded normals are not quite of unit length: one Newton step towards the nearest rotation, twice.
    for _ in range(2):
        out = 0.5 * out @ (3.0 * np.eye(3) - np.swapaxes(out, 1, 2) @ out)
    return out
