"""Ambient light of a made-up sky as spherical harmonics: a gradient over a bounce from the floor, and a few soft lamps.

Irradiance is so smooth a function of the surface normal that nine coefficients hold it (Ramamoorthi and Hanrahan 2001):
the radiance is projected to real spherical harmonics up to degree 2 and each degree is damped by what the cosine lobe
leaves of it, 1, 2/3 and 1/4 after division by pi.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import ArrayLike

from common.protocols import F64
from common.scene import Triple

_LOBE = np.array([1.0] + 3 * [2.0 / 3.0] + 5 * [1.0 / 4.0])
_FLOOR = 0.1  # of a colour's mean: no normal gets less light
_DIGITS = 5


def sh_basis(directions: ArrayLike) -> F64:
    """Real spherical harmonics (..., 9) of unit vectors (..., 3), in the order of `common.scene.Light.ambient_sh`."""
    x, y, z = np.moveaxis(np.asarray(directions, dtype=np.float64), -1, 0)
    first, second = np.sqrt(3.0 / (4.0 * np.pi)), np.sqrt(15.0 / (4.0 * np.pi))
    return np.stack(
        [
            np.full_like(x, np.sqrt(1.0 / (4.0 * np.pi))),
            first * y,
            first * z,
            first * x,
            second * x * y,
            second * y * z,
            np.sqrt(5.0 / (16.0 * np.pi)) * (3.0 * z * z - 1.0),
            second * x * z,
            0.5 * second * (x * x - y * y),
        ],
        axis=-1,
    )


def sample_sky(rng: np.random.Generator) -> tuple[Triple, ...]:
    """Nine RGB coefficients of a random sky's irradiance divided by pi.

    The ground plane gets 1 on the mean of the three colours, so that a scene is as bright as under white light; no
    normal gets less than a tenth of the mean over all normals, in any colour.
    """
    directions, _ = _sphere()
    up = directions[:, 2:]
    horizon, zenith, floor = (_tint(rng, strength) for strength in (0.15, 0.35, 0.2))
    sky = horizon + (zenith * rng.uniform(0.6, 1.6) - horizon) * np.clip(up, 0.0, 1.0)
    radiance = np.where(up >= 0.0, sky, floor * rng.uniform(0.2, 0.6))
    for _ in range(int(rng.integers(4))):
        azimuth, height = rng.uniform(-np.pi, np.pi), rng.uniform(0.1, 1.0)
        side = np.sqrt(1.0 - height * height)
        towards = np.array([side * np.cos(azimuth), side * np.sin(azimuth), height])
        sharpness = rng.uniform(4.0, 20.0)
        lobe = np.exp(sharpness * (directions @ towards - 1.0))
        radiance = radiance + rng.uniform(0.5, 3.0) * lobe[:, None] * _tint(rng, 0.3)
    return ambient_sh(radiance)


def ambient_sh(radiance: F64) -> tuple[Triple, ...]:
    """Coefficients of a radiance >= 0 given at the directions of the quadrature, (D, 3) RGB, scaled as in `sample_sky`.

    Nine coefficients of a strong lamp dip below zero on its far side. Degrees 1 and 2 are then shortened, by colour,
    until their least value, which is at least minus the length of the linear part plus the smallest eigenvalue of the
    quadratic one, leaves a tenth of the mean.
    """
    directions, weights = _sphere()
    coefficients = _LOBE[:, None] * (sh_basis(directions) * weights[:, None]).T @ radiance
    for channel in coefficients.T:
        mean = channel[0] * np.sqrt(1.0 / (4.0 * np.pi))
        depth = -least_variation(channel)
        if depth > (1.0 - _FLOOR) * mean:
            channel[1:] *= (1.0 - _FLOOR) * mean / depth
    on_ground = (sh_basis([0.0, 0.0, 1.0]) @ coefficients).mean()
    rows = np.round(coefficients / on_ground, _DIGITS) + 0.0
    return tuple((r, g, b) for r, g, b in rows.tolist())


def least_variation(coefficients: F64) -> float:
    """A lower bound, over all unit normals, of degrees 1 and 2 of one colour's nine coefficients (9,)."""
    c, first, second = coefficients, np.sqrt(3.0 / (4.0 * np.pi)), np.sqrt(15.0 / (4.0 * np.pi))
    mixed = 0.5 * second * np.array([[c[8], c[4], c[7]], [c[4], -c[8], c[5]], [c[7], c[5], 0.0]])
    along = np.sqrt(5.0 / (16.0 * np.pi)) * c[6] * np.diag([-1.0, -1.0, 2.0])
    return float(np.linalg.eigvalsh(mixed + along)[0] - first * np.linalg.norm(c[1:4]))


def _tint(rng: np.random.Generator, strength: float) -> F64:
    """A light colour between warm and cool, its brightest channel 1."""
    color = 1.0 - strength * rng.random() * np.array([[0.0, 0.4, 1.0], [1.0, 0.4, 0.0]])[int(rng.integers(2))]
    return np.asarray(color * (1.0 - 0.2 * strength * rng.random(3)))


@functools.lru_cache(maxsize=1)
def _sphere() -> tuple[F64, F64]:
    """Directions (D, 3) and weights (D,) [sr] that integrate over the sphere: Gauss-Legendre in z, even in azimuth."""
    heights, weights = np.polynomial.legendre.leggauss(24)
    azimuth = (np.arange(48) + 0.5) * (2.0 * np.pi / 48)
    side = np.sqrt(1.0 - heights * heights)
    grid = np.broadcast_arrays(side[:, None] * np.cos(azimuth), side[:, None] * np.sin(azimuth), heights[:, None])
    return np.stack(grid, axis=-1).reshape(-1, 3), np.repeat(weights * (2.0 * np.pi / 48), 48)
