"""Imitation's pace: how many rounds are collected for each one that is learned from, and which of them are drawn from.

Everything is a function of counts that stand in the cut, none of the clock: in lock-step a resumed run collects and
draws the same. A round counts as inserted when its collection begins.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from common.config import ImitationConfig, RunConfig
from common.errors import ConfigError, StoreError
from replay.limiter import Limiter


@dataclasses.dataclass
class _Collected:
    """Rounds that are kept or dropped together; `first` is the oldest of them."""

    first: int
    rows: int
    dagger: bool


class Pace:
    """Rounds collected so far, and the limiter that says when the next one may be."""

    def __init__(self, config: RunConfig, phase: str, spare_rows: int = 0) -> None:
        """Start a phase.

        Args:
            config: of the run.
            phase: name of an imitation phase.
            spare_rows: drawn from beyond replay.keep_rows, because so many of the newest may not be there yet.

        Raises:
            ConfigError: if a limiter setting is out of range, or collecting and learning could wait for each other.
        """
        self._settings: ImitationConfig = config.phases[phase].imitation
        self._replay = replay = config.replay
        self._ratio = replay.samples_per_insert
        batch, insert = self._settings.batch_size, self.rows_of_round(dagger=True)
        band = (replay.error_band or batch + insert * self._ratio) if self._ratio else math.inf
        try:
            self._limiter = Limiter(
                replay.min_rows,
                self._ratio or 1.0,
                band,
                max_sample=batch,
                max_insert=insert,
                capacity=replay.keep_rows or None,
            )
        except StoreError as error:
            raise ConfigError(
                f"phase {phase} cannot keep the pace that replay.min_rows, samples_per_insert, error_band and "
                f"keep_rows ask for: {error}"
            ) from error
        self._keep = replay.keep_rows + spare_rows if replay.keep_rows else 0
        self.collected = 0  # rounds, those under way included
        self._window: list[_Collected] = []

    def rows_of_round(self, *, dagger: bool) -> int:
        """Rows that a round of collection brings."""
        s = self._settings
        return s.scenes_per_round * s.views_per_scene + (s.dagger_envs * (s.dagger_steps + 1) if dagger else 0)

    @property
    def ready(self) -> bool:
        """Whether enough rows are there for the first draw."""
        return sum(w.rows for w in self._window) >= self._replay.min_rows

    @property
    def oldest(self) -> int:
        """First round that is drawn from: without replay.keep_rows 0."""
        return self._window[0].first if self._window else 0

    @property
    def has_dagger(self) -> bool:
        """Whether there is DAgger data to draw from."""
        return any(w.dagger for w in self._window)

    @property
    def ahead(self) -> int:
        """Rounds to begin with a learning round, so that collectors work while it is learned from."""
        if not self._ratio:
            return 1
        s = self._settings
        return math.ceil(s.updates_per_round * s.batch_size / (self._ratio * self.rows_of_round(dagger=False)))

    def try_collect(self, *, dagger: bool) -> int | None:
        """Count another round of collection if there may be one now: its number, else None."""
        rows = self.rows_of_round(dagger=dagger)
        if not self._limiter.try_insert(rows):
            return None
        self._window.append(_Collected(self.collected, rows, dagger))
        self.collected += 1
        keep = self._keep
        if not keep:
            self._window = [_Collected(self.oldest, sum(w.rows for w in self._window), self.has_dagger)]
        while keep and sum(w.rows for w in self._window[1:]) >= keep:
            self._limiter.remove(self._window.pop(0).rows)
        return self.collected - 1

    def try_draw(self, rows_under_way: int = 0) -> bool:
        """Count a batch as drawn if that may be now.

        Args:
            rows_under_way: counted as collected, and not there to be drawn from: the balance without them decides.
        """
        batch = self._settings.batch_size
        if self._ratio and rows_under_way:
            balance = self._limiter.report()["balance"] - rows_under_way * self._ratio
            if balance - batch < -self._limiter.error_band:
                return False
        return self._limiter.try_sample(batch)

    def adopt(self, rounds: int, *, dagger: bool) -> None:
        """Go on from a cut that says nothing of the pace: one round was collected per learning round, and one more."""
        rows = self.rows_of_round(dagger=False)
        self.collected, self._window = rounds, [_Collected(0, rounds * rows, dagger)]
        for _ in range(rounds):
            self._limiter.try_insert(rows)

    def waits(self) -> dict[str, float]:
        """Seconds that each side of the limiter waited so far ("insert", "sample"), and those that passed ("all")."""
        return self._limiter.waited()

    def state(self) -> dict[str, Any]:
        """JSON-ready."""
        window = [dataclasses.asdict(w) for w in self._window]
        return {"collected": self.collected, "window": window, "limiter": self._limiter.state()}

    def load(self, state: Mapping[str, Any]) -> list[str]:
        """Go on where `state` was taken. The settings this was made with stand; one line per limiter setting that
        differs from the state's.
        """
        self.collected = int(state["collected"])
        self._window = [_Collected(**w) for w in state["window"]]
        return self._limiter.load(state["limiter"])


def check_pace(config: RunConfig) -> None:
    """Refuse a run whose collecting and learning would come to wait for each other.

    Raises:
        ConfigError: as `Pace`, for the first such phase of the schedule.
    """
    for name in config.schedule:
        if config.phases[name].kind == "imitation" and not config.replay.train_from:
            Pace(config, name)
