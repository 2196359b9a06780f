"""Meshes and symmetries of procedural shapes.

Object frame: the origin is half way up, z points up, and shapes of revolution, prisms and pyramids turn about z; so the
origin is the middle of the bounding box but for the bases of an odd number of corners. Sizes are metres. A shape's
recipe is `common.scene.Shape`: its kind and parameters decide every vertex.

| kind | params |
|---|---|
| cube | edge |
| box | edge x, edge y, edge z |
| cylinder | radius, height |
| cone | radius, height |
| sphere | radius |
| revolution | height, then two or more radii at even heights from the bottom up |
| frustum | bottom radius, top radius, height |
| capsule | radius, height, which is more than two radii |
| torus | radius of the ring's middle line, radius of the tube, which is less |
| prism | number of corners 3 .. 12, radius of the circle through them, height; a corner lies on the x axis |
| pyramid | as of a prism |
| lathe | radius, z, radius, z, ...: a polyline with the body on its left, up along the outside; see below |
| mesh | none; `asset` is the content hash of an imported mesh |

The polyline of a lathe turns about z. Ends off the axis are closed by flat caps; a polyline that ends where it began is
a ring with a hole. Edges are smooth where it bends by less than 40 degrees. Heights count from anywhere.
"""

from __future__ import annotations

import functools
import itertools
import numbers

import numpy as np

from actors.scenes.mesh import F64
from actors.scenes.mesh import Mesh as Mesh
from actors.scenes.polyhedra import box_mesh, folded_box_mesh, prism_mesh, pyramid_mesh
from actors.scenes.profile_checks import check_profile
from actors.scenes.revolution import Profile, arc, capped_mesh, creased_profile, profile_mesh, smooth_profile
from common.errors import SceneError, bad_value
from common.geometry import so3_log
from common.scene import Shape, Symmetry, Texture, Triple

SEGMENTS = 32  # around the axis of the simple shapes of revolution
PROFILE_SEGMENTS = 24  # around the axis of free profiles, which have more rings
TUBE_SEGMENTS = 16  # around the tube of a torus
MAX_CORNERS = 12
_LARGEST, _SMALLEST = 100.0, 1e-6  # metres
_RATIO = 1e-4  # of the smallest to the largest parameter
_PARAMS = {
    "cube": 1, "box": 3, "cylinder": 2, "cone": 2, "sphere": 1,
    "frustum": 3, "capsule": 2, "torus": 2, "prism": 3, "pyramid": 3,
}  # fmt: skip
_UP = (0.0, 0.0, 1.0)
_FLIP = ((np.pi, 0.0, 0.0),)


def check_shape(shape: Shape) -> None:
    """Check a procedural shape's parameters.

    Raises:
        SceneError: naming the kind or parameter that cannot be built.
    """
    kind, params = shape.kind, shape.params
    name = f"shape.params of a {kind}"
    if kind == "revolution":
        ok, allowed = len(params) >= 3, "a height and two or more radii"
    elif kind == "lathe":
        ok, allowed = True, ""
    elif kind in _PARAMS:
        ok, allowed = len(params) == _PARAMS[kind], f"{_PARAMS[kind]} number(s)"
    else:
        kinds = [*_PARAMS, "revolution", "lathe"]
        raise SceneError(bad_value("shape.kind", kind, f"one of {kinds} or a loaded mesh"))
    if not ok:
        raise SceneError(bad_value(name, params, allowed))
    for i, value in enumerate(params):
        if not (isinstance(value, numbers.Real) and -_LARGEST < value < _LARGEST):
            raise SceneError(bad_value(f"shape.params[{i}] of a {kind}", value, "a number of metres, > -100, < 100"))
    if kind == "lathe":
        check_profile(params)
        return
    first = 1 if kind in ("prism", "pyramid") else 0
    if first and params[0] not in range(3, MAX_CORNERS + 1):
        raise SceneError(bad_value(f"shape.params[0] of a {kind}", params[0], f"a whole number 3 .. {MAX_CORNERS}"))
    # The ends of a profile may close in a point; every other size must be positive.
    ends = {1, len(params) - 1} if kind == "revolution" else set()
    for i, value in enumerate(params[first:], start=first):
        if not (value > 0.0 or (i in ends and value == 0.0)):
            raise SceneError(bad_value(f"shape.params[{i}] of a {kind}", value, "a length in metres, > 0, < 100"))
    if kind == "revolution" and not any(params[1:]):
        raise SceneError(bad_value(name, params, "a radius over 0"))
    sizes = [value for value in params[first:] if value > 0.0]
    if min(sizes) < max(_SMALLEST, _RATIO * max(sizes)):
        allowed = f"lengths >= {_SMALLEST:g} m, the smallest at least {_RATIO:g} of the largest"
        raise SceneError(bad_value(name, params, allowed))
    if kind == "capsule" and not params[1] - 2.0 * params[0] >= _RATIO * params[1]:
        raise SceneError(bad_value(name, params, f"a height over 2 radii = {2.0 * params[0]:g}"))
    if kind == "torus" and not params[0] - params[1] >= _RATIO * params[0]:
        raise SceneError(bad_value(name, params, f"a tube radius under the ring's, {params[0]:g}"))


def build_mesh(shape: Shape, symmetric: bool = False) -> Mesh:
    """Mesh of a procedural shape; the same object for the same recipe (do not write to its arrays).

    Args:
        shape: the recipe.
        symmetric: lay the texture so that points which a declared symmetry maps onto each other show the same texel,
            instead of so that every point shows another. The surface is the same, its vertices are not.

    Raises:
        SceneError: if the parameters do not describe a shape.
    """
    check_shape(shape)
    return _build(shape, bool(symmetric))


