"""The JSON part of a checkpoint: where a run stands, and with what it was made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from cluster.versions import version_changes, versions
from common.errors import CheckpointError


@dataclasses.dataclass
class Cut:
    """Where a run stands: the JSON part of a checkpoint. Everything else in it hangs on these numbers.

    Attributes:
        phase: index into the schedule; its length means that training is over.
        round: rounds of the phase that are learned from.
        samples: samples of the phase that are learned from.
        lineage: branch of the run's history.
        counter: times weights were published.
        wall_s: seconds trained, over all attempts.
        pending: stage whose evaluation is due, "" for none.
        stages: METRICS by stage and column, as in report.json.
        metrics_bytes: length of metrics.jsonl at the cut.
        mlflow_run_id: run that the tracker continues.
        store_position: records per writer, and tombstones, that the cut has seen.
        encoder_sha256: of the frozen encoder; "" while it still learns.
        sampler: cursors of the phase's samplers, the limiter, and the rounds of collection under way.
        learner: the JSON half of the learner's state.
        config: every setting by dotted name.
        versions: of this code and the libraries.
        learner_restarts: learners that died and were replaced.
        init_from: where the first weights came from; empty for random ones.
        data: the store that imitation draws from, and what it showed; empty where the run collects.
        adopted, fenced: by the lineage that a resume opened, what was committed after its cut and is drawn from, or
            never is; see `cluster.lineages`. Empty where the run is deterministic.
    """

    phase: int = 0
    round: int = 0
    samples: int = 0
    lineage: int = 0
    counter: int = 0
    wall_s: float = 0.0
    pending: str = ""
    stages: dict[str, Any] = dataclasses.field(default_factory=dict)
    metrics_bytes: int = 0
    mlflow_run_id: str = ""
    store_position: dict[str, int] = dataclasses.field(default_factory=dict)
    encoder_sha256: str = ""
    sampler: dict[str, Any] = dataclasses.field(default_factory=dict)
    learner: dict[str, Any] = dataclasses.field(default_factory=dict)
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    learner_restarts: int = 0
    init_from: dict[str, Any] = dataclasses.field(default_factory=dict)
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    adopted: dict[str, Any] = dataclasses.field(default_factory=dict)
    fenced: dict[str, Any] = dataclasses.field(default_factory=dict)


def cut_of(state: Mapping[str, Any]) -> Cut:
    """The cut of a checkpoint's state. What an older checkpoint lacks has its default.

    Raises:
        CheckpointError: if it holds what this code does not know, or a value of another type than it has here.
    """
    fields = {f.name: f for f in dataclasses.fields(Cut)}
    unknown = sorted(set(state) - set(fields))
    if unknown:
        raise CheckpointError(
            f"the checkpoint's state holds {unknown}: a newer servofleet wrote it; allowed is that one"
        )
    fresh = Cut()
    for name, value in state.items():
        kind = type(getattr(fresh, name))
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise CheckpointError(f"the checkpoint's state.{name} = {value!r}: allowed is {kind.__name__}")
    return Cut(**state)


def other_versions(cut: Cut) -> list[str]:
    """A line for each version that differs between who wrote the cut and who goes on from it."""
    return version_changes(cut.versions, versions())
