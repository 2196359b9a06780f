"""The torch laws against the numpy ones, which have tests of their own about what is right."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common import servo
from common.geometry import make_pose, so3_exp
from common.networks import denormalisation as ours

TOLERANCE = 1e-9


def tensor(x):
    return torch.tensor(np.asarray(x, dtype=np.float64))


def both(twist, d_star, ratio):
    twist, d_star, ratio = np.atleast_2d(np.asarray(twist, float)), np.atleast_1d(d_star), np.atleast_1d(ratio)
    wanted = servo.denormalise_twist(twist, d_star, ratio)
    return ours.denormalise_twist(tensor(twist), tensor(d_star), tensor(ratio)).numpy(), wanted


def draws(n, seed=0, norm=3.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6))
    x *= rng.uniform(0.0, norm, (n, 1)) / np.linalg.norm(x, axis=1, keepdims=True)
    return x, rng.uniform(0.1, 3.0, n), np.exp(rng.uniform(np.log(0.4), np.log(2.5), n))


def test_agrees_with_the_numpy_law():
    got, wanted = both(*draws(2000))
    np.testing.assert_allclose(got, wanted, atol=TOLERANCE)


@pytest.mark.parametrize("ratio", [0.5, 1.5, 1.0 + 1e-9])
@pytest.mark.parametrize("shift", [0.0, 1e-12, 1e-5, 0.01, 1.0])
@pytest.mark.parametrize("turn", [0.0, 1e-9, 1e-6, 0.3, 3.14])
def test_agrees_at_the_edges(ratio, shift, turn):
    """No translation, no rotation, neither, nearly half a turn; translations along each axis."""
    axes = np.concatenate([np.eye(3), -np.eye(3), [[0.6, 0.0, 0.8]]])
    twist = np.concatenate([shift * np.repeat(axes, 7, 0), turn * np.tile(axes, (7, 1))], axis=1)
    got, wanted = both(twist, np.full(49, 0.7), np.full(49, ratio))
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_the_training_camera_changes_nothing_but_the_scale():
    twist, d_star, ratio = draws(100)
    got, _ = both(twist, d_star, np.ones(100))
    np.testing.assert_array_equal(got[:, 3:], twist[:, 3:])
    np.testing.assert_array_equal(got[:, :3], twist[:, :3] * d_star[:, None])
    mixed = np.where(np.arange(100) % 2, 1.0, ratio)
    half, wanted = both(twist, d_star, mixed)
    np.testing.assert_array_equal(half[1::2], got[1::2])
    np.testing.assert_allclose(half, wanted, atol=TOLERANCE)
    assert np.abs(half - got)[::2].max() > 0.1


def test_the_pose_in_between_is_that_of_eq_21():
    twist, _, ratio = draws(200, seed=3)
    pose = make_pose(so3_exp(twist[:, 3:]), twist[:, :3])
    r, t = ours.refocus_pose(tensor(pose[:, :3, :3]), tensor(pose[:, :3, 3]), tensor(ratio))
    np.testing.assert_allclose(make_pose(r.numpy(), t.numpy()), servo.refocus_pose(pose, ratio), atol=TOLERANCE)
    np.testing.assert_allclose((r @ r.mT).numpy(), np.broadcast_to(np.eye(3), (200, 3, 3)), atol=1e-12)


@given(st.lists(st.floats(-3.0, 3.0), min_size=6, max_size=6), st.floats(0.3, 3.0))
def test_any_twist_and_ratio(twist, ratio):
    """The numbers that random draws do not hit: zeros, denormals, equal parts."""
    got, wanted = both(twist, 1.0, ratio)
    # At exactly half a turn the axis may point either way: the rotations must agree, not the vectors.
    np.testing.assert_allclose(so3_exp(got[0, 3:]), so3_exp(wanted[0, 3:]), atol=1e-6)
    # The translation is turned by that rotation.
    np.testing.assert_allclose(np.linalg.norm(got[0, :3]), np.linalg.norm(wanted[0, :3]), atol=1e-6)


@pytest.mark.parametrize(("d_star", "ratio"), [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.0), (1.0, -2.0), (np.nan, 1.0)])
def test_what_has_no_meaning_gives_no_motion(d_star, ratio):
    got = ours.denormalise_twist(torch.ones(2, 6), tensor([d_star, 1.0]), tensor([ratio, 1.0]))
    assert got[0].isnan().all() and got[1].isfinite().all()


def test_clamp_agrees_with_the_numpy_law():
    twist = draws(500, norm=6.0)[0]
    twist[0] = 0.0
    got = ours.clamp_twist(tensor(twist), 3.0).numpy()
    np.testing.assert_allclose(got, servo.clamp_twist(twist, 3.0), atol=1e-12)
    assert 100 < (np.linalg.norm(got, axis=1) > 2.999).sum() < 400


def test_float32_comes_in_and_float64_goes_out():
    twist, d_star, ratio = draws(50)
    got = ours.denormalise_twist(tensor(twist).float(), tensor(d_star).float(), tensor(ratio).float())
    assert got.dtype == torch.float64
    np.testing.assert_allclose(got.numpy(), servo.denormalise_twist(twist, d_star, ratio), atol=1e-4)
