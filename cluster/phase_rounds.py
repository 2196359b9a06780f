"""What the driver asks of the rounds of a phase, and what those of all kinds share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from actors.tasks import Task, TaskResult, split
from cluster.fleet import Weights
from cluster.program import Program
from common.config import ImitationConfig, PhaseConfig
from common.identity import PolicyVersion
from common.schedules import dagger_share
from learner.learners import PhaseLearner

Row = dict[str, Any]


class PhaseRounds(Protocol):
    """The rounds of one phase."""

    learner: PhaseLearner
    total_rounds: int

    def oldest(self, round: int) -> int:
        """First round of collection that is still needed when the next round to learn from is `round`."""

    def prepare(self, round: int, weights: Weights, version: PolicyVersion) -> None:
        """Collect what `learn(round)` needs to be there already."""

    def learn(self, round: int, weights: Weights, version: PolicyVersion, tick: Callable[[], None]) -> Row:
        """One round; returns its metrics, with `samples` and where the time went: `learn_s`, `compute_s` of it from a
        batch in memory to its last step, `sample_s` (waiting for data from the store), `wait_s` (waiting for
        collectors), `slowed_s` (of all writers, because the disk fills).
        """

    def cursors(self) -> dict[str, Any]:
        """State of the samplers, JSON-ready."""

    def load_cursors(self, state: dict[str, Any]) -> list[str]:
        """Inverse of `cursors`; a line for each setting that stands now and differs from the one in the state."""


class Rounds:
    """What the rounds of all kinds share."""

    def __init__(self, program: Program, name: str, learner: PhaseLearner, lineage: int) -> None:
        self.learner = learner
        self.total_rounds = num_rounds(program.config.phases[name])
        self._program, self._name, self._lineage = program, name, lineage
        self._phase = program.config.phases[name]

    def oldest(self, round: int) -> int:
        """First round of collection that is still needed when the next round to learn from is `round`."""
        return 0

    def _split(self, kind: Any, envs: int, round: int, version: PolicyVersion | None, **more: Any) -> list[Task]:
        shards = self._program.config.fleet.shards
        return split(kind, envs, shards, phase=self._name, lineage=self._lineage, round=round, version=version, **more)


def num_rounds(phase: PhaseConfig) -> int:
    """Rounds until the phase has seen its samples."""
    if phase.kind == "self_imitation":
        return 1
    if phase.kind == "imitation":
        return math.ceil(phase.samples / (phase.imitation.updates_per_round * phase.imitation.batch_size))
    return math.ceil(phase.samples / (phase.ppo.envs * phase.ppo.steps))


def dagger_rows(settings: ImitationConfig, round: int, rounds: int) -> int:
    """DAgger rows in a batch of one of `rounds` rounds: whole episodes of `rows_per_episode`."""
    return round_to(settings.batch_size * dagger_share(settings, round, rounds), settings.rows_per_episode)


def round_to(value: float, multiple: int) -> int:
    """Nearest multiple."""
    return round(value / multiple) * multiple


def slowed_s(results: Iterable[TaskResult]) -> float:
    """Seconds that writers were held back in these tasks because the disk fills."""
    return sum(r.seconds.get("store_disk", 0.0) for r in results)
