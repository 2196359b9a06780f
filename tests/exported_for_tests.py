"""A run directory with checkpoints, written as the driver writes them but without training, and its export."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from cluster.cli import main
from cluster.config_loading import load_config
from cluster.driver import Cut
from cluster.export_verb import record_frames
from cluster.run_directory import RunDirectory
from common.config import RunConfig
from common.networks.exported_policy import ExportedPolicy, load_export
from common.networks.servo_net import initial_weights
from learner.checkpoint import Checkpoints
from learner.export import ParityFrames

STAGES = {"il": {"free": {"iou": 0.5}, "stopped": {"iou": 0.4}}}


@dataclasses.dataclass(frozen=True)
class Exported:
    """The newest checkpoint, number 4, of a run with two."""

    run: Path
    out: Path
    config: RunConfig
    weights: dict[str, Any]
    frames: ParityFrames
    manifest: dict[str, Any]
    policy: ExportedPolicy


def lively_weights(network, seed):
    """Weights whose twists differ from frame to frame and are long enough to be clamped now and then."""
    rng, found = np.random.default_rng(seed), initial_weights(network, seed)
    for name, array in found.items():
        if name.startswith("policy."):
            found[name] = (array + rng.normal(scale=0.6, size=array.shape)).astype(np.float32)
    return found


def write_run(config, *numbers):
    """Checkpoints `numbers` of the run in `config.dir`, each with weights of its own; returns these by number."""
    with RunDirectory(config) as directory:
        checkpoints = Checkpoints(directory.path / "checkpoints", config.checkpoint.keep)
        made = {}
        for number in numbers:
            made[number] = lively_weights(config.network, number)
            state = dataclasses.asdict(Cut(phase=1, lineage=2, counter=number, stages=STAGES))
            arrays = {f"weights/{k}": v for k, v in made[number].items()} | {"optimiser/step": np.zeros(1)}
            checkpoints.save(number, arrays, state)
    return made


def write_run_and_export(folder):
    run, out = folder / "run", folder / "made" / "policy"
    config = dataclasses.replace(load_config(["experiment=smoke", "evaluation.stop_dt_norm=0.3"]), dir=str(run))
    weights = write_run(config, 3, 4)[4]
    frames = record_frames(config, weights)
    assert main(["export", f"run={run}", f"out={out}"]) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    return Exported(run, out, config, weights, frames, manifest, load_export(out))
