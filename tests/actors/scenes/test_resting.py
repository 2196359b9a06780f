import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import ConvexHull

from actors.scenes.resting import resting_poses
from actors.scenes.shapes import build_mesh
from common.errors import SceneError
from common.geometry import so3_exp
from common.scene import Shape

SHAPES = [
    Shape("cube", (0.2,)),
    Shape("box", (0.1, 0.2, 0.26)),
    Shape("cylinder", (0.08, 0.2)),
    Shape("cone", (0.1, 0.2)),
    Shape("sphere", (0.1,)),
    Shape("revolution", (0.2, 0.05, 0.08, 0.06, 0.03)),
]


def lowest(rests, vertices):
    return (rests.rotations[:, 2] @ np.asarray(vertices, dtype=np.float64).T).min(axis=1)


def by_trimesh(vertices):
    """Probabilities of an independent implementation; it needs the same centre of mass, that of the filled hull."""
    hull = trimesh.convex.convex_hull(np.asarray(vertices, dtype=np.float64))
    transforms, probabilities = trimesh.poses.compute_stable_poses(hull, center_mass=hull.center_mass)
    return transforms, probabilities


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: s.kind)
def test_rests_of_the_shapes_agree_with_trimesh(shape):
    vertices = build_mesh(shape).vertices
    rests = resting_poses(vertices)
    _, probabilities = by_trimesh(vertices)
    np.testing.assert_allclose(rests.probabilities, np.sort(probabilities)[::-1], atol=1e-6)
    np.testing.assert_allclose(
        rests.rotations @ np.swapaxes(rests.rotations, 1, 2), np.tile(np.eye(3), (len(rests.heights), 1, 1)), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(rests.rotations), 1.0)
    np.testing.assert_allclose(rests.heights, -lowest(rests, vertices), atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(8, 40))
def test_any_body_rests_on_the_faces_that_trimesh_finds_stable(seed, count):
    # Bodies of no symmetry, most of whose faces are no rests. From a corner trimesh rolls on by another rule (it asks
    # in which sector of the triangle the centre of mass is), so the shares agree roughly.
    points = np.random.default_rng(seed).normal(size=(count, 3)) * [0.05, 0.08, 0.12]
    rests = resting_poses(points)
    transforms, probabilities = by_trimesh(points)
    np.testing.assert_allclose(rests.probabilities.sum(), 1.0)
    assert len(rests.heights) == len(probabilities)
    match = (rests.rotations[:, 2] @ transforms[:, 2, :3].T).argmax(axis=1)
    np.testing.assert_allclose(rests.rotations[:, 2], transforms[match, 2, :3], atol=1e-3)
    assert 0.5 * np.abs(rests.probabilities - probabilities[match]).sum() < 0.35


def rolled(points):
    """Share of each rest of a body without coplanar faces by the rule in words: over the edge nearest to the foot."""
    hull = ConvexHull(points)
    center = trimesh.convex.convex_hull(points).center_mass
    share, follows = np.zeros(len(hull.simplices)), np.arange(len(hull.simplices))
    for i, (corners, plane) in enumerate(zip(points[hull.simplices], hull.equations, strict=True)):
        foot = center - (plane[:3] @ center + plane[3]) * plane[:3]
        # Solid angle: the spherical excess of the triangle, by its angles.
        rays = (corners - center) / np.linalg.norm(corners - center, axis=1, keepdims=True)
        for k in range(3):
            a, b, c = np.roll(rays, k, axis=0)
            u, v = np.cross(a, b), np.cross(a, c)
            share[i] += np.arccos(u @ v / np.linalg.norm(u) / np.linalg.norm(v)) - np.pi / 3.0
        ways = []
        for k in range(3):
            a, b = corners[(k + 1) % 3], corners[(k + 2) % 3]
            along = np.clip((foot - a) @ (b - a) / ((b - a) @ (b - a)), 0.0, 1.0)
            inward = np.cross(plane[:3], b - a)
            inward *= np.sign((corners[k] - a) @ inward) / np.linalg.norm(inward)
            ways.append((round(float(np.linalg.norm(a + along * (b - a) - foot)), 12), float((foot - a) @ inward), k))
        if min(beyond for _, beyond, _ in ways) < 0.0:
            # At a corner two edges are as near: over the one whose line is farther.
            follows[i] = hull.neighbors[i, min(ways)[2]]
    while (follows[follows] != follows).any():
        follows = follows[follows]
    return np.sort(np.bincount(follows, weights=share / share.sum(), minlength=len(share)))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(8, 30))
def test_a_body_rolls_over_the_edge_that_its_centre_of_mass_is_beyond(seed, count):
    points = np.random.default_rng(seed).normal(size=(count, 3)) * [0.05, 0.08, 0.12]
    shares = rolled(points)
    np.testing.assert_allclose(np.sort(resting_poses(points).probabilities), shares[shares > 0.0], atol=1e-6)


