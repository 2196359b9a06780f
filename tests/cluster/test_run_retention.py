"""A run that deletes what it no longer draws from, and goes on from any of its checkpoints as if it did not."""

import dataclasses
import json

import pytest
from local_program import changed, local_program, small_config
from test_rounds import nothing

from actors.tasks import split
from cluster.console import Display
from cluster.retention import policy_of, retain
from cluster.run import Run
from common.config import ReplayConfig
from common.identity import weights_sha256
from replay.pins import pin, read_pins
from replay.record import encode_record
from replay.retention import Retention

KEEP = {"keep_rows": 20, "grace_s": 0.0, "segment_episodes": 4}


@pytest.fixture
def config(tmp_path):
    return settings(changed(small_config(tmp_path / "run"), "il", samples=5 * 64), **KEEP)


def settings(config, **replay):
    return dataclasses.replace(config, replay=dataclasses.replace(config.replay, **replay))


def advance(run, rounds):
    """What the driver does with an imitation phase, a checkpoint after each round."""
    if run.rounds is None:
        run._enter_phase()
    run.rounds.prepare(run.cut.round, run.weights, run.version)
    for _ in range(rounds):
        run.rounds.learn(run.cut.round, run.weights, run.version, nothing)
        run.cut.round += 1
        run.weights = run.rounds.learner.get_weights()
        run.cut.counter += 1
        run.save()


def kept(run):
    run.program.store.refresh()
    return sorted({e.meta.id.round for e in run.program.store.select() if e.meta.phase == "il"})


def whole(config):
    with local_program(config) as program:
        run = Run(program, Display())
        run.save()
        advance(run, 5)
        # Two checkpoints are kept, and what the older of them draws from.
        oldest = min(p.min_round for p in read_pins(program.store.root) if p.name.startswith("checkpoint-"))
        assert kept(run) == list(range(oldest, 5)) and oldest >= 1
        folders = list((program.store.root / "data").iterdir())
        assert len(folders) == len(program.store.records())
        return weights_sha256(run.weights)


@pytest.mark.parametrize("broken", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_run_that_deletes_is_resumed_to_the_same_weights(config, tmp_path, broken):
    wanted = whole(config)
    config = dataclasses.replace(config, dir=str(tmp_path / "other"))
    with local_program(config) as program:
        run = Run(program, Display())
        run.save()
        advance(run, 3)
        assert kept(run)[0] > 0
        if broken:  # the newest checkpoint cannot be read: the one before it needs older data
            newest = program.checkpoints.path(program.checkpoints.numbers()[-1])
            state = next(newest.rglob("*.json"))
            state.write_bytes(state.read_bytes()[:-10])
    with local_program(config) as program:
        run = Run(program, Display())
        run.restore()
        assert run.cut.round == (2 if broken else 3)
        advance(run, 5 - run.cut.round)
        assert weights_sha256(run.weights) == wanted


def test_nothing_is_deleted_unless_it_is_asked_for(config):
    config = settings(config, keep_rows=0)
    with local_program(config) as program:
        run = Run(program, Display())
        advance(run, 3)
        assert kept(run) == [0, 1, 2, 3] and retain(program.store, config.replay) is None
        assert list(program.store.tombstones()) == []


def test_evaluations_that_the_report_shows_stay(config):
    with local_program(config) as program:
        run = Run(program, Display())
        run.save()
        program.fleet.run(split("evaluation", 4, 1, phase="zero", lineage=0, round=0, policy="zero"))
        run.cut.stages["zero"] = {}
        run.save()
        advance(run, 3)
        assert kept(run)[0] > 0
        report = next(p for p in read_pins(program.store.root) if p.name == "report")
        assert report.phases == ("zero",) and report.kinds == ("evaluation",)
        assert sum(e.meta.phase == "zero" for e in program.store.select()) == 4


def test_the_policy_is_that_of_the_settings():
    assert policy_of(ReplayConfig()) == Retention() and policy_of(ReplayConfig()).keeps_everything
    assert policy_of(ReplayConfig(keep_rows=5, max_bytes=7)) == Retention(newest_rows=5, max_bytes=7)


def test_a_pin_of_before_there_were_kinds_and_rounds_is_read(config):
    with local_program(config) as program:
        made = pin(program.store.root, "mine", {}, "why", ["il"], kinds=["pairs"], min_round=3)
        assert read_pins(program.store.root) == [made] and not made.is_whole
        path = program.store.root / "pins" / "mine.json"
        body = {k: v for k, v in json.loads(path.read_bytes()).items() if k not in ("kinds", "min_round", "crc32c")}
        path.write_bytes(encode_record(body))
        (old,) = read_pins(program.store.root)
        assert (old.phases, old.kinds, old.min_round) == (("il",), None, 0)
