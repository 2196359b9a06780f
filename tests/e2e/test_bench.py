import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FIGURES = {"render", "collect_pairs", "collect_dagger", "collect_rollout", "store", "sample", "learn_il", "end_to_end"}


@pytest.mark.slow
def test_bench_pipeline_prints_the_promised_json():
    """Shape only: what a machine's rates are worth is for a person to judge."""
    command = [str(Path(sys.executable).parent / "servofleet"), "bench", "pipeline", "experiment=smoke"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--repeats", "1", "--json"], capture_output=True, text=True, timeout=280, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result) == {"bench", "machine", "rows", "ratios"} and result["bench"] == "pipeline"
    assert {row["name"] for row in result["rows"]} > FIGURES
    for row in result["rows"]:
        assert set(row) == {"name", "system", "value", "unit", "params"} and row["value"] > 0
    for ratio in result["ratios"]:
        assert set(ratio) == {"name", "value", "goal", "holds"}
