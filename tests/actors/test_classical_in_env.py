"""The controllers in the rendered environment, on a few held-out scenes: what the comparison table rests on."""

import numpy as np
import pytest

from actors.classical import make_policy
from actors.env import ServoEnv
from actors.rasteriser.renderer import WarpRenderer
from actors.scenes.suite import held_out_suite
from common.config import RewardConfig, RunConfig
from common.protocols import Observation

SCENES, STEPS = 12, 50


@pytest.fixture(scope="module")
def results():
    """For each controller the first and last IoU (SCENES,) and the path length (SCENES,)."""
    config = RunConfig()
    config.evaluation.scenes = SCENES
    config.env.mask_size = 64
    starts = list(held_out_suite(config).starts)
    renderer = WarpRenderer(max_envs=SCENES)
    env = ServoEnv(renderer, config.env, RewardConfig(), SCENES)
    ids, blank = np.arange(SCENES), np.zeros((SCENES, 1, 1, 3), dtype=np.uint8)
    found = {}
    for name in ("zero", "pbvs", "nearest_goal", "moment_ibvs"):
        env.reset(starts)
        policy = make_policy(name)
        policy.reset(ids, env.goal())
        sight = env.look(image=False, masks=True)
        first, length = env.iou(sight), np.zeros(SCENES)
        for _ in range(STEPS):
            twist = policy.act(ids, Observation(blank, sight.mask, env.world_T_cam)).twist
            step, sight = env.step(twist, image=False)
            length += np.linalg.norm(twist, axis=-1) * config.env.dt
        found[name] = first, step.iou, length
    renderer.close()
    return found


def test_standing_still_changes_nothing(results):
    first, last, length = results["zero"]
    np.testing.assert_allclose(first, last, atol=1e-6)
    assert not length.any() and first.mean() < 0.8


def test_true_poses_lead_to_the_desired_view(results):
    assert results["pbvs"][1].min() > 0.93


def test_the_nearest_symmetric_goal_looks_as_desired_and_is_never_farther(results):
    assert results["nearest_goal"][1].min() > 0.9
    assert np.all(results["nearest_goal"][2] <= results["pbvs"][2] + 1e-3)
    assert results["nearest_goal"][2].mean() < 0.95 * results["pbvs"][2].mean()


def test_masks_alone_lead_most_of_the_way(results):
    first, last, _ = results["moment_ibvs"]
    assert last.mean() > 0.85 and np.mean(last > first + 0.05) > 0.9
