"""Pieces of work: what the driver asks of a collector, and what it answers.

A task says everything that decides its outcome. Two collectors that do the same task with the same weights write the
same episodes under the same ids, so a task may be repeated anywhere after a failure.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, Literal

from common.identity import PolicyVersion
from common.role_events import Event

TaskKind = Literal["pairs", "dagger", "rollout", "evaluation"]


@dataclasses.dataclass(frozen=True)
class Task:
    """One shard of a round.

    Attributes:
        kind: which collection loop.
        phase: learning phase (its settings decide steps, views and reward weights); for evaluations the stage.
        lineage: branch of the run's history, part of the episode ids.
        round: collection round within the phase.
        first_env, last_env: environments [first, last) of the round.
        policy: "learned", "uniform" or the name of a classical controller.
        version: of the weights that act, None where nothing learned acts.
        explore: sample actions from the policy's Gaussian instead of taking its mean.
    """

    kind: TaskKind
    phase: str
    lineage: int
    round: int
    first_env: int
    last_env: int
    policy: str = "learned"
    version: PolicyVersion | None = None
    explore: bool = False

    @property
    def num_envs(self) -> int:
        """Environments of this shard."""
        return self.last_env - self.first_env

    def plain(self) -> dict[str, Any]:
        """The fields as texts, numbers and dicts: Ray packs those ten times as fast as it pickles a dataclass."""
        # dataclasses.asdict copies deeply, which takes longer than the packing.
        return vars(self) | {"version": None if self.version is None else dict(vars(self.version))}

    @classmethod
    def from_plain(cls, fields: Mapping[str, Any]) -> Task:
        """Inverse of `plain`."""
        version = fields["version"]
        return cls(**{**fields, "version": None if version is None else PolicyVersion(**version)})


@dataclasses.dataclass(frozen=True)
class TaskResult:
    """What a collector reports: everything it wrote is committed when this is returned.

    Attributes:
        episode_ids: ids of the committed episodes.
        frames: rendered frames, of any size.
        rows: rows committed.
        seconds: seconds spent per activity ("render", "policy", "store", "total"); of those of "store", waits by cause:
            "store_disk" because the disk fills, "store_writer" for the writer of another node. "render_lost" is what
            was done in vain because a render server failed; it is there only then.
        collector: who did it.
        rss_bytes: resident memory of the collector afterwards.
        events: warnings of the collector's process since its last result, the last 64 at most.
    """

    episode_ids: tuple[str, ...]
    frames: int
    rows: int
    seconds: dict[str, float]
    collector: str
    rss_bytes: int
    events: tuple[Event, ...] = ()


def split(kind: TaskKind, envs: int, shards: int, **common: object) -> list[Task]:
    """Cut a round of `envs` environments into at most `shards` tasks of nearly equal size."""
    shards = min(shards, envs)
    edges = [envs * i // shards for i in range(shards + 1)]
    return [
        Task(kind=kind, first_env=a, last_env=b, **common)  # type: ignore[arg-type]
        for a, b in itertools.pairwise(edges)
    ]
