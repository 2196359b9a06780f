import dataclasses

import numpy as np
import pytest

from actors.scenes.rescale import rescale_start
from actors.scenes.suite import held_out_suite
from actors.scenes.views import scene_intrinsics
from cluster.config_loading import load_config
from common.geometry import inverse_pose, project, transform_points
from common.scene import SceneSpec

FOV = 50.0
FOCAL = 0.5 / np.tan(0.5 * np.deg2rad(FOV))


def suite(*overrides, scenes=1):
    return held_out_suite(load_config(["experiment=quickstart", f"evaluation.scenes={scenes}", *overrides]))


@pytest.fixture(scope="module")
def starts():
    return suite(scenes=6).starts


def shown(start, pose, points):
    return project(transform_points(inverse_pose(pose), points), scene_intrinsics(start.scene, FOV, 1, 1))


def test_without_scales_the_start_is_the_very_same(starts):
    assert rescale_start(starts[0], FOV, 1.0, 1.0) is starts[0]


def test_distances_are_those_to_the_target_and_the_cameras_turn_nowhere(starts):
    for s in starts:
        far = rescale_start(s, FOV, 1.0, 1.5)
        center = s.scene.target().pose()[:3, 3]
        for before, after in ((s.world_T_cam, far.world_T_cam), (s.goal_world_T_cam, far.goal_world_T_cam)):
            np.testing.assert_allclose(after[:3, 3] - center, 1.5 * (before[:3, 3] - center), atol=1e-8)
            assert np.array_equal(after[:3, :3], before[:3, :3])
        assert far.d_star == pytest.approx(np.linalg.norm(far.goal_world_T_cam[:3, 3] - center))
        assert far.scene.objects == s.scene.objects and far.goal_scene.objects == s.goal_scene.objects


def test_the_focal_length_is_that_of_both_cameras_and_nothing_else_changes(starts):
    for s in starts:
        long = rescale_start(s, FOV, 1.5, 1.0)
        for scene in (long.scene, long.goal_scene):
            np.testing.assert_allclose(
                scene_intrinsics(scene, FOV, 64, 64), [96 * FOCAL, 96 * FOCAL, 32.0, 32.0], rtol=1e-8
            )
        assert dataclasses.replace(long.scene, camera=None) == s.scene
        assert np.array_equal(long.world_T_cam, s.world_T_cam) and long.d_star == s.d_star
        # A camera of the scene's own is scaled as well, and its centre left where it is.
        assert rescale_start(long, FOV, 2.0, 1.0).scene.camera.fx == pytest.approx(3.0 * FOCAL)


@pytest.mark.parametrize("scale", [0.5, 1.5])
def test_with_both_scales_alike_the_target_keeps_its_place_and_size_in_the_image(starts, scale):
    for s in starts:
        both = rescale_start(s, FOV, scale, scale)
        target = s.scene.target().pose()
        # The target's centre plane, parallel to the image: there the dolly zoom is exact.
        across = s.goal_world_T_cam[:3, :2].T * 0.05
        points = target[:3, 3] + np.concatenate([np.zeros((1, 3)), across, -across])
        before, after = shown(s, s.goal_world_T_cam, points), shown(both, both.goal_world_T_cam, points)
        offset = (before[0] - 0.5) * (scale - 1.0)  # the line of sight keeps its angle, so the lens moves its image
        np.testing.assert_allclose(after - after[0], before - before[0], atol=1e-6)
        np.testing.assert_allclose(after[0] - before[0], offset, atol=1e-6)


def test_only_scales_other_than_one_make_another_suite():
    first = suite()
    assert suite("evaluation.focal_scale=1", "evaluation.distance_scale=1.0").sha256 == first.sha256
    changes = ("control=hybrid", "denormalise=false", "control_source=diffusion", "hybrid_near=0.12")
    assert all(suite(f"evaluation.{change}").sha256 == first.sha256 for change in changes)
    others = [suite("evaluation.focal_scale=1.5"), suite("evaluation.distance_scale=0.5")]
    others.append(suite("evaluation.focal_scale=1.5", "evaluation.distance_scale=1.5"))
    assert len({s.sha256 for s in [first, *others]}) == 4
    for other in others:
        assert [s.scene.objects for s in other.starts] == [s.scene.objects for s in first.starts]
        assert SceneSpec.from_json(other.starts[0].scene.to_json()) == other.starts[0].scene
