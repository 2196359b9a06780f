import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.classical import NAMES, NearestGoalPolicy, make_policy, nearest_goal
from actors.moments import image_moments, interaction_matrix, moment_twist, patch_features
from actors.rewards import mask_iou
from common.errors import ConfigError
from common.geometry import integrate_twist, intrinsics_from_fov, inverse_pose, look_at, make_pose, so3_exp
from common.protocols import Goal, Observation
from common.scene import SceneObject, SceneSpec, Shape, Symmetry, Texture
from common.servo import denormalise_twist, pbvs_twist, relative_pose

WORLD_T_OBJ = make_pose(so3_exp([0.0, 0.0, 0.7]), [0.1, -0.05, 0.06])
GOAL = look_at([0.5, 0.1, 0.45], [0.1, -0.05, 0.06])
QUARTERS = tuple((0.0, 0.0, k * np.pi / 2) for k in (1, 2, 3))
D_STAR = float(np.linalg.norm(GOAL[:3, 3] - WORLD_T_OBJ[:3, 3]))


def _scene(symmetry):
    pose = tuple(WORLD_T_OBJ.ravel().tolist())
    obj = SceneObject(Shape("cube", (0.1,)), Texture(), symmetry, 3, pose)
    return SceneSpec((obj,), 3, Texture())


def _goal(poses, symmetry=None, mask=None, size=32):
    n = len(poses)
    rgb = np.zeros((n, size, size, 3), dtype=np.uint8)
    scenes = None if symmetry is None else [_scene(symmetry)] * n
    intrinsics = np.tile(intrinsics_from_fov(0.9, size, size), (n, 1))
    return Goal(rgb, mask, intrinsics, np.full(n, D_STAR), np.asarray(poses), scenes)


def _look(pose=None, mask=None):
    return Observation(np.zeros((1, 1, 1, 3), dtype=np.uint8), mask, pose)


def _drive(policy, pose, steps=120, dt=0.1):
    ids = np.arange(len(pose))
    path = [pose]
    for _ in range(steps):
        twist = policy.act(ids, _look(path[-1])).twist
        path.append(integrate_twist(path[-1], denormalise_twist(twist, D_STAR), dt))
    return np.stack(path)


def _turned(angle):
    """What the goal becomes when the object is turned by `angle` about its own z axis."""
    return WORLD_T_OBJ @ make_pose(so3_exp([0, 0, angle]), np.zeros(3)) @ inverse_pose(WORLD_T_OBJ) @ GOAL


def test_names_map_to_controllers_and_others_are_refused():
    for name in NAMES:
        assert hasattr(make_policy(name), "act")
    with pytest.raises(ConfigError, match="controller = 'pvbs': allowed is one of"):
        make_policy("pvbs")


def test_zero_stands_still():
    policy = make_policy("zero")
    policy.reset(np.arange(2), _goal([GOAL, GOAL]))
    out = policy.act(np.arange(2), _look(np.stack([GOAL, GOAL])))
    assert out.twist.shape == (2, 6) and out.twist.dtype == np.float32 and not out.twist.any() and not out.stop.any()


def test_pbvs_reaches_the_given_pose_and_keeps_environments_apart():
    goals = np.stack([GOAL, _turned(0.4)])
    policy = make_policy("pbvs")
    policy.reset(np.array([5, 2]), _goal(goals))
    start = np.stack([_turned(0.9), GOAL])
    out = policy.act(np.array([2, 5]), _look(start[::-1])).twist
    np.testing.assert_allclose(out, pbvs_twist(relative_pose(start, goals), d_star=D_STAR)[::-1], atol=1e-6)
    policy.reset(np.arange(2), _goal(goals))
    np.testing.assert_allclose(_drive(policy, start)[-1], goals, atol=1e-4)


def test_privileged_inputs_are_asked_for_by_name():
    with pytest.raises(ValueError, match=r"goal\.scenes"):
        make_policy("nearest_goal").reset(np.arange(1), _goal([GOAL]))
    with pytest.raises(ValueError, match=r"goal\.mask"):
        make_policy("moment_ibvs").reset(np.arange(1), _goal([GOAL]))
    policy = make_policy("pbvs")
    policy.reset(np.arange(1), _goal([GOAL]))
    with pytest.raises(ValueError, match=r"observation\.world_T_cam"):
        policy.act(np.arange(1), _look())


