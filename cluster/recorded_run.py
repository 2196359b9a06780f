"""A run as its directory records it: configuration and weights, read without touching anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cluster.run_directory import FORMAT_VERSION
from common.config import RunConfig, check, walk
from common.errors import CheckpointError, bad_value
from common.identity import PolicyVersion, json_sha256, weights_sha256
from common.networks.weights import Weights
from learner.checkpoint import Checkpoints, read_checkpoint


def read_config(run: str | Path) -> RunConfig:
    """The configuration that a run directory was last started with; settings younger than the run have their default.

    Raises:
        CheckpointError: if there is no record of a run, or it holds a setting that exists no more or is out of bounds.
    """
    path = Path(run) / "config.json"
    try:
        record = json.loads(path.read_bytes())
        if record["format"] != FORMAT_VERSION:
            raise CheckpointError(bad_value(f"{path}, format", record["format"], str(FORMAT_VERSION)))
        tree: dict[str, Any] = {}
        for name, value in record["config"].items():
            *parents, leaf = name.split(".")
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = value
        config: RunConfig = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunConfig), tree))
    except OSError as e:
        raise CheckpointError(f"run = {str(run)!r}: holds no run: {path.name}: {e.strerror or e}") from e
    except (ValueError, KeyError, TypeError, AttributeError, OmegaConfBaseException) as e:
        first = str(e).splitlines()[0] if str(e) else ""
        raise CheckpointError(f"{path}: not a run's record: {type(e).__name__}: {first}") from e
    check(config)
    return config


def fixed_sha256(config: RunConfig) -> str:
    """Hash of the settings that decide a run's data, as its episodes carry it."""
    return json_sha256({name: value for name, value, field in walk(config) if field.metadata["resume"] == "fixed"})


def read_weights(
    run: str | Path, keep: int, number: int | None = None
) -> tuple[int, Weights, PolicyVersion, dict[str, Any]]:
    """The acting weights of a checkpoint.

    Args:
        run: run directory.
        keep: of the run's configuration; nothing is deleted here.
        number: of the checkpoint; the newest where it is None.

    Returns:
        number, weights by name, their version, and the checkpoint's state.

    Raises:
        CheckpointError: if there is no such checkpoint, or it is broken. A broken newest one is not replaced by an
            older one: who exports wants to know.
    """
    root = Path(run) / "checkpoints"
    numbers = Checkpoints(root, keep).numbers() if root.is_dir() else []
    if not numbers:
        raise CheckpointError(f"run = {str(run)!r}: holds no complete checkpoint; `servofleet train` makes one")
    chosen = numbers[-1] if number is None else number
    if chosen not in numbers:
        raise CheckpointError(bad_value("checkpoint", chosen, f"one of {numbers}"))
    arrays, state = read_checkpoint(Checkpoints(root, keep).path(chosen))
    weights = {k.removeprefix("weights/"): v for k, v in arrays.items() if k.startswith("weights/")}
    return chosen, weights, PolicyVersion(int(state["lineage"]), int(state["counter"]), weights_sha256(weights)), state