def symmetry_of(shape: Shape, texture: Texture) -> Symmetry:
    """Rotations about the object frame's origin that leave the look of a textured shape unchanged.

    Plain and symmetrically laid textures keep the symmetry of the shape; any other declares none. Imported meshes
    declare none here. A prism may happen to be as high as wide and so have more than is declared.
    """
    if texture.kind != "plain" and not texture.symmetric:
        return Symmetry()
    kind, params = shape.kind, shape.params
    if kind in ("cube", "box"):
        return Symmetry(rotations=_box_rotations(params * 3 if kind == "cube" else params))
    if kind == "sphere" and texture.kind == "plain":
        # The record holds one axis: the rotations about z, and quarter turns that carry z to x and y.
        return Symmetry(axis_continuous=_UP, rotations=_box_rotations((1.0, 1.0, 1.0)))
    if kind in ("prism", "pyramid"):
        return Symmetry(rotations=_turns_and_flips(int(params[0]), flips=kind == "prism"))
    if kind == "mesh":
        return Symmetry()
    return Symmetry(axis_continuous=_UP, rotations=_FLIP if _flips(shape) else ())


def _flips(shape: Shape) -> bool:
    """Whether a shape of revolution looks the same upside down."""
    params = shape.params
    if shape.kind == "frustum":
        return params[0] == params[1]
    if shape.kind == "revolution":
        return params[1:] == params[:0:-1]
    if shape.kind == "lathe":
        check_shape(shape)
        return _profile(shape).mirrored
    return shape.kind in ("cylinder", "sphere", "capsule", "torus")


@functools.lru_cache(maxsize=1024)
def _build(shape: Shape, symmetric: bool) -> Mesh:
    p = shape.params
    if shape.kind in ("cube", "box"):
        x, y, z = p * 3 if shape.kind == "cube" else p
        return folded_box_mesh(x, y, z) if symmetric else box_mesh(x, y, z)
    if shape.kind in ("prism", "pyramid"):
        made = prism_mesh if shape.kind == "prism" else pyramid_mesh
        return made(int(p[0]), p[1], p[2], symmetric)
    segments = PROFILE_SEGMENTS if shape.kind in ("revolution", "lathe") else SEGMENTS
    if shape.kind in ("torus", "lathe", "capsule") or symmetric:
        return profile_mesh(_profile(shape), segments, symmetric)
    return capped_mesh(_side(shape), segments)


def _side(shape: Shape) -> F64:
    """The side of a shape of revolution from the bottom up, (radius, z) rows."""
    p = shape.params
    if shape.kind == "cylinder":
        return np.array([[p[0], -p[1] / 2], [p[0], p[1] / 2]])
    if shape.kind == "cone":
        return np.array([[p[0], -p[1] / 2], [0.0, p[1] / 2]])
    if shape.kind == "frustum":
        return np.array([[p[0], -p[2] / 2], [p[1], p[2] / 2]])
    if shape.kind == "sphere":
        angle = np.linspace(-np.pi / 2, np.pi / 2, SEGMENTS // 2 + 1)
        radii = p[0] * np.cos(angle)
        radii[[0, -1]] = 0.0
        return np.stack([radii, p[0] * np.sin(angle)], axis=1)
    heights = np.linspace(-p[0] / 2, p[0] / 2, len(p) - 1)
    return np.stack([np.array(p[1:], dtype=np.float64), heights], axis=1)


def _profile(shape: Shape) -> Profile:
    """The whole profile of a shape of revolution, caps among it."""
    p = shape.params
    if shape.kind == "lathe":
        return creased_profile(np.array(p, dtype=np.float64).reshape(-1, 2))
    if shape.kind == "torus":
        circle = arc(p[1], 0.0, 2.0 * np.pi, TUBE_SEGMENTS)
        circle[-1] = circle[0]
        return creased_profile(circle + np.array([p[0], 0.0]))
    if shape.kind == "capsule":
        quarter, middle = SEGMENTS // 4, [0.0, p[1] / 2.0 - p[0]]
        top = arc(p[0], 0.0, np.pi / 2.0, quarter) + middle
        top[-1, 0] = 0.0
        return creased_profile(np.concatenate([top[::-1] * [1.0, -1.0], top]))
    return smooth_profile(_side(shape), _flips(shape))


def _turns_and_flips(count: int, flips: bool) -> tuple[Triple, ...]:
    """Rotation vectors of the turns of a regular polygon in the xy plane with a corner on x, then of its flips."""
    turns = [(0.0, 0.0, 2.0 * np.pi * (k if 2 * k <= count else k - count) / count) for k in range(1, count)]
    half = [k * np.pi / count for k in range(count if flips else 0)]
    turns += [(np.pi * np.cos(a), np.pi * np.sin(a), 0.0) for a in half]
    return tuple(_rounded(*turn) for turn in turns)


@functools.lru_cache(maxsize=256)
def _box_rotations(edges: tuple[float, ...]) -> tuple[Triple, ...]:
    """Rotation vectors of the signed axis permutations that map a box onto itself, without the identity."""
    out = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = np.zeros((3, 3))
            matrix[range(3), order] = signs
            same = all(edges[i] == edges[order[i]] for i in range(3))
            if same and np.linalg.det(matrix) > 0.5 and not np.array_equal(matrix, np.eye(3)):
                out.append(_rounded(*so3_log(matrix).tolist()))
    return tuple(out)


def _rounded(x: float, y: float, z: float) -> Triple:
    # Part of the recorded scene: no digit, and no sign of a zero, that another maths library may round the other way.
    x, y, z = (np.round([x, y, z], 12) + 0.0).tolist()
    return x, y, z
