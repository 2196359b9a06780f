"""What a person sees while a run trains: a live panel in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table

from learner.report import print_report

if TYPE_CHECKING:
    from cluster.program import Program

_LINE_EVERY_S = 15.0


class Display:
    """Progress of a run. Methods are called by the driver; nothing here changes what it does."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        if not self.console.is_terminal:
            # A log file has no width; the report's table needs a hundred columns.
            self.console.width = max(self.console.width, 100)
        self._live: Live | None = None
        self._program: Program | None = None
        self._phase, self._total, self._round, self._first = "starting", 1, 0, 0
        self._row: dict[str, Any] = {}
        self._evaluation = ""
        self._phase_began = self._drawn = self._counted_at = time.monotonic()
        self._counted = (0, 0)
        self._failures = 0
        self._rates = (0.0, 0.0)

    @contextlib.contextmanager
    def live(self, program: Program) -> Iterator[None]:
        """Show `program` until the context ends."""
        self._program = program
        if not self.console.is_terminal:
            yield
            return
        with Live(console=self.console, auto_refresh=False, transient=True) as self._live:
            yield
        self._live = None

    def say(self, text: str) -> None:
        """One line that stays."""
        # Paths and error lines are no markup: a bracket in them must stand there as it is.
        self.console.print(text, highlight=False, soft_wrap=True, markup=False, emoji=False)

    def phase(self, name: str, rounds: int, done: int) -> None:
        """A phase begins or continues."""
        self._phase, self._total, self._round, self._first = name, rounds, done, done
        self._phase_began, self._row = time.monotonic(), {}
        self.say(f"phase {name}: {rounds} rounds" + (f", continuing after {done}" if done else ""))

    def round(self, done: int, row: dict[str, Any]) -> None:
        """A round ended with these metrics."""
        self._round, self._row = done, row
        self._draw(force=done == self._total)

    def evaluated(self, stage: str, result: dict[str, Any]) -> None:
        """An evaluation ended."""
        free = result["free"]
        self._evaluation = (
            f"{stage}: IoU {free['iou']:.3f}, IoU75 {free['iou75']:.0f} %, IoU90 {free['iou90']:.0f} %, "
            f"dT norm {free['dt_norm']:.3f}, energy {free['energy']:.2f}"
        )
        self.say(self._evaluation)

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
        if self._program is not None and self._program.fleet.totals.failures > self._failures:
            totals = self._program.fleet.totals
            self._failures = totals.failures
            self.say(f"collector failure {totals.failures}, its task is done again: {totals.last_failure}")
        if time.monotonic() - self._drawn > (0.25 if self._live is not None else _LINE_EVERY_S):
            self._draw(force=True)

    def _draw(self, force: bool) -> None:
        if not force and self._live is None:
            return
        self._drawn = time.monotonic()
        self._count()
        if self._live is not None:
            self._live.update(self._panel(), refresh=True)
        else:
            self.say("  ".join(f"{k} {v}" for k, v in self._facts()))

    def _count(self) -> None:
        if self._program is None:
            return
        now, totals = time.monotonic(), self._program.fleet.totals
        if now - self._counted_at >= 2.0:
            span = now - self._counted_at
            self._rates = ((totals.frames - self._counted[0]) / span, (totals.rows - self._counted[1]) / span)
            self._counted, self._counted_at = (totals.frames, totals.rows), now

    def _facts(self) -> list[tuple[str, str]]:
        row, facts = self._row, [("phase", self._phase), ("round", f"{self._round}/{self._total}")]
        facts.append(("ETA of phase", self._eta()))
        facts.append(("render", f"{self._rates[0]:.0f} frames/s"))
        facts.append(("collect", f"{self._rates[1]:.0f} rows/s"))
        seconds = {k: float(row.get(k, 0.0)) for k in ("learn_s", "sample_s", "wait_s")}
        total = sum(seconds.values())
        if total > 0:
            facts.append(("learn", f"{row['samples'] / max(seconds['learn_s'], 1e-9):.0f} samples/s"))
            facts.append(("learner waits", f"{100 * seconds['wait_s'] / total:.0f} %"))
        if row.get("slowed_s", 0.0) > 0.0:
            facts.append(("disk nearly full", f"writers waited {row['slowed_s']:.1f} s"))
        if self._program is not None:
            fleet = self._program.fleet
            facts.append(("collectors", f"{fleet.healthy}/{fleet.size}, {fleet.totals.failures} failures"))
        for key, label in (("total_loss", "loss"), ("reward", "reward"), ("iou_final", "iou_final")):
            if key in row:
                facts.append((label, f"{row[key]:.3f}"))
        return facts

    def _eta(self) -> str:
        done = self._round - self._first
        if not done:
            return "?"
        left = (time.monotonic() - self._phase_began) / done * (self._total - self._round)
        return f"{int(left) // 60}:{int(left) % 60:02d}"

    def _panel(self) -> Panel:
        table = Table.grid(padding=(0, 2))
        table.add_row("", ProgressBar(total=self._total, completed=self._round, width=60))
        for name, value in self._facts():
            table.add_row(f"[dim]{name}[/dim]", value)
        last = f"last evaluation  {self._evaluation}" if self._evaluation else "no evaluation yet"
        return Panel(Group(table, last), title="servofleet train", width=min(self.console.width, 110))
