import dataclasses

import pytest
import torch
from torch.nn import functional

from common.config import NetworkConfig
from common.networks.gravity import gravity_centres
from common.networks.losses import matching_loss, regression_loss, segmentation_loss
from common.networks.matching_encoder import FineFeatures
from common.networks.servo_net import ServoNet

TINY = NetworkConfig(backbone="vit_tiny", vit_layers=2, match_layers=2, transformer_width=64, feature_dim=64)


def scenes(n, height, width, seed=0):
    """Smooth random pictures u8 (N, H, W, 3): the same content at every size."""
    coarse = torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    fine = functional.interpolate(coarse, (384, 384), mode="bicubic", align_corners=False).clamp(0, 1)
    return (functional.interpolate(fine, (height, width), mode="area") * 255).permute(0, 2, 3, 1).to(torch.uint8)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return ServoNet(TINY).eval()


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 96), (128, 128), (64, 96), (8, 16)])
def test_weights_of_one_resolution_run_at_others(net, height, width):
    with torch.inference_mode():
        out = net(scenes(2, height, width), scenes(2, height, width, 1))
        centres = gravity_centres(out)
    g, t = (height // 8, width // 8), height * width // 64
    assert out.z.shape == (2, 64) and out.match_logits.shape == (2, t, t)
    assert out.seg_logits.shape == out.goal_seg_logits.shape == (2, *g)
    assert out.displacement.shape == (2, t, 2) and out.confidence.shape == (2, t)
    assert all(torch.isfinite(getattr(out, f.name)).all() for f in dataclasses.fields(out))
    assert all(torch.isfinite(part).all() for part in centres)


@pytest.mark.parametrize(("height", "width"), [(96, 96), (128, 128), (96, 64)])
def test_the_same_content_at_another_resolution_gives_nearly_the_same_z(net, height, width):
    """Within a quarter of z (a patch of the finer image sees half as much); another scene is over twice as far."""
    with torch.inference_mode():
        z = net(scenes(4, 64, 64), scenes(4, 64, 64, 1)).z
        same = net(scenes(4, height, width), scenes(4, height, width, 1)).z
    off = (same - z).norm(dim=1) / z.norm(dim=1)
    apart = (z.roll(1, 0) - z).norm(dim=1) / z.norm(dim=1)
    assert off.max() < 0.25 and apart.min() > 2 * off.max()


def test_kept_goal_features_give_the_same_bits(net):
    current, goal = scenes(3, 64, 64), scenes(3, 64, 64, 1)
    with torch.inference_mode():
        kept = net.encode_image(goal)
        joint, cached = net(current, goal), net.fuse(net.encode_image(current), kept)
        assert all(torch.equal(getattr(joint, f.name), getattr(cached, f.name)) for f in dataclasses.fields(joint))
        index = torch.tensor([2, 0, 0])
        gathered = net.fuse(net.encode_image(current), kept.gather(index)).z
        torch.testing.assert_close(gathered, net(current, goal[index]).z)


def test_a_batch_equals_its_rows_alone(net):
    current, goal = scenes(3, 64, 64), scenes(3, 64, 64, 1)
    with torch.inference_mode():
        together = net(current, goal).z
        alone = torch.cat([net(current[i : i + 1], goal[i : i + 1]).z for i in range(3)])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)


@pytest.mark.parametrize("bad", [(60, 64, 3), (64, 64, 4), (4, 64, 3), (64, 3)])
def test_images_that_are_no_multiple_of_the_patch_are_named(net, bad):
    with pytest.raises(ValueError, match=r"allowed is uint8 \(N, H, W, 3\), sides multiples of 8"):
        net.encode_image(torch.zeros(1, *bad, dtype=torch.uint8))


def test_goals_of_another_size_are_refused(net):
    with pytest.raises(ValueError, match=r"goal token grid = \(8, 12\): allowed is .*\(8, 8\)"):
        net.fuse(net.encode_image(scenes(1, 64, 64)), net.encode_image(scenes(1, 64, 96)))


