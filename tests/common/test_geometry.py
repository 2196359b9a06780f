import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from common.geometry import (
    integrate_twist,
    intrinsics_from_fov,
    inverse_pose,
    look_at,
    make_pose,
    matrix_to_quaternion,
    project,
    rotation_angle,
    scale_intrinsics,
    skew,
    so3_exp,
    so3_log,
    transform_points,
    unproject,
)

number = st.floats(-1.0, 1.0, allow_nan=False)
vector = st.tuples(number, number, number).map(np.array)
direction = vector.filter(lambda v: np.linalg.norm(v) > 0.1).map(lambda v: v / np.linalg.norm(v))
# Angles where the formulas change branch are as likely as the ordinary ones.
angle = st.one_of(
    st.floats(0.0, np.pi - 1e-9),
    st.sampled_from([0.0, 1e-12, 1e-8, 9e-7, 1.1e-6, 1e-4, np.pi / 2, np.pi - 1e-3, np.pi - 1e-6, np.pi - 1e-9]),
)
pose = st.builds(lambda d, a, t: make_pose(so3_exp(d * a), t), direction, angle, vector)


@given(direction, angle)
def test_exp_and_log_undo_each_other_from_zero_to_pi(axis, theta):
    r = so3_exp(axis * theta)
    np.testing.assert_allclose(r @ r.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(r) == pytest.approx(1.0)
    np.testing.assert_allclose(r, Rotation.from_rotvec(axis * theta).as_matrix(), atol=1e-12)
    np.testing.assert_allclose(so3_log(r), axis * theta, atol=2e-8)
    assert rotation_angle(r) == pytest.approx(theta, abs=2e-8)


@given(direction)
def test_log_at_half_a_turn_gives_the_axis_up_to_sign(axis):
    found = so3_log(so3_exp(axis * np.pi))
    assert np.linalg.norm(found) == pytest.approx(np.pi, abs=1e-7)
    assert abs(found @ axis) == pytest.approx(np.pi, abs=1e-7)


def test_small_angles_keep_their_relative_precision():
    for theta in (1e-12, 1e-9, 1e-7):
        np.testing.assert_allclose(so3_log(so3_exp([0.0, theta, 0.0])), [0, theta, 0], rtol=1e-6, atol=0)


@given(direction, angle)
def test_quaternion_is_scipys_with_non_negative_real_part(axis, theta):
    r = so3_exp(axis * theta)
    x, y, z, w = Rotation.from_matrix(r).as_quat()
    expected = np.array([w, x, y, z]) * (1.0 if w >= 0 else -1.0)
    found = matrix_to_quaternion(r)
    assert found[0] >= 0.0
    # At half a turn both signs stand for the same rotation.
    assert min(np.abs(found - expected).max(), np.abs(found + expected).max()) < 1e-7


def test_batches_go_through_entry_by_entry():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(4, 5, 3))
    batch = so3_exp(vectors)
    assert batch.shape == (4, 5, 3, 3) and so3_log(batch).shape == (4, 5, 3)
    assert np.array_equal(batch[2, 3], so3_exp(vectors[2, 3]))
    assert np.array_equal(so3_log(batch)[2, 3], so3_log(batch[2, 3]))


@given(vector, vector)
def test_skew_is_the_cross_product(a, b):
    np.testing.assert_allclose(skew(a) @ b, np.cross(a, b), atol=1e-15)


@given(pose, vector)
def test_inverse_pose_brings_points_back(a_T_b, point):
    np.testing.assert_allclose(a_T_b @ inverse_pose(a_T_b), np.eye(4), atol=1e-12)
    there = transform_points(a_T_b, point[None])
    np.testing.assert_allclose(there[0], (a_T_b @ np.append(point, 1.0))[:3], atol=1e-12)
    np.testing.assert_allclose(transform_points(inverse_pose(a_T_b), there)[0], point, atol=1e-12)


@given(pose, vector, number, number)
def test_turning_for_two_times_is_turning_for_their_sum(start, w, s, t):
    twist = np.concatenate([np.zeros(3), w])
    twice = integrate_twist(integrate_twist(start, twist, s), twist, t)
    np.testing.assert_allclose(twice, integrate_twist(start, twist, s + t), atol=1e-12)
    np.testing.assert_allclose(integrate_twist(integrate_twist(start, twist, s), twist, -s), start, atol=1e-12)


@given(pose, vector, vector)
def test_a_step_turns_by_w_and_moves_by_v_in_the_camera_frame(start, v, w):
    moved = inverse_pose(start) @ integrate_twist(start, np.concatenate([v, w]), 0.5)
    np.testing.assert_allclose(moved, make_pose(so3_exp(0.5 * w), 0.5 * v), atol=1e-12)


def test_long_episodes_stay_on_the_rotation_group():
    poses = np.tile(np.eye(4), (2, 1, 1))
    for _ in range(3000):
        poses = integrate_twist(poses, [[0.1, 0, 0, 0.3, -0.5, 0.2], [0] * 6], np.array([0.12, 0.12]))
    r = poses[:, :3, :3]
    np.testing.assert_allclose(r @ np.swapaxes(r, 1, 2), np.broadcast_to(np.eye(3), (2, 3, 3)), atol=1e-14)


@given(vector, st.floats(0.2, 5.0), st.sampled_from([(48, 64), (128, 128)]))
def test_project_and_unproject_undo_each_other(point, depth, size):
    k = intrinsics_from_fov(0.9, *size)
    p = np.append(point[:2], depth)[None]
    pixels = project(p, k)
    np.testing.assert_allclose(unproject(pixels, p[:, 2], k), p, atol=1e-12)
    np.testing.assert_allclose(project(p, scale_intrinsics(k, 2.0)), 2.0 * pixels, atol=1e-9)


def test_field_of_view_reaches_from_the_upper_to_the_lower_border():
    k = intrinsics_from_fov(0.8, 60, 100)
    edge = np.tan(0.4)
    pixels = project([[0, -edge, 1.0], [0, edge, 1.0], [0, 0, 3.0]], k)
    np.testing.assert_allclose(pixels, [[50, 0], [50, 60], [50, 30]], atol=1e-12)


@given(vector, vector, st.floats(-3.0, 3.0))
def test_look_at_sees_its_target_in_the_middle_and_up_as_up(eye, target, roll):
    if np.linalg.norm(target - eye) < 0.05 or np.linalg.norm((target - eye)[:2]) < 0.02:
        return
    for pose_, turned in ((look_at(eye, target), 0.0), (look_at(eye, target, roll), roll)):
        np.testing.assert_allclose(pose_[:3, 3], eye)
        assert np.linalg.det(pose_[:3, :3]) == pytest.approx(1.0)
        seen = transform_points(inverse_pose(pose_), target[None])[0]
        np.testing.assert_allclose(seen, [0, 0, np.linalg.norm(target - eye)], atol=1e-9)
        up = inverse_pose(pose_)[:3, :3] @ [0.0, 0.0, 1.0]
        length = np.hypot(up[0], up[1])
        np.testing.assert_allclose(up[:2] / length, [-np.sin(turned), -np.cos(turned)], atol=1e-6)


def test_look_straight_down_has_the_world_x_axis_at_the_right():
    pose_ = look_at([0.0, 0.0, 2.0], [0.0, 0.0, 0.0])
    np.testing.assert_allclose(pose_[:3, :3], np.diag([1.0, -1.0, -1.0]), atol=1e-12)
