import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import ImitationConfig, PPOConfig, SelfImitationConfig
from common.schedules import dagger_share, learning_rate


def rates(settings, total, at):
    return [learning_rate(settings, seen, total) for seen in at]


def test_defaults_are_a_cosine_for_imitation_and_a_constant_for_the_others():
    il = ImitationConfig()
    for seen in (0, 48, 1000, 4000, 5000):
        progress = min(1.0, seen / 4000)
        wanted = 1.5e-3 * (0.02 + (1.0 - 0.02) * 0.5 * (1.0 + math.cos(math.pi * progress)))
        assert learning_rate(il, seen, 4000) == pytest.approx(wanted, rel=1e-12)
    for settings in (PPOConfig(), SelfImitationConfig()):
        assert set(rates(settings, 100, (0, 50, 100, 200))) == {settings.lr}


def test_linear_falls_in_a_straight_line_to_its_final_share():
    settings = PPOConfig(lr=1.0, lr_schedule="linear", lr_final=0.2)
    assert rates(settings, 100, (0, 25, 50, 100, 300)) == pytest.approx([1.0, 0.8, 0.6, 0.2, 0.2])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_warmup_rises_to_the_peak_and_the_fall_starts_there(schedule):
    settings = SelfImitationConfig(lr=1.0, lr_schedule=schedule, lr_warmup=9, lr_final=0.0)
    rising = rates(settings, 109, range(9))
    assert rising == pytest.approx([(k + 1) / 10 for k in range(9)])
    middle, end = rates(settings, 109, (59, 109))
    assert learning_rate(settings, 9, 109) == 1.0
    assert (middle, end) == pytest.approx((1.0, 1.0) if schedule == "constant" else (0.5, 0.0))


def test_dagger_is_a_step_by_default_and_a_ramp_between_two_fractions():
    step = ImitationConfig(dagger_start=0.6)
    assert [dagger_share(step, r, 10) for r in range(10)] == [0.0] * 6 + [0.5] * 4
    ramp = ImitationConfig(dagger_start=0.2, dagger_full=0.5, dagger_share=0.8)
    assert [dagger_share(ramp, r, 10) for r in range(7)] == pytest.approx([0, 0, 0.2, 0.4, 0.6, 0.8, 0.8])
    assert dagger_share(ImitationConfig(dagger_start=0.0, dagger_envs=0), 5, 10) == 0.0


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 60))
def test_the_share_never_falls_and_ends_where_it_should(start, full, rounds):
    settings = ImitationConfig(dagger_start=start, dagger_full=full)
    shares = [dagger_share(settings, r, rounds) for r in range(rounds + 1)]
    assert shares == sorted(shares) and shares[-1] == settings.dagger_share
    assert all(s == 0.0 for r, s in enumerate(shares) if r < math.ceil(start * rounds))
