"""Shapes of every kind, drawn and fixed, and where the points of a surface are."""

import numpy as np
from hypothesis import strategies as st

from actors.scenes.mesh_library import mesh_library
from common.scene import Shape, Texture

PLAIN = Texture("plain", ((0.9, 0.3, 0.1),))
PATTERN = Texture("checker", ((0.9, 0.1, 0.1), (0.1, 0.9, 0.1), (0.1, 0.1, 0.9), (0.9, 0.9, 0.1)), 6.0, 1)

SHAPES = {
    "cube": Shape("cube", (0.2,)),
    "box": Shape("box", (0.1, 0.2, 0.15)),
    "square box": Shape("box", (0.1, 0.1, 0.2)),
    "cylinder": Shape("cylinder", (0.08, 0.2)),
    "cone": Shape("cone", (0.1, 0.2)),
    "sphere": Shape("sphere", (0.1,)),
    "bottle": Shape("revolution", (0.2, 0.07, 0.08, 0.05, 0.03)),
    "spindle": Shape("revolution", (0.2, 0.0, 0.08, 0.0)),
    "waist": Shape("revolution", (0.2, 0.07, 0.05, 0.05, 0.07)),
    "frustum": Shape("frustum", (0.1, 0.06, 0.2)),
    "even frustum": Shape("frustum", (0.08, 0.08, 0.2)),
    "capsule": Shape("capsule", (0.06, 0.24)),
    "torus": Shape("torus", (0.1, 0.03)),
    "triangle prism": Shape("prism", (3.0, 0.1, 0.2)),
    "square prism": Shape("prism", (4.0, 0.1, 0.2)),
    "prism": Shape("prism", (6.0, 0.1, 0.2)),
    "triangle pyramid": Shape("pyramid", (3.0, 0.1, 0.2)),
    "pyramid": Shape("pyramid", (5.0, 0.1, 0.2)),
    "cup": Shape("lathe", (0.0, 0.0, 0.06, 0.0, 0.08, 0.15, 0.07, 0.15, 0.05, 0.01, 0.0, 0.01)),
    "stepped": Shape("lathe", (0.09, 0.0, 0.09, 0.05, 0.04, 0.06, 0.04, 0.2)),
    "dumbbell": Shape("lathe", (0.09, 0.0, 0.09, 0.05, 0.04, 0.06, 0.04, 0.14, 0.09, 0.15, 0.09, 0.2)),
    "nut": Shape("lathe", (0.04, 0.0, 0.08, 0.0, 0.1, 0.01, 0.1, 0.05, 0.08, 0.06, 0.04, 0.06, 0.04, 0.0)),
    "flange": Shape("lathe", (0.03, 0.0, 0.1, 0.0, 0.1, 0.02, 0.05, 0.02, 0.05, 0.08, 0.03, 0.08, 0.03, 0.0)),
}

_length = st.floats(0.01, 1.0)


@st.composite
def _rings(draw):
    """A lathe that winds around a circle in the half plane, so that it never crosses itself."""
    count, tube = draw(st.integers(3, 9)), draw(st.floats(0.02, 0.2))
    angle = np.arange(count) * 2.0 * np.pi / count + draw(st.floats(0.0, 1.0))
    radius = tube * (1.0 + 0.4 * np.array(draw(st.lists(st.floats(-1.0, 1.0), min_size=count, max_size=count))))
    points = np.stack([0.35 + radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return Shape("lathe", tuple(np.concatenate([points, points[:1]]).ravel().tolist()))


@st.composite
def _stacks(draw):
    """A lathe of rising points."""
    count = draw(st.integers(2, 8))
    radii = draw(st.lists(_length, min_size=count, max_size=count))
    steps = draw(st.lists(st.floats(0.01, 0.3), min_size=count, max_size=count))
    points = np.stack([radii, np.cumsum(steps)], axis=1)
    points[0, 0] *= draw(st.sampled_from([0.0, 1.0]))
    return Shape("lathe", tuple(points.ravel().tolist()))


def _sized(kind, *parts):
    return st.tuples(*parts).map(lambda p: Shape(kind, tuple(float(v) for v in p)))


any_shape = st.one_of(
    _sized("cube", _length),
    _sized("box", _length, _length, _length),
    _sized("cylinder", _length, _length),
    _sized("cone", _length, _length),
    _sized("sphere", _length),
    st.tuples(_length, st.lists(_length, min_size=2, max_size=8)).map(lambda p: Shape("revolution", (p[0], *p[1]))),
    _sized("frustum", _length, _length, _length),
    st.tuples(_length, _length).map(lambda p: Shape("capsule", (p[0], 2.0 * p[0] + p[1]))),
    st.tuples(_length, _length).map(lambda p: Shape("torus", (p[0] + p[1], p[1]))),
    _sized("prism", st.integers(3, 12), _length, _length),
    _sized("pyramid", st.integers(3, 12), _length, _length),
    _rings(),
    _stacks(),
    st.integers(0, 1000).map(lambda seed: mesh_library(seed, 1, ["lathe"])[0]),
)


def surface(mesh, count, seed=0):
    """Random points (count, 3) inside the faces, with their normals (count, 3) and texture coordinates (count, 2)."""
    rng = np.random.default_rng(seed)
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    face = rng.choice(len(area), size=count, p=area / area.sum())
    weights = rng.dirichlet([2.0, 2.0, 2.0], size=count)
    return (_mix(weights, values[mesh.faces[face]]) for values in (mesh.vertices, mesh.normals, mesh.uvs))


def found_again(mesh, points, normals, uvs, near=1e-6, turned=2e-3):
    """Which of the points (N,) lie on the surface with the same normal and, where given, texture coordinates."""
    a, b, c = (mesh.vertices[mesh.faces[:, k]].astype(np.float64) for k in range(3))
    area = np.cross(b - a, c - a)
    size = np.sum(area * area, axis=1)
    away = np.abs(points @ area.T - np.sum(a * area, axis=1)) / np.sqrt(size)
    # Barycentric coordinates (N, F, 3) of the points' feet on the planes of the faces.
    steps = [(p, np.cross(area, q - p) / size[:, None]) for p, q in ((b, c), (c, a), (a, b))]
    weights = np.stack([points @ step.T - np.sum(p * step, axis=1) for p, step in steps], axis=2)
    point, face = np.nonzero((away < near) & (weights > -1e-4).all(axis=2))
    on = weights[point, face]
    same = np.linalg.norm(_mix(on, mesh.normals[mesh.faces[face]]) - normals[point], axis=1) < turned
    if uvs is not None:
        same &= np.linalg.norm(_mix(on, mesh.uvs[mesh.faces[face]]) - uvs[point], axis=1) < 1e-3
    return np.bincount(point[same], minlength=len(points)) > 0


def _mix(weights, values):
    return np.einsum("nk,nkd->nd", weights, values.astype(np.float64))
