"""Exact resume: a run whose processes are killed at twenty random moments ends as one that nothing disturbed.

The moments come from a recorded seed: a number of rows in metrics.jsonl, and a pause after they are there and the run
has gone on from its cut. Four are in each phase.
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
PHASES = ("il", "value_warmup", "ppo", "sil", "ppo_smooth")


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
    """Start the run, kill its process group when it has so many rows and the pause is over; returns how many it had."""
    log = Path(f"{path}.log")
    said = log.stat().st_size if log.exists() else None
    with start(path) as process:
        try:
            deadline = time.monotonic() + DEADLINE_S
            while len(rows_of(path)) < rows or (said is not None and b"resuming from" not in log.read_bytes()[said:]):
                assert process.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < deadline
                time.sleep(0.02)
            time.sleep(pause_s)
        finally:
            # The last moments may come after the end of a short run.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return len(rows_of(path))


def outcome(path, store=None):
    _, arrays, _, complaints = Checkpoints(path / "checkpoints", keep=2).latest()
    assert complaints == []
    return {
        "weights": weights_sha256({k: v for k, v in arrays.items() if k.startswith("weights/")}),
        "replay": content_sha256(str(store or path / "store")),
        "rows": [{k: v for k, v in r.items() if not k.endswith("_s")} for r in rows_of(path)],
        "stages": json.loads((path / "report.json").read_text())["stages"],
    }


def moments_of(rows):
    """Four in each phase, in order: how many rows to wait for, so that the next one is of that phase."""
    rng = philox(SEED, Purpose.BOOTSTRAP)
    found = []
    for phase in PHASES:
        within = [i for i, row in enumerate(rows) if row["phase"] == phase]
        found += sorted(rng.choice(within, KILLS // len(PHASES)).tolist())
    return found, rng.uniform(0.0, 0.5, len(found)).tolist()


def test_twenty_kills_change_nothing(tmp_path):
    finish(tmp_path / "whole")
    expected = outcome(tmp_path / "whole")
    moments, pauses = moments_of(expected["rows"])
    hit = []
    for rows, pause in zip(moments, pauses, strict=True):
        seen = kill_at(tmp_path / "run", rows, pause)
        # The work that was cut off is that of the row that would have come next.
        hit.append(expected["rows"][seen]["phase"] if seen < len(expected["rows"]) else "the report")
    print(f"seed {SEED}: killed at rows {moments}, in {hit}")
    finish(tmp_path / "run")
    assert outcome(tmp_path / "run") == expected
    attempts = json.loads((tmp_path / "run" / "config.json").read_text())["attempt"]
    assert attempts == KILLS  # the first start is number 0
    assert set(PHASES) <= set(hit)
