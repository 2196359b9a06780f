"""The programs themselves, as a user of torch alone calls them."""

import pytest
import torch

from common.config import NetworkConfig
from common.networks.exported_programs import trace_programs
from common.networks.servo_net import ServoNet


@pytest.fixture(scope="module")
def programs(exported):
    return exported.policy.encode, exported.policy.run


def inputs(exported, n):
    frames = exported.frames
    image, desired = torch.from_numpy(frames.rgb[:n]), torch.from_numpy(frames.goal_rgb[:n])
    k = torch.tensor(exported.manifest["training_intrinsics"], dtype=torch.float64).repeat(n, 1)
    return image, desired, k, torch.full((n,), 0.7, dtype=torch.float64), torch.ones(n, dtype=torch.float64)


def test_the_batch_is_free_and_the_goal_is_encoded_apart(exported, programs):
    goal, policy = programs
    image, desired, k, d_star, gain = inputs(exported, 5)
    with torch.no_grad():
        command, twist = policy(image, goal(desired), k, d_star, gain)
        one, _ = policy(image[:1], goal(desired[:1]), k[:1], d_star[:1], gain[:1])
    torch.testing.assert_close(one, command[:1], atol=1e-5, rtol=0.0)
    # At the training camera only the distance scales, and rotation stays to the bit.
    assert torch.equal(command[:, 3:], twist[:, 3:])
    torch.testing.assert_close(command[:, :3], 0.7 * twist[:, :3])


def test_inputs_of_another_type_or_size_are_refused(exported, programs):
    goal, policy = programs
    image, desired, k, d_star, gain = inputs(exported, 2)
    with torch.no_grad():
        features = goal(desired)
        for wrong in (image.float(), image[:, :16], image[:1]):
            with pytest.raises((RuntimeError, AssertionError, ValueError)):
                policy(wrong, features, k, d_star, gain)


def test_a_camera_without_meaning_gives_no_motion(exported, programs):
    goal, policy = programs
    image, desired, k, d_star, gain = inputs(exported, 3)
    with torch.no_grad():
        features = goal(desired)
        k[0, :2] = 0.0
        d_star[1] = -1.0
        command, _ = policy(image, features, k, d_star, gain)
    assert command[:2].isnan().all() and command[2].isfinite().all()


def test_images_are_normalised_inside(exported, programs):
    """A program that took normalised floats would leave this to whoever writes the robot's loop."""
    image, desired, k, d_star, gain = inputs(exported, 2)
    goal, policy = programs
    with torch.no_grad():
        features = goal(desired)
        seen, _ = policy(image, features, k, d_star, gain)
        dark, _ = policy(image // 2, features, k, d_star, gain)
    assert image.dtype == torch.uint8 and (seen - dark).abs().max() > 1e-3


@pytest.mark.slow
def test_a_transformer_goes_through_with_a_free_batch():
    """Attention over pairs of images is where a trace likes to take the batch for a constant."""
    small = {"vit_layers": 1, "match_layers": 1, "fuse_layers": 1, "transformer_width": 16, "transformer_heads": 2}
    net = ServoNet(NetworkConfig(backbone="vit_tiny", match_grid=4, **small))
    goal, policy = (p.module() for p in trace_programs(net, 48, 50.0, 3.0))  # trained at 32 px, exported at 48
    for n in (1, 3):
        image = torch.arange(n * 48 * 48 * 3).view(n, 48, 48, 3).mul(7).remainder(251).to(torch.uint8)
        one = torch.ones(n, dtype=torch.float64)
        with torch.no_grad():
            command, _ = policy(image, goal(255 - image), 50.0 * one[:, None].expand(n, 4), one, one)
            wanted = net.twist(net(image, 255 - image).z)
        torch.testing.assert_close(command, wanted, atol=1e-5, rtol=0.0)
