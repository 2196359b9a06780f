"""`init_from=`: the weights that a new run starts with, taken from another run or from an export.

They are read once, before the run's first checkpoint, which holds them. A resume does not look at the source again: it
may be gone by then.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cluster.recorded_run import read_config, read_weights
from common.config import NetworkConfig, RunConfig
from common.errors import CheckpointError, ConfigError, bad_value
from common.networks.exported_policy import read_exported_weights, read_manifest
from common.networks.servo_net import ServoNet, set_weights
from common.networks.weights import Weights
from learner.checkpoint import Checkpoints

_ALLOWED = "a run directory, RUN@PHASE for the end of one of its phases, or the folder of an export"


@dataclasses.dataclass(frozen=True)
class Start:
    """Weights to start with.

    Attributes:
        weights: by name, as `ServoNet` takes them.
        facts: where they come from, JSON-ready: `source` as given, `sha256` and `version` of the weights, and of a run
            also `checkpoint`, its number.
    """

    weights: Weights
    facts: dict[str, Any]


def starting_weights(config: RunConfig) -> Start | None:
    """What `init_from` names; None where it is empty.

    Raises:
        ConfigError: if it names nothing that is there, a phase that the run has not finished, or a network with other
            settings; then each that differs is named.
        CheckpointError: if the checkpoint is broken, or its weights do not fit this code's network.
        ExportError: if a file of the export is missing or altered.
    """
    source = config.init_from
    if not source:
        return None
    path, phase = _parse(source)
    facts: dict[str, Any] = {"source": source}
    if (path / "manifest.json").is_file():
        if phase:
            raise ConfigError(bad_value("init_from", source, f"{path} alone: an export is of no phase"))
        manifest, weights = read_manifest(path), read_exported_weights(path)
        network: Mapping[str, Any] = manifest["network"]
        version = manifest["policy_version"]
    elif (path / "config.json").is_file():
        other = read_config(path)
        number = _end_of(path, other, phase) if phase else None
        facts["checkpoint"], weights, acting, _ = read_weights(path, other.checkpoint.keep, number)
        network, version = dataclasses.asdict(other.network), dataclasses.asdict(acting)
    else:
        raise ConfigError(bad_value("init_from", source, _ALLOWED))
    _check_network(source, network, config.network)
    with torch.random.fork_rng(devices=[]):
        set_weights(ServoNet(config.network), weights)
    facts |= {"sha256": version["sha256"], "version": f"{version['lineage']}.{version['counter']}"}
    return Start(weights, facts)


def _parse(source: str) -> tuple[Path, str]:
    """Folder, and phase or "". A folder may have an @ in its name."""
    head, _, phase = source.rpartition("@")
    return (Path(source), "") if not head or Path(source).exists() else (Path(head), phase)


def _end_of(path: Path, config: RunConfig, phase: str) -> int:
    """The newest checkpoint with the weights that `phase` ended with."""
    where = f"init_from = {str(path)!r}, phase"
    if phase not in config.schedule:
        raise ConfigError(bad_value(where, phase, f"one of the run's schedule {config.schedule}"))
    ends: dict[str, int] = {}
    checkpoints = Checkpoints(path / "checkpoints", config.checkpoint.keep)
    for number in checkpoints.numbers():
        file = checkpoints.path(number) / "state.json"
        try:
            state = json.loads(file.read_bytes())
            # Between two phases: the next one has trained nothing yet.
            if state["phase"] and not state["round"]:
                ends[config.schedule[state["phase"] - 1]] = number
        except (OSError, ValueError, KeyError, TypeError, IndexError) as e:
            raise CheckpointError(f"{file}: not of a checkpoint: {type(e).__name__}: {e}") from e
    if phase not in ends:
        raise ConfigError(bad_value(where, phase, f"one that the run has finished: {sorted(ends)}"))
    return ends[phase]


def _check_network(source: str, theirs: Mapping[str, Any], ours: NetworkConfig) -> None:
    """Refuse other settings. Where pretrained weights lie is none: a frozen backbone carries its content's hash."""
    # A setting younger than the source had its default there.
    settled = {**dataclasses.asdict(NetworkConfig()), **theirs}
    here = dataclasses.asdict(ours)
    names = sorted((set(settled) | set(here)) - {"pretrained"})
    differ = [n for n in names if settled.get(n) != here.get(n)]
    if differ:
        lines = "; ".join(f"network.{n} is {settled.get(n)!r} there and {here.get(n)!r} here" for n in differ)
        raise ConfigError(f"init_from = {source!r} has another network: {lines}")
