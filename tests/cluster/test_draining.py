"""A run that is asked to end ends at its next safe point, within the grace, and goes on as if nobody had asked."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from local_program import LocalFleet, local_program, small_config, with_record
from mlflow.tracking import MlflowClient
from test_cut_saver import Said

import cluster.draining
from cluster.draining import EX_TEMPFAIL, Drained, Draining, own_sigterm
from cluster.run import Run
from cluster.run_directory import read_metrics
from cluster.schedule import recorded_end
from common.errors import StoreError
from common.identity import weights_sha256
from learner.tracking import Tracker
from replay.inspect import content_sha256

# Two rounds, and no cut but those of the phase's ends: what is on the disk in between was written for the drain.
SHORT = (
    "schedule=[il]", "evaluation.baselines=[]", "phases.il.evaluate=false", "phases.il.samples=128",
    "checkpoint.every_s=1000", "phases.il.imitation.scenes_per_round=2", "phases.il.imitation.dagger_start=0",
)  # fmt: skip


def train(path, watch=lambda run: None, overrides=SHORT):
    """One short phase; returns (hash of the weights, rows, hash of the store's content, last checkpoint's number)."""
    config = small_config(path if path.exists() else with_record(path), *overrides)
    with (
        Draining(25.0) as draining,
        local_program(config) as program,
        contextlib.closing(Run(program, Said(), draining)) as run,
        recorded_end(program, draining),
    ):
        run.restore()
        watch(run)
        run.evaluate_baselines()
        while run.cut.phase < len(config.schedule):
            run.end_if_asked()
            run.run_phase()
    rows = [{k: v for k, v in r.items() if not k.endswith("_s")} for r in read_metrics(path / "metrics.jsonl")]
    return weights_sha256(run.weights), rows, content_sha256(str(path / "store")), run.saver.number


def after_first_row(do):
    """Call `do` once, when the run writes a row: in the middle of a round's end."""

    def watch(run):
        real, done = run.log, []

        def log(row):
            real(row)
            if not done:
                done.append(1)
                do()

        run.log = log

    return watch


def recorded_status(path):
    client = MlflowClient(tracking_uri=f"sqlite:///{path}/mlflow.db")
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return run.info.status


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole") / "run")


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)])
def test_a_drained_run_loses_no_round_and_goes_on_bit_for_bit(whole, tmp_path, number):
    path = tmp_path / "run"
    with pytest.raises(Drained, match=rf"{number.name}: stopped behind a checkpoint; the same command continues"):
        train(path, after_first_row(lambda: signal.raise_signal(number)))
    assert len(read_metrics(path / "metrics.jsonl")) == 1 and recorded_status(path) == "SCHEDULED"
    resumed = []
    done = train(path, lambda run: resumed.append((run.cut.round, run.saver.number)))
    # Number 1 is the beginning, 2 the drain.
    assert resumed == [(1, 2)]
    assert done[:3] == whole[:3] and len(done[1]) == 2


def test_a_round_that_does_not_end_is_dropped_and_the_last_checkpoint_stands(tmp_path, monkeypatch):
    def hangs(self, work, on_poll=None):
        signal.raise_signal(signal.SIGTERM)
        time.sleep(30.0)

    path = tmp_path / "run"
    began = time.monotonic()
    # A short time for the round, and not for the rest: the grace's end would end this process.
    monkeypatch.setattr(cluster.draining, "_ROUND_SHARE", 0.02)
    with monkeypatch.context() as patch:
        patch.setattr(LocalFleet, "wait", hangs)
        with pytest.raises(Drained, match=r"no safe point within 0\.5 s \(grace_s = 25\).* the last checkpoint"):
            train(path)
    assert time.monotonic() - began < 20.0 and recorded_status(path) == "SCHEDULED"
    assert len(list((path / "checkpoints").glob("*/done"))) == 1


def test_a_checkpoint_that_is_being_written_is_not_dropped(tmp_path, monkeypatch):
    path = tmp_path / "run"
    monkeypatch.setattr(cluster.draining, "_ROUND_SHARE", 0.02)

    def slow(run):
        real = run.save

        def save(**kwargs):
            time.sleep(0.6)  # past the round's share, before the grace is over
            real(**kwargs)

        run.save = save
        after_first_row(lambda: signal.raise_signal(signal.SIGTERM))(run)

    with pytest.raises(Drained, match="stopped behind a checkpoint"):
        train(path, slow)
    assert len(list((path / "checkpoints").glob("*/done"))) == 2


