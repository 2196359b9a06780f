"""Writing a cut while the run goes on: what is written, what waits, and what a disk that refuses leads to."""

import dataclasses
import errno
import threading
import time

import numpy as np
import pytest
from local_program import local_program, small_config

import learner.checkpoint
from cluster.console import Display
from cluster.run import Run
from common.errors import CheckpointError
from learner.checkpoint import Checkpoints, Score
from replay.pins import read_pins


class Said(Display):
    def __init__(self):
        super().__init__()
        self.lines = []

    def say(self, text):
        self.lines.append(text)


@pytest.fixture
def run_with(tmp_path):
    programs = []

    def make(**checkpoint):
        config = small_config(tmp_path / "run")
        config = dataclasses.replace(config, checkpoint=dataclasses.replace(config.checkpoint, **checkpoint))
        context = local_program(config)
        programs.append(context)
        return Run(context.__enter__(), Said())

    yield make
    for context in programs:
        context.__exit__(None, None, None)


class SlowDisk:
    """Flushing waits until it is let go."""

    def __init__(self, monkeypatch):
        self.go, self.calls, real = threading.Event(), 0, learner.checkpoint.fsync_all

        def slow(paths):
            self.calls += 1
            assert self.go.wait(20)
            real(paths)

        monkeypatch.setattr(learner.checkpoint, "fsync_all", slow)


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_the_run_goes_on_while_the_disk_is_slow_and_the_cut_is_of_the_moment_of_saving(run_with, monkeypatch):
    run = run_with()
    disk = SlowDisk(monkeypatch)
    name, weights = next(iter(run.weights.items()))
    before = weights.copy()
    run.cut.stages["zero"] = {"free": {"iou": 0.5}}
    run.save(wait=False)
    assert run.program.checkpoints.numbers() == []
    weights += 1
    run.cut.counter, run.cut.stages["zero"]["free"]["iou"] = 7, 0.9
    disk.go.set()
    run.saver.settle()
    _, arrays, state, _ = run.program.checkpoints.latest()
    assert np.array_equal(arrays[f"weights/{name}"], before)
    assert state["counter"] == 0 and state["stages"]["zero"]["free"]["iou"] == 0.5


def test_the_next_one_waits_and_says_how_long(run_with, monkeypatch):
    run = run_with()
    disk = SlowDisk(monkeypatch)
    run.save(wait=False)
    stall, wait = run.saver.take_seconds()
    assert wait == 0.0 <= stall
    threading.Timer(0.3, disk.go.set).start()
    run.save(wait=False)
    assert run.program.checkpoints.numbers()[0] == 1
    stall, wait = run.saver.take_seconds()
    assert 0.2 < wait <= stall
    run.close()
    assert run.program.checkpoints.numbers() == [1, 2]
    assert run.saver.take_seconds() == (0.0, 0.0)


def test_a_phase_end_is_waited_for(run_with, monkeypatch):
    run = run_with()
    disk = SlowDisk(monkeypatch)
    threading.Timer(0.2, disk.go.set).start()
    run.save(pin=True)
    assert run.program.checkpoints.numbers() == [1]


def test_the_pin_of_what_is_being_written_is_there_and_old_ones_go_when_it_is_done(run_with, monkeypatch):
    run = run_with(keep=2)
    for _ in range(2):
        run.save()
    disk = SlowDisk(monkeypatch)
    run.save(wait=False)
    assert [p.name[-1] for p in read_pins(run.program.store.storage)] == ["1", "2", "3"]
    disk.go.set()
    run.saver.settle()
    assert [p.name[-1] for p in read_pins(run.program.store.storage)] == ["2", "3"]


def test_a_full_disk_shows_at_the_next_save_and_the_old_checkpoint_stands(run_with, monkeypatch):
    run = run_with()
    run.save()
    with monkeypatch.context() as patched:
        patched.setattr(learner.checkpoint, "fsync_all", full)
        run.save(wait=False)
        with pytest.raises(CheckpointError, match="00000002: No space left on device"):
            run.save(wait=False)
    assert run.program.checkpoints.latest()[0] == 1
    assert [p.name for p in read_pins(run.program.store.storage)] == ["checkpoint-00000001"]
    run.save()
    assert run.program.checkpoints.numbers()[0] == 1 and run.program.checkpoints.latest()[0] > 2


def test_told_to_continue_the_run_says_so_and_goes_on(run_with, monkeypatch):
    run = run_with(on_error="continue")
    run.save()
    with monkeypatch.context() as patched:
        patched.setattr(learner.checkpoint, "fsync_all", full)
        run.save()
    assert "No space left on device" in run.display.lines[-1] and "the run goes on" in run.display.lines[-1]
    assert run.program.checkpoints.numbers() == [1]
    run.save()
    assert run.program.checkpoints.numbers() == [1, 3]


def test_without_any_checkpoint_a_full_disk_stops_every_run(run_with, monkeypatch):
    run = run_with(on_error="continue")
    monkeypatch.setattr(learner.checkpoint, "fsync_all", full)
    with pytest.raises(CheckpointError, match="No space left"):
        run.save()


def test_only_a_refusing_disk_is_continued_from(run_with):
    run = run_with(on_error="continue")
    run.save()
    run.cut.wall_s = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        run.save()


def test_the_stall_is_the_copy_not_the_writing(run_with, monkeypatch):
    """What is written takes half a second; the run stands still for less."""
    run = run_with()
    real = Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", lambda *a, **k: time.sleep(0.5) or real(*a, **k))
    run.save(wait=False)
    stall, _ = run.saver.take_seconds()
    run.close()
    assert stall < 0.4


def test_the_best_evaluated_weights_are_saved_when_asked(run_with):
    run = run_with(keep_best=1)
    assert not run.scores.is_best(run.cut.counter)
    run.scores.note("il_quick", run.cut.counter, {"free": {"iou": 0.4}})
    assert run.scores.is_best(run.cut.counter)
    run.save()
    assert run.program.checkpoints.best("il_quick") == 0.4 and not run.scores.is_best(run.cut.counter)
    run.scores.note("il_quick", run.cut.counter, {"free": {"iou": 0.5}})
    assert run.scores.is_best(run.cut.counter) and run.scores.of(run.cut.counter) == Score("il_quick", 0.5)
    # Later weights were not evaluated.
    run.cut.counter += 1
    assert not run.scores.is_best(run.cut.counter) and run.scores.of(run.cut.counter) is None
    run.save()
    assert run.program.checkpoints.best("il_quick") == 0.4


def test_the_best_are_not_kept_unless_asked(run_with):
    run = run_with()
    run.scores.note("il_quick", run.cut.counter, {"free": {"iou": 0.4}})
    assert not run.scores.is_best(run.cut.counter)
