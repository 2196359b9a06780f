"""What a person sees while a run trains: a live panel in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live

from cluster import status_view
from cluster.role_log import RoleLogs
from cluster.status_board import StatusBoard
from common.role_events import tell
from learner.report import print_report

if TYPE_CHECKING:
    from cluster.program import Program
    from cluster.run_directory import RunDirectory

_LINE_EVERY_S = 15.0
_DRAW_EVERY_S = 0.25


class Display:
    """Progress of a run. Methods are called by the driver; nothing here changes what it does.

    Attributes:
        board: the numbers shown, which other shells read from status.json.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        if not self.console.is_terminal:
            # A log file has no width; the report's table needs a hundred columns.
            self.console.width = max(self.console.width, 100)
        self.board = StatusBoard(self.say)
        self._live: Live | None = None
        self._total = 1
        self._drawn = time.monotonic()

    @contextlib.contextmanager
    def recording(self, directory: RunDirectory) -> Iterator[None]:
        """Keep status.json and the logs of a run directory until the context ends; say so once where that fails."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(RoleLogs(directory.path, self._print))
            except OSError as e:
                self.say(f"warning: {directory.path}/logs cannot be written: {e.strerror or e}")
            self.board.open(directory.path, directory.run_id, directory.attempt)
            try:
                yield
            except BaseException as e:
                self.board.close(e)
                raise
            self.board.close(None)

    @contextlib.contextmanager
    def live(self, program: Program) -> Iterator[None]:
        """Show `program` until the context ends."""
        self.board.attach(program)
        try:
            if not self.console.is_terminal:
                yield
                return
            with Live(console=self.console, auto_refresh=False, transient=True) as self._live:
                yield
        finally:
            self._live = None
            self.board.detach()

    def say(self, text: str) -> None:
        """One line that stays, and is logged."""
        tell("driver", logging.WARNING if text.startswith("warning: ") else logging.INFO, text)
        self._print(text)

    def _print(self, text: str) -> None:
        # Paths and error lines are no markup: a bracket in them must stand there as it is.
        self.console.print(text, highlight=False, soft_wrap=True, markup=False, emoji=False)

    def phase(self, name: str, rounds: int, done: int) -> None:
        """A phase begins or continues."""
        self._total = rounds
        self.board.phase(name, rounds, done)
        self.say(f"phase {name}: {rounds} rounds" + (f", continuing after {done}" if done else ""))

    def round(self, done: int, row: dict[str, Any], limiter: Mapping[str, Any] | None = None) -> None:
        """A round ended with these metrics, and with this state of the limiter where there is one."""
        self.board.round(done, row, limiter)
        self._draw(force=done == self._total)

    def evaluating(self, stage: str, scenes: int) -> None:
        """An evaluation begins."""
        self.board.evaluating(stage, scenes)
        self.say(f"evaluating {stage} on {scenes} held-out scenes")

    def evaluated(self, stage: str, result: dict[str, Any]) -> None:
        """An evaluation ended."""
        free = result["free"]
        text = (
            f"{stage}: IoU {free['iou']:.3f}, IoU75 {free['iou75']:.0f} %, IoU90 {free['iou90']:.0f} %, "
            f"dT norm {free['dt_norm']:.3f}, energy {free['energy']:.2f}"
        )
        self.board.evaluated(stage, text, free)
        self.say(text)

    def learner_lost(self, error: BaseException) -> None:
        """A learner died; the run goes back to its last checkpoint with another one."""
        self.board.learner_lost(error)
        self.say(f"learner lost: {error}")

    def finished(self, path: Path) -> dict[str, Any]:
        """The run was over before it began: say so and show its table again."""
        report: dict[str, Any] = json.loads(path.read_text())
        self.say(f"this run is finished: {path} (another seed or dir starts a new one)")
        print_report(report, self._wide())
        return report

    def report(self, report: dict[str, Any], directory: Path) -> None:
        """The run is over: its table, and where everything is."""
        print_report(report, self._wide())
        self.say(f"trained {report['wall_s']:.0f} s; report.json and pictures in {directory}/report, MLflow: ")
        self.say(f"  mlflow ui --backend-store-uri sqlite:///{directory.resolve()}/mlflow.db")

    def _wide(self) -> Console:
        """A console of the hundred columns that the report needs; folded lines lose less than cut ones."""
        if self.console.width < 100 and self.console.is_terminal:
            return Console(stderr=True, width=100)
        return self.console

    def tick(self) -> None:
        """Called often; draws now and then, and tells of every failure of a collector."""
        if failure := self.board.tick():
            self._print(failure)
        if time.monotonic() - self._drawn > (_DRAW_EVERY_S if self._live is not None else _LINE_EVERY_S):
            self._draw(force=True)

    def _draw(self, force: bool) -> None:
        if not force and self._live is None:
            return
        self._drawn = time.monotonic()
        status = self.board.status()
        if self._live is not None:
            self._live.update(status_view.panel(status, self.console.width, time.time()), refresh=True)
        else:
            self._print(status_view.line(status))
