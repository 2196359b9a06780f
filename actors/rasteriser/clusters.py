"""Faces in small clusters that are near each other and look the same way, so that most can be passed over together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from actors.rasteriser.layout import CLUSTER, CLUSTER_FLOATS
from actors.scenes.mesh import Mesh

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
I32 = NDArray[np.int32]


def cluster_faces(mesh: Mesh) -> tuple[I64, F32]:
    """An order of the faces, and what each run of CLUSTER of them has in common.

    Returns:
        i64 (F,) face indices, and f32 (ceil(F / CLUSTER), CLUSTER_FLOATS): centre and radius of a sphere around the
        cluster, the axis of a cone around its normals (of the winding), and the sine of the cone's half angle; 1 where
        it is so wide that some face may always be seen.
    """
    corners = mesh.vertices.astype(np.float64)[mesh.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    flat = length[:, 0] <= 1e-300
    normals = np.where(flat[:, None], 0.0, normals / np.where(length > 1e-300, length, 1.0))
    order = np.lexsort((_along_curve(corners.mean(axis=1)), _side(normals)))
    corners, normals, flat = corners[order], normals[order], flat[order]
    starts = np.arange(0, len(order), CLUSTER)
    sizes = np.diff([*starts, len(order)])
    owner = np.repeat(np.arange(len(starts)), sizes)
    low = np.minimum.reduceat(corners.min(axis=1), starts)
    high = np.maximum.reduceat(corners.max(axis=1), starts)
    out = np.zeros((len(starts), CLUSTER_FLOATS))
    out[:, :3] = (low + high) / 2.0
    reach = np.linalg.norm(corners - out[owner, None, :3], axis=2).max(axis=1)
    # A little more than exact, for what the kernels round.
    out[:, 3] = np.maximum.reduceat(reach, starts) * (1.0 + 1e-5) + 1e-7
    axis = np.add.reduceat(normals, starts)
    norm = np.linalg.norm(axis, axis=1, keepdims=True)
    axis = axis / np.where(norm > 1e-12, norm, 1.0)
    # Faces without area are never drawn, wherever they look.
    cosine = np.where(flat, 1.0, np.sum(normals * axis[owner], axis=1))
    least = np.minimum.reduceat(cosine, starts)
    out[:, 4:7] = axis
    out[:, 7] = np.where(least > 0.1, np.sqrt(np.maximum(1.0 - least**2, 0.0)) + 1e-4, 1.0)
    return order, out.astype(np.float32)


def normals_side(mesh: Mesh) -> I32:
    """Per face +1 if the normals of its corners are on the side it is wound counter-clockwise from, else -1."""
    corners = mesh.vertices[mesh.faces]
    winding = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    agree = np.einsum("fkc,fc->f", mesh.normals[mesh.faces], winding)
    return np.where(agree < 0.0, -1, 1).astype(np.int32)


def _side(normals: F64) -> I64:
    """Which of the six axis directions a normal is nearest to, 0 .. 5."""
    axis = np.abs(normals).argmax(axis=1)
    return np.asarray(2 * axis + (normals[np.arange(len(normals)), axis] < 0.0))


def _along_curve(points: F64) -> I64:
    """Morton codes of points (F, 3) in their bounding box: near points have near codes."""
    low, span = points.min(axis=0), np.maximum(np.ptp(points, axis=0), 1e-12)
    cell = np.minimum((points - low) / span * 1024.0, 1023.0).astype(np.int64)
    code = np.zeros(len(points), dtype=np.int64)
    for bit in range(10):
        for axis in range(3):
            code |= (cell[:, axis] >> bit & 1) << (3 * bit + axis)
    return code
