"""Rollouts and evaluations: that z, log-probabilities, rewards and noise belong to the step they are stored beside."""

import dataclasses

import numpy as np
import pytest
import torch
from workshop_for_tests import done, make_shop, noise_of, small_config, some_weights, task_of, version_of

from actors.rewards import mask_iou
from actors.scenes.suite import held_out_suite
from common.geometry import integrate_twist, scale_intrinsics
from common.networks.servo_net import ServoNet, encoder_sha256, set_weights
from common.rng import Purpose
from common.servo import pbvs_twist, relative_pose


@pytest.fixture(scope="module")
def config():
    return small_config()


@pytest.fixture(scope="module")
def weights(config):
    return some_weights(config)


@pytest.fixture(scope="module")
def shop(config, weights):
    return make_shop(config, weights)


@pytest.fixture(scope="module")
def rollouts(shop, weights):
    return done(shop, "rollout", weights=weights)


@pytest.fixture(scope="module")
def starts(shop):
    return shop.starts(task_of("rollout"), shop.config.scenes.rl_mix, Purpose.SCENE)


def seen(shop, scene, poses, size, channel="rgb"):
    n, ids = len(poses), np.zeros(len(poses), dtype=np.int64)
    env = shop.env(1, shop.config.phases["ppo"].reward)
    intrinsics = np.tile(scale_intrinsics(env.intrinsics, size / shop.config.env.image_size), (n, 1))
    shop.renderer.reset(ids[:1], [scene])
    return getattr(shop.renderer.render(ids, poses, intrinsics, (size, size), [channel]), channel)


def test_z_and_value_are_what_the_network_makes_of_the_pose_beside_them(shop, weights, rollouts, starts):
    net, size = ServoNet(shop.config.network).eval(), shop.config.env.image_size
    set_weights(net, weights)
    for start, episode in zip(starts, rollouts, strict=True):
        rgb = torch.from_numpy(seen(shop, start.scene, episode.steps["world_T_cam"], size))
        goal = torch.from_numpy(seen(shop, start.goal_scene, start.goal_world_T_cam[None], size))
        with torch.no_grad():
            z = net(rgb, goal.expand(len(rgb), -1, -1, -1)).z
            stored = torch.from_numpy(episode.steps["z"])
            inputs, value = net.action_dist_inputs(stored), net.value(stored)
        np.testing.assert_allclose(episode.steps["z"], z.numpy(), atol=1e-4)
        np.testing.assert_allclose(episode.steps["action_dist_inputs"], inputs.numpy(), atol=1e-5)
        np.testing.assert_allclose(episode.steps["value"], value.numpy(), atol=1e-5)
        assert episode.meta.encoder_sha256 == encoder_sha256(weights)
        # A row's z is not that of its neighbour: the comparison above can tell them apart.
        assert np.abs(np.diff(episode.steps["z"], axis=0)).max(axis=1).min() > 1e-3


def test_logp_is_the_density_of_the_action_that_was_taken(rollouts):
    for episode in rollouts:
        mean, log_std = np.split(episode.steps["action_dist_inputs"].astype(np.float64), 2, axis=1)
        action = episode.steps["action"].astype(np.float64)
        density = np.exp(-0.5 * ((action - mean) / np.exp(log_std)) ** 2) / (np.exp(log_std) * np.sqrt(2.0 * np.pi))
        np.testing.assert_allclose(episode.steps["logp"][:-1], np.log(density).sum(axis=1)[:-1], atol=1e-5)


def test_noise_is_standard_normal_and_independent(shop, weights):
    noise = np.stack([noise_of(e) for r in range(4) for e in done(shop, "rollout", round=r, weights=weights)])
    flat = noise.reshape(-1, 6)
    assert abs(flat.mean()) < 0.1 and abs(flat.std() - 1.0) < 0.05
    assert np.abs(np.corrcoef(flat.T) - np.eye(6)).max() < 0.25
    assert len(np.unique(np.round(flat, 3))) > 0.8 * flat.size


def test_noise_depends_on_each_part_of_its_key(shop, config, weights):
    def noise(shop=shop, counter=3, **more):
        found = done(shop, "rollout", weights=weights, version=version_of(weights, counter), **more)
        return np.stack([noise_of(e) for e in found])

    first = noise()
    np.testing.assert_allclose(noise(), first, atol=0)
    reseeded = make_shop(dataclasses.replace(config, seed=1), weights)
    for name, other in {
        "round": noise(round=1),
        "seed": noise(reseeded),
        "version": noise(counter=4),
        "env": np.roll(first, 1, axis=0),
        "step": np.roll(first, 1, axis=1),
    }.items():
        # Independent draws differ by more than 0.5 most of the time.
        assert np.mean(np.abs(other - first) > 0.5) > 0.5, name


