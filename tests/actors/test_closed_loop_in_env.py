"""Perfect estimation, steered through the rendered environment by cameras that the estimator was not trained with."""

import numpy as np
import pytest

from actors.classical import make_policy
from actors.closed_loop import ClosedLoopPolicy
from actors.env import ServoEnv
from actors.rasteriser.renderer import WarpRenderer
from actors.scenes.suite import held_out_suite
from common.config import RewardConfig, RunConfig
from common.protocols import Observation, PolicyOutput
from common.servo import pbvs_twist, refocus_pose, relative_pose

SCENES, STEPS = 6, 45
JOINT_AND_ALONE = [(0.5, 0.5), (1.5, 1.5), (0.5, 1.0), (1.5, 1.0), (1.0, 0.5), (1.0, 1.5)]


class Estimator:
    """Knows the true pose as the training camera would read it from the pictures of the camera at hand."""

    def __init__(self, env, focal_scale):
        self.env, self.focal_scale = env, focal_scale

    def reset(self, env_ids, goal):
        pass

    def encode(self, env_ids, observation):
        pose = relative_pose(self.env.world_T_cam, self.env.goal_world_T_cam)
        pose[:, :3, 3] /= self.env.d_star[:, None]
        return refocus_pose(pose, 1.0 / self.focal_scale)

    def output(self, encoding):
        return PolicyOutput(pbvs_twist(encoding).astype(np.float32), np.zeros(len(encoding), dtype=bool))


@pytest.fixture(scope="module")
def renderer():
    made = WarpRenderer(max_envs=SCENES)
    yield made
    made.close()


def drive(renderer, focal_scale, distance_scale, *, policy="estimator", denormalise=True):
    """IoU (STEPS + 1, SCENES) and pose errors (STEPS + 1, SCENES) of the suite's first scenes."""
    config = RunConfig()
    config.env.mask_size = 64
    config.evaluation.scenes = SCENES
    config.evaluation.focal_scale, config.evaluation.distance_scale = focal_scale, distance_scale
    config.evaluation.denormalise = denormalise
    env = ServoEnv(renderer, config.env, RewardConfig(), SCENES)
    env.reset(list(held_out_suite(config).starts))
    if policy == "estimator":
        acting = ClosedLoopPolicy(Estimator(env, focal_scale), config.evaluation)
    else:
        acting = make_policy(policy)
    ids, blank = np.arange(SCENES), np.zeros((SCENES, 1, 1, 3), dtype=np.uint8)
    acting.reset(ids, env.goal())
    sight = env.look(image=False, masks=True)
    ious, errors = [env.iou(sight)], [error(env)]
    for _ in range(STEPS):
        step, sight = env.step(acting.act(ids, Observation(blank, sight.mask, env.world_T_cam)).twist, image=False)
        ious.append(step.iou)
        errors.append(error(env))
    return np.array(ious), np.array(errors)


def error(env):
    return np.linalg.norm(pbvs_twist(relative_pose(env.world_T_cam, env.goal_world_T_cam), d_star=env.d_star), axis=1)


@pytest.mark.parametrize(("focal", "distance"), JOINT_AND_ALONE)
def test_told_of_it_the_policy_reaches_the_goal_with_every_camera_as_fast_as_with_its_own(renderer, focal, distance):
    iou, errors = drive(renderer, focal, distance)
    assert iou[-1].min() > 0.9
    # Every step takes gain dt = 0.12 of the error off.
    np.testing.assert_allclose(errors[:30:5], errors[0] * 0.88 ** np.arange(0, 30, 5)[:, None], atol=0.01)
    with_true_poses, _ = drive(renderer, focal, distance, policy="pbvs")
    assert with_true_poses[-1].min() > 0.9


def test_untold_of_longer_distances_it_is_slower_and_of_shorter_ones_faster(renderer):
    told, long, short = (
        drive(renderer, 1.0, d, denormalise=d == 1.0)[1][20] / drive(renderer, 1.0, d)[1][0] for d in (1.0, 1.5, 0.5)
    )
    assert np.all(long > told) and np.all(short < told)
    assert long.mean() > 1.3 * told.mean()


def test_untold_of_the_focal_length_it_leaves_the_straight_way(renderer):
    for scale in (0.5, 1.5):
        untold, told = (drive(renderer, scale, 1.0, denormalise=t)[1][10] for t in (False, True))
        assert np.abs(untold - told).max() > 0.02
