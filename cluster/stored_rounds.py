"""Imitation from an existing store: as many rounds as imitation has otherwise, and nobody collects."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from cluster.fleet import Weights
from cluster.imitation_rounds import ImitationUpdates
from cluster.phase_rounds import Row, dagger_rows
from common.identity import PolicyVersion
from replay.samplers import Group


class StoredRounds(ImitationUpdates):
    """Pairs and DAgger episodes of the whole store, whichever run, phase and round they are of; DAgger's share grows as
    it does where DAgger is collected.
    """

    def prepare(self, round: int, weights: Weights, version: PolicyVersion) -> None:
        """Nothing: everything is there."""

    def learn(self, round: int, weights: Weights, version: PolicyVersion, tick: Callable[[], None]) -> Row:
        """A round's gradient steps."""
        began = time.perf_counter()
        row = self.update(self.groups(round), tick, lambda: None)
        row["learn_s"] = time.perf_counter() - began - row["sample_s"]
        return row | {"slowed_s": 0.0}

    def cursors(self) -> dict[str, Any]:
        """State of the sampler."""
        return {"uniform": self._sampler.state()}

    def load_cursors(self, state: dict[str, Any]) -> list[str]:
        """Inverse of `cursors`."""
        self._sampler.load(state["uniform"])
        return []

    def groups(self, round: int) -> list[Group]:
        """What the batches of a round consist of."""
        settings = self._phase.imitation
        dagger = dagger_rows(settings, round, self.total_rounds)
        rows_of = {"pairs": settings.batch_size - dagger, "dagger": dagger}
        return [Group(k, rows_of[k], settings.rows_per_episode) for k in ("pairs", "dagger") if rows_of[k]]
