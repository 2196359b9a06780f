"""How good the weights are that a cut holds, where an evaluation said so."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from learner.checkpoint import Checkpoints, Score


class Scores:
    """The last score, and which published weights it is of."""

    def __init__(self, checkpoints: Checkpoints, keep_best: int) -> None:
        self._checkpoints, self._keep_best = checkpoints, keep_best
        self._score: tuple[int, Score] | None = None

    def note(self, stage: str, counter: int, result: Mapping[str, Any]) -> None:
        """An evaluation of the weights published as number `counter`: METRICS by column."""
        if math.isfinite(iou := float(result["free"]["iou"])):
            self._score = (counter, Score(stage, iou))

    def of(self, counter: int) -> Score | None:
        """The score of the weights published as number `counter`, if they have one."""
        return self._score[1] if self._score is not None and self._score[0] == counter else None

    def is_best(self, counter: int) -> bool:
        """Whether these weights are the best that their evaluation saw, and the best are kept."""
        score = self.of(counter)
        if score is None or not self._keep_best:
            return False
        best = self._checkpoints.best(score.stage)
        return best is None or score.iou > best

    def forget(self) -> None:
        """Weights are published under old numbers again."""
        self._score = None
