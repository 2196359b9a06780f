"""Closed loops with perfect estimators: what the servo laws promise of whole trajectories.

World: the desired camera stands at the origin, the target's points about one d* before it. `pose` is d_T_c in metres.
"""

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from common.control import image_offset, is_far, steer
from common.geometry import integrate_twist, inverse_pose, make_pose, rotation_angle, so3_exp, so3_log, transform_points
from common.servo import clamp_twist, denormalise_twist, pbvs_twist, refocus_pose

DT = 0.12
HALF = np.tan(np.deg2rad(25.0))  # half the field of view, normalised coordinates
# Both jointly as in CNSv2 Table I (3) and (4), then each alone: focal ratio and d*.
CAMERAS = [(0.5, 0.5), (1.5, 1.5), (0.5, 1.0), (1.5, 1.0), (1.0, 0.5), (1.0, 1.5)]
POINTS = np.random.default_rng(9).uniform([-0.15, -0.15, 0.88], [0.15, 0.15, 1.12], (30, 3))
STARTS = [
    ([0.2, -0.1, 0.4], [0.15, -0.2, 0.1]),
    ([-0.15, 0.1, -0.7], [-0.1, 0.05, -0.15]),
    ([0.1, 0.25, 1.2], [0, 0, 0]),
]


def seen(points, pose, focal):
    """What a camera of that focal ratio shows, read as a picture of the training camera: (P, 2)."""
    p = transform_points(inverse_pose(pose), points)
    return focal * p[:, :2] / p[:, 2:]


def eight_points(points, pose, focal):
    """Relative pose of the training camera from the points' images alone (eq. 1-4), the mean desired depth being 1.

    The pictures come from a camera of another focal length, of which this estimator knows nothing.
    """
    there, here = (np.pad(seen(points, p, focal), ((0, 0), (0, 1)), constant_values=1.0) for p in (np.eye(4), pose))
    e = np.linalg.svd(np.einsum("pi,pj->pij", there, here).reshape(-1, 9))[2][-1].reshape(3, 3)
    u, _, vt = np.linalg.svd(e)
    u, vt = u * np.linalg.det(u), vt * np.linalg.det(vt)
    quarter = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    best, found = -1, None
    for r in (u @ quarter @ vt, u @ quarter.T @ vt):
        for t in (u[:, 2], -u[:, 2]):
            # Depths of each point: Z_d x_d - Z_c R x_c = t.
            rays = np.stack([there, -here @ r.T], axis=-1)
            depth = (np.linalg.pinv(rays) @ t[:, None])[..., 0]
            if (count := int((depth > 0).all(axis=1).sum())) > best:
                best, found = count, make_pose(r, t / np.median(depth[:, 0]))
    return found


def believed(pose, d_star, focal, estimator):
    unit = pose.copy()
    unit[..., :3, 3] /= d_star[:, None]
    if estimator == "points":
        return np.stack([eight_points(POINTS, p, s) for p, s in zip(unit, focal, strict=True)])
    return refocus_pose(unit, 1.0 / focal)


def servo(starts, d_star, focal, *, told, estimator="refocused", steps=70, gain=1.0):
    """Errors (steps, n, 2), translation / d* and rotation, of n loops with d* and focal ratio (n,)."""
    d_star, focal = (np.broadcast_to(np.asarray(x, dtype=float), len(starts)) for x in (d_star, focal))
    pose = make_pose(so3_exp([w for w, _ in starts]), d_star[:, None] * np.array([t for _, t in starts]))
    errors = []
    for _ in range(steps):
        twist = pbvs_twist(believed(pose, d_star, focal, estimator))
        applied = denormalise_twist(twist, *((d_star, focal) if told else (1.0, 1.0)))
        pose = integrate_twist(pose, gain * applied, np.full(len(pose), DT))
        error = pbvs_twist(pose, d_star=d_star)
        errors.append([np.linalg.norm(error[:, :3], axis=1), np.linalg.norm(error[:, 3:], axis=1)])
    return np.moveaxis(np.array(errors), 1, 2)


CASES = [(start, focal, d_star) for start in STARTS for focal, d_star in CAMERAS]


