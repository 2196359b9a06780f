import numpy as np
import pytest
import torch
from small_policy import IDS, NETWORK, SIDE, N

from actors.learned_policy import LearnedPolicy
from common.errors import CheckpointError
from common.networks.servo_net import ServoNet, encoder_sha256, initial_weights, set_weights
from common.protocols import Goal, Observation


def images(seed, n=N, side=SIDE):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def goal_of(rgb, **privileged):
    n = len(rgb)
    return Goal(rgb, privileged.get("mask"), np.ones((n, 4)), np.ones(n), privileged.get("pose"))


@pytest.fixture
def weights():
    found = initial_weights(NETWORK, 1)
    rng = np.random.default_rng(0)
    for name, array in found.items():
        if name.startswith(("policy.", "value.")):
            found[name] = (array + rng.normal(scale=0.3, size=array.shape)).astype(np.float32)
    return found


@pytest.fixture
def policy(weights):
    made = LearnedPolicy(NETWORK)
    made.set_weights(weights)
    made.reset(IDS, goal_of(images(1)))
    return made


def test_answers_are_those_of_the_network(policy, weights):
    net = ServoNet(NETWORK).eval()
    set_weights(net, weights)
    with torch.no_grad():
        z = net(torch.from_numpy(images(2)), torch.from_numpy(images(1))).z
        inputs, value = net.action_dist_inputs(z), net.value(z)
    out = policy.act(IDS, Observation(images(2)))
    for name, wanted in (("z", z), ("action_dist_inputs", inputs), ("value", value)):
        np.testing.assert_allclose(out.aux[name], wanted.numpy(), atol=1e-5, err_msg=name)
        assert out.aux[name].dtype == np.float32
    np.testing.assert_array_equal(out.twist, out.aux["action_dist_inputs"][:, :6])
    assert out.twist.dtype == np.float32 and out.stop.dtype == bool and not out.stop.any()


def test_the_network_of_these_tests_sees_something(policy):
    a, b = policy.act(IDS, Observation(images(2))), policy.act(IDS, Observation(images(3)))
    assert np.abs(a.twist - b.twist).min(axis=0).max() > 1e-4
    assert np.ptp(a.aux["value"]) > 1e-4


def test_noise_is_scaled_by_the_std_and_its_density_reported(policy, weights):
    noise = np.random.default_rng(0).standard_normal((N, 6)).astype(np.float32)
    out = policy.act(IDS, Observation(images(2)), noise)
    still = policy.act(IDS, Observation(images(2)))
    std = np.exp(weights["log_std"])
    np.testing.assert_array_equal(out.aux["action_dist_inputs"], still.aux["action_dist_inputs"])
    np.testing.assert_allclose(out.twist, still.twist + std * noise, atol=1e-6)
    density = -0.5 * noise.astype(np.float64) ** 2 - np.log(std) - 0.5 * np.log(2.0 * np.pi)
    np.testing.assert_allclose(out.aux["logp"], density.sum(axis=1), atol=1e-5)
    np.testing.assert_allclose(still.aux["logp"], -np.sum(weights["log_std"]) - 3.0 * np.log(2.0 * np.pi), atol=1e-5)


def test_every_environment_has_its_own_goal(policy):
    first = policy.act(IDS, Observation(images(2)))
    order = np.array([3, 0, 4, 2, 1])
    policy.reset(IDS, goal_of(images(1)[order]))
    shuffled = policy.act(IDS, Observation(images(2)[order]))
    np.testing.assert_allclose(shuffled.aux["z"], first.aux["z"][order], atol=1e-5)
    policy.reset(IDS, goal_of(images(1)[order]))
    mixed = policy.act(IDS, Observation(images(2)))
    assert np.abs(mixed.aux["z"] - first.aux["z"]).max(axis=1)[[0, 1, 2, 4]].min() > 1e-3


def test_goals_are_remembered_not_referred_to(policy):
    first = policy.act(IDS, Observation(images(2))).twist
    rgb = images(1)
    policy.reset(IDS, goal_of(rgb))
    rgb[:] = 0
    np.testing.assert_array_equal(policy.act(IDS, Observation(images(2))).twist, first)


def test_privileged_sight_changes_nothing(policy):
    first = policy.act(IDS, Observation(images(2)))
    poses, masks = np.random.default_rng(0).normal(size=(N, 4, 4)), np.ones((N, SIDE, SIDE), dtype=bool)
    policy.reset(IDS, goal_of(images(1), mask=masks, pose=poses))
    told = policy.act(IDS, Observation(images(2), masks, poses))
    for name in first.aux:
        np.testing.assert_array_equal(told.aux[name], first.aux[name])


def test_acting_leaves_no_trace(policy):
    before = torch.get_rng_state()
    first = policy.act(IDS, Observation(images(2)), np.ones((N, 6), np.float32))
    policy.act(IDS, Observation(images(3)))
    again = policy.act(IDS, Observation(images(2)), np.ones((N, 6), np.float32))
    for name in first.aux:
        np.testing.assert_array_equal(again.aux[name], first.aux[name])
    assert torch.equal(torch.get_rng_state(), before)


def test_the_encoder_hash_follows_the_encoder_and_nothing_else(policy, weights):
    first, z = policy.encoder_sha256, policy.act(IDS, Observation(images(2))).aux["z"]
    assert first == encoder_sha256(weights)
    head = weights | {name: array * 2 for name, array in weights.items() if name.startswith("policy.")}
    policy.set_weights(head)
    out = policy.act(IDS, Observation(images(2)))
    np.testing.assert_array_equal(out.aux["z"], z)
    assert policy.encoder_sha256 == first
    policy.set_weights(initial_weights(NETWORK, 2))
    policy.reset(IDS, goal_of(images(1)))
    assert policy.encoder_sha256 != first
    assert not np.allclose(policy.act(IDS, Observation(images(2))).aux["z"], z, atol=1e-3)


def test_weights_of_another_network_are_refused_and_change_nothing(policy, weights):
    first = policy.act(IDS, Observation(images(2))).twist
    for bad in (weights | {"surplus": np.zeros(1)}, weights | {"log_std": np.zeros(5, np.float32)}):
        with pytest.raises(CheckpointError, match="network weights"):
            policy.set_weights(bad)
    assert policy.encoder_sha256 == encoder_sha256(weights)
    np.testing.assert_array_equal(policy.act(IDS, Observation(images(2))).twist, first)


def test_acting_needs_the_environments_of_the_last_reset(policy):
    for wrong in (IDS[::-1], IDS[:3], IDS + 1):
        with pytest.raises(ValueError, match="env_ids must be those of the last reset"):
            policy.act(wrong, Observation(images(2, len(wrong))))
    with pytest.raises(ValueError, match="last reset"):
        LearnedPolicy(NETWORK).act(IDS, Observation(images(2)))


def test_images_of_another_size_are_refused(policy):
    with pytest.raises(ValueError, match=r"image = .* \(5, 40, 40, 3\): allowed is uint8 \(N, H, W, 3\), H = W = 32"):
        policy.act(IDS, Observation(images(2, side=40)))


def test_views_and_read_only_images_are_taken(policy):
    first = policy.act(IDS, Observation(images(2))).twist
    wide = np.repeat(images(2), 2, axis=2)[:, :, ::2]
    wide.flags.writeable = False
    np.testing.assert_array_equal(policy.act(IDS, Observation(wide)).twist, first)
