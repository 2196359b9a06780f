"""A step whose numbers are not finite is not taken, its episodes are named, and several in a row stop the run."""

import logging

import numpy as np
import pytest
import torch
from learner_data import fresh_net, make_episodes, raw_batch, run_config

from common.errors import TrainingError
from learner.learners import build_learner

SUCCESS = [0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.91, 0.95, 0.96, 0.97, 0.96]


def engine(max_skipped=3, **settings):
    config = run_config()
    config.learner.max_skipped = max_skipped
    for name, value in settings.items():
        setattr(config.learner, name, value)
    return config


def learned(learner):
    """What a skipped update must leave alone: weights, moments, averages."""
    arrays = learner.state()[0]
    return {k: v for k, v in arrays.items() if k.split("/")[0] in ("weights", "optimizer", "average")}


def same(a, b):
    return set(a) == set(b) and all(np.array_equal(a[k], b[k]) for k in a)


def spoiled(field="expert_twist", row=5):
    batch = raw_batch(1)
    batch[field][row, 0] = np.nan
    return batch


@pytest.mark.parametrize(("field", "named"), [("expert_twist", "expert_twist"), ("world_T_cam", "x0")])
def test_a_batch_that_is_not_finite_changes_nothing_and_its_episode_is_named(field, named, caplog):
    learner = build_learner(engine(), "il")
    learner.update(raw_batch())
    before, rows = learned(learner), learner.num_samples_learned
    with caplog.at_level(logging.WARNING, "servofleet.learner"):
        metrics = learner.update(spoiled(field), lambda: ["a/0", "b/1", "c/2", "d/3"])
    assert same(before, learned(learner)) and learner.num_samples_learned == rows
    assert metrics["skipped_share"] == 1.0 and metrics["gradient_steps"] == 0.0
    # Row 5 of 8 is of the third of 4 episodes; the others are beyond suspicion.
    assert f"not finite in ['{named}']" in caplog.text and "episodes c/2" in caplog.text and "a/0" not in caplog.text
    assert learner.state()[1]["counters"]["skipped"] == 1
    after = learner.update(raw_batch(2))
    assert after["skipped_share"] == 0.0 and not same(before, learned(learner))


def test_so_many_in_a_row_stop_the_run_and_name_cause_terms_and_episodes():
    learner = build_learner(engine(max_skipped=3), "il")
    for _ in range(2):
        learner.update(spoiled())
    learner.update(raw_batch())  # not in a row any more
    for _ in range(2):
        learner.update(spoiled())
    with pytest.raises(TrainingError, match=r"3 updates in a row.*loss = nan.*'loss_norm'.*expert_twist.*x/2"):
        learner.update(spoiled(), lambda: [f"x/{k}" for k in range(4)])


def test_the_row_of_skips_survives_a_resume():
    learner = build_learner(engine(max_skipped=2), "il")
    learner.update(spoiled())
    arrays, state = learner.state()
    resumed = build_learner(engine(max_skipped=2), "il")
    resumed.load_state(arrays, state)
    with pytest.raises(TrainingError, match="2 updates in a row"):
        resumed.update(spoiled())


def test_a_broken_network_is_told_from_a_broken_batch():
    learner = build_learner(engine(max_skipped=1), "il")
    with torch.no_grad():
        learner.net.policy.mlp[0].bias[0] = float("nan")
    with pytest.raises(TrainingError, match="the network is not"):
        learner.update(raw_batch())


def test_a_gradient_that_is_not_finite_is_named():
    learner = build_learner(engine(max_skipped=1), "sil")
    learner.net.policy.mlp[2].weight.register_hook(lambda g: g * float("inf"))
    before = learned(learner)
    with pytest.raises(TrainingError, match=r"gradient of policy.mlp.2.weight is not finite"):
        learner.update(make_episodes(learner.net, iou=SUCCESS))
    assert same(before, learned(learner))


@pytest.mark.parametrize("name", ["ppo", "sil"])
def test_of_many_minibatches_only_the_spoiled_are_skipped(name, caplog):
    learner = build_learner(engine(max_skipped=100), name)
    episodes = make_episodes(fresh_net(), iou=SUCCESS)
    field = "logp" if name == "ppo" else "z"
    episodes[2].steps[field][3] = np.nan
    metrics = learner.update(episodes)
    assert 0.0 < metrics["skipped_share"] < 1.0 and metrics["gradient_steps"] > 0
    assert str(episodes[2].meta.id) in caplog.text and str(episodes[3].meta.id) not in caplog.text
    assert all(np.isfinite(v).all() for v in learned(learner).values())


def test_a_whole_update_of_spoiled_minibatches_stops_within_it():
    learner = build_learner(engine(max_skipped=2), "ppo")
    episodes = make_episodes(learner.net)
    for e in episodes:
        e.steps["logp"][:-1] = np.nan
    with pytest.raises(TrainingError, match="2 updates in a row"):
        learner.update(episodes)
    assert learner.state()[1]["counters"]["skipped"] == 2


def test_an_fp16_overflow_is_no_fault_of_the_batch():
    learner = build_learner(engine(max_skipped=1, precision="fp16"), "il")
    learner.update(raw_batch())
    before, scaler = learned(learner), learner._learner.scaler
    scaler.update(2.0**126)  # so that every gradient overflows
    metrics = learner.update(raw_batch(1))
    counters = learner.state()[1]["counters"]
    assert same(before, learned(learner)) and metrics["skipped_share"] == 0.0
    assert (counters["overflows"], counters["skipped"]) == (1, 0)
    assert scaler.get_scale() == 2.0**125
    with pytest.raises(TrainingError, match="not finite"):
        learner.update(spoiled())
    assert scaler.get_scale() == 2.0**125


def test_a_learner_that_died_is_an_error(monkeypatch):
    learner = build_learner(run_config(), "ppo")
    learner._engine.num_learners = 2
    monkeypatch.setattr("ray.put", lambda value: value)
    monkeypatch.setattr(learner._group, "foreach_learner", lambda call: [])
    with pytest.raises(TrainingError, match="0 of 2 learners answered"):
        learner.update(make_episodes(fresh_net()))
