"""A run directory with checkpoints, written as the driver writes them but without training, and its export."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from cluster.cli import main
from cluster.config_loading import load_config
from cluster.cut import Cut
from cluster.export_verb import record_frames
from cluster.run_directory import RunDirectory
from common.config import RunConfig
from common.networks.exported_policy import ExportedPolicy, load_export
from common.networks.servo_net import initial_weights
from learner.checkpoint import Checkpoints
from learner.export import ParityFrames

STAGES = {"il": {"free": {"iou": 0.5}, "stopped": {"iou": 0.4}}}


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A run with two checkpoints, and the weights of the newest, number 4."""

    run: Path
    config: RunConfig
    weights: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Exported(Recorded):
    """The same run with the export of its newest checkpoint."""

    out: Path
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


def write_recorded(folder):
    config = dataclasses.replace(load_config(["experiment=smoke", "evaluation.stop_dt_norm=0.3"]), dir=str(folder))
    return Recorded(folder, config, write_run(config, 3, 4)[4])


def write_export_of(recorded, folder):
    out = folder / "policy"
    frames = record_frames(recorded.config, recorded.weights)
    assert main(["export", f"run={recorded.run}", f"out={out}"]) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    parts = (recorded.run, recorded.config, recorded.weights)
    return Exported(*parts, out, frames, manifest, load_export(out))
