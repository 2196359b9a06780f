"""One real run of every phase through the command line, and the same run killed once and continued."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.run_directory import read_metrics
from cluster.status_verb import look
from common.identity import weights_sha256
from learner.checkpoint import Checkpoints
from replay.inspect import content_sha256

STAGES = {"zero", "pbvs", "nearest_goal", "moment_ibvs", "il", "ppo", "sil", "ppo_smooth"}
DEADLINE_S = 240


def command(*arguments):
    return [str(Path(sys.executable).parent / "servofleet"), *arguments]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def run(*arguments, timeout=DEADLINE_S):
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=timeout, env=environment())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbed."""
    path = tmp_path_factory.mktemp("whole") / "run"
    done = run("train", "experiment=smoke", f"dir={path}", "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    return path, done


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The same run, its driver killed with SIGKILL in the middle of PPO, then continued; `-m slow` kills it anywhere.

    It cuts after every round, so that the resume has to bring back a learner that was half-way.
    """
    path = tmp_path_factory.mktemp("killed") / "run"
    arguments = ("train", "experiment=smoke", f"dir={path}", "checkpoint.every_s=0.001")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    moment = {"phase": "ppo", "round": 1}
    with subprocess.Popen(command(*arguments), **quiet, env=environment()) as process:
        deadline = time.monotonic() + DEADLINE_S
        while not any(moment.items() <= row.items() for row in read_metrics(path / "metrics.jsonl")):
            assert process.poll() is None and time.monotonic() < deadline, "the run ended before it could be killed"
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert not (path / "report.json").exists()
    assert look(path, time.time()).state == "killed"
    done = run(*arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return path, done


def test_the_report_has_every_stage_and_the_promised_shape(whole):
    path, done = whole
    report = json.loads((path / "report.json").read_text())
    assert json.loads(done.stdout.splitlines()[-1]) == report
    assert set(report) == {"experiment", "seed", "wall_s", "suite_sha256", "stages"}
    assert set(report["stages"]) == STAGES
    for stage in report["stages"].values():
        assert set(stage) == {"free", "stopped"}
        assert 0.0 <= stage["free"]["iou"] <= 1.0 and 0.0 <= stage["free"]["iou75"] <= 100.0
    zero, oracle = report["stages"]["zero"]["free"], report["stages"]["nearest_goal"]["free"]
    assert zero["energy"] == 0.0 and oracle["iou"] > zero["iou"]


def test_pictures_tables_and_mlflow_are_there(whole):
    path, _ = whole
    assert {p.suffix for p in (path / "report").iterdir()} == {".png", ".gif"}
    assert (path / "report" / "training.png").stat().st_size > 5000
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{path}/mlflow.db")
    (run_,) = client.search_runs([client.get_experiment_by_name("smoke").experiment_id])
    assert run_.info.status == "FINISHED" and run_.data.params["seed"] == "0"
    assert "evaluation/il/iou" in run_.data.metrics and "il/total_loss" in run_.data.metrics
    assert run_.data.metrics["system/collectors/alive"] >= 1.0
    artifacts = {a.path for a in client.list_artifacts(run_.info.run_id)}
    assert {"report", "report.json", "checkpoints", "evaluation.json"} <= artifacts


def test_the_table_is_printed(whole):
    _, done = whole
    for stage in STAGES:
        assert stage in done.stderr


def test_killed_and_continued_equals_never_killed(whole, killed):
    """Weights bit for bit, every replay record byte for byte, every metric."""
    hashes, replays, rows = [], [], []
    for path, _ in (whole, killed):
        _, arrays, _, complaints = Checkpoints(path / "checkpoints", keep=2).latest()
        assert complaints == []
        hashes.append(weights_sha256({k: v for k, v in arrays.items() if k.startswith("weights/")}))
        replays.append(content_sha256(str(path / "store")))
        rows.append([timeless(row) for row in read_metrics(path / "metrics.jsonl")])
    assert rows[0] == rows[1]
    assert hashes[0] == hashes[1]
    assert replays[0] == replays[1]


def timeless(row):
    return {k: v for k, v in row.items() if not k.endswith("_s")}


def test_the_continued_run_says_what_it_found(killed):
    _, done = killed
    assert "resuming from checkpoint" in done.stderr


def test_a_finished_run_says_so_and_trains_nothing(whole):
    path, _ = whole
    before = (path / "metrics.jsonl").read_bytes()
    done = run("train", "experiment=smoke", f"dir={path}")
    assert done.returncode == 0 and "this run is finished" in done.stderr and "nearest_goal" in done.stderr
    assert (path / "metrics.jsonl").read_bytes() == before


def test_the_status_and_the_logs_of_a_finished_run(whole):
    path, _ = whole
    view = look(path, time.time())
    assert view.state == "finished" and view.errors == {}
    roles = {r.status.role: r.status for r in view.status.roles}
    assert set(roles) == {"driver", "learner", "collectors"}
    # A task that was done again counts twice.
    assert roles["collectors"].samples >= view.status.replay["rows"] > 1000 and roles["learner"].samples > 500
    assert view.status.checkpoint is not None and view.status.evaluation.startswith("ppo_smooth: IoU")
    events = [json.loads(line)["event"] for line in (path / "logs" / "driver.jsonl").read_text().splitlines()]
    assert events[0] == "started" and events[-1] == "finished" and events.count("round") == 9


def test_another_network_is_refused_with_the_reason(whole):
    path, _ = whole
    done = run("train", "experiment=smoke", f"dir={path}", "network.feature_dim=64")
    assert done.returncode == 2
    assert "network.feature_dim was 32, now 64" in done.stderr and "Traceback" not in done.stderr


def test_replay_info_through_the_command_line(whole):
    path, _ = whole
    info = json.loads(run("replay", "info", str(path / "store"), "--json").stdout)
    assert info["episodes"] > 50
    table = run("replay", "info", str(path / "store"))
    assert table.returncode == 0 and "ppo_smooth" in table.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train", "experiment=smoke", "phases.il.imitation.batchsize=3"], 2, "batchsize"),
        (["train", "experiment=smoke", "seed=first"], 2, "seed"),
        (["train", "experiment=nothing"], 2, "smoke"),
        (["train", "experiment=smoke", "dir=/proc/servofleet/run"], 1, "cannot be written"),
        (["replay", "info", "/nowhere/store"], 1, "/nowhere/store"),
    ],
)
def test_bad_usage_is_one_clear_line(arguments, code, words):
    done = run(*arguments)
    assert done.returncode == code
    lines = [line for line in done.stderr.splitlines() if line.startswith("servofleet:")]
    assert len(lines) == 1 and words in lines[0] and "Traceback" not in done.stderr