def test_a_cylinder_stands_on_two_faces_and_rolls_on_the_side():
    rests = resting_poses(build_mesh(Shape("cylinder", (0.08, 0.2))).vertices)
    upright = np.abs(rests.rotations[:, 2, 2]) > 0.999
    lying = np.abs(rests.rotations[:, 2, 2]) < 1e-5
    assert upright.sum() == 2 and (upright | lying).all()
    np.testing.assert_allclose(rests.heights[upright], 0.1, atol=1e-9)
    # Seen from the centre, a disc on the axis fills 2 pi (1 - cos of its half angle); 32 corners take a little off.
    disc = 0.5 * (1.0 - 0.1 / np.hypot(0.1, 0.08))
    np.testing.assert_allclose(rests.probabilities[upright], disc, rtol=0.02)


def test_a_ball_lies_on_any_side_as_likely():
    rests = resting_poses(build_mesh(Shape("sphere", (0.1,))).vertices)
    mean = np.sum(rests.probabilities[:, None] * rests.rotations[:, 2], axis=0)
    assert len(rests.heights) > 400 and np.linalg.norm(mean) < 1e-6
    np.testing.assert_allclose(rests.heights, 0.1, atol=0.002)


def landings(points, count=40000):
    """Share of the faces that a body in a random orientation touches the ground with first, by unit normal."""
    hull = ConvexHull(points)
    mesh = trimesh.convex.convex_hull(points)
    rays = np.random.default_rng(0).normal(size=(count, 3))
    reach = -(hull.equations[:, :3] @ mesh.center_mass + hull.equations[:, 3]) / (rays @ hull.equations[:, :3].T)
    first = np.where(reach > 0.0, reach, np.inf).argmin(axis=1)
    normals, share = np.unique(np.round(hull.equations[first, :3], 4) + 0.0, axis=0, return_counts=True)
    return {tuple(n): c / count for n, c in zip(normals.tolist(), share.tolist(), strict=True)}


def test_a_tower_that_leans_too_far_falls_onto_the_side_it_leans_to():
    # Its top is far beyond its base, so neither end carries it: what lands on an end ends on the side beneath.
    base, top = [[0, 0], [1, 0], [1, 1], [0, 1]], [[2, 0], [3, 0], [3, 1], [2, 1]]
    vertices = np.concatenate([np.c_[base, np.zeros(4)], np.c_[top, np.full(4, 2.0)]])
    rests, landed = resting_poses(vertices), landings(vertices)
    slope = 0.7071
    expected = {
        (slope, 0.0, -slope): landed[slope, 0.0, -slope] + landed[0.0, 0.0, -1.0],
        (-slope, 0.0, slope): landed[-slope, 0.0, slope] + landed[0.0, 0.0, 1.0],
        (0.0, 1.0, 0.0): landed[0.0, 1.0, 0.0],
        (0.0, -1.0, 0.0): landed[0.0, -1.0, 0.0],
    }
    down = [tuple(d) for d in (np.round(-rests.rotations[:, 2], 4) + 0.0).tolist()]
    assert set(down) == set(expected)
    np.testing.assert_allclose(rests.probabilities, [expected[d] for d in down], atol=0.01)
    assert landed[0.0, 0.0, 1.0] > 0.02


def test_neither_order_nor_size_of_the_vertices_matters():
    vertices = build_mesh(Shape("box", (0.1, 0.2, 0.26))).vertices.astype(np.float64)
    one = resting_poses(vertices)
    other = resting_poses(3.0 * np.random.default_rng(0).permutation(vertices))
    np.testing.assert_allclose(one.rotations, other.rotations, atol=1e-9)
    np.testing.assert_allclose(3.0 * one.heights, other.heights)
    np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-9)


@pytest.mark.parametrize(
    "points",
    [np.zeros((8, 3)), np.random.default_rng(0).normal(size=(9, 3)) * [1, 1, 0], np.eye(3), np.full((5, 3), np.nan)],
    ids=["a point", "flat", "three", "nan"],
)
def test_what_has_no_volume_is_refused(points):
    with pytest.raises(SceneError, match="vertices"):
        resting_poses(points)


@settings(max_examples=60, deadline=None)
@given(st.floats(-4.0, -1.0), st.floats(-np.pi, np.pi), st.integers(0, 2**31))
def test_rests_are_rotations_also_of_faces_that_look_almost_straight_up(tilt, way, seed):
    """The smallest rotation that turns such a face down is ill-conditioned; scans have many of them."""
    points = np.random.default_rng(seed).normal(size=(24, 3))
    axis = np.array([np.cos(way), np.sin(way), 0.0]) * 10.0**tilt
    cap = so3_exp(axis) @ np.diag([1.0, 1.0, 0.0]) @ points[:12].T + so3_exp(axis) @ np.array([[0.0], [0.0], [1.0]])
    rotations = resting_poses(np.concatenate([points * [1.0, 1.0, 0.3], cap.T * 1.5])).rotations
    np.testing.assert_allclose(
        rotations @ np.swapaxes(rotations, 1, 2), np.tile(np.eye(3), (len(rotations), 1, 1)), atol=1e-9
    )
    assert (np.linalg.det(rotations) > 0.0).all()
