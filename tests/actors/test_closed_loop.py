import dataclasses

import numpy as np
import pytest
from small_policy import IDS, NETWORK, SIDE, N

from actors.closed_loop import ClosedLoopPolicy
from actors.learned_policy import LearnedPolicy
from common.config import EvaluationConfig
from common.control import choose_hypothesis, image_offset, steer
from common.errors import ConfigError
from common.networks.gravity import gravity_centres
from common.networks.servo_net import initial_weights
from common.protocols import Goal, Observation
from common.rng import Purpose, philox
from common.servo import denormalise_twist

FOCAL = 34.0


def images(seed, n=N):
    return np.random.default_rng(seed).integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8)


def goal_of(rgb, focal=FOCAL):
    n = len(rgb)
    return Goal(rgb, None, np.tile([focal, focal, 0.5 * SIDE, 0.5 * SIDE], (n, 1)), np.full(n, 0.7))


@pytest.fixture(scope="module")
def net():
    weights = initial_weights(NETWORK, 1)
    rng = np.random.default_rng(0)
    for name, array in weights.items():
        if name.startswith(("policy.", "diffusion.")):
            weights[name] = (array + rng.normal(scale=0.3, size=array.shape)).astype(np.float32)
    policy = LearnedPolicy(NETWORK)
    policy.set_weights(weights)
    return policy


def steered(net, first_env=0, seed=7, focal=FOCAL, **settings):
    policy = ClosedLoopPolicy(net, EvaluationConfig(**settings), seed=seed, first_env=first_env)
    policy.reset(IDS, goal_of(images(1), focal))
    return policy


def act(policy, seed=2):
    return policy.act(IDS, Observation(images(seed)))


def own_twist(net, seed=2):
    net.reset(IDS, goal_of(images(1)))
    return net.act(IDS, Observation(images(seed))).twist


def test_by_default_the_twist_of_the_network_goes_out_to_the_bit(net):
    out = act(steered(net))
    assert np.array_equal(out.twist, own_twist(net)) and out.twist.dtype == np.float32
    net.reset(IDS, goal_of(images(1)))
    assert set(out.aux) == set(net.act(IDS, Observation(images(2))).aux)


@pytest.mark.parametrize("scale", [0.5, 1.5])
def test_another_focal_length_is_applied_once_and_the_distance_left_to_the_environment(net, scale):
    out = act(steered(net, focal=FOCAL * scale, focal_scale=scale, distance_scale=scale))
    wanted = denormalise_twist(own_twist(net), 1.0, scale)
    np.testing.assert_allclose(out.twist, wanted, atol=1e-6)
    assert np.abs(out.twist - own_twist(net)).max() > 1e-2
    assert np.abs(out.twist - denormalise_twist(wanted, 1.0, scale)).max() > 1e-2


def test_told_nothing_the_policy_moves_as_in_the_unscaled_world(net):
    out = act(steered(net, focal=1.5 * FOCAL, focal_scale=1.5, distance_scale=0.5, denormalise=False))
    # The environment multiplies by d*, half of the unscaled one: in metres it is the unscaled motion.
    np.testing.assert_allclose(out.twist * [0.5, 0.5, 0.5, 1, 1, 1], own_twist(net), rtol=1e-6)


def test_features_of_the_goal_computed_again_at_every_step_give_the_same_twists(net):
    policy = steered(net)
    cached = [act(policy, seed).twist for seed in (2, 3, 4)]
    again = []
    for seed in (2, 3, 4):
        net.reset(IDS, goal_of(images(1)))
        again.append(net.act(IDS, Observation(images(seed))).twist)
    assert np.array_equal(np.stack(cached), np.stack(again))


def centres(net, seed=2):
    net.reset(IDS, goal_of(images(1)))
    current, goal, _ = gravity_centres(net.encode(IDS, Observation(images(seed))))
    return current.numpy().astype(np.float64), goal.numpy().astype(np.float64)


