"""The verbs below `servofleet replay`: results, exit codes, and Ctrl-C by a real signal."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cluster.cli import main
from cluster.config_loading import load_config
from cluster.replay_plan import replay_plan, workload
from common.episode import FIELDS, Episode, EpisodeMeta
from common.errors import ConfigError
from common.identity import EpisodeId
from replay.store import open_store
from replay.verify import find_faults

ROOT = Path(__file__).resolve().parents[2]


def evaluated(env: int, side: int = 4) -> Episode:
    steps, fixed = {}, {}
    for f in FIELDS.values():
        if "evaluation" in f.kinds:
            shape = ((side,) if f.level == "step" else ()) + tuple(d for d in f.dims if isinstance(d, int))
            (steps if f.level == "step" else fixed)[f.name] = np.full(shape, env / 10, f.dtype)
    meta = EpisodeMeta(EpisodeId("r", 0, "eval", 0, env), "evaluation", "il", "learned", None, 1, "{}", env, "c")
    return Episode(meta, steps, fixed)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    opened = open_store(tmp_path / "s", "a", create=True)
    w = opened.writer("w", max_episodes=1)
    for env in range(8):
        w.append(evaluated(env))
    w.close()
    return tmp_path / "s"


def run(capsys, *arguments: object) -> tuple[int, dict, str]:
    code = main(["replay", *map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else {}, err


def test_verify_and_repair(capsys, store: Path) -> None:
    assert run(capsys, "verify", store)[:2] == (0, {"path": str(store), "whole": True, "faults": []})
    record = store / "commits" / "w" / "00000003.json"
    record.write_bytes(record.read_bytes()[:-4])
    code, out, _ = run(capsys, "verify", store)
    assert code == 1 and out["faults"][0]["path"] == "commits/w/00000003.json"
    assert main(["replay", "verify", str(store)]) == 1
    assert "commits/w/00000003.json" in capsys.readouterr().out
    code, dry, _ = run(capsys, "repair", store, "--dry-run", "--lease-hours", 0)
    assert code == 0 and dry["dry_run"] and record.exists()
    code, done, _ = run(capsys, "repair", store, "--lease-hours", 0, "--index", store.parent / "i.sqlite")
    assert code == 0 and done["moved"] == dry["moved"] and not record.exists()
    assert run(capsys, "verify", store, "--lease-hours", 0)[0] == 0
    assert (store.parent / "i.sqlite").exists()


def test_prune_and_its_dry_run(capsys, store: Path) -> None:
    arguments = ["prune", store, "--newest-steps", 12, "--grace-hours", 0]
    code, dry, _ = run(capsys, *arguments, "--dry-run")
    assert code == 0 and dry["going"]["records"] == 5 and dry["newest"]["rows"] == 12
    assert len(list(store.glob("data/*"))) == 8 and not (store / "tombstones").exists()
    code, out, _ = run(capsys, *arguments)
    assert code == 0 and out["swept"]["deleted"] == 5 and len(list(store.glob("data/*"))) == 3
    assert run(capsys, "info", store)[1]["episodes"] == 3
    assert main(["replay", "prune", str(store)]) == 0
    assert "going: 0 records" in capsys.readouterr().out
    code, _, err = run(capsys, "prune", store, "--min-iou", 3)
    assert code == 2 and "retention min_iou = 3.0" in err
    assert run(capsys, "prune", store, "--grace-hours", -1)[0] == 2


def test_merge_and_export(capsys, store: Path, tmp_path: Path) -> None:
    code, out, _ = run(capsys, "merge", store, store, "-o", tmp_path / "c")
    assert code == 0 and (out["episodes"], out["duplicates"]) == (8, 8)
    for to, name in (("zarr", "c.zarr"), ("parquet", "c.parquet")):
        code, out, _ = run(capsys, "export", store, tmp_path / name, "--to", to)
        assert code == 0 and out["episodes"] == 8 and (tmp_path / name).exists()
    code, _, err = run(capsys, "export", store, tmp_path / "c.zarr", "--to", "zarr")
    assert code == 1 and err.startswith("servofleet: export output")
    with pytest.raises(SystemExit) as end:
        main(["replay", "export", str(store), "x"])
    assert end.value.code == 2


def test_plan_says_what_a_run_takes(capsys, store: Path, tmp_path: Path) -> None:
    code, out, _ = run(capsys, "plan", "--rate", 10, "--disk", tmp_path, "experiment=smoke")
    assert code == 0 and out["run_bytes"] == sum(p["bytes"] for p in out["phases"].values())
    il = out["phases"]["il"]
    assert il["bytes_per_hour"] == pytest.approx(il["bytes"] / il["episodes"] * 36000, rel=1e-6)
    assert il["days_of_disk"] == pytest.approx(out["free_bytes"] / il["bytes_per_hour"] / 24)
    config = load_config(["experiment=smoke"])
    sizes = []
    for grid in (16, 32):
        config.env.image_size, config.network.match_grid = 8 * grid, grid
        sizes.append(replay_plan(config, 10.0, None, None)["phases"]["il"]["bytes"])
    assert 3.5 < sizes[1] / sizes[0] < 4
    assert replay_plan(config, None, str(store), None)["episodes_per_s"] > 0
    for wrong in (0.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="replay plan --rate"):
            replay_plan(config, wrong, None, None)
    code, _, err = run(capsys, "plan", "experiment=smoke")
    assert code == 2 and "replay plan --rate = None" in err
    assert main(["replay", "plan", "--rate", "1", "experiment=smoke"]) == 0
    assert "enough" in capsys.readouterr().out


def test_the_workload_counts_rounds_as_the_driver_does() -> None:
    config = load_config(["experiment=quickstart"])
    work = {(phase, kind): (episodes, rows) for phase, kind, episodes, rows in workload(config)}
    assert work["il", "pairs"] == (100 * 64, 4) and work["il", "dagger"] == (40 * 16, 17)
    assert work["ppo", "rollout"] == (32 * 100, 41) and work["sil", "rollout"] == (512, 61)
    assert work["evaluation", "evaluation"] == ((4 + 4) * 200, 61)
    assert replay_plan(config, 1.0, None, None)["fits"] in (True, False)


def begun(folder: Path, verb: str) -> bool:
    if verb == "merge":
        return (folder / "c" / "store.json").exists()
    return not (folder / "s" / "data" / "w-00000003.zarr").exists()


def interrupted(arguments: list[str], is_under_way: Callable[[], bool]) -> tuple[subprocess.Popen[str], str]:
    """Run a verb and send it SIGINT when it is under way; it has ended, and what it said comes with it."""
    child = subprocess.Popen(
        [sys.executable, "-m", "cluster.cli", "replay", *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not is_under_way() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    child.send_signal(signal.SIGINT)
    return child, child.communicate(timeout=60)[1]


@pytest.mark.faults
@pytest.mark.parametrize("verb", ["merge", pytest.param("prune", marks=pytest.mark.slow)])
def test_ctrl_c_leaves_the_stores_valid(tmp_path: Path, verb: str) -> None:
    store = open_store(tmp_path / "s", "a", create=True)
    w = store.writer("w", max_episodes=1 if verb == "prune" else 15)
    episodes = 150 if verb == "prune" else 600
    for env in range(episodes):
        w.append(evaluated(env))
    w.close()
    arguments = {
        "merge": ["merge", str(store.root), "-o", str(tmp_path / "c")],
        "prune": ["prune", str(store.root), "--newest-steps", "4", "--grace-hours", "0"],
    }[verb]
    for attempt in range(5):
        child, err = interrupted(arguments, lambda: begun(tmp_path, verb))
        if child.returncode != 0 or verb == "prune":
            break
        # It was done before the signal reached it.
        assert attempt < 4
        shutil.rmtree(tmp_path / "c")
    assert child.returncode == 130 and "the store is valid" in err, err
    touched = tmp_path / "c" if verb == "merge" else store.root
    assert find_faults(touched) == []
    assert main(["replay", *arguments]) == 0
    assert find_faults(touched) == []
    left = open_store(touched)
    left.refresh()
    assert len(left.select()) == (episodes if verb == "merge" else 1)
