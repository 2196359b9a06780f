import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.spatial import ConvexHull

from actors.scenes.clutter import at_rest, footprint, place, separation
from actors.scenes.models import Model, hull_of
from common.geometry import make_pose, so3_exp, transform_points
from common.rng import Purpose, philox
from common.scene import Shape

MODELS = [
    Model(Shape("cube", (0.2,))),
    Model(Shape("box", (0.1, 0.2, 0.26))),
    Model(Shape("cylinder", (0.08, 0.2))),
    Model(Shape("cone", (0.1, 0.2))),
    Model(Shape("sphere", (0.1,))),
    Model(Shape("revolution", (0.2, 0.05, 0.08, 0.06, 0.03))),
]
some_model = st.sampled_from(MODELS)


def overlap(a, b):
    """True if two convex hulls share a point: is there a convex combination of each that are equal? (linear program)"""
    equal = np.concatenate([np.r_[a.T, np.ones((1, len(a))), np.zeros((1, len(a)))],
                            np.r_[-b.T, np.zeros((1, len(b))), np.ones((1, len(b)))]], axis=1)  # fmt: skip
    right = np.r_[np.zeros(a.shape[1]), 1.0, 1.0]
    return linprog(np.zeros(equal.shape[1]), A_eq=equal, b_eq=right, bounds=(0, None)).status == 0


def standing(model, seed, at=(0.0, 0.0)):
    return at_rest(np.random.default_rng(seed), model, at)


@settings(max_examples=40, deadline=None)
@given(some_model, some_model, st.integers(0, 999), st.floats(-0.4, 0.4), st.floats(-0.4, 0.4))
def test_separation_is_positive_exactly_where_the_projections_are_disjoint(one, other, seed, x, y):
    a, b = footprint(one, standing(one, seed)), footprint(other, standing(other, seed + 1))
    apart = float(separation(a, b, np.array([[x, y]]))[0])
    if abs(apart) > 1e-6:
        assert overlap(a.corners + a.at, b.corners + np.array([x, y])) == (apart < 0.0)
    np.testing.assert_allclose(separation(b.moved(np.array([x, y])), a, a.at[None])[0], apart, atol=1e-12)


def test_separation_of_squares_is_their_distance():
    a = footprint(MODELS[0], make_pose(np.eye(3), [0.0, 0.0, 0.1]))
    at = np.array([[0.3, 0.0], [0.3, 0.2], [0.15, 0.0], [0.0, -0.5], [0.3, 0.35]])
    # Across a corner the distance is hypot(.1, .15); an edge's normal sees .15 of it.
    np.testing.assert_allclose(separation(a, a, at), [0.1, 0.1, -0.05, 0.3, 0.15], atol=1e-8)


def test_turned_squares_may_stand_closer_than_their_circles():
    turned = footprint(MODELS[0], make_pose(so3_exp([0.0, 0.0, np.pi / 4]), [0.0, 0.0, 0.1]))
    # Two diamonds side by side along their edges.
    step = np.array([[1.0, 1.0]]) / np.sqrt(2.0) * 0.21
    np.testing.assert_allclose(separation(turned, turned, step), 0.01, atol=1e-8)


@settings(max_examples=40, deadline=None)
@given(some_model, st.integers(0, 2**32 - 1))
def test_a_model_at_rest_touches_the_ground(model, seed):
    pose = standing(model, seed, (0.3, -0.2))
    points = transform_points(pose, hull_of(model))
    assert abs(points[:, 2].min()) < 1e-8
    np.testing.assert_array_equal(pose[:2, 3], [0.3, -0.2])
    # At rest: three corners or more carry it, and its middle is above them.
    feet = points[points[:, 2] < 1e-5][:, :2]
    assert len(feet) >= 3
    hull = ConvexHull(hull_of(model))
    corners = hull_of(model)[hull.simplices] - hull_of(model).mean(axis=0)
    volume = np.abs(np.linalg.det(corners))
    center = np.average(corners.sum(axis=1) / 4.0, axis=0, weights=volume) + hull_of(model).mean(axis=0)
    above = transform_points(pose, center[None])[0, :2]
    assert (ConvexHull(feet).equations @ np.r_[above, 1.0] < 1e-5).all()


def test_rests_come_as_often_as_they_are_likely():
    box = MODELS[1]
    up = [int(np.abs(standing(box, seed)[2, :3]).argmax()) for seed in range(600)]
    # Most often it lies on its largest face, which is across to its shortest edge.
    share = np.bincount(up, minlength=3) / 600
    np.testing.assert_allclose(share, [0.6288, 0.2306, 0.1404], atol=0.06)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.0, 0.05))
def test_twelve_objects_fit_without_touching(seed, gap):
    rng = np.random.default_rng(seed)
    pose = at_rest(rng, MODELS[0], (0.02, 0.03))
    shapes, prints = [transform_points(pose, hull_of(MODELS[0]))], [footprint(MODELS[0], pose)]
    for _ in range(11):
        model = MODELS[int(rng.integers(len(MODELS)))]
        pose, mine = place(rng, model, prints, 0.25, gap)
        points = transform_points(pose, hull_of(model))
        assert all(separation(p, mine, mine.at[None])[0] >= gap for p in prints)
        assert not any(overlap(other[:, :2], points[:, :2]) for other in shapes)
        shapes.append(points)
        prints.append(mine)


@pytest.mark.parametrize("spread", [0.001, 0.3])
def test_the_disc_grows_only_where_it_must(spread):
    first = footprint(MODELS[0], make_pose(np.eye(3), [0.0, 0.0, 0.1]))
    reach = []
    for env in range(40):
        pose, _ = place(philox(0, Purpose.CLUTTER, env=env), MODELS[0], [first], spread, 0.01)
        reach.append(np.hypot(*pose[:2, 3]))
    assert min(reach) > 0.2 and max(reach) < max(spread, 0.4)
