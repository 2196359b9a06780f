import dataclasses

import numpy as np
import pytest

from common.episode import Episode, EpisodeMeta
from common.errors import SchemaError
from common.identity import EpisodeId
from learner.metrics import (
    bootstrap_ci,
    evaluate_episodes,
    final_iou,
    paired_bootstrap,
    rollouts,
    stop_steps,
)

KEYS = {
    "iou", "iou_ci95", "iou50", "iou75", "iou90", "iou95", "energy", "dt_norm", "steps", "stopped_pct",
}  # fmt: skip


def episode(env, iou, norms, dt=0.5, d_star=2.0, gain=1.0):
    """An evaluation episode whose actions point along x with the given norms."""
    steps = len(norms)
    action = np.zeros((steps + 1, 6), dtype=np.float32)
    action[:steps, 0] = norms
    meta = EpisodeMeta(
        EpisodeId("run", 0, "il_evaluation", 0, env), "evaluation", "il", "learned", None, 1, "{}", 0, "c"
    )
    valid = np.arange(steps + 1) < steps
    arrays = {
        "world_T_cam": np.tile(np.eye(4), (steps + 1, 1, 1)),
        "action": action,
        "twist_applied": action * np.float32([d_star * gain] * 3 + [gain] * 3),
        "action_valid": valid,
        "terminated": np.zeros(steps + 1, dtype=bool),
        "truncated": np.arange(steps + 1) == steps - 1,
        "iou": np.asarray(iou, dtype=np.float32),
    }
    fixed = {
        "goal_world_T_cam": np.eye(4),
        "intrinsics": np.array([50.0, 50, 32, 32]),
        "d_star": np.array(d_star, dtype=np.float32),
        "dt": np.array(dt, dtype=np.float32),
        "gain": np.array(gain, dtype=np.float32),
    }
    return Episode(meta, arrays, fixed)


def test_free_and_stopped_read_the_same_rollout_at_different_ends():
    # Twelve steps; the first stops before its fourth action, the second never.
    one = episode(0, np.linspace(0.4, 0.96, 13), [1.0, 0.5, 0.2, 0.01] + [0.3] * 8)
    two = episode(1, [0.6] * 13, [0.4] * 12)
    result = evaluate_episodes([two, one], stop_dt_norm=0.05)
    free, stopped = result["free"], result["stopped"]
    assert set(free) == set(stopped) == KEYS
    assert free["iou"] == pytest.approx((0.96 + 0.6) / 2)
    assert [free[f"iou{t}"] for t in (50, 75, 90, 95)] == [100.0, 50.0, 50.0, 50.0]
    assert free["energy"] == pytest.approx(0.5 * (1.71 + 2.4 + 4.8) / 2)
    assert free["dt_norm"] == pytest.approx(((0.21 + 2.4) / 10 + 0.4) / 2)
    assert (free["steps"], free["stopped_pct"]) == (12.0, 0.0)
    at_stop = 0.4 + 3 * (0.96 - 0.4) / 12
    assert stopped["iou"] == pytest.approx((at_stop + 0.6) / 2)
    assert [stopped[f"iou{t}"] for t in (50, 75, 90, 95)] == [100.0, 0.0, 0.0, 0.0]
    assert stopped["energy"] == pytest.approx(0.5 * (1.7 + 4.8) / 2)
    assert stopped["dt_norm"] == pytest.approx((1.71 / 4 + 0.4) / 2)
    assert (stopped["steps"], stopped["stopped_pct"]) == (7.5, 50.0)


def test_energy_counts_executed_motion_and_the_stop_rule_the_chosen_action():
    fast = episode(0, [0.5] * 12, [0.04] * 11, gain=3.0)
    result = evaluate_episodes([fast], stop_dt_norm=0.05)
    assert result["free"]["energy"] == pytest.approx(11 * 0.12 * 0.5, rel=1e-5)
    assert result["stopped"]["stopped_pct"] == 100.0
    assert result["stopped"]["energy"] == 0.0 and result["stopped"]["dt_norm"] == pytest.approx(0.04)


def test_stop_is_the_first_action_below_the_threshold():
    norms = np.array([[1.0, 0.05, 0.01, 1.0], [0.0, 1, 1, 1], [1, 1, 1, 1]])
    assert stop_steps(norms, 0.05).tolist() == [2, 0, 4]


def test_episodes_are_taken_in_order_of_their_environment():
    given = [episode(2, [0.2] * 3, [1, 1]), episode(0, [0.0] * 3, [1, 1]), episode(1, [0.1] * 3, [1, 1])]
    np.testing.assert_allclose(final_iou(rollouts(given)), [0.0, 0.1, 0.2], atol=1e-6)


def test_what_is_no_evaluation_is_refused():
    with pytest.raises(SchemaError, match="number of evaluation episodes = 0"):
        rollouts([])
    with pytest.raises(SchemaError, match="rows of episode run/0000/il_evaluation/00000000/000001 = 3"):
        rollouts([episode(0, [0.1] * 4, [1] * 3), episode(1, [0.1] * 3, [1] * 2)])
    other = episode(0, [0.1] * 3, [1, 1])
    meta = dataclasses.replace(other.meta, kind="pairs")
    object.__setattr__(other, "meta", meta)
    with pytest.raises(SchemaError, match=r"kind of episode .* = 'pairs'"):
        rollouts([other])


def test_bootstrap_interval_is_repeatable_and_about_two_standard_errors():
    values = np.random.default_rng(0).normal(0.7, 0.2, size=200)
    low, high = bootstrap_ci(values)
    assert (low, high) == bootstrap_ci(values) != bootstrap_ci(values, seed=1)
    error = values.std() / np.sqrt(200)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.3 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.3 * error)


def test_paired_bootstrap_sees_a_small_gain_under_large_common_noise():
    rng = np.random.default_rng(1)
    a = rng.uniform(0.2, 1.0, size=100)
    b = a + 0.02 + rng.normal(0, 0.02, size=100)
    paired = paired_bootstrap(a, b)
    assert paired["low"] > 0.0 and paired["difference"] == pytest.approx(np.mean(b - a))
    assert bootstrap_ci(b)[0] < a.mean()  # the unpaired intervals overlap by far
    with pytest.raises(ValueError, match="shape of b"):
        paired_bootstrap(a, b[:3])