def test_denormalised_control_converges_with_other_focal_lengths_and_distances():
    starts, focal, d_star = zip(*CASES, strict=True)
    errors = servo(starts, d_star, focal, told=True)
    assert errors[-1].max() < 1e-3
    # At the gain: every step takes the same share off, as with the training camera.
    np.testing.assert_allclose(errors, servo(starts, 1.0, 1.0, told=True), atol=0.02)


def test_it_converges_as_well_when_the_pose_is_estimated_from_what_the_other_camera_shows():
    starts, focal, d_star = zip(*CASES[:12], strict=True)
    errors = servo(starts, d_star, focal, told=True, estimator="points")
    assert errors[-1].max() < 2e-3
    # The distorted matrix is no essential one, so on the way the translation may be overrated, but not by much.
    assert np.all(errors.max(axis=(0, 2)) < 1.6 * np.linalg.norm(starts, axis=-1).max(axis=1))


@pytest.mark.parametrize(
    ("gain", "told", "grows"), [(1.0, True, 0), (1.0, False, 0), (12.0, True, 0), (12.0, False, 1)]
)
def test_a_pan_seen_by_a_longer_lens_is_overdone_by_the_focal_ratio_and_diverges_at_high_gain(gain, told, grows):
    # A small pan moves the image 1.5 times as far; who does not know takes off 1.5 gain dt of it instead of gain dt.
    focal, error = 1.5, 1e-3
    left = []
    for _ in range(20):
        pan = np.arctan(focal * np.tan(error))  # as the training camera would have turned for the same picture
        twist = denormalise_twist([0, 0, 0, 0, -pan, 0], 1.0, focal if told else 1.0)
        error += gain * DT * twist[4]
        left.append(abs(error))
    rate = abs(1.0 - gain * DT * (1.0 if told else focal))
    np.testing.assert_allclose(left[:5], 1e-3 * rate ** np.arange(1, 6), rtol=0.01)
    assert (left[-1] > 1e-3) == bool(grows)


@pytest.mark.parametrize(("d_star", "gain", "converges"), [(1.5, 1.0, True), (0.5, 1.0, True), (0.5, 10.0, False)])
def test_untold_distances_make_the_loop_slower_or_too_aggressive(d_star, gain, converges):
    start = ([0, 0, 0], [0.1, 0.0, -0.3])
    told, untold = (servo([start], d_star, 1.0, told=t, steps=30, gain=gain)[:, 0, 0] for t in (True, False))
    first = np.linalg.norm(start[1])
    np.testing.assert_allclose(told[:5], first * abs(1 - gain * DT) ** np.arange(1, 6), rtol=1e-6)
    np.testing.assert_allclose(untold[:5], first * abs(1 - gain * DT / d_star) ** np.arange(1, 6), rtol=1e-6)
    assert told[-1] < 0.1 * first and (untold[-1] < first) == converges
    if d_star > 1.0:
        assert np.argmax(untold < 0.05) > 1.4 * np.argmax(told < 0.05)


part = st.floats(-1.0, 1.0, allow_nan=False)
vector = st.tuples(part, part, part).map(np.array)


@settings(max_examples=40, deadline=None)
@given(vector, vector, st.floats(0.4, 2.5))
def test_the_solution_of_the_decomposition_turns_into_the_rotation_itself_as_the_focal_ratio_goes_to_one(w, t, s):
    # Eq. 21 leaves two rotations half a turn apart: one path of ratios must lead from 1 to s without a jump.
    pose = make_pose(so3_exp(w), t)
    path = refocus_pose(np.broadcast_to(pose, (200, 4, 4)), np.geomspace(1.0, s, 200))
    np.testing.assert_allclose(path[0], pose, atol=1e-7)
    steps = rotation_angle(np.swapaxes(path[:-1, :3, :3], -1, -2) @ path[1:, :3, :3])
    assert steps.max() < 0.15
    assert np.all(np.sum(path[:, :3, 3] * t, axis=1) >= 0.0)


@pytest.mark.parametrize("s", [0.4, 0.5, 1.5, 2.5])
def test_at_the_goal_and_in_pure_rotations_other_focal_lengths_are_finite(s):
    turns = np.random.default_rng(1).normal(size=(50, 3)) * np.linspace(0.0, 1.0, 50)[:, None]
    twists = denormalise_twist(np.concatenate([np.zeros((50, 3)), turns], axis=1), 0.7, s)
    assert np.isfinite(twists).all() and np.array_equal(twists[0], np.zeros(6))
    assert np.all(np.abs(twists[:, :3]) == 0.0)
    nearby = denormalise_twist(np.concatenate([np.full((50, 3), 1e-7), turns], axis=1), 0.7, s)
    np.testing.assert_allclose(nearby, twists, atol=1e-5)


