"""`servofleet evaluate`: evaluate a run's newest weights, or a classical controller, on the held-out suite."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from actors.classical import make_policy
from actors.collect_rollouts import EXPORT
from cluster.evaluation import evaluate_stage
from cluster.program import build_program
from cluster.run_directory import RunDirectory
from common.config import EvaluationConfig, RunConfig
from common.errors import CheckpointError, ConfigError, bad_value
from common.identity import PolicyVersion, weights_sha256
from common.networks.exported_policy import read_manifest
from learner.checkpoint import Checkpoints
from learner.report import print_report


def evaluate_run(config: RunConfig, policy: str, *, as_json: bool) -> dict[str, Any]:
    """Evaluate without touching the run: its directory is only read, the episodes go to a temporary store.

    Args:
        config: of the run; `config.dir` is where the weights come from, `config.evaluation` may differ.
        policy: "learned", a classical controller, or "export:DIR" with the folder of an exported policy.
        as_json: do not print the table.

    Returns:
        ``{"policy", "suite_sha256", "conditions", "free": METRICS, "stopped": METRICS}``; the conditions are those of
        `conditions`.

    Raises:
        CheckpointError: if the run has no complete checkpoint.
        ConfigError: if there is no such policy, or the settings ask an export for what it does not do.
        ExportError: if the export is not whole.
    """
    weights = version = None
    if policy == "learned":
        root = Path(config.dir) / "checkpoints"
        found = Checkpoints(root, config.checkpoint.keep).latest() if root.exists() else None
        if found is None:
            raise CheckpointError(f"dir = {config.dir!r}: holds no complete checkpoint; `servofleet train` makes one")
        _, arrays, state, _ = found
        weights = {k.removeprefix("weights/"): v for k, v in arrays.items() if k.startswith("weights/")}
        version = PolicyVersion(int(state["lineage"]), int(state["counter"]), weights_sha256(weights))
    elif policy.startswith(EXPORT):
        policy = f"{EXPORT}{_checked_export(policy.removeprefix(EXPORT), config)}"
    else:
        make_policy(policy)  # refuses an unknown name before anything is started
    with tempfile.TemporaryDirectory(prefix="servofleet-evaluate-") as scratch:
        aside = dataclasses.replace(config, dir=scratch)
        with RunDirectory(aside) as directory, build_program(aside, directory) as program:
            result = evaluate_stage(program, "evaluate", policy, weights, version, 0)
            suite = program.suite.sha256
    asked = conditions(config.evaluation)
    if not as_json:
        changed = [f"{k}={v}" for k, v in asked.items() if v != getattr(EvaluationConfig(), k)]
        name = f"{config.experiment} ({', '.join(changed)})" if changed else config.experiment
        report = {"experiment": name, "seed": config.seed, "wall_s": 0.0, "suite_sha256": suite}
        print_report({**report, "stages": {policy: result}})
    return {"policy": policy, "suite_sha256": suite, "conditions": asked, **result}


def _checked_export(folder: str, config: RunConfig) -> Path:
    """The folder, absolute, so that collectors find it wherever they run."""
    size = read_manifest(folder)["image_size"]
    if config.env.image_size != size:
        raise ConfigError(bad_value("env.image_size", config.env.image_size, f"{size}, which {folder} was made for"))
    for name, only in (("control", "direct"), ("control_source", "regression"), ("denormalise", True)):
        value = getattr(config.evaluation, name)
        if value != only:
            raise ConfigError(bad_value(f"evaluation.{name}", value, f"{only!r}: an export holds one law"))
    return Path(folder).resolve()


def conditions(evaluation: EvaluationConfig) -> dict[str, Any]:
    """How the policy was steered and seen with: the settings of evaluation that make two tables no longer comparable.

    The thresholds of the hybrid law and the settings of the hypotheses are among them only where they are used.
    """
    names = ["focal_scale", "distance_scale", "denormalise", "control", "control_source"]
    names += ["hybrid_near", "hybrid_far"] if evaluation.control == "hybrid" else []
    names += ["hypotheses", "hypothesis_pick", "ddim_steps"] if evaluation.control_source == "diffusion" else []
    return {name: getattr(evaluation, name) for name in names}
