import colorsys
import dataclasses

import numpy as np
import pytest
import torch
from learner_data import raw_batch, run_config

from common.config import JitterConfig
from common.networks.servo_net import get_weights
from learner.jitter import any_jitter, draw_jitter, jittered
from learner.learners import build_learner


def images(n=3, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(60, 190, (n, 5, 4, 3), dtype=np.uint8))


def draws(**changes):
    values = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0} | changes
    return torch.tensor([list(values.values())]).repeat(3, 1)


def test_neutral_draws_leave_the_bytes_as_they_are():
    assert torch.equal(jittered(images(), draws()), images())
    assert not any_jitter(JitterConfig()) and any_jitter(JitterConfig(hue=0.1))


def test_each_draw_does_what_its_name_says():
    rgb, grey = images(), torch.tensor([0.299, 0.587, 0.114])
    x = rgb.numpy().astype(np.float64)
    np.testing.assert_allclose(jittered(rgb, draws(brightness=0.5)).numpy(), 0.5 * x, atol=0.51)
    mean = (x @ grey.numpy()).mean(axis=(1, 2))[:, None, None, None]
    np.testing.assert_allclose(jittered(rgb, draws(contrast=0.2)).numpy(), mean + 0.2 * (x - mean), atol=0.51)
    flat = jittered(rgb, draws(saturation=0.0)).numpy()
    assert np.ptp(flat, axis=3).max() == 0
    assert np.abs(flat[..., 0] - x @ grey.numpy()).max() < 0.51


def test_a_third_of_a_turn_of_hue_swaps_the_channels():
    rgb = images()
    turned = jittered(rgb, draws(hue=2 * np.pi / 3))
    np.testing.assert_allclose(turned.numpy(), rgb.roll(1, dims=3).numpy(), atol=0.51)
    red = torch.tensor([[[[180, 60, 60]]]], dtype=torch.uint8)
    hue = colorsys.rgb_to_hsv(*(jittered(red, draws(hue=0.5)[:1])[0, 0, 0].numpy() / 255.0))[0]
    assert hue == pytest.approx(0.5 / (2 * np.pi), abs=0.02)


def test_what_leaves_the_range_is_clamped():
    assert jittered(images(), draws(brightness=9.0)).min() == 255


def test_draws_stay_in_their_ranges_and_differ_between_images():
    settings = JitterConfig(brightness=0.2, contrast=0.4, hue=0.1)
    found = draw_jitter(500, settings, torch.Generator().manual_seed(0))
    low, high = found.min(0).values, found.max(0).values
    assert torch.allclose(low, torch.tensor([0.8, 0.6, 1.0, -0.2 * np.pi]), atol=0.02)
    assert torch.allclose(high, torch.tensor([1.2, 1.4, 1.0, 0.2 * np.pi]), atol=0.02)
    assert len(found[:, 0].unique()) > 450


def jittering():
    config = run_config()
    config.phases["il"].imitation.jitter = JitterConfig(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1)
    return config


def test_current_and_goal_images_are_jittered_each_for_itself():
    learner = build_learner(jittering(), "il")
    seen = []
    encode = learner.net.encode_image
    learner.net.encode_image = lambda rgb: (seen.append(rgb), encode(rgb))[1]
    batch = raw_batch(rows=4, episodes=4)
    batch["goal_image"] = batch["image"].copy()
    learner.update(batch)
    goal, current = seen
    assert goal.dtype == current.dtype == torch.uint8
    stored = torch.from_numpy(batch["image"])
    assert not any(torch.equal(x, y) for x, y in ((goal, current), (goal, stored), (current, stored)))


@pytest.mark.parametrize("parts", [1, 2])
def test_jitter_follows_the_learners_generator_through_a_resume(parts):
    config = jittering()
    config.learner = dataclasses.replace(config.learner, accumulation=parts)
    learner = build_learner(config, "il")
    learner.update(raw_batch(1))
    arrays, state = learner.state()
    learner.update(raw_batch(2))
    resumed = build_learner(config, "il")
    resumed.load_state(arrays, state)
    resumed.update(raw_batch(2))
    a, b = get_weights(learner.net), get_weights(resumed.net)
    assert all(np.array_equal(a[k], b[k]) for k in a)