def test_between_two_baselines_is_a_safe_point(tmp_path):
    overrides = (
        *SHORT[:1],
        "evaluation.baselines=[zero,pbvs]",
        "evaluation.scenes=2",
        "evaluation.steps=11",
        *SHORT[2:],
    )
    path = tmp_path / "run"
    with pytest.raises(Drained):
        train(path, after_first_row(lambda: signal.raise_signal(signal.SIGTERM)), overrides=overrides)
    found = []
    with pytest.raises(Drained):
        train(
            path, lambda run: (found.extend(run.cut.stages), signal.raise_signal(signal.SIGTERM)), overrides=overrides
        )
    assert found == ["zero"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_second_signal_or_ctrl_c_ends_the_process_at_once(monkeypatch, number):
    monkeypatch.setattr(cluster.draining, "_SAME_S", 0.0)
    with pytest.raises(KeyboardInterrupt), Draining(25.0) as draining:
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.01)
        with contextlib.suppress(Drained):
            signal.raise_signal(number)
        pytest.fail(f"{draining.asked_by}: went on")


class Finalised:
    """Rings when it goes: an exception of the handler is lost then."""

    def __init__(self, number):
        self.number = number

    def __del__(self):
        signal.raise_signal(self.number)


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGALRM, Drained), (signal.SIGINT, KeyboardInterrupt)], ids=["drain", "ctrl-c"]
)
@pytest.mark.parametrize("times", [1, 3])
def test_an_end_that_falls_upon_a_finaliser_comes_again(number, error, times):
    hook = sys.unraisablehook
    with pytest.raises(error), Draining(1000.0):
        signal.raise_signal(signal.SIGTERM)
        for _ in range(times):
            Finalised(number)
        time.sleep(20.0)
        pytest.fail("went on")
    assert sys.unraisablehook is hook


def test_other_exceptions_of_finalisers_go_where_they_went(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: told.append(lost.exc_type))
    monkeypatch.setattr(Finalised, "__del__", lambda self: 1 / 0)
    with Draining(1000.0):
        Finalised(0)
    assert told == [ZeroDivisionError]


def test_the_same_signal_twice_within_a_moment_is_one():
    with Draining(25.0) as draining:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert draining.asked_by == "SIGTERM"


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt, "KILLED"), (StoreError, "FAILED"), (Drained, "SCHEDULED")]
)
def test_the_end_is_on_record(tmp_path, error, status):
    tracker = Tracker(with_record(tmp_path / "run"), "smoke", None, {})
    with pytest.raises(error), recorded_end(SimpleNamespace(end_record=tracker.finish), Draining(25.0)):
        raise error
    assert recorded_status(tmp_path / "run") == status


HOLDS_ON = """
import signal, sys, time
from cluster.draining import Draining
with Draining(float(sys.argv[1])) as draining:
    signal.raise_signal(signal.SIGTERM)
    while True:
        try:
            time.sleep(60.0)
        except KeyboardInterrupt:
            pass
"""


def test_what_still_holds_the_process_when_the_grace_is_over_does_not_matter():
    began = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", HOLDS_ON, "0.5"], capture_output=True, text=True, timeout=60)
    assert ended.returncode == EX_TEMPFAIL == os.EX_TEMPFAIL
    assert ended.stderr == "servofleet: SIGTERM: grace_s = 0.5 is over; the last checkpoint stands\n"
    assert 0.5 < time.monotonic() - began < 20.0


def test_handlers_are_given_back_and_nothing_rings_later():
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGALRM)]
    with Draining(1.0):
        signal.raise_signal(signal.SIGTERM)
    time.sleep(0.7)
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGALRM)] == before


def test_ray_does_not_take_sigterm_away():
    with Draining(25.0) as draining:
        ours = signal.getsignal(signal.SIGTERM)
        with own_sigterm():
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
        assert signal.getsignal(signal.SIGTERM) == ours
        signal.raise_signal(signal.SIGTERM)
        assert draining.asked_by == "SIGTERM"
