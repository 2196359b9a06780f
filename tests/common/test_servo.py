import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.geometry import (
    integrate_twist,
    inverse_pose,
    look_at,
    make_pose,
    rotation_angle,
    skew,
    so3_exp,
    so3_log,
)
from common.servo import (
    clamp_twist,
    denormalise_twist,
    hybrid_twist,
    pbvs_inverse,
    pbvs_twist,
    refocus_pose,
    relative_pose,
    rotvec_rate,
)

part = st.floats(-1.5, 1.5, allow_nan=False).map(lambda x: round(x, 6))
vector = st.tuples(part, part, part).map(np.array)


@settings(max_examples=25, deadline=None)
@given(vector, vector, st.floats(0.2, 3.0))
def test_pbvs_brings_the_camera_to_the_goal_exponentially_along_a_straight_line(t, w, d_star):
    goal = look_at([0.4, -0.3, 0.6], [0.0, 0.0, 0.1])
    pose = start = goal @ make_pose(so3_exp(w), t)
    dt, steps = 0.05, 60
    for _ in range(steps):
        twist = denormalise_twist(pbvs_twist(relative_pose(pose, goal), d_star=d_star), d_star)
        pose = integrate_twist(pose, twist, dt)
    left = (1.0 - dt) ** steps
    before, after = relative_pose(start, goal), relative_pose(pose, goal)
    np.testing.assert_allclose(after[:3, 3], left * before[:3, 3], atol=1e-9)
    np.testing.assert_allclose(so3_log(after[:3, :3]), left * so3_log(before[:3, :3]), atol=1e-7)


def test_pbvs_gain_and_distance_scale_the_twist():
    d_T_c = make_pose(so3_exp([0.1, 0.2, 0.3]), [0.2, 0.0, -0.4])
    one = pbvs_twist(d_T_c)
    np.testing.assert_allclose(pbvs_twist(d_T_c, gain=2.0), 2.0 * one)
    batch = pbvs_twist(np.stack([d_T_c, d_T_c]), d_star=np.array([1.0, 4.0]))
    np.testing.assert_allclose(batch[1], one * [0.25, 0.25, 0.25, 1, 1, 1])
    # Too far to the right of the goal, looking along it: move left.
    np.testing.assert_allclose(pbvs_twist(make_pose(np.eye(3), [1.0, 0, 0])), [-1, 0, 0, 0, 0, 0])
    with pytest.raises(ValueError, match=r"d_star = 0.0: allowed is > 0"):
        pbvs_twist(d_T_c, d_star=0.0)


@given(vector, vector)
def test_pbvs_and_its_inverse_undo_each_other(v, w):
    twist = np.concatenate([v, w])
    np.testing.assert_allclose(pbvs_twist(pbvs_inverse(twist)), twist, atol=1e-7)
    pose = make_pose(so3_exp(w), v)
    np.testing.assert_allclose(pbvs_inverse(pbvs_twist(pose)), pose, atol=1e-7)


def test_denormalise_scales_translation_only_and_to_the_bit_without_focal_change():
    rng = np.random.default_rng(0)
    twist, d_star = rng.normal(size=(5, 6)), rng.uniform(0.3, 2.0, size=5)
    metric = denormalise_twist(twist, d_star)
    assert np.array_equal(metric, twist * np.concatenate([np.tile(d_star, (3, 1)), np.ones((3, 5))]).T)
    mixed = denormalise_twist(twist, d_star, np.array([1.0, 2.0, 1.0, 0.5, 1.0]))
    assert np.array_equal(mixed[::2], metric[::2])
    assert np.all(np.abs(mixed[1::2] - metric[1::2]).max(axis=-1) > 1e-3)
    with pytest.raises(ValueError, match="focal_ratio"):
        denormalise_twist(twist, 1.0, -1.0)


@given(vector, vector)
def test_focal_ratio_one_is_the_identity_of_the_essential_matrix_path(t, w):
    pose = make_pose(so3_exp(w), t)
    np.testing.assert_allclose(refocus_pose(pose, 1.0), pose, atol=1e-7)


@given(vector.filter(lambda t: np.linalg.norm(t) > 0.2), vector, st.floats(0.5, 2.0))
def test_refocused_pose_is_a_solution_of_the_decomposition(t, w, s):
    r, scale = so3_exp(w), np.diag([s, s, 1.0])
    u, sigma, vt = np.linalg.svd(scale @ skew(t) @ r @ scale)
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    u, vt = u * np.linalg.det(u), vt * np.linalg.det(vt)
    candidates = [u @ turn @ vt, u @ turn.T @ vt]
    got = refocus_pose(make_pose(r, t), s)
    direction = got[:3, 3] / np.linalg.norm(got[:3, 3])
    assert abs(abs(direction @ u[:, 2]) - 1.0) < 1e-9
    # The blend for tiny baselines still moves the rotation a little at this translation.
    nearest = min(float(rotation_angle(c.T @ got[:3, :3])) for c in candidates)
    assert nearest < 0.02 * (1.0 + float(rotation_angle(candidates[0].T @ candidates[1])))
    assert sigma[2] < 1e-9 * max(sigma[0], 1.0)


