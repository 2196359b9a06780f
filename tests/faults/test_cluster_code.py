"""A node with another release of servofleet than the driver: its collector is refused, and the run says so at once."""

import os
import shutil
import time
from pathlib import Path

import pytest
from ray_nodes import nodes
from train_process import said, train

from cluster.versions import CODE, PACKAGES, source_sha256, versions

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]


def test_a_node_with_other_code_is_refused_and_both_versions_are_named(tmp_path, monkeypatch):
    other = tmp_path / "other"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, other / package, ignore=shutil.ignore_patterns("__pycache__"))
    with open(other / "actors" / "tasks.py", "a") as file:
        file.write("# a line that the driver does not have\n")
    path = tmp_path / "run"
    # Ray gives workers the driver's folder to import from, which on this machine would be the driver's code.
    monkeypatch.chdir(tmp_path)
    with nodes(0, head_cpus=0) as cluster:
        monkeypatch.setenv("PYTHONPATH", f"{other}:{os.environ.get('PYTHONPATH', '')}")
        cluster.add()
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        began = time.monotonic()
        train(path, f"ray_address={cluster.address}", "fleet.cpus_per_collector=1", "fleet.start_timeout_s=600", code=1)
        took = time.monotonic() - began
    line = said(path).strip().splitlines()[-1]
    theirs = f"0.1.0+{source_sha256(other)[:12]}"
    assert theirs in line and versions()[CODE] in line and line.startswith("servofleet: collector c00"), line
    assert took < 300.0
