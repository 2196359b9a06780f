"""The slope of memory: right on average, its interval holds what it promises on samples that resemble each other."""

import numpy as np
import pytest

from cluster.bench_soak_slope import slope

T = np.arange(240) / 720.0  # 20 minutes in hours


def samples(rate, seed, memory=0.9):
    noise, y = np.random.default_rng(seed).normal(0, 0.3, len(T)), np.zeros(len(T))
    for i in range(1, len(T)):
        y[i] = memory * y[i - 1] + noise[i]
    return T, 500.0 + rate * T + y


@pytest.mark.parametrize("memory", [0.0, 0.9])
def test_the_interval_holds_the_true_slope_nine_times_in_ten(memory):
    held = [s.low <= 30.0 <= s.high for s in (slope([samples(30.0, k, memory)], k) for k in range(40))]
    assert np.mean(held) >= 0.85


def test_what_grows_is_not_flat_and_what_stays_is():
    assert not slope([samples(40.0, 1, memory=0.5)]).flat
    assert slope([samples(0.0, 1)]).flat
    assert slope([samples(-40.0, 1)]).flat


def test_processes_of_one_role_share_a_slope_and_not_a_level():
    exact = [(T, 100.0 + 7.0 * T), (T[50:], 900.0 + 7.0 * T[50:])]
    found = slope(exact)
    assert found.value == pytest.approx(7.0) and found.low == pytest.approx(7.0) and found.samples == 240 + 190


def test_a_process_that_lived_for_a_moment_says_nothing():
    short = (T[:15], 1e6 * T[:15])
    assert slope([short]) is None and slope([]) is None
    assert slope([short, (T, 0.0 * T)]).value == pytest.approx(0.0)


def test_the_same_samples_have_the_same_interval():
    assert slope([samples(0.0, 3)], 5) == slope([samples(0.0, 3)], 5)
