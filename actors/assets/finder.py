"""Closest points on a surface, and points spread evenly over it."""

from __future__ import annotations

import numpy as np
import trimesh
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from actors.assets.surface import Surface

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

_SAMPLES = (5_000, 100_000)  # at least and at most; 20 per triangle between them
_NEIGHBOURS = 8


class Finder:
    """Closest points on a surface: candidates come from samples of it, distances to them are exact."""

    def __init__(self, surface: Surface) -> None:
        self.surface = surface
        corners = surface.corners()
        self._points, self._faces = surface_samples(corners, int(np.clip(20 * len(corners), *_SAMPLES)))
        self._points = np.concatenate([self._points, corners.mean(axis=1)])
        self._faces = np.concatenate([self._faces, np.arange(len(corners))])
        self._tree = cKDTree(self._points)

    def candidates(self, points: F64, neighbours: int = _NEIGHBOURS) -> tuple[I64, F64, F64]:
        """Triangles near points (N, 3): i64 (N, K); corner weights of their closest points (N, K, 3); distances [m]."""
        index = self._tree.query(points, k=min(neighbours, len(self._faces)))[1].reshape(len(points), -1)
        faces = self._faces[index]
        triangles = self.surface.corners()[faces.ravel()]
        wanted = np.repeat(points, faces.shape[1], axis=0)
        closest = trimesh.triangles.closest_point(triangles, wanted)
        # Of a triangle without area there is no closest point; its neighbours have it.
        distance = np.nan_to_num(np.linalg.norm(closest - wanted, axis=1), nan=np.inf).reshape(faces.shape)
        weights = trimesh.triangles.points_to_barycentric(triangles, np.nan_to_num(closest), method="cross")
        weights = np.clip(np.nan_to_num(weights), 0.0, 1.0) + 1e-12
        return faces, (weights / weights.sum(axis=1, keepdims=True)).reshape(*faces.shape, 3), distance

    def closest(self, points: F64) -> tuple[I64, F64, F64]:
        """The closest triangle of points (N, 3): i64 (N,), weights of its corners f64 (N, 3), distance [m] f64 (N,)."""
        faces, weights, distance = self.candidates(points)
        row, best = np.arange(len(points)), np.argmin(distance, axis=1)
        return faces[row, best], weights[row, best], distance[row, best]


def surface_samples(corners: F64, count: int) -> tuple[F64, I64]:
    """`count` points spread evenly over triangles (F, 3, 3) and the triangles that they lie on; no chance involved.

    The triangle is found by stratifying the summed area; the place within it follows the R2 sequence
    (M. Roberts, 2018), folded into the triangle.
    """
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    total = np.cumsum(area)
    face = np.searchsorted(total, (np.arange(count) + 0.5) / count * total[-1], side="right").clip(0, len(area) - 1)
    u, v = np.outer([0.7548776662466927, 0.5698402909980532], np.arange(count) + 1.0) % 1.0
    beyond = u + v > 1.0
    u, v = np.where(beyond, 1.0 - u, u), np.where(beyond, 1.0 - v, v)
    points = np.einsum("nc,ncx->nx", np.stack([1.0 - u - v, u, v], axis=1), corners[face])
    return points, face.astype(np.int64)
