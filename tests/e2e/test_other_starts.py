"""Through the command line: imitation from another run's store, killed and continued, and PPO from its weights."""

import json
import signal
import subprocess
import time

import pytest
from test_smoke_run import DEADLINE_S, command, environment, run, timeless

from cluster.run_directory import read_metrics
from common.identity import weights_sha256
from learner.checkpoint import Checkpoints
from replay.inspect import content_sha256

pytestmark = pytest.mark.slow
QUIET = ("evaluation.baselines=[]", "phases.il.evaluate=false", "phases.ppo.evaluate=false")
ALONE = ("schedule=[il]", "fleet.collectors=0", "phases.il.samples=640", "checkpoint.every_s=0.001", *QUIET)


def trained(path, *overrides):
    done = run("train", "experiment=smoke", f"dir={path}", *overrides, "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def newest(path):
    _, arrays, state, complaints = Checkpoints(path / "checkpoints", keep=2).latest()
    assert complaints == []
    return weights_sha256({k: v for k, v in arrays.items() if k.startswith("weights/")}), state


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "run"
    trained(path, "seed=3", "schedule=[il]", *QUIET)
    return path


@pytest.fixture(scope="module")
def alone(source, tmp_path_factory):
    """A run from the store of another one, without collectors and without Ray."""
    path = tmp_path_factory.mktemp("alone") / "run"
    before = content_sha256(str(source / "store"))
    report = trained(path, *ALONE, f"replay.train_from={source / 'store'}")
    assert content_sha256(str(source / "store")) == before
    assert report["stages"] == {} and newest(path)[1]["data"]["episodes"] == {"pairs": 32, "dagger": 8}
    return path


def test_killed_and_continued_from_a_store_equals_never_killed(source, alone, tmp_path):
    path = tmp_path / "run"
    arguments = ("train", "experiment=smoke", f"dir={path}", *ALONE, f"replay.train_from={source / 'store'}")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command(*arguments), **quiet, env=environment()) as process:
        deadline = time.monotonic() + DEADLINE_S
        while len(read_metrics(path / "metrics.jsonl")) < 3:
            assert process.poll() is None and time.monotonic() < deadline, "the run ended before it could be killed"
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert not (path / "report.json").exists()
    done = run(*arguments)
    assert done.returncode == 0 and "resuming from checkpoint" in done.stderr, done.stderr[-3000:]
    assert newest(path)[0] == newest(alone)[0]
    rows = [[timeless(r) for r in read_metrics(p / "metrics.jsonl")] for p in (path, alone)]
    assert rows[0] == rows[1] and len(rows[0]) == 10


def test_a_run_begins_with_ppo_from_there(alone, tmp_path):
    trained(tmp_path / "run", "schedule=[ppo]", f"init_from={alone}@il", *QUIET)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [r["phase"] for r in rows] == ["init_from", "ppo", "ppo"]
    assert (
        rows[0]["source"] == f"{alone}@il" and newest(tmp_path / "run")[1]["init_from"]["sha256"] == rows[0]["sha256"]
    )


def test_one_actor_evaluates_without_collectors(source, tmp_path):
    settings = ("schedule=[il]", "fleet.collectors=0", "evaluation.baselines=[zero]")
    report = trained(tmp_path / "run", *settings, f"replay.train_from={source / 'store'}")
    assert set(report["stages"]) == {"zero", "il"}
