import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.control import MODE_RADIUS, choose_hypothesis, image_offset, is_far, steer
from common.servo import denormalise_twist, hybrid_twist, pbvs_inverse

RNG = np.random.default_rng(0)
TWISTS = RNG.normal(scale=0.4, size=(6, 6))


def test_offsets_are_in_image_sides_and_a_tenth_is_the_distance_of_the_paper():
    # 16 x 16 patches of a square image: 0.1 sqrt(256) = 1.6 patches are 1.6 / 16 of the side, 0.2 of the way -1 .. 1.
    np.testing.assert_allclose(image_offset([[0.0, 0.0], [0.1, 0.3]], [[0.2, 0.0], [0.1, 0.3]], (64, 64)), [0.1, 0.0])
    # 32 rows of 64: the side is sqrt(32 * 64); half the width is 32 pixels, half the height 16.
    wide = image_offset([[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]], (32, 64))
    np.testing.assert_allclose(wide, np.array([32.0, 16.0]) / np.sqrt(32 * 64))


def test_the_hybrid_law_starts_above_the_near_threshold_and_again_only_above_the_far_one():
    offset = np.array([0.09, 0.10, 0.11, 0.09, 0.11, 0.15, 0.16])
    was_near = np.array([False, False, False, True, True, True, True])
    far = is_far(offset, was_near, 0.1, 0.15)
    assert far.tolist() == [False, False, True, False, False, False, True]
    with pytest.raises(ValueError, match=r"far = 0.05: allowed is >= near = 0.1"):
        is_far(offset, was_near, 0.1, 0.05)


def switches(noise, near, far):
    was_near = np.zeros(1, dtype=bool)
    seen = []
    for k, n in enumerate(noise):
        now = is_far(np.array([0.4 * np.exp(-0.03 * k) + n]), was_near, near, far)
        seen.append(bool(now[0]))
        was_near = ~now
    return sum(a != b for a, b in itertools.pairwise(seen))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-0.024, 0.024), min_size=100, max_size=100))
def test_noise_smaller_than_the_gap_between_the_thresholds_makes_the_law_switch_only_once(noise):
    assert switches(noise, 0.1, 0.15) == 1


def test_one_threshold_alone_would_chatter():
    noise = np.random.default_rng(0).uniform(-0.024, 0.024, 150)
    assert switches(noise, 0.1, 0.1) > 3


def test_the_training_camera_and_no_hybrid_law_change_no_bit():
    assert np.array_equal(steer(TWISTS, 1.0), TWISTS)
    assert np.array_equal(steer(TWISTS, np.ones(6), far=np.zeros(6, dtype=bool)), TWISTS)


@pytest.mark.parametrize("ratio", [1.0, 1.5])
def test_far_environments_take_the_hybrid_law_on_the_pose_of_the_camera_at_hand(ratio):
    center, goal = RNG.uniform(-0.3, 0.3, (6, 2)), RNG.uniform(-0.1, 0.1, (6, 2))
    far = np.array([True, False] * 3)
    out = steer(TWISTS, ratio, center, goal, far)
    here = denormalise_twist(TWISTS, 1.0, ratio)
    assert np.array_equal(out[1::2], here[1::2])
    np.testing.assert_allclose(out[::2], hybrid_twist(pbvs_inverse(here), center, goal)[::2])
    # Both laws take the camera along the same straight line; they differ in how it turns.
    np.testing.assert_allclose(out[:, :3], here[:, :3], atol=1e-9)
    assert np.abs(out - here)[::2, 3:].max(axis=1).min() > 1e-2


def test_the_hybrid_law_needs_the_gravity_centres():
    with pytest.raises(ValueError, match="center = None: allowed is gravity centres"):
        steer(TWISTS, 1.0, far=np.ones(6, dtype=bool))


def two_modes(small=0.3, large=1.0, few=5, many=10):
    """A mode of `few` hypotheses with little motion and one of `many` with much, and their means."""
    rng = np.random.default_rng(3)
    axis = np.array([0.0, 0, 0, 0, 0, 1.0])
    a, b = small * axis + rng.normal(scale=0.02, size=(few, 6)), -large * axis + rng.normal(scale=0.02, size=(many, 6))
    return np.concatenate([b, a]), a.mean(axis=0), b.mean(axis=0)


def test_the_nearest_hypothesis_is_one_of_them_and_nearest():
    x = RNG.normal(size=(3, 8, 6))
    wanted = RNG.normal(size=(3, 6))
    chosen, spread = choose_hypothesis(x, wanted, "nearest")
    for n in range(3):
        distances = [float(np.linalg.norm(h - wanted[n])) for h in x[n]]
        assert np.array_equal(chosen[n], x[n][int(np.argmin(distances))])
        mean = sum(x[n]) / 8
        assert spread[n] == pytest.approx(np.sqrt(sum(float((h - mean) @ (h - mean)) for h in x[n]) / 8))


def test_the_mode_of_the_least_motion_wins_though_another_has_more_hypotheses():
    x, small, large = two_modes()
    chosen, _ = choose_hypothesis(x[None], large[None], "smallest")
    np.testing.assert_allclose(chosen[0], small, atol=1e-12)
    nearest, _ = choose_hypothesis(x[None], large[None], "nearest")
    assert np.linalg.norm(nearest[0] - large) < 0.1


def test_a_stray_hypothesis_is_no_mode():
    x, _, large = two_modes(few=1)
    assert np.linalg.norm(x[-1]) < 0.5 < 1.0 - MODE_RADIUS
    chosen, _ = choose_hypothesis(x[None], np.zeros((1, 6)), "smallest")
    np.testing.assert_allclose(chosen[0], large, atol=1e-12)


def test_hypotheses_that_agree_have_no_spread_and_other_choices_are_refused():
    same = np.broadcast_to(TWISTS[:, None], (6, 4, 6))
    for pick in ("nearest", "smallest"):
        chosen, spread = choose_hypothesis(same, np.zeros((6, 6)), pick)
        np.testing.assert_allclose(chosen, TWISTS)
        np.testing.assert_allclose(spread, 0.0, atol=1e-12)
    with pytest.raises(ValueError, match=r"pick = 'mean': allowed is nearest\|smallest"):
        choose_hypothesis(same, TWISTS, "mean")
