import dataclasses

import numpy as np
import pytest
import torch

from common.config import NetworkConfig
from common.errors import CheckpointError
from common.networks.heads import POSE_SCALE, PoseDiffusion, cosine_alpha_bar
from common.networks.losses import matching_loss, regression_loss, segmentation_loss
from common.networks.servo_net import ServoNet, encoder_sha256, get_weights, set_weights

CONFIG = NetworkConfig()


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return ServoNet(CONFIG)


def images(n, seed=0, side=64):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8))


def test_parameters_have_the_prefixes_that_phases_train_by(net):
    names = [name for name, _ in net.named_parameters()]
    assert {name.split(".")[0] for name in names} == {"encoder", "diffusion", "policy", "log_std", "value"}
    assert "log_std" in names
    assert sum(p.numel() for p in net.encoder.parameters()) < 600_000
    assert not any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in net.modules())


def test_a_batch_equals_its_rows_alone(net):
    current, goal = images(5), images(5, 1)
    with torch.inference_mode():
        together = net(current, goal)
        for i in range(5):
            alone = net(current[i : i + 1], goal[i : i + 1])
            torch.testing.assert_close(alone.z[0], together.z[i], atol=1e-5, rtol=0)
            torch.testing.assert_close(net.twist(alone.z)[0], net.twist(together.z)[i], atol=1e-5, rtol=0)


def test_goal_features_can_be_kept_and_gathered(net):
    current, goals, index = images(4), images(2, 1), torch.tensor([1, 0, 0, 1])
    with torch.inference_mode():
        kept = net.encode_image(goals).gather(index)
        torch.testing.assert_close(net.fuse(net.encode_image(current), kept).z, net(current, goals[index]).z)


def test_shapes_and_dtypes(net):
    out = net(images(3), images(3, 1))
    shapes = {name: tuple(getattr(out, name).shape) for name in ("z", "match_logits", "seg_logits", "displacement")}
    assert shapes == {"z": (3, 256), "match_logits": (3, 64, 64), "seg_logits": (3, 8, 8), "displacement": (3, 64, 2)}
    assert out.z.dtype == torch.float32
    assert net.twist(out.z).shape == (3, 6) and net.value(out.z).shape == (3,)
    inputs = net.action_dist_inputs(out.z)
    torch.testing.assert_close(inputs[:, 6:], torch.full((3, 6), CONFIG.initial_log_std))
    torch.testing.assert_close(inputs[:, :6], net.twist(out.z))


@pytest.mark.parametrize("bad", [images(1).float(), images(1, side=32), images(1)[0]])
def test_wrong_images_are_named(net, bad):
    with pytest.raises(ValueError, match="uint8"):
        net.encode_image(bad)


@pytest.mark.parametrize("change", [{"match_grid": 5}, {"geometry_block": False}, {"anchors": 5}, {"diffusion": False}])
def test_other_configurations_work(change):
    config = dataclasses.replace(CONFIG, **change)
    net = ServoNet(config)
    side = 8 * config.match_grid
    out = net(images(2, side=side), images(2, 1, side=side))
    assert out.z.shape == (2, 256)
    if not config.diffusion:
        with pytest.raises(ValueError, match=r"network\.diffusion"):
            net.diffusion_loss(out.z, torch.zeros(2, 6), torch.zeros(2, 1, dtype=torch.long), torch.zeros(2, 1, 6))