def start_poses(seed, tilt, n=120):
    """Cameras (n, 4, 4) turned by 2 .. 2.9 rad about the optical axis and `tilt` besides; the target in a corner.

    Returns also its centre (n, 3), which lies before the desired camera.
    """
    rng = np.random.default_rng(seed)
    point = np.concatenate([rng.uniform(-0.05, 0.05, (n, 2)), np.ones((n, 1))], axis=1)
    sign = rng.choice([-1.0, 1.0], (n, 3))
    roll = rng.uniform(2.0, 2.9, (n, 1)) * sign[:, 2:]
    r = so3_exp(np.concatenate([rng.uniform(-tilt, tilt, (n, 2)), roll], axis=1))
    xy, depth = rng.uniform(0.6, 0.9, (n, 2)) * sign[:, :2] * HALF, rng.uniform(0.8, 1.25, (n, 1))
    at = np.concatenate([xy * depth, depth], axis=1)
    return make_pose(r, point - (r @ at[..., None])[..., 0]), point


def drive(pose, point, *, hybrid, steps=90, dt=0.06):
    """Largest image coordinate (n,) of the centre in half images, number of switches (n,), final error (n,)."""
    n = len(pose)
    largest, switches, far = np.zeros(n), np.zeros(n, dtype=int), None
    goal = point[:, :2] / point[:, 2:]
    for _ in range(steps):
        at = transform_points(inverse_pose(pose), point[:, None])[:, 0]
        center = at[:, :2] / at[:, 2:]
        largest = np.maximum(largest, np.where(at[:, 2] > 0.0, np.abs(center).max(axis=1) / HALF, np.inf))
        twist = pbvs_twist(pose)
        if hybrid:
            was_near = np.zeros(n, dtype=bool) if far is None else ~far
            now = is_far(image_offset(center / HALF, goal / HALF, (64, 64)), was_near, 0.1, 0.15)
            switches += 0 if far is None else now != far
            far, twist = now, steer(twist, 1.0, center, goal, now)
        pose = integrate_twist(pose, clamp_twist(twist, 3.0), np.full(n, dt))
    return largest, switches, np.linalg.norm(pbvs_twist(pose), axis=1)


@settings(max_examples=5, deadline=None, phases=[Phase.generate])
@given(st.integers(0, 2**32), st.floats(0.5, 0.9))
def test_the_hybrid_law_keeps_the_target_in_view_where_pbvs_loses_it(seed, tilt):
    pose, point = start_poses(seed, tilt)
    lost = drive(pose, point, hybrid=False)[0] > 1.0
    assert lost.sum() >= 5  # so there is something to show
    largest, switches, error = drive(pose, point, hybrid=True)
    assert largest.max() < 0.95
    # Far from the goal by the hybrid law, then by PBVS, and never back.
    assert np.all(switches == 1)
    assert error.max() < 0.02


def test_hybrid_control_decays_the_error_in_the_image_at_the_gain():
    pose, point = start_poses(1, 0.3, n=20)
    dt = 0.01
    goal = point[:, :2] / point[:, 2:]
    at = transform_points(inverse_pose(pose), point[:, None])[:, 0]
    first, before = at[:, :2] / at[:, 2:] - goal, so3_log(pose[:, :3, :3])[:, 2]
    for _ in range(100):
        at = transform_points(inverse_pose(pose), point[:, None])[:, 0]
        twist = steer(pbvs_twist(pose), 1.0, at[:, :2] / at[:, 2:], goal, np.ones(20, dtype=bool))
        pose = integrate_twist(pose, twist, np.full(20, dt))
    at = transform_points(inverse_pose(pose), point[:, None])[:, 0]
    np.testing.assert_allclose(at[:, :2] / at[:, 2:] - goal, np.exp(-1.0) * first, atol=0.02)
    np.testing.assert_allclose(so3_log(pose[:, :3, :3])[:, 2], np.exp(-1.0) * before, atol=0.05)
