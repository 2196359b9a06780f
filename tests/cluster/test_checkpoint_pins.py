"""A run's checkpoints keep the data that they go on with from being pruned, and only as long as they exist."""

from __future__ import annotations

import dataclasses

import pytest
from local_program import local_program, small_config

from cluster.console import Display
from cluster.run import Run
from replay.pins import pin, read_pins
from replay.retention import Retention, plan_prune, prune, sweep


@pytest.fixture
def run(tmp_path):
    config = small_config(tmp_path / "run")
    config = dataclasses.replace(config, checkpoint=dataclasses.replace(config.checkpoint, keep=2))
    with local_program(config) as program:
        run = Run(program, Display())
        yield run


def names(run):
    return [p.name for p in read_pins(run.program.store.root)]


def collect(run):
    """One round of the first phase."""
    run._enter_phase()
    run.rounds.prepare(0, run.weights, run.version)


def test_each_checkpoint_has_a_pin_as_long_as_it_exists(run):
    pin(run.program.store.root, "mine", {}, "not the run's")
    for _ in range(4):
        run.save()
    assert run.program.checkpoints.numbers() == [3, 4]
    assert names(run) == ["checkpoint-00000003", "checkpoint-00000004", "mine"]


def test_a_checkpoint_keeps_the_data_of_its_phase_from_any_policy(run):
    collect(run)
    run.save()
    store = run.program.store
    kept = read_pins(store.root)[0]
    assert kept.position == run.cut.store_position == store.position() and kept.position
    assert kept.phases == ("il",) and kept.reason.startswith("checkpoint 1: phase il, round 0")
    plan = plan_prune(store, Retention(newest_rows=0))
    assert plan.going == () and len(plan.pinned) == len(store.records())


def test_the_data_of_phases_that_are_over_may_go_and_the_run_goes_on(run):
    collect(run)
    run.save()
    run.rounds, run.cut.phase = None, 1
    run.save(pin=True)
    run.save()
    run.save()
    # The first checkpoint is gone; the second was kept as the last of its phase, and goes on with the next one.
    assert run.program.checkpoints.numbers() == [2, 3, 4]
    store = run.program.store
    assert prune(store, plan_prune(store, Retention(newest_rows=0))) is not None
    assert sweep(store, grace_s=0).deleted > 0 and store.select() == []
    run.save()
    again = Run(run.program, run.display)
    again.restore()
    assert again.cut.store_position["/tombstones"] == 1


def test_the_pin_is_there_before_the_checkpoint_is(run, monkeypatch):
    seen = []
    monkeypatch.setattr(type(run.program.checkpoints), "save", lambda *a, **k: seen.append(names(run)))
    run.save()
    assert seen == [["checkpoint-00000001"]]