@pytest.mark.parametrize("quarter", [0, 1, 2, 3])
def test_nearest_goal_of_a_square_object_is_the_right_quarter(quarter):
    start = _turned(quarter * np.pi / 2 + 0.2)
    chosen = nearest_goal(start, GOAL, WORLD_T_OBJ, Symmetry(None, QUARTERS), D_STAR)
    np.testing.assert_allclose(chosen, _turned(quarter * np.pi / 2), atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.floats(-3.1, 3.1))
def test_nearest_goal_of_a_body_of_revolution_is_where_the_camera_is(angle):
    chosen = nearest_goal(_turned(angle), GOAL, WORLD_T_OBJ, Symmetry((0.0, 0.0, 1.0)), D_STAR)
    np.testing.assert_allclose(chosen, _turned(angle), atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.tuples(*[st.floats(-0.6, 0.6)] * 6))
def test_search_over_a_continuous_axis_beats_a_fine_brute_force(offset):
    start = integrate_twist(GOAL, np.array(offset), 1.0)
    chosen = nearest_goal(start, GOAL, WORLD_T_OBJ, Symmetry((0.0, 0.0, 1.0)), D_STAR)
    turns = make_pose(so3_exp(np.linspace(-np.pi, np.pi, 5001)[:, None] * np.array([0, 0, 1.0])), np.zeros(3))
    every = WORLD_T_OBJ @ turns @ inverse_pose(WORLD_T_OBJ) @ GOAL
    costs = np.linalg.norm(pbvs_twist(relative_pose(start, every), d_star=D_STAR), axis=-1)
    assert np.linalg.norm(pbvs_twist(relative_pose(start, chosen), d_star=D_STAR)) <= costs.min() + 1e-9


def test_goals_below_the_ground_are_not_chosen():
    upside_down = Symmetry((0.0, 0.0, 1.0), ((np.pi, 0.0, 0.0),))
    below = WORLD_T_OBJ @ make_pose(so3_exp([np.pi, 0, 0]), np.zeros(3)) @ inverse_pose(WORLD_T_OBJ) @ GOAL
    assert below[2, 3] < 0.0
    for symmetry in (upside_down, Symmetry(None, ((np.pi, 0.0, 0.0),))):
        assert nearest_goal(below, GOAL, WORLD_T_OBJ, symmetry, D_STAR)[2, 3] > 0.0


def test_the_nearest_goal_stays_the_nearest_along_the_way_and_a_new_episode_chooses_anew():
    symmetry = Symmetry(None, QUARTERS)
    policy = NearestGoalPolicy()
    policy.reset(np.arange(1), _goal([GOAL], symmetry))
    path = _drive(policy, integrate_twist(_turned(0.76), np.array([0.1, 0, 0.05, 0.2, 0, 0.1]), 1.0)[None])
    for pose in path[:60:6, 0]:
        np.testing.assert_allclose(nearest_goal(pose, GOAL, WORLD_T_OBJ, symmetry, D_STAR), path[-1, 0], atol=1e-3)
    policy.reset(np.arange(1), _goal([GOAL], symmetry))
    np.testing.assert_allclose(_drive(policy, _turned(np.pi + 0.2)[None])[-1, 0], _turned(np.pi), atol=1e-4)


def _patch_mask(world_T_cam, size, half=(0.11, 0.05)):
    """Exact mask of a rectangle on the ground, by casting a ray through each pixel centre."""
    fx, fy, cx, cy = intrinsics_from_fov(0.9, size, size)
    v, u = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5, indexing="ij")
    rays = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones_like(u)], axis=-1) @ world_T_cam[:3, :3].T
    points = world_T_cam[:3, 3] - rays * (world_T_cam[2, 3] / rays[..., 2:])
    return (np.abs(points[..., :2]) < half).all(axis=-1) & (rays[..., 2] < 0)


DOWN = look_at([0.0, 0.0, D_STAR], [0.0, 0.0, 0.0])