def losses(net, height, width):
    """All that imitation learns from, of random labels."""
    torch.manual_seed(0)
    n, stride = 3, 8
    out = net(scenes(n, height, width), scenes(n, height, width, 1))
    terms = regression_loss(net.regress(out.z), torch.randn(n, 6), torch.ones(n, dtype=torch.bool))
    mask = torch.rand(n, height, width) > 0.5
    loss = terms.norm + terms.direction + segmentation_loss(out.seg_logits, mask)
    loss = loss + segmentation_loss(out.goal_seg_logits, ~mask)
    loss = loss + matching_loss(out.match_logits, torch.rand(n, height // stride, width // stride, 2))
    noise = torch.randn(n, 2, 6)
    return loss + net.diffusion_loss(out.z, torch.randn(n, 6), torch.randint(0, 50, (n, 2)), noise)


@pytest.mark.parametrize("change", [{}, {"matching": "raw_score"}, {"matching": "explicit"}, {"geometry_block": False}])
def test_the_losses_reach_every_parameter_of_encoder_policy_and_diffusion(change):
    torch.manual_seed(0)
    net = ServoNet(dataclasses.replace(TINY, **change))
    losses(net, 64, 64).backward()
    reached = {name for name, p in net.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    wanted = {n for n, _ in net.named_parameters() if n.startswith(("encoder.", "policy.", "diffusion."))}
    assert reached == wanted


def test_images_that_are_not_square_can_be_learned_from(net):
    loss = losses(net, 64, 32)
    loss.backward()
    assert torch.isfinite(loss) and all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
    net.zero_grad(set_to_none=True)


def test_ten_steps_learn_any_matches_of_a_pair():
    """Noise images whose tokens belong together in random order: from worse than knowing nothing, log T, to sure."""
    torch.manual_seed(0)
    small = ServoNet(dataclasses.replace(TINY, match_grid=4, vit_layers=1, match_layers=1))
    optimizer = torch.optim.AdamW(small.parameters(), 1e-3)
    current, goal = (torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8) for _ in range(2))
    place = torch.stack([torch.randperm(16) for _ in range(2)])
    match = ((torch.stack([place % 4, place // 4], dim=2) + 0.5) / 4).view(2, 4, 4, 2)
    losses = []
    for _ in range(10):
        losses.append(matching_loss(small(current, goal).match_logits, match))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[0] > 2.5 and losses[-1] < 0.1


def test_fine_features_lie_on_the_token_grid():
    for patch in (8, 14, 16):
        fine = FineFeatures(8, patch)
        assert fine(scenes(1, 2 * patch, 3 * patch)).shape == (1, 8, 2, 3)
    torch.nn.init.zeros_(fine.conv2.weight)  # the norm sees the whole image, so what it norms is taken out
    one = scenes(1, 32, 48)
    assert (fine(one) - fine(255 - one)).abs().max() < 1e-6
    seen = torch.zeros(1, 8, 16, 24)
    seen[:, :, 8:, 16:] = 1.0
    assert (fine.gather(seen) - fine.gather(0 * seen)).abs().sum(1)[0].gt(1e-6).tolist() == [
        [False] * 3,
        [False, False, True],
    ]


def test_z_sees_the_goal_and_the_fine_features(net):
    current, goal = scenes(1, 64, 64), scenes(1, 64, 64, 1)
    with torch.inference_mode():
        here, there = net.encode_image(current), net.encode_image(goal)
        z = net.fuse(here, there).z
        assert (net.fuse(here, here).z - z).abs().max() > 0.05
        for which in ("tokens", "descriptors", "seg_logits"):
            for side in (here, there):
                moved = dataclasses.replace(side, **{which: getattr(side, which).flip(-1) + 1.0})
                other = net.fuse(moved, there) if side is here else net.fuse(here, moved)
                assert (other.z - z).abs().max() > 1e-4, which


def test_every_token_knows_where_it_is(net):
    """The last inputs of the fusion: (x, y) of the centres of a grid of one row and two columns, then of two rows."""
    seen = []
    handle = net.encoder.mix.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][0, :, -2:]))
    with torch.inference_mode():
        for height, width in ((8, 16), (16, 8)):
            net(scenes(1, height, width), scenes(1, height, width, 1))
    handle.remove()
    assert seen[0].tolist() == [[-0.5, 0.0], [0.5, 0.0]] and seen[1].tolist() == [[0.0, -0.5], [0.0, 0.5]]


def test_pose_hypotheses_of_z_find_both_modes():
    """Two symmetric poses per scene, one pair for each of two encoded scenes: a head on z learns all four."""
    torch.manual_seed(0)
    net = ServoNet(dataclasses.replace(TINY, vit_layers=1, match_layers=1, diffusion_hidden=64))
    with torch.no_grad():
        z = net(scenes(2, 64, 64), scenes(2, 64, 64, 1)).z
    optimizer = torch.optim.Adam(net.diffusion.parameters(), 5e-3)
    row = torch.arange(64) % 2
    for _ in range(600):
        sign = torch.where(torch.rand(64) < 0.5, 1.0, -1.0)
        x0 = torch.zeros(64, 6)
        x0[:, 5] = sign * 0.6
        x0[:, 0] = torch.where(row == 0, 0.3, -0.3)
        loss = net.diffusion_loss(z[row], x0, torch.randint(0, 50, (64, 4)), torch.randn(64, 4, 6))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        noise = torch.randn(2, 200, 6)
        found = net.pose_hypotheses(z, noise, steps=25)
        assert torch.equal(found, net.pose_hypotheses(z, noise, steps=25))
    near = ((found[..., 5].abs() - 0.6).abs() < 0.2).float().mean(dim=1)
    upper = (found[..., 5] > 0).float().mean(dim=1)
    assert (near > 0.7).all() and (upper > 0.2).all() and (upper < 0.8).all()
    torch.testing.assert_close(found[..., 0].median(dim=1).values, torch.tensor([0.3, -0.3]), atol=0.1, rtol=0)
    without = ServoNet(dataclasses.replace(TINY, vit_layers=1, match_layers=1, diffusion=False))
    with pytest.raises(ValueError, match=r"network\.diffusion = False"):
        without.pose_hypotheses(z, noise)
