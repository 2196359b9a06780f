"""Cuts on their way to the disk: pinned data, a thread that writes, and what happens when the disk refuses.

The run stands still while a cut is copied into memory and the data it goes on with is pinned. A thread writes and
flushes it; one at most is under way, and the next one waits for it.
"""

from __future__ import annotations

import dataclasses
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cluster.cut import Cut
from cluster.program import Program
from cluster.retention import retain
from common.errors import CheckpointError
from learner.checkpoint import Arrays, Score
from replay.pins import pin, read_pins, unpin

_PIN = "checkpoint-"  # the pins of a run's own checkpoints in its store
_REPORT = "report"  # the pin of the evaluations that the final report shows


@dataclasses.dataclass(frozen=True)
class Needs:
    """What a cut still needs of the store.

    Attributes:
        reason: in words, for whoever lists the pins.
        phases: whose data it goes on with.
        oldest: first round of collection of theirs that is needed.
    """

    reason: str
    phases: list[str]
    oldest: int


class CutSaver:
    """Writes the cuts of one run, and keeps pins and retention in step with them.

    Attributes:
        number: of the newest checkpoint that was begun.
        failed: a line for each checkpoint that could not be written, where the run goes on without it.
    """

    def __init__(self, program: Program, number: int = 0) -> None:
        self.number = number
        self.failed: list[str] = []
        self._stall_s = self._wait_s = 0.0
        self._program = program
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[Path] | None = None

    def save(self, cut: Cut, arrays: Arrays, needs: Needs, *, pin_it: bool, score: Score | None, wait: bool) -> None:
        """Save a cut as the next checkpoint; no task may be under way but those that the cut names.

        Args:
            cut: gets the store's position; may change as soon as this returns.
            arrays: named arrays; as `cut`.
            needs: of the store.
            pin_it: never prune this checkpoint.
            score: of the weights, if they were evaluated.
            wait: until it is on the disk.

        Raises:
            CheckpointError: if this or the one before cannot be written, and `checkpoint.on_error` is stop or there is
                no older checkpoint to fall back to.
        """
        began = time.perf_counter()
        self.settle()
        self.number += 1
        # A pin needs a view that nothing was deleted from since; between rounds nobody minds a newer one.
        cut.store_position = self._program.store.refresh()
        self._pin_data(cut, needs)
        snapshot = {name: np.array(array) for name, array in arrays.items()}
        self._writing = self._pool.submit(
            self._program.checkpoints.save, self.number, snapshot, dataclasses.asdict(cut), pin=pin_it, score=score
        )
        if wait:
            self.settle()
        self._stall_s += time.perf_counter() - began

    def settle(self) -> None:
        """Wait until the checkpoint under way is on the disk; then let go of the data that no checkpoint needs.

        Raises:
            CheckpointError: as `save`.
        """
        if self._writing is None:
            return
        began = time.perf_counter()
        writing, self._writing = self._writing, None
        error = writing.exception()
        self._wait_s += time.perf_counter() - began
        self._unpin_data()
        if error is None:
            retain(self._program.store, self._program.config.replay)
        elif (
            isinstance(error, CheckpointError)
            and self._program.config.checkpoint.on_error == "continue"
            and self._program.checkpoints.numbers()
        ):
            self.failed.append(str(error))
        else:
            raise error

    def take_seconds(self) -> tuple[float, float]:
        """Seconds that the run stood still for checkpoints since this was asked last, and of these, seconds of waiting
        for the disk.
        """
        seconds = self._stall_s, self._wait_s
        self._stall_s = self._wait_s = 0.0
        return seconds

    def close(self) -> None:
        """Wait for the checkpoint under way, whatever becomes of it: the run ends for another reason."""
        self._pool.shutdown(wait=True)

    def _pin_data(self, cut: Cut, needs: Needs) -> None:
        """Keep what the coming checkpoint goes on with, the data that its phase still needs, and the evaluations that
        the report shows, from being pruned. The pin is there before the checkpoint is.
        """
        storage, name = self._program.store.storage, f"{_PIN}{self.number:08d}"
        pin(
            storage,
            name,
            cut.store_position,
            f"checkpoint {self.number}: {needs.reason}",
            needs.phases,
            min_round=needs.oldest,
        )
        if cut.stages:
            pin(storage, _REPORT, cut.store_position, "the run's final report", cut.stages, kinds=["evaluation"])

    def _unpin_data(self) -> None:
        kept = {f"{_PIN}{number:08d}" for number in self._program.checkpoints.numbers()}
        for old in read_pins(self._program.store.storage):
            if old.name.startswith(_PIN) and old.name not in kept:
                unpin(self._program.store.storage, old.name)
