"""Meshes and symmetries of procedural shapes.

Object frame: the origin is the centre of the bounding box, z points up, and shapes of revolution turn about z. Sizes
are metres. A shape's recipe is `common.scene.Shape`: its kind and parameters decide every vertex.

| kind | params |
|---|---|
| cube | edge |
| box | edge x, edge y, edge z |
| cylinder | radius, height |
| cone | radius, height |
| sphere | radius |
| revolution | height, then two or more radii at even heights from the bottom up |
| mesh | none; `asset` is the content hash of an imported mesh |
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
from numpy.typing import NDArray

from actors.mesh import Mesh as Mesh
from actors.mesh import is_closed
from common.errors import SceneError, bad_value
from common.geometry import so3_log
from common.scene import Shape, Symmetry, Texture

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]

SEGMENTS = 32  # around the axis of cylinders, cones and spheres
PROFILE_SEGMENTS = 24  # around the axis of free profiles, which have more rings
_PARAMS = {"cube": 1, "box": 3, "cylinder": 2, "cone": 2, "sphere": 1}


def check_shape(shape: Shape) -> None:
    """Check a procedural shape's parameters.

    Raises:
        SceneError: naming the kind or parameter that cannot be built.
    """
    if shape.kind == "revolution":
        ok, allowed = len(shape.params) >= 3, "a height and two or more radii"
    elif shape.kind in _PARAMS:
        ok, allowed = len(shape.params) == _PARAMS[shape.kind], f"{_PARAMS[shape.kind]} number(s)"
    else:
        raise SceneError(bad_value("shape.kind", shape.kind, f"one of {[*_PARAMS, 'revolution']} or a loaded mesh"))
    if not ok:
        raise SceneError(bad_value(f"shape.params of a {shape.kind}", shape.params, allowed))
    # The ends of a profile may close in a point; every other size must be positive.
    ends = {1, len(shape.params) - 1} if shape.kind == "revolution" else set()
    for i, value in enumerate(shape.params):
        if not (np.isfinite(value) and (value > 0.0 or (i in ends and value == 0.0)) and value < 100.0):
            raise SceneError(bad_value(f"shape.params[{i}] of a {shape.kind}", value, "a length in metres, > 0, < 100"))


@functools.lru_cache(maxsize=1024)
def build_mesh(shape: Shape, symmetric: bool = False) -> Mesh:
    """Mesh of a procedural shape; the same object for the same recipe (do not write to its arrays).

    Raises:
        SceneError: if the parameters do not describe a shape.
    """
    check_shape(shape)
    if symmetric:
        raise SceneError(bad_value("symmetric", True, "False"))
    p = shape.params
    if shape.kind == "cube":
        return _box(p[0], p[0], p[0])
    if shape.kind == "box":
        return _box(p[0], p[1], p[2])
    if shape.kind == "cylinder":
        return _lathe(np.array([[p[0], -p[1] / 2], [p[0], p[1] / 2]]), SEGMENTS)
    if shape.kind == "cone":
        return _lathe(np.array([[p[0], -p[1] / 2], [0.0, p[1] / 2]]), SEGMENTS)
    if shape.kind == "sphere":
        angle = np.linspace(-np.pi / 2, np.pi / 2, SEGMENTS // 2 + 1)
        radii = p[0] * np.cos(angle)
        radii[[0, -1]] = 0.0
        return _lathe(np.stack([radii, p[0] * np.sin(angle)], axis=1), SEGMENTS)
    heights = np.linspace(-p[0] / 2, p[0] / 2, len(p) - 1)
    return _lathe(np.stack([np.array(p[1:]), heights], axis=1), PROFILE_SEGMENTS)


def symmetry_of(shape: Shape, texture: Texture) -> Symmetry:
    """Rotations about the object frame's origin that leave the look of a textured shape unchanged.

    A plain texture keeps the symmetry of the shape; any other declares none. Imported meshes declare none here.
    """
    if texture.kind != "plain":
        return Symmetry()
    up = (0.0, 0.0, 1.0)
    flip = ((np.pi, 0.0, 0.0),)
    if shape.kind == "cube":
        return Symmetry(rotations=_box_rotations((1.0, 1.0, 1.0)))
    if shape.kind == "box":
        return Symmetry(rotations=_box_rotations(shape.params))
    if shape.kind == "cylinder":
        return Symmetry(axis_continuous=up, rotations=flip)
    if shape.kind == "sphere":
        # The record holds one axis: the rotations about z, and quarter turns that carry z to x and y.
        return Symmetry(axis_continuous=up, rotations=_box_rotations((1.0, 1.0, 1.0)))
    if shape.kind == "revolution" and shape.params[1:] == shape.params[:0:-1]:
        return Symmetry(axis_continuous=up, rotations=flip)
    if shape.kind in ("cone", "revolution"):
        return Symmetry(axis_continuous=up)
    return Symmetry()


@functools.lru_cache(maxsize=256)
def _box_rotations(edges: tuple[float, ...]) -> tuple[tuple[float, float, float], ...]:
    """Rotation vectors of the signed axis permutations that map a box onto itself, without the identity."""
    out = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = np.zeros((3, 3))
            matrix[range(3), order] = signs
            same = all(edges[i] == edges[order[i]] for i in range(3))
            if same and np.linalg.det(matrix) > 0.5 and not np.array_equal(matrix, np.eye(3)):
                # Part of the recorded scene: no digit that another maths library may round the other way.
                x, y, z = np.round(so3_log(matrix), 12).tolist()
                out.append((x, y, z))
    return tuple(out)


def _mesh(vertices: F64, faces: NDArray[np.int64], normals: F64, uvs: F64) -> Mesh:
    # Rounding to a nanometre hides last-bit differences between maths libraries: same recipe, same bytes.
    arrays = [np.round(a, 9).astype(np.float32) for a in (vertices, normals, uvs)]
    index = np.asarray(faces, dtype=np.int32)
    for array in (*arrays, index):
        array.setflags(write=False)
    return Mesh(arrays[0], index, arrays[1], arrays[2], is_closed(arrays[0], index))


def _box(x: float, y: float, z: float) -> Mesh:
    """A box of 12 triangles; its faces lie side by side in a 3 x 2 atlas, so that no two show the same texels."""
    half = np.array([x, y, z]) / 2
    corners = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    vertices, normals, uvs, faces = [], [], [], []
    for face in range(6):
        axis, sign = face // 2, 1.0 - 2.0 * (face % 2)
        a, b = (axis + 1) % 3, (axis + 2) % 3
        quad = np.zeros((4, 3))
        quad[:, axis] = sign
        quad[:, a], quad[:, b] = corners[:, 0] * sign, corners[:, 1]
        vertices.append(quad * half)
        normals.append(np.tile(np.eye(3)[axis] * sign, (4, 1)))
        uvs.append((np.array([face % 3, face // 3]) + 0.5 + 0.46 * corners) / [3.0, 2.0])
        faces.append(np.array([[0, 1, 2], [0, 2, 3]]) + 4 * face)
    return _mesh(np.concatenate(vertices), np.concatenate(faces), np.concatenate(normals), np.concatenate(uvs))


def _lathe(profile: F64, segments: int) -> Mesh:
    """Surface of revolution of (radius, z) points from the bottom up, closed by flat caps where the radius is not 0.

    The side takes the lower 70 % of the texture, the caps two squares above it.
    """
    rings = len(profile)
    tangent = np.gradient(profile, axis=0)
    outward = np.stack([tangent[:, 1], -tangent[:, 0]], axis=1)
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    turn = np.linspace(0.0, 1.0, segments + 1)
    cos, sin = np.cos(2 * np.pi * turn), np.sin(2 * np.pi * turn)
    cos[-1], sin[-1] = cos[0], sin[0]
    radius, height = profile[:, :1], profile[:, 1:]
    side = np.stack([radius * cos, radius * sin, np.broadcast_to(height, (rings, segments + 1))], axis=-1)
    flat = np.broadcast_to(outward[:, 1:], (rings, segments + 1))
    normal = np.stack([outward[:, :1] * cos, outward[:, :1] * sin, flat], axis=-1)
    v = 0.68 * (height - height[0]) / (height[-1] - height[0]) + 0.01
    uv = np.stack(np.broadcast_arrays(turn, v), axis=-1)
    index = np.arange(rings * (segments + 1)).reshape(rings, segments + 1)
    low, high = index[:-1], index[1:]
    lower = np.stack([low[:, :-1], low[:, 1:], high[:, 1:]], axis=-1)[profile[:-1, 0] > 0.0]
    upper = np.stack([low[:, :-1], high[:, 1:], high[:, :-1]], axis=-1)[profile[1:, 0] > 0.0]
    vertices, normals, uvs = [side.reshape(-1, 3)], [normal.reshape(-1, 3)], [uv.reshape(-1, 2)]
    faces = [lower.reshape(-1, 3), upper.reshape(-1, 3)]
    for end, sign, corner in ((0, -1.0, 0.02), (-1, 1.0, 0.52)):
        if profile[end, 0] == 0.0:
            continue
        start = sum(len(p) for p in vertices)
        rim = side[end, :-1]
        vertices.append(rim)
        normals.append(np.tile([0.0, 0.0, sign], (segments, 1)))
        disc = rim[:, :2] / profile[end, 0] * 0.5 + 0.5
        uvs.append(np.stack([corner + 0.46 * disc[:, 0], 0.71 + 0.28 * disc[:, 1]], axis=1))
        fan = np.arange(1, segments - 1)
        disc_faces = start + np.stack([np.zeros_like(fan), fan, fan + 1], axis=1)
        faces.append(disc_faces if sign > 0.0 else disc_faces[:, ::-1])
    return _mesh(np.concatenate(vertices), np.concatenate(faces), np.concatenate(normals), np.concatenate(uvs))