def test_rewards_and_iou_are_those_of_the_view_after_the_action(shop, rollouts, starts):
    size, weights = shop.config.env.mask_size, shop.config.phases["ppo"].reward
    for start, episode in zip(starts, rollouts, strict=True):
        masks = seen(shop, start.scene, episode.steps["world_T_cam"], size, "instance_id") == 1
        goal = seen(shop, start.goal_scene, start.goal_world_T_cam[None], size, "instance_id") == 1
        iou = mask_iou(masks, np.repeat(goal, len(masks), axis=0))
        np.testing.assert_allclose(episode.steps["iou"], iou, atol=1e-6)
        np.testing.assert_allclose(episode.steps["reward_iou"][:-1], iou[1:] - 1.0, atol=1e-6)
        norm = np.minimum(np.linalg.norm(episode.steps["action"], axis=1), shop.config.env.max_twist)
        np.testing.assert_allclose(episode.steps["reward_action"], -weights.action * norm, atol=1e-6)
        terms = [episode.steps[f"reward_{t}"] for t in ("iou", "center", "visibility", "action", "success")]
        np.testing.assert_allclose(episode.steps["reward"], np.sum(terms, axis=0), atol=1e-5)


def test_the_phase_decides_steps_and_reward(shop):
    phases = shop.config.phases
    assert phases["ppo_smooth"].reward.action > phases["ppo"].reward.action
    for name in ("ppo", "ppo_smooth", "value_warmup"):
        for episode in done(shop, "rollout", 0, 2, phase=name):
            assert episode.num_rows == phases[name].ppo.steps + 1 and episode.meta.phase == name
            norm = np.minimum(np.linalg.norm(episode.steps["action"], axis=1), shop.config.env.max_twist)
            np.testing.assert_allclose(episode.steps["reward_action"], -phases[name].reward.action * norm, atol=1e-6)
    (own,) = done(shop, "rollout", 0, 1, phase="sil", explore=False)
    assert own.num_rows == phases["sil"].self_imitation.steps + 1 != phases["ppo"].ppo.steps + 1


def test_without_exploration_the_mean_acts(shop):
    for episode in done(shop, "rollout", explore=False, phase="sil"):
        inputs = episode.steps["action_dist_inputs"]
        np.testing.assert_array_equal(episode.steps["action"][:-1], inputs[:-1, :6])
        np.testing.assert_allclose(
            episode.steps["logp"], -inputs[:, 6:].sum(axis=1) - 3.0 * np.log(2.0 * np.pi), atol=1e-5
        )


def test_poses_follow_the_applied_twists(shop, rollouts):
    for episode in [*rollouts, *done(shop, "evaluation", 0, 3, policy="pbvs")]:
        poses, applied = episode.steps["world_T_cam"], episode.steps["twist_applied"].astype(np.float64)
        moved = integrate_twist(poses[:-1], applied[:-1], np.full(len(poses) - 1, float(episode.fixed["dt"])))
        moved[:, 2, 3] = np.maximum(moved[:, 2, 3], shop.config.env.min_height)
        np.testing.assert_allclose(poses[1:], moved, atol=1e-6)


def test_evaluations_run_on_the_suite_in_its_order(shop):
    suite = held_out_suite(shop.config).starts
    for i, episode in enumerate(done(shop, "evaluation", 3, 7, policy="pbvs"), start=3):
        assert episode.meta.scene == suite[i].scene.to_json()
        np.testing.assert_array_equal(episode.steps["world_T_cam"][0], suite[i].world_T_cam)
        np.testing.assert_array_equal(episode.fixed["goal_world_T_cam"], suite[i].goal_world_T_cam)
        wanted = pbvs_twist(relative_pose(suite[i].world_T_cam, suite[i].goal_world_T_cam), d_star=suite[i].d_star)
        np.testing.assert_allclose(episode.steps["action"][0], wanted, atol=1e-6)


def test_evaluations_of_the_learned_policy_are_deterministic_and_use_its_weights(shop, config, weights):
    found = done(shop, "evaluation", weights=weights)
    other = done(make_shop(config, some_weights(config, seed=6)), "evaluation")
    for a, b in zip(found, other, strict=True):
        assert a.meta.policy == "learned" and "z" not in a.steps
        np.testing.assert_array_equal(a.steps["world_T_cam"][0], b.steps["world_T_cam"][0])
        assert not np.allclose(a.steps["action"][0], b.steps["action"][0], atol=1e-4)


def test_a_task_past_the_end_of_the_suite_is_refused(shop):
    count = shop.config.evaluation.scenes
    with pytest.raises(ValueError, match=r"len\(starts\) = 2"):
        done(shop, "evaluation", count - 2, count + 2, policy="zero")
