"""A learner that is lost is replaced from the last cut; the run ends as if nothing had happened."""

import dataclasses
import os
import signal
import time

import pytest
import torch
from local_program import local_program, small_config, with_record
from test_cut_saver import Said

from cluster.run import Run
from cluster.run_directory import read_metrics
from common.errors import LearnerLostError, TrainingError
from common.identity import weights_sha256
from learner.checked_updates import CheckedUpdates
from replay.inspect import content_sha256

SHORT = (
    "schedule=[il]", "evaluation.baselines=[]", "phases.il.evaluate=false", "phases.il.samples=128",
    "checkpoint.every_s=0", "phases.il.imitation.scenes_per_round=2", "phases.il.imitation.dagger_start=0",
)  # fmt: skip


def train(path, watch=lambda program, run: None, **learner):
    """One short phase; returns (hash of the weights, rows, hash of the store's content, lines, restarts)."""
    config = small_config(with_record(path), *SHORT)
    config = dataclasses.replace(config, learner=dataclasses.replace(config.learner, **learner))
    with local_program(config) as program:
        run = Run(program, Said())
        run.restore()
        watch(program, run)
        while run.cut.phase == 0:
            run.run_phase()
        weights = weights_sha256(run.weights)
        lines, restarts = run.display.lines, run.cut.learner_restarts
        run.close()
    rows = [{k: v for k, v in r.items() if not k.endswith("_s")} for r in read_metrics(path / "metrics.jsonl")]
    return weights, rows, content_sha256(str(path / "store")), lines, restarts


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole") / "run")


def failing(monkeypatch, error, at):
    """Gradient steps of every learner in this process fail at the given calls, counted from 1."""
    real, calls = CheckedUpdates.learn, []

    def learn(self, *args, **kwargs):
        calls.append(1)
        if len(calls) in at:
            raise error
        return real(self, *args, **kwargs)

    monkeypatch.setattr(CheckedUpdates, "learn", learn)


def test_a_device_that_failed_costs_the_updates_since_the_last_cut_and_changes_nothing(whole, tmp_path, monkeypatch):
    # 4 updates a round, a cut behind the first round: the second error hits what is done again.
    failing(monkeypatch, torch.OutOfMemoryError("CUDA out of memory"), at=(2, 9))
    collectors = []
    done = train(tmp_path / "run", lambda program, run: collectors.append(program.fleet))
    weights, rows, content, lines, restarts = done
    assert (weights, rows, content) == whole[:3] and len(rows) == 2
    assert restarts == 2 and whole[4] == 0
    assert sum("learner lost" in x and "CUDA out of memory" in x for x in lines) == 2
    assert sum("learner replaced in" in x for x in lines) == 2
    assert collectors[0].healthy == collectors[0].size


def test_there_is_a_limit(tmp_path, monkeypatch):
    failing(monkeypatch, torch.OutOfMemoryError("CUDA out of memory"), at=range(1, 100))
    with pytest.raises(LearnerLostError, match=r"learner\.max_restarts = 1 is used up; last: .*out of memory"):
        train(tmp_path / "run", max_restarts=1)


@pytest.mark.parametrize("error", [TrainingError("3 updates in a row were not finite"), RuntimeError("a bug")])
def test_what_a_fresh_learner_would_meet_again_stops_the_run(tmp_path, monkeypatch, error):
    failing(monkeypatch, error, at=(1,))
    with local_program(small_config(tmp_path / "run", *SHORT)) as program:
        run = Run(program, Said())
        monkeypatch.setattr(run, "_replace_learner", lambda error: pytest.fail("replaced"))
        with pytest.raises(type(error), match=str(error)):
            run.run_phase()


@pytest.mark.faults
@pytest.mark.slow
def test_a_killed_learner_process_is_replaced_within_its_time(tmp_path):
    import ray

    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    replaced = []

    def kill_once(program, run):
        real = run.log

        def log(row):
            real(row)
            if not replaced:
                group = run.rounds.learner._group
                pids = [r.get() for r in group.foreach_learner(lambda learner: os.getpid())]
                assert os.getpid() not in pids and len(set(pids)) == 2
                os.kill(pids[1], signal.SIGKILL)
                replaced.append(time.monotonic())

        run.log = log

    try:
        undisturbed = train(tmp_path / "whole", num_learners=2)
        weights, rows, content, lines, restarts = train(tmp_path / "run", kill_once, num_learners=2)
    finally:
        ray.shutdown()
    assert (weights, rows, content) == undisturbed[:3] and restarts == 1
    (line,) = [x for x in lines if x.startswith("learner replaced in")]
    assert float(line.split()[3]) < 30.0, line
