import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import sph_harm_y

from actors.scenes.sky import _sphere, ambient_sh, least_variation, sample_sky, sh_basis
from common.rng import Purpose, philox


def directions(count=4000, seed=0):
    d = np.random.default_rng(seed).normal(size=(count, 3))
    return d / np.linalg.norm(d, axis=1, keepdims=True)


def test_the_basis_is_the_real_spherical_harmonics_in_the_order_of_the_record():
    d = directions(200)
    polar, azimuth = np.arccos(d[:, 2]), np.arctan2(d[:, 1], d[:, 0])
    columns = []
    for degree in range(3):
        for order in range(-degree, degree + 1):
            y = sph_harm_y(degree, abs(order), polar, azimuth) * (-1.0) ** order
            part = y.real if order >= 0 else y.imag
            columns.append(part * (1.0 if order == 0 else np.sqrt(2.0)))
    np.testing.assert_allclose(sh_basis(d), np.stack(columns, axis=1), atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**40))
def test_every_sky_lights_every_normal_and_the_ground_as_white_light_does(env):
    sky = np.array(sample_sky(philox(1, Purpose.LOOK, env=env)))
    assert sky.shape == (9, 3)
    light = sh_basis(directions()) @ sky
    mean = sky[0] * np.sqrt(1.0 / (4.0 * np.pi))
    assert (light.min(axis=0) >= 0.099 * mean).all() and (mean > 0.05).all()
    np.testing.assert_allclose((sh_basis([0.0, 0.0, 1.0]) @ sky).mean(), 1.0, atol=1e-4)


def test_the_light_of_one_lamp_is_kept_positive_behind_it():
    # As sharp a lamp as the quadrature resolves: its nine coefficients alone are negative on the far side.
    grid, _ = _sphere()
    lamp = np.exp(40.0 * (grid @ np.array([0.6, 0.0, 0.8]) - 1.0))[:, None] * [1.0, 0.5, 0.2]
    light = sh_basis(directions()) @ np.array(ambient_sh(lamp))
    assert (light > 0.0).all()
    # It still comes from where the lamp is, and in its colour.
    brightest = directions()[np.argmax(light[:, 0])]
    assert brightest @ [0.6, 0.0, 0.8] > 0.99
    np.testing.assert_allclose(light[:, 1] / light[:, 0], 0.5, atol=1e-3)


def test_the_bound_is_below_the_least_value():
    for seed in range(20):
        c = np.random.default_rng(seed).normal(size=9)
        c[0] = 0.0
        least = (sh_basis(directions(seed=seed)) @ c).min()
        assert least - 3.0 * abs(least) < least_variation(c) <= least


def test_a_gradient_is_the_convolution_with_the_cosine():
    # Independent: the irradiance over pi by summing cosines over the sphere.
    grid, weights = _sphere()
    radiance = np.clip(1.0 + 0.8 * grid[:, 2:], 0.0, None) * [1.0, 1.0, 1.0]
    normals = directions(50)
    summed = np.clip(normals @ grid.T, 0.0, None) @ (radiance * weights[:, None]) / np.pi
    light = sh_basis(normals) @ np.array(ambient_sh(radiance))
    up = np.clip(grid[:, 2], 0.0, None) @ (radiance * weights[:, None]) / np.pi
    np.testing.assert_allclose(light, summed / up, atol=0.01)


def test_skies_differ_and_repeat():
    skies = {sample_sky(philox(1, Purpose.LOOK, env=e)) for e in range(20)}
    assert len(skies) == 20 and sample_sky(philox(1, Purpose.LOOK, env=3)) in skies
    assert any(abs(c[3][0]) > 0.02 for c in skies) and any(c[2][0] > 0.05 for c in skies)
