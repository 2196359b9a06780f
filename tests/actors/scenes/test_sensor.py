import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.scenes.sensor import LUMA, RANGES, apply_sensor, check_sensor, sample_sensor
from common.errors import ConfigError, SceneError
from common.rng import Purpose, philox
from common.scene import Occluder, Sensor

RED_PATCH = Occluder("rectangle", (0.5, 0.5), (0.25, 0.25), 0.0, (1.0, 0.0, 0.0))


def flat(*color, size=(4, 4)):
    return np.tile(np.array(color, dtype=np.uint8), (1, *size, 1))


def sensed(rgb, seed=0, frame=0, **numbers):
    return apply_sensor(rgb, [Sensor(**numbers)] * len(rgb), [seed] * len(rgb), [frame] * len(rgb))


def picture(height=32, width=32, count=1, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def test_a_perfect_sensor_costs_nothing():
    rgb = picture(count=3)
    assert apply_sensor(rgb, [Sensor()] * 3, [0] * 3, [0] * 3) is rgb


def test_other_pictures_of_the_batch_stay_as_they_are():
    rgb = picture(count=3)
    before = rgb.copy()
    out = apply_sensor(rgb, [Sensor(), Sensor(exposure=0.5), Sensor()], [0] * 3, [0] * 3)
    np.testing.assert_array_equal(rgb, before)
    np.testing.assert_array_equal(out[[0, 2]], rgb[[0, 2]])
    np.testing.assert_allclose(out[1], rgb[1] * 0.5, atol=0.51)
    assert out.dtype == np.uint8


@pytest.mark.parametrize(
    ("numbers", "color", "wanted"),
    [
        ({"exposure": 1.5}, (100, 50, 200), (150, 75, 255)),
        # Middle grey is 127.5.
        ({"contrast": 0.5}, (100, 50, 200), (113.75, 88.75, 163.75)),
        ({"contrast": 2.0}, (100, 50, 200), (72.5, 0, 255)),
        # Brightness 0.299 * 100 + 0.587 * 50 + 0.114 * 200 = 82.05.
        ({"saturation": 0.0}, (100, 50, 200), (82.05, 82.05, 82.05)),
        ({"saturation": 0.5}, (100, 50, 200), (91.025, 66.025, 141.025)),
        ({"white_balance": (1.1, 1.0, 0.5)}, (100, 50, 200), (110, 50, 100)),
        # In order: 100 * 2 = 200; 127.5 + 72.5 / 2 = 163.75; grey stays; red by 1.2 is 196.5.
        (
            {"exposure": 2.0, "contrast": 0.5, "saturation": 0.3, "white_balance": (1.2, 1.0, 1.0)},
            (100, 100, 100),
            (196.5, 163.75, 163.75),
        ),
        # Clipped once, at the end: 200 * 2 = 400; 127.5 + 272.5 * 0.25 = 195.6.
        ({"exposure": 2.0, "contrast": 0.25}, (200, 200, 200), (195.625,) * 3),
    ],
)
def test_light_and_colour_by_hand(numbers, color, wanted):
    out = sensed(flat(*color), **numbers)
    np.testing.assert_allclose(out, flat(0, 0, 0) + np.round(wanted), atol=1)
    assert (out == out[:, :1, :1]).all()
    assert sum(LUMA) == pytest.approx(1.0)


def test_blur_is_a_gaussian_in_image_heights():
    """The edge of a step rises as the error function does."""
    rgb = flat(0, 0, 0, size=(64, 128)).copy()
    rgb[:, :, 64:] = 200
    out = sensed(rgb, blur=4.0 / 64.0)[0].astype(float)
    # 0.5 + 0.5 erf(x / (sigma sqrt 2)) at x = 4.5 px, sigma = 4 px, is 0.8697.
    assert out[32, 68, 0] == pytest.approx(200 * 0.8697, abs=2.0)
    assert (out == out[:1]).all() and out[0, 0, 0] == 0 and out[0, -1, 0] == 200


def mean_over(image, factor):
    n, h, w, c = image.shape
    return image.reshape(n, h // factor, factor, w // factor, factor, c).mean(axis=(2, 4))


@pytest.mark.parametrize(
    "numbers",
    [
        {"blur": 0.05},
        {"occluders": (Occluder("rectangle", (0.4, 0.6), (0.3, 0.1), 0.5, (0.9, 0.2, 0.1)),)},
        {"occluders": (Occluder("ellipse", (0.7, 0.3), (0.1, 0.3), -1.0, (0.0, 0.2, 0.9)),)},
    ],
    ids=["blur", "rectangle", "ellipse"],
)
def test_blur_and_occluders_look_the_same_at_every_resolution(numbers):
    coarse = np.repeat(np.repeat(picture(8, 12), 8, axis=1), 8, axis=2)
    fine = np.repeat(np.repeat(coarse, 4, axis=1), 4, axis=2)
    small, large = sensed(coarse, **numbers), mean_over(sensed(fine, **numbers), 4)
    changed = np.abs(small.astype(float) - coarse).mean()
    assert np.abs(large - small).mean() < 0.08 * changed


def test_an_occluder_by_hand():
    out = sensed(flat(9, 9, 9, size=(8, 16)), occluders=(RED_PATCH,))[0]
    # Its centre is in the image's centre; a quarter of the height, 2 px, to each side.
    wanted = np.full((8, 16, 3), 9)
    wanted[2:6, 6:10] = (255, 0, 0)
    np.testing.assert_array_equal(out, wanted)


def test_an_occluder_turns_clockwise():
    # A long patch along x, turned by 45 deg clockwise, goes down where it goes right.
    bar = dataclasses.replace(RED_PATCH, size=(0.5, 0.05), angle=np.pi / 4)
    hit = sensed(flat(0, 0, 0, size=(32, 64)), occluders=(bar,))[0, ..., 0] > 0
    rows, columns = np.nonzero(hit)
    assert np.corrcoef(rows, columns)[0, 1] > 0.95
    # Not sheared by the wide image: its slope is one pixel per pixel.
    assert np.ptp(rows) == pytest.approx(np.ptp(columns), abs=1)


def test_an_ellipse_is_round_and_a_later_patch_covers_an_earlier():
    disc = Occluder("ellipse", (0.5, 0.5), (0.25, 0.25), 0.3, (0.0, 1.0, 0.0))
    out = sensed(flat(0, 0, 0, size=(64, 64)), occluders=(RED_PATCH, disc))[0]
    green, red = (out[..., 1] == 255).sum(), (out[..., 0] == 255).sum()
    assert green == pytest.approx(np.pi * 16**2, rel=0.03)
    assert green + red == 32 * 32


def test_patches_are_blurred_with_the_scene_and_noise_comes_last():
    edge = sensed(flat(0, 0, 0, size=(32, 32)), occluders=(RED_PATCH,), blur=0.05)
    assert len(np.unique(edge[..., 0])) > 10
    noisy = sensed(flat(100, 100, 100, size=(64, 64)), noise=0.04, blur=0.1, exposure=0.5, saturation=0.0)
    # Exposure, blur and saturation would have calmed or mixed it.
    assert noisy.std() == pytest.approx(0.04 * 255, rel=0.1)
    assert np.abs(np.corrcoef(noisy[0].reshape(-1, 3).T) - np.eye(3)).max() < 0.1


def test_noise_is_a_function_of_seed_and_frame():
    grey = flat(128, 128, 128, size=(64, 64))
    first = sensed(grey, seed=3, frame=5, noise=0.02)
    np.testing.assert_array_equal(sensed(grey, seed=3, frame=5, noise=0.02), first)
    for other in (sensed(grey, seed=4, frame=5, noise=0.02), sensed(grey, seed=3, frame=6, noise=0.02)):
        spread = [first.astype(float).ravel() - 128, other.astype(float).ravel() - 128]
        assert abs(np.corrcoef(spread)[0, 1]) < 0.05
    assert (first.astype(float) - 128).mean() == pytest.approx(0.0, abs=0.3)
    # Nor does the place in the batch matter.
    mixed = apply_sensor(np.concatenate([grey] * 2), [Sensor(), Sensor(noise=0.02)], [1, 3], [0, 5])
    np.testing.assert_array_equal(mixed[1], first[0])


def test_lengths_must_agree():
    with pytest.raises(ValueError, match=r"= \(2, 1, 1\): allowed is len\(rgb\) = 1"):
        apply_sensor(flat(0, 0, 0), [Sensor()] * 2, [0], [0])


@pytest.mark.parametrize("strength", RANGES)
def test_drawn_sensors_are_valid_and_varied(strength):
    span = RANGES[strength]
    drawn = [sample_sensor(philox(1, Purpose.LOOK, env=i), strength) for i in range(300)]
    for s in drawn:
        check_sensor(s)
        assert 0.0 <= s.blur <= span.blur and 0.0 <= s.noise <= span.noise and len(s.occluders) <= span.occluders
        assert all(span.size[0] <= h <= span.size[1] for o in s.occluders for h in o.size)
        assert abs(np.log(s.exposure)) <= span.exposure + 1e-4
    for name in ("blur", "noise", "exposure", "contrast", "saturation"):
        assert len({getattr(s, name) for s in drawn}) > 20
    assert {len(s.occluders) for s in drawn} == set(range(span.occluders + 1))
    assert {o.kind for s in drawn for o in s.occluders} == {"rectangle", "ellipse"}
    # No number has more than four digits after the point: another maths library writes the same record.
    numbers = [v for s in drawn for v in (s.blur, s.exposure, s.noise, *s.white_balance)]
    assert all(v == round(v, 4) for v in numbers)
    np.testing.assert_allclose(np.mean([np.log(s.exposure) for s in drawn]), 0.0, atol=0.2 * span.exposure)


def test_strengths():
    assert sample_sensor(philox(0, Purpose.LOOK), "none") == Sensor()
    for mild, strong in itertools.starmap(lambda *v: v, zip(*map(dataclasses.astuple, RANGES.values()), strict=True)):
        assert np.all(np.array(mild) < np.array(strong))
    with pytest.raises(ConfigError, match=r"scenes\.sensor = 'wild': allowed is one of \('none', 'mild', 'strong'\)"):
        sample_sensor(philox(0, Purpose.LOOK), "wild")


@given(st.integers(0, 2**32), st.sampled_from(list(RANGES)))
def test_a_drawn_sensor_is_a_function_of_its_stream(seed, strength):
    assert sample_sensor(philox(seed, Purpose.LOOK), strength) == sample_sensor(philox(seed, Purpose.LOOK), strength)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"blur": -0.1}, "blur"),
        ({"blur": 0.5}, "blur"),
        ({"exposure": float("nan")}, "exposure"),
        ({"contrast": -1.0}, "contrast"),
        ({"saturation": float("inf")}, "saturation"),
        ({"white_balance": (1.0, -1.0, 1.0)}, r"white_balance\[1\]"),
        ({"noise": 1.5}, "noise"),
        ({"occluders": (dataclasses.replace(RED_PATCH, kind="star"),)}, r"occluders\[0\]\.kind"),
        ({"occluders": (RED_PATCH, dataclasses.replace(RED_PATCH, size=(0.1, 0.0)))}, r"occluders\[1\]\.size\[1\]"),
        ({"occluders": (dataclasses.replace(RED_PATCH, color=(0.0, 2.0, 0.0)),)}, r"occluders\[0\]\.color\[1\]"),
        ({"occluders": (dataclasses.replace(RED_PATCH, center=(float("nan"), 0.0)),)}, r"occluders\[0\]\.center\[0\]"),
        ({"occluders": (dataclasses.replace(RED_PATCH, angle=float("inf")),)}, r"occluders\[0\]\.angle"),
    ],
)
def test_numbers_that_no_sensor_has_are_refused_by_name(changed, field):
    with pytest.raises(SceneError, match=rf"sensor\.{field} = .*: allowed is"):
        check_sensor(Sensor(**changed))
