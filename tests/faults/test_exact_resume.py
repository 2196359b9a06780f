"""Exact resume: a run whose processes are killed at twenty random moments ends as one that nothing disturbed.

The moments come from a recorded seed: a number of rows in metrics.jsonl, and a pause after they are there. Rows are
those of the undisturbed run, so that the moments spread over baselines, all phases and their evaluations; a moment
whose rows are there already when the run starts again hits the start itself.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.run_directory import read_metrics
from common.identity import weights_sha256
from common.rng import Purpose, philox
from learner.checkpoint import Checkpoints
from replay.inspect import content_sha256

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(3600)]

SEED, KILLS, DEADLINE_S = 20261121, 20, 300


def start(path):
    command = [str(Path(sys.executable).parent / "servofleet"), "train", "experiment=smoke", f"dir={path}"]
    # A cut after every round: each start has something to bring back, and writing is often what is interrupted.
    return subprocess.Popen(
        [*command, "checkpoint.every_s=0.001"],
        stdout=subprocess.DEVNULL,
        stderr=open(f"{path}.log", "ab"),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def finish(path):
    with start(path) as process:
        assert process.wait(DEADLINE_S) == 0, Path(f"{path}.log").read_text()[-3000:]


def rows_of(path):
    with contextlib.suppress(ValueError):  # a row is being written
        return read_metrics(path / "metrics.jsonl")
    return []


def kill_at(path, rows, pause_s):
    """Start the run, kill its process group when it has so many rows and the pause is over; returns the last row's
    phase, or "" if there is no row.
    """
    with start(path) as process:
        try:
            deadline = time.monotonic() + DEADLINE_S
            while len(rows_of(path)) < rows:
                assert process.poll() is None, Path(f"{path}.log").read_text()[-3000:]
                assert time.monotonic() < deadline
                time.sleep(0.02)
            time.sleep(pause_s)
        finally:
            # The last moments may come after the end of a short run.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    found = rows_of(path)
    return found[-1]["phase"] if found else ""


def outcome(path, store=None):
    _, arrays, _, complaints = Checkpoints(path / "checkpoints", keep=2).latest()
    assert complaints == []
    return {
        "weights": weights_sha256({k: v for k, v in arrays.items() if k.startswith("weights/")}),
        "replay": content_sha256(str(store or path / "store")),
        "rows": [{k: v for k, v in r.items() if not k.endswith("_s")} for r in rows_of(path)],
        "stages": json.loads((path / "report.json").read_text())["stages"],
    }


def test_twenty_kills_change_nothing(tmp_path):
    finish(tmp_path / "whole")
    expected = outcome(tmp_path / "whole")
    rng = philox(SEED, Purpose.BOOTSTRAP)
    # One row less than all: behind the last one there is hardly anything left to kill.
    moments = sorted(rng.integers(0, len(expected["rows"]) - 1, KILLS).tolist())
    pauses = rng.uniform(0.0, 2.0, KILLS).tolist()
    hit = [kill_at(tmp_path / "run", rows, pause) for rows, pause in zip(moments, pauses, strict=True)]
    print(f"seed {SEED}: killed at rows {moments}, in {hit}")
    finish(tmp_path / "run")
    assert outcome(tmp_path / "run") == expected
    attempts = json.loads((tmp_path / "run" / "config.json").read_text())["attempt"]
    assert attempts >= KILLS - hit.count("")
    assert {"il", "ppo", "sil"} <= set(hit)
