import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.mesh_library import mesh_library
from actors.poses import CLEARANCE, MARGIN, sample_cameras, sample_start_pose, shrink_pose
from actors.scenes import sample_scene
from actors.warp_renderer import WarpRenderer
from common.config import EnvConfig, SceneConfig
from common.errors import SceneError
from common.geometry import (
    inverse_pose,
    look_at,
    make_pose,
    project,
    rotation_angle,
    so3_exp,
    so3_log,
    transform_points,
)
from common.rng import Purpose, philox
from tests.actors.scenes_for_tests import intrinsics

CONFIG, ENV = SceneConfig(), EnvConfig()
COUNT = 200


@pytest.fixture(scope="module")
def drawn():
    library = mesh_library(0, 240, CONFIG.shapes)
    scenes, cameras = [], []
    for env in range(COUNT):
        key = {"seed": 1, "purpose": Purpose.SCENE, "round": 0, "env": env}
        scenes.append(sample_scene(CONFIG, library, kind="sym_diff", **key)[0])
        cameras.append(sample_cameras(CONFIG, ENV, scenes[-1], **key))
    goals, starts, d_star = (np.stack(x) for x in zip(*cameras, strict=True))
    return scenes, goals, starts, d_star


def test_starts_are_as_far_off_as_the_training_recipe_wants(drawn):
    """Mean rotation error 38.7 deg, mean translation error 237 mm, mean IoU of the masks 0.50."""
    scenes, goals, starts, _ = drawn
    relative = inverse_pose(goals) @ starts
    renderer = WarpRenderer(COUNT)
    renderer.reset(np.arange(COUNT), scenes)
    view = intrinsics(COUNT, 128), (128, 128), ["instance_id"]
    goal, start = (renderer.render(np.arange(COUNT), p, *view).instance_id > 0 for p in (goals, starts))
    iou = (goal & start).sum(axis=(1, 2)) / (goal | start).sum(axis=(1, 2))
    assert np.rad2deg(rotation_angle(relative[:, :3, :3])).mean() == pytest.approx(38.7, abs=3.0)
    assert np.linalg.norm(relative[:, :3, 3], axis=1).mean() == pytest.approx(0.237, abs=0.02)
    assert iou.mean() == pytest.approx(0.50, abs=0.035)
    for mask in (goal, start):
        border = np.concatenate([mask[:, 0], mask[:, -1], mask[:, :, 0], mask[:, :, -1]], axis=1)
        assert mask.any(axis=(1, 2)).all() and border.any(axis=1).mean() < 0.05
        assert 0.05 < mask.mean() < 0.2


def test_cameras_keep_the_target_in_view_and_their_height(drawn):
    scenes, goals, starts, d_star = drawn
    centers = np.stack([s.target().pose()[:3, 3] for s in scenes])
    np.testing.assert_allclose(np.linalg.norm(goals[:, :3, 3] - centers, axis=1), d_star)
    for poses in (goals, starts):
        seen = project(transform_points(inverse_pose(poses), centers[:, None]), intrinsics(COUNT, 1))[:, 0]
        assert (np.abs(seen - 0.5) <= 0.5 - MARGIN + 1e-6).all()
        assert (poses[:, 2, 3] >= ENV.min_height + CLEARANCE).all()
        distance = np.linalg.norm(poses[:, :3, 3] - centers, axis=1)
        assert (distance > CONFIG.min_distance - 1e-6).all() and (distance < CONFIG.max_distance + 1e-6).all()
        np.testing.assert_allclose(
            poses[:, :3, :3] @ np.swapaxes(poses[:, :3, :3], 1, 2), np.tile(np.eye(3), (COUNT, 1, 1)), atol=1e-8
        )


def test_start_poses_spread_around_the_goal(drawn):
    """No axis of the error is forgotten or favoured to one side."""
    scenes, goals, _, _ = drawn
    poses = np.stack(
        [sample_start_pose(philox(5, Purpose.CAMERA, env=i), CONFIG, ENV, scenes[0], goals[0]) for i in range(300)]
    )
    relative = inverse_pose(goals[0]) @ poses
    error = np.concatenate([relative[:, :3, 3], so3_log(relative[:, :3, :3])], axis=1)
    assert (error.std(axis=0) > [0.05, 0.05, 0.05, 0.1, 0.1, 0.3]).all()
    assert len(np.unique(poses[:, 0, 3])) == 300


def test_cameras_are_a_function_of_their_key(drawn):
    scenes, goals, starts, d_star = drawn
    again = sample_cameras(CONFIG, ENV, scenes[7], seed=1, purpose=Purpose.SCENE, round=0, env=7)
    assert np.array_equal(again[0], goals[7]) and np.array_equal(again[1], starts[7]) and again[2] == d_star[7]
    other = sample_cameras(CONFIG, ENV, scenes[7], seed=1, purpose=Purpose.EVALUATION, round=0, env=7)
    assert not np.array_equal(again[0], other[0])


def test_an_impossible_camera_is_an_error(drawn):
    high = dataclasses.replace(ENV, min_height=5.0)
    with pytest.raises(SceneError, match="no desired camera pose"):
        sample_cameras(CONFIG, high, drawn[0][0], seed=0, purpose=Purpose.SCENE, round=0, env=0)
    with pytest.raises(SceneError, match="no start camera pose"):
        sample_start_pose(philox(0, Purpose.CAMERA), CONFIG, high, drawn[0][0], drawn[1][0])


@given(st.lists(st.floats(-1.0, 1.0), min_size=6, max_size=6), st.floats(0.0, 1.0))
def test_shrinking_scales_rotation_vector_and_translation(numbers, factor):
    goal = look_at([0.5, 0.2, 0.6], [0.0, 0.0, 0.1], 0.4)
    turn, shift = np.array(numbers[:3]), np.array(numbers[3:])
    start = goal @ make_pose(so3_exp(turn), shift)
    relative = inverse_pose(goal) @ shrink_pose(goal, start, factor)
    np.testing.assert_allclose(so3_log(relative[:3, :3]), factor * turn, atol=1e-9)
    np.testing.assert_allclose(relative[:3, 3], factor * shift, atol=1e-9)


def test_shrinking_takes_batches():
    goals = np.stack([look_at([0.5, 0.1 * i, 0.6], [0.0, 0.0, 0.1]) for i in range(3)])
    starts = np.stack([look_at([0.3, 0.2 * i, 0.7], [0.0, 0.1, 0.1], 0.5) for i in range(3)])
    out = shrink_pose(goals, starts, [0.0, 0.5, 1.0])
    np.testing.assert_allclose(out[0], goals[0], atol=1e-12)
    np.testing.assert_allclose(out[2], starts[2], atol=1e-12)
    assert 0.0 < np.linalg.norm(out[1, :3, 3] - goals[1, :3, 3]) < np.linalg.norm(starts[1, :3, 3] - goals[1, :3, 3])