def test_the_losses_reach_every_parameter_of_encoder_policy_and_diffusion(net):
    rng = np.random.default_rng(0)
    goals = net.encode_image(images(2, 1))
    out = net.fuse(net.encode_image(images(4)), goals.gather(torch.tensor([0, 0, 1, 1])))
    terms = regression_loss(net.regress(out.z), torch.randn(4, 6), torch.ones(4, dtype=torch.bool))
    mask = torch.from_numpy(rng.random((4, 64, 64)) > 0.5)
    loss = terms.norm + terms.direction + segmentation_loss(out.seg_logits, mask)
    loss = loss + matching_loss(out.match_logits, torch.rand(4, 8, 8, 2))
    loss = loss + net.diffusion_loss(out.z, torch.randn(4, 6), torch.randint(0, 50, (4, 2)), torch.randn(4, 2, 6))
    loss.backward()
    reached = {name for name, p in net.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    wanted = {n for n, _ in net.named_parameters() if n.startswith(("encoder.", "policy.", "diffusion."))}
    assert reached == wanted
    net.zero_grad(set_to_none=True)


def test_z_sees_where_the_goal_is(net):
    with torch.inference_mode():
        one, two = (net(images(1), images(1, seed)).z for seed in (1, 2))
    assert (one - two).abs().max() > 1e-2


def test_noise_schedule_falls_from_signal_to_noise():
    alpha_bar = cosine_alpha_bar(50)
    assert (alpha_bar.diff() < 0).all() and 0.99 < alpha_bar[0] < 1 and 0 < alpha_bar[-1] < 0.01


def test_diffusion_loss_is_the_l1_error_of_the_noise():
    """A predictor that knows x0 inverts eq. 2 exactly, and has no loss."""
    torch.manual_seed(0)
    head = PoseDiffusion(8, 16, 50)
    x0, level, noise = torch.randn(3, 6) * 0.3, torch.randint(0, 50, (3, 4)), torch.randn(3, 4, 6)

    def know(z, x, level):
        a = head.alpha_bar[level][..., None]
        return (x - a.sqrt() * POSE_SCALE * x0[:, None]) / (1 - a).sqrt()

    untrained = head.errors(torch.zeros(3, 8), x0, level, noise)
    head.predict_noise = know
    exact = head.errors(torch.zeros(3, 8), x0, level, noise)
    assert exact.max() < 1e-4 < untrained.mean()
    # The sampler, given the same predictor, finds x0 from any noise.
    found = head.sample(torch.zeros(3, 8), torch.randn(3, 5, 6), steps=10)
    torch.testing.assert_close(found, x0[:, None].expand(3, 5, 6), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="steps"):
        head.sample(torch.zeros(1, 8), torch.zeros(1, 1, 6), steps=51)


def test_weights_go_round_and_are_copies(net):
    weights = get_weights(net)
    assert all(isinstance(v, np.ndarray) and v.ndim > 0 for v in weights.values())
    other = ServoNet(CONFIG)
    set_weights(other, weights)
    with torch.inference_mode():
        torch.testing.assert_close(other(images(2), images(2, 1)).z, net(images(2), images(2, 1)).z, atol=0, rtol=0)
    weights["log_std"][:] = 7.0
    assert net.log_std.max() < 0 and other.log_std.max() < 0


def test_weights_that_do_not_fit_are_refused_and_nothing_is_loaded(net):
    other = ServoNet(CONFIG)
    before, weights = get_weights(other), get_weights(net)
    for spoil, name in (
        ({k: v for k, v in weights.items() if k != "log_std"}, "log_std"),
        ({**weights, "more": weights["log_std"]}, "more"),
        ({**weights, "log_std": np.zeros(5, np.float32)}, "log_std"),
        ({**weights, "log_std": np.zeros(6)}, "float64"),
    ):
        with pytest.raises(CheckpointError, match=name):
            set_weights(other, spoil)
    assert all(np.array_equal(before[k], v) for k, v in get_weights(other).items())


def test_encoder_hash_depends_on_the_encoder_alone(net):
    weights = get_weights(net)
    sha = encoder_sha256(weights)
    for name in weights:
        changed = {**weights, name: weights[name] + 1}
        assert (encoder_sha256(changed) == sha) == (not name.startswith("encoder."))
    with pytest.raises(CheckpointError, match="encoder"):
        encoder_sha256({"log_std": weights["log_std"]})