@pytest.mark.parametrize(("told", "focal"), [(True, 2.0 * FOCAL), (False, FOCAL)])
def test_the_hybrid_law_sees_the_centres_through_the_camera_it_is_told(net, told, focal):
    current, goal = centres(net)
    offset = image_offset(current, goal, (SIDE, SIDE))
    near = float(np.median(offset))
    settings = {"control": "hybrid", "hybrid_near": near, "hybrid_far": near, "denormalise": told}
    out = act(steered(net, focal=2.0 * FOCAL, focal_scale=2.0, **settings))
    far = offset > near
    assert far.any() and not far.all()
    assert np.array_equal(out.aux["hybrid"], far)
    np.testing.assert_allclose(out.aux["image_offset"], offset, rtol=1e-5)
    ratio, scale = (2.0 if told else 1.0), 0.5 * SIDE / focal
    wanted = steer(own_twist(net), ratio, current * scale, goal * scale, far)
    np.testing.assert_allclose(out.twist, wanted, atol=1e-5)
    direct = denormalise_twist(own_twist(net), 1.0, ratio)
    np.testing.assert_allclose(out.twist[~far], direct[~far], atol=1e-6)
    assert np.abs(out.twist - direct)[far].max() > 1e-3


def test_each_environment_remembers_that_it_was_near_until_its_next_episode(net):
    first, second = (image_offset(*centres(net, seed), (SIDE, SIDE)) for seed in (2, 3))
    # Near at the first picture, between the two thresholds at the second.
    env = int(np.argmax(second - first))
    assert second[env] > first[env]
    near, far = 0.5 * (first[env] + second[env]), 2.0 * second[env]
    policy = steered(net, control="hybrid", hybrid_near=near, hybrid_far=far)
    assert not act(policy, 2).aux["hybrid"][env] and not act(policy, 3).aux["hybrid"][env]
    policy.reset(IDS, goal_of(images(1)))
    assert act(policy, 3).aux["hybrid"][env]


def test_hypotheses_come_from_the_diffusion_head_with_noise_of_their_own_key(net):
    policy = steered(net, control_source="diffusion", hypotheses=6, ddim_steps=4)
    outs = [act(policy), act(policy)]
    net.reset(IDS, goal_of(images(1)))
    encoding = net.encode(IDS, Observation(images(2)))
    for step, out in enumerate(outs):
        streams = [philox(7, Purpose.HYPOTHESES, env=e, step=step) for e in range(N)]
        noise = np.stack([s.standard_normal((6, 6), dtype=np.float32) for s in streams])
        poses = net.hypotheses(encoding, noise, 4)
        wanted, spread = choose_hypothesis(poses, own_twist(net), "nearest")
        np.testing.assert_allclose(out.twist, wanted, atol=1e-6)
        np.testing.assert_allclose(out.aux["hypothesis_spread"], spread, rtol=1e-5)
    assert np.abs(outs[0].twist - outs[1].twist).max() > 1e-4
    assert np.array_equal(
        act(steered(net, control_source="diffusion", hypotheses=6, ddim_steps=4)).twist, outs[0].twist
    )


def test_hypotheses_do_not_depend_on_how_environments_are_cut_into_tasks(net):
    settings = {"control_source": "diffusion", "hypotheses": 4, "ddim_steps": 3, "hypothesis_pick": "smallest"}
    whole = act(steered(net, **settings))
    for first_env, same in ((3, True), (2, False)):
        part = ClosedLoopPolicy(net, EvaluationConfig(**settings), seed=7, first_env=first_env)
        part.reset(np.arange(2), goal_of(images(1)[3:]))
        out = part.act(np.arange(2), Observation(images(2)[3:]))
        assert np.allclose(out.twist, whole.twist[3:], atol=1e-4) == same


def test_a_network_without_the_diffusion_head_cannot_be_asked_for_hypotheses():
    bare = LearnedPolicy(dataclasses.replace(NETWORK, diffusion=False))
    with pytest.raises(ConfigError, match=r"network.diffusion = False: allowed is True"):
        act(steered(bare, control_source="diffusion"))
