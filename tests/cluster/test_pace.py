"""The pace of imitation: what the limiter's settings do to the rounds, on real collectors and a real store."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from local_program import changed, local_program, small_config, version_of
from test_rounds import Notebook, digest, nothing, walk

from cluster.imitation_rounds import ImitationRounds
from cluster.pace import Pace, check_pace
from common.errors import ConfigError
from common.networks.servo_net import initial_weights
from learner.batches import IMITATION_FIELDS

PAIRS = 16  # rows of one round of pairs of the smoke experiment: 8 scenes, 2 views
BATCHES = 64  # rows that one learning round draws


def with_replay(config, **settings):
    return dataclasses.replace(config, replay=dataclasses.replace(config.replay, **settings))


@pytest.fixture
def config(tmp_path):
    return small_config(tmp_path / "run")


def run(config, rounds=None, state=None, learner=None, first=0):
    """The phase from a state on: (collection rounds so far, rows, batches, state at the end)."""
    weights = initial_weights(config.network, 1)
    with local_program(config) as program:
        phase = ImitationRounds(program, "il", learner or Notebook(), lineage=0)
        said = phase.load_cursors(state) if state else []
        phase.prepare(first, weights, version_of(weights))
        rows = []
        for r in range(first, rounds or phase.total_rounds):
            rows.append(phase.learn(r, weights, version_of(weights), nothing))
        done = [t.round for t, _ in program.fleet.log if t.kind == "pairs"]
        return sorted(set(done)), rows, [digest(b) for b in phase.learner.given], phase.cursors(), said


def test_without_a_ratio_each_round_collects_one_and_nobody_waits(config):
    collected, rows, _, state, _ = run(config)
    assert collected == [0, 1, 2, 3] and state["pace"]["collected"] == 4
    assert all(row["insert_wait"] == row["sample_wait"] == 0.0 for row in rows)


@pytest.mark.parametrize(("ratio", "wanted"), [(16.0, 2), (2.0, 8)])
def test_the_ratio_decides_how_much_is_collected(config, ratio, wanted):
    config = changed(config, "il", imitation={"dagger_envs": 0})
    collected, rows, _, state, _ = run(with_replay(config, samples_per_insert=ratio))
    limiter = state["pace"]["limiter"]
    assert limiter["samples"] == 4 * BATCHES and limiter["inserts"] == PAIRS * len(collected)
    assert abs(limiter["samples"] - ratio * limiter["inserts"]) <= limiter["settings"]["error_band"] + ratio * PAIRS
    assert collected == list(range(len(collected))) and abs(len(collected) - wanted) <= 4
    waits = np.array([[row["insert_wait"], row["sample_wait"]] for row in rows])
    assert ((waits >= 0) & (waits <= 1 + 1e-9)).all()  # quotients of sums
    assert waits[:, 0].max() > 0 if ratio > 4 else waits[:, 1].max() > 0


def test_nothing_is_drawn_before_min_rows_are_there(config):
    collected, _, _, state, _ = run(with_replay(config, min_rows=5 * PAIRS), rounds=1)
    assert collected == [0, 1, 2, 3, 4, 5] and state["pace"]["window"] == [{"first": 0, "rows": 96, "dagger": False}]


@pytest.mark.parametrize("settings", [{"samples_per_insert": 3.0}, {"keep_rows": 40}])
def test_a_resumed_phase_collects_and_draws_the_same(config, tmp_path, settings):
    whole = run(with_replay(config, **settings))
    config = dataclasses.replace(config, dir=str(tmp_path / "other"))
    first = run(with_replay(config, **settings), rounds=2)
    second = run(with_replay(config, **settings), state=first[3], first=2)
    assert first[2] + second[2] == whole[2]
    assert sorted({*first[0], *second[0]}) == whole[0]
    for state in (second[3], whole[3]):
        assert state["uniform"]["next"] == 16
    assert second[3]["pace"] == whole[3]["pace"] and second[4] == []


def test_settings_given_now_stand_and_the_difference_is_said(config):
    state = run(with_replay(config, samples_per_insert=4.0), rounds=1)[3]
    said = run(with_replay(config, samples_per_insert=2.0), rounds=2, state=state, first=1)
    assert said[3]["pace"]["limiter"]["settings"]["samples_per_insert"] == 2.0
    assert any(line == "limiter samples_per_insert = 2.0, was 4.0 in the checkpoint" for line in said[4])


def test_prefetching_changes_no_draw(config, tmp_path):
    ahead = run(with_replay(config, prefetch=3))
    config = dataclasses.replace(config, dir=str(tmp_path / "other"))
    alone = run(with_replay(config, prefetch=0))
    assert ahead[2] == alone[2] and ahead[3] == alone[3]


def test_a_cut_of_before_there_was_a_pace_goes_on(config, tmp_path):
    whole = run(config)
    config = dataclasses.replace(config, dir=str(tmp_path / "other"))
    first = run(config, rounds=2)
    old = {"uniform": first[3]["uniform"] | {"next": 0}}
    second = run(config, state=old, first=2)
    assert first[2] + second[2] == whole[2] and second[0] == [3]


def test_the_window_moves_with_what_is_collected(config):
    pace = Pace(with_replay(config, keep_rows=40), "il")
    seen = []
    for number in range(6):
        assert pace.try_collect(dagger=number == 1) == number
        seen.append((pace.oldest, pace.has_dagger))
    # Rounds of 16, 36, 16, 16 ... rows.
    assert seen == [(0, False), (0, True), (1, True), (1, True), (2, False), (3, False)]
    assert pace.ready and sum(w["rows"] for w in pace.state()["window"]) == 48
    limiter = pace.state()["limiter"]
    assert limiter["inserts"] - limiter["removed"] == 48


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples_per_insert": 2.0, "error_band": 10.0}, "lets both sides wait for each other for ever"),
        ({"min_rows": 100, "keep_rows": 50}, r"limiter min_size = 100: allowed is 1 .. 50: retention removes"),
    ],
)
def test_a_pace_that_would_block_is_refused_at_start(config, settings, message):
    with pytest.raises(ConfigError, match=rf"phase il cannot keep the pace.*{message}"):
        check_pace(with_replay(config, **settings))
    check_pace(config)


@given(st.floats(0.05, 50.0), st.integers(1, 200), st.sampled_from([0, 200, 500]))
def test_one_side_can_always_go_on(ratio, min_rows, keep):
    pace = Pace(with_replay(small_config("unused"), samples_per_insert=ratio, min_rows=min_rows, keep_rows=keep), "il")
    while not pace.ready:
        assert pace.try_collect(dagger=False) is not None
    for step in range(300):
        assert pace.try_draw() or pace.try_collect(dagger=step % 3 == 0) is not None


def test_rounds_of_the_same_phase_in_lock_step_draw_as_ever(config):
    """The draws of the smoke experiment's first phase, as they were before there was a pace."""
    weights = initial_weights(config.network, 1)
    with local_program(config) as program:
        rounds = ImitationRounds(program, "il", Notebook(), lineage=0)
        walk(rounds, weights, version_of(weights))
        for step, batch in enumerate(rounds.learner.given):
            groups = [dataclasses.replace(g, max_round=step // 4) for g in rounds.groups(step // 4)]
            assert digest(batch) == digest(
                type(rounds._sampler)(program.store, 0, IMITATION_FIELDS).batch(groups, step)
            )