@pytest.mark.parametrize(
    "offset",
    [[0.1, -0.05, 0.1, 0, 0, 0.5], [-0.08, 0.1, -0.1, 0, 0, -1.2], [0.05, 0.02, 0.0, 0.1, -0.15, 1.4]],
)
def test_moment_servoing_brings_the_mask_to_the_goal_at_any_mask_size(offset):
    policy = make_policy("moment_ibvs")
    policy.reset(np.array([7]), _goal([DOWN], mask=_patch_mask(DOWN, 96)[None], size=32))
    pose = integrate_twist(DOWN, np.array(offset), 1.0)
    before = mask_iou(_patch_mask(pose, 96)[None], _patch_mask(DOWN, 96)[None])[0]
    for step in range(80):
        mask = _patch_mask(pose, 64 if step % 2 else 96)[None]
        twist = policy.act(np.array([7]), _look(mask=mask)).twist[0]
        pose = integrate_twist(pose, denormalise_twist(twist, D_STAR), 0.1)
    after = mask_iou(_patch_mask(pose, 96)[None], _patch_mask(DOWN, 96)[None])[0]
    assert before < 0.6 and after > 0.93
    assert np.linalg.norm(twist) < 0.02


def test_moment_servoing_holds_still_without_a_target_in_view():
    policy = make_policy("moment_ibvs")
    mask = _patch_mask(DOWN, 48)[None]
    policy.reset(np.arange(1), _goal([DOWN], mask=mask))
    assert not policy.act(np.arange(1), _look(mask=np.zeros_like(mask))).twist.any()
    policy.reset(np.arange(1), _goal([DOWN], mask=np.zeros_like(mask)))
    assert not policy.act(np.arange(1), _look(mask=mask)).twist.any()


def test_moments_are_those_of_the_rectangle():
    moments = image_moments(_patch_mask(DOWN, 256)[None], intrinsics_from_fov(0.9, 256, 256)[None])[0]
    w, h = 0.22 / D_STAR, 0.10 / D_STAR
    np.testing.assert_allclose(moments, [w * h, 0, 0, w * w / 12, 0, h * h / 12], atol=2e-3 * w)


def test_interaction_matrix_agrees_with_finite_differences():
    """Each unit twist changes each feature as the law assumes, for a large patch parallel to the image."""
    goal = _moments(DOWN)
    start = integrate_twist(DOWN, np.array([0.05, -0.04, 0.03, 0, 0, 0.4]), 1.0)
    matrix = interaction_matrix(_moments(start), goal)[0]
    h = 0.03
    for axis, twist in enumerate(np.eye(6)):
        ahead, behind = (integrate_twist(start, denormalise_twist(twist, D_STAR), s) for s in (h, -h))
        rate = (patch_features(_moments(ahead), goal) - patch_features(_moments(behind), goal)) / (2 * h)
        np.testing.assert_allclose(matrix[:3, axis], rate[0], atol=0.01)
    # The last feature is the orientation: a turn about the optical axis moves it back by as much.
    _, before = moment_twist(_moments(start), goal, np.zeros(1))
    _, after = moment_twist(_moments(integrate_twist(start, np.array([0, 0, 0, 0, 0, 1.0]), 0.1)), goal, before)
    assert before[0] == pytest.approx(-0.4, abs=0.01) and after[0] - before[0] == pytest.approx(-0.1, abs=0.01)


def _moments(pose):
    mask = _patch_mask(pose, 512, half=(0.18, 0.09))
    return image_moments(mask[None], intrinsics_from_fov(0.9, 512, 512)[None])


def test_orientation_does_not_change_its_mind_at_a_quarter_turn_and_counts_less_when_round():
    moments = np.array([[0.1, 0, 0, 0.02, 0, 0.01]])
    turn = lambda a: np.array(
        [[0.1, 0, 0, 0.015 + 0.005 * np.cos(2 * a), 0.005 * np.sin(2 * a), 0.015 - 0.005 * np.cos(2 * a)]]
    )
    angle = np.array([0.0])
    for a in np.linspace(1.5, 1.7, 9):
        twist, angle = moment_twist(turn(a), moments, angle)
        assert angle[0] == pytest.approx(a) and twist[0, 5] > 0.5
    disc = np.array([[0.1, 0, 0, 0.0150001, 0, 0.015]])
    assert abs(moment_twist(disc, turn(0.7), np.zeros(1))[0][0, 5]) < 1e-6