def test_refocusing_a_pure_translation_rescales_its_lateral_part():
    got = refocus_pose(make_pose(np.eye(3), [0.2, -0.4, 0.3]), 2.0)
    np.testing.assert_allclose(got, make_pose(np.eye(3), [0.1, -0.2, 0.3]), atol=1e-12)


def test_pure_rotation_with_another_focal_length_is_finite_and_scales_its_pan():
    twist = denormalise_twist([0, 0, 0, 0.02, -0.01, 0.03], 0.7, 2.0)
    np.testing.assert_allclose(twist, [0, 0, 0, 0.01, -0.005, 0.03], atol=1e-9)
    assert np.array_equal(denormalise_twist(np.zeros(6), 0.7, 2.0), np.zeros(6))


@settings(max_examples=30, deadline=None)
@given(vector, vector, st.floats(0.4, 2.5))
def test_denormalised_twist_has_no_jump_along_a_path_that_ends_at_the_goal(t, w, s):
    shrink = np.exp(-np.linspace(0.0, 12.0, 2401))[:, None]
    path = make_pose(so3_exp(0.8 * w * shrink), 0.8 * t * np.exp(-np.linspace(0, 20, 2401))[:, None])
    twists = denormalise_twist(pbvs_twist(path), 1.0, s)
    assert np.isfinite(twists).all()
    assert np.linalg.norm(np.diff(twists, axis=0), axis=-1).max() < 0.15
    ratios = np.linspace(1.0, s, 400)
    by_ratio = refocus_pose(np.broadcast_to(path[0], (400, 4, 4)), ratios)
    steps = rotation_angle(np.swapaxes(by_ratio[:-1, :3, :3], -1, -2) @ by_ratio[1:, :3, :3])
    assert steps.max() < 0.1


def test_rotvec_rate_is_the_derivative_of_the_logarithm():
    rng = np.random.default_rng(1)
    for scale in (0.0, 1e-6, 0.3, 2.0, 3.0):
        phi = rng.normal(size=3)
        phi *= scale / np.linalg.norm(phi)
        numeric = np.stack(
            [
                (so3_log(so3_exp(phi) @ so3_exp(e)) - so3_log(so3_exp(phi) @ so3_exp(-e))) / 2e-5
                for e in 1e-5 * np.eye(3)
            ],
            axis=-1,
        )
        np.testing.assert_allclose(rotvec_rate(phi), numeric, atol=1e-4)


def _center(pose, point):
    p = (inverse_pose(pose) @ np.append(point, 1.0))[:3]
    return p[:2] / p[2]


@pytest.mark.parametrize("turn", [[0.3, -0.2, 0.9], [0.0, 0.0, 0.0], [-0.4, 0.5, -1.2]])
def test_hybrid_law_converges_and_moves_the_image_centre_straight(turn):
    point, d_star = np.array([0.02, -0.03, 0.05]), 0.6
    goal = look_at([0.4, 0.0, 0.45], [0.0, 0.0, 0.05])
    pose = goal @ make_pose(so3_exp(turn), [0.15, -0.1, -0.1])
    goal_center, first = _center(goal, point), _center(pose, point)
    # The law takes the centre's surface point to lie at distance d* along the goal's axis: make it so.
    d_star = (inverse_pose(goal) @ np.append(point, 1.0))[2]
    dt = 0.02
    for k in range(1, 301):
        center = _center(pose, point)
        twist = hybrid_twist(relative_pose(pose, goal), center, goal_center, d_star=d_star)
        pose = integrate_twist(pose, denormalise_twist(twist, d_star), dt)
        expected = goal_center + (first - goal_center) * np.exp(-k * dt)
        assert np.linalg.norm(_center(pose, point) - expected) < 0.03
    error = pbvs_twist(relative_pose(pose, goal))
    assert np.linalg.norm(error) < 0.02


def test_clamp_shortens_long_twists_and_keeps_their_direction():
    twists = np.array([[3.0, 0, 0, 4.0, 0, 0], [0.1, 0, 0, 0, 0, 0.2], [0.0] * 6])
    out = clamp_twist(twists, 1.0)
    np.testing.assert_allclose(out[0], [0.6, 0, 0, 0.8, 0, 0])
    assert np.array_equal(out[1:], twists[1:])
