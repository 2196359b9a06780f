"""A checkpoint of format version 1 as it was written once: all later code must read it and go on from it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cluster.cut import cut_of, other_versions
from cluster.recorded_run import read_config, read_weights
from cluster.run_directory import RunDirectory
from common.config import changed_fixed
from common.identity import weights_sha256
from learner.checkpoint import Checkpoints, read_checkpoint
from learner.learners import build_learner

GOLDEN = Path(__file__).parent / "golden_checkpoint_v1"
WEIGHTS = "25f56989fbaa6a8db7f55877402aaa42d5e02a7c9a9759bb9017a234dff70f3d"
STATE = "1fb11ac6607894b27df8a079fabff4449d73c7ceaca4e500b7bda3c6923bc2a0"
LOSS = 7.416377  # of the next update, on `batch(0)`


def batch(seed, rows=8, episodes=4, side=32, grid=4):
    """Rows as the sampler of imitation gives them, of the golden run's sizes."""
    rng = np.random.default_rng(seed)

    def poses(n):
        found = np.tile(np.eye(4), (n, 1, 1))
        found[:, :3, 3] = rng.normal(size=(n, 3)) * 0.2
        return found

    return {
        "image": rng.integers(0, 256, (rows, side, side, 3), dtype=np.uint8),
        "mask": rng.random((rows, side, side)) > 0.5,
        "match": rng.random((rows, grid, grid, 2)).astype(np.float16),
        "expert_twist": (rng.normal(size=(rows, 6)) * 0.3).astype(np.float32),
        "label_valid": np.ones(rows, bool),
        "world_T_cam": poses(rows),
        "goal_image": rng.integers(0, 256, (episodes, side, side, 3), dtype=np.uint8),
        "goal_mask": rng.random((episodes, side, side)) > 0.5,
        "goal_world_T_cam": poses(episodes),
        "d_star": np.full(episodes, 0.7, np.float32),
        "episode_index": np.arange(rows) * episodes // rows,
    }


def restored():
    _, arrays, state, complaints = Checkpoints(GOLDEN / "checkpoints", keep=2).latest()
    assert complaints == []
    learner = build_learner(read_config(GOLDEN), "il")
    mine = {k.removeprefix("learner/"): v for k, v in arrays.items() if k.startswith("learner/")}
    learner.load_state(mine, cut_of(state).learner)
    return learner, mine


def test_it_reads_back_to_the_bit():
    number, weights, version, state = read_weights(GOLDEN, keep=2)
    assert number == 2 and weights_sha256(weights) == version.sha256 == WEIGHTS
    assert version.lineage == 0 and version.counter == 1
    arrays, _ = read_checkpoint(GOLDEN / "checkpoints" / "00000002")
    assert weights_sha256(arrays) == STATE
    cut = cut_of(state)
    assert (cut.phase, cut.round, cut.samples, cut.pending) == (0, 1, 64, "") and cut.metrics_bytes > 0
    # Of before versions were in the cut: nothing to compare with.
    assert cut.store_position and cut.sampler["uniform"]["next"] == 4 and other_versions(cut) == []


def test_its_learner_goes_on():
    learner, saved = restored()
    arrays, state = learner.state()
    # All of it came back, and a checkpoint of today would hold the same.
    assert set(arrays) == set(saved) and all(np.array_equal(arrays[k], saved[k]) for k in saved)
    assert state["counters"]["samples"] == 64 == learner.num_samples_learned
    metrics = learner.update(batch(0))
    assert metrics["gradient_steps"] == 1.0 and metrics["skipped_share"] == 0.0
    # The same loss on every machine, to within the order of its sums.
    assert metrics["total_loss"] == pytest.approx(LOSS, rel=1e-3)
    assert learner.state()[1]["counters"]["samples"] == 72
    again, _ = restored()
    again.update(batch(0))
    assert weights_sha256(again.get_weights()) == weights_sha256(learner.get_weights())


def test_its_run_directory_is_taken_as_it_is_and_guarded(tmp_path):
    run = tmp_path / "run"
    shutil.copytree(GOLDEN, run)
    config = read_config(GOLDEN)
    config.dir = str(run)
    old = json.loads((GOLDEN / "config.json").read_text())["config"]
    assert "checkpoint.every_nth" not in old and changed_fixed(old, config) == []
    with RunDirectory(config) as directory:
        assert not directory.is_new and directory.attempt == 1


def test_it_is_small():
    assert sum(p.stat().st_size for p in GOLDEN.rglob("*")) < 2_000_000
