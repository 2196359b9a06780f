"""The driver: phase after phase, round after round; every cut of the run is one checkpoint.

Start and resume are the same call. `train` reads top to bottom: open, restore, evaluate the baselines, walk the
schedule, report.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.console import Display
from cluster.cut import Cut as Cut
from cluster.draining import Drained, Draining
from cluster.program import Program, build_program
from cluster.report import write_final_report
from cluster.run import Run as Run
from cluster.run_directory import RunDirectory
from cluster.starting_weights import starting_weights
from cluster.stored_data import check_data
from common.config import RunConfig


@contextlib.contextmanager
def recorded_end(program: Program, draining: Draining) -> Iterator[None]:
    """Tell MLflow how a run ended that did not finish: drained (SCHEDULED, for it is to go on), KILLED or FAILED."""
    try:
        yield
    except BaseException as error:
        drained = isinstance(error, Drained) or draining.is_why(error)
        killed = not isinstance(error, Exception)
        program.end_record("SCHEDULED" if drained else "KILLED" if killed else "FAILED")
        raise


def train(config: RunConfig, display: Display, draining: Draining | None = None) -> dict[str, Any]:
    """Train a run from wherever its directory stands to the end of its schedule.

    Args:
        config: checked configuration; `config.dir` decides which run this is.
        display: where progress goes.
        draining: who may ask the run to end early; nobody by default.

    Returns:
        The report, as in report.json.

    Raises:
        Drained: if it was asked to end, and is at a safe point.
        ServofleetError: one line that names what is wrong.
    """
    draining = draining or Draining(config.grace_s)
    if not (Path(config.dir) / "config.json").exists():
        # What is refused must not be on record as the run's setting.
        starting_weights(config)
        check_data(config)
    with RunDirectory(config) as directory:
        finished = directory.path / "report.json"
        if finished.exists():
            return display.finished(finished)
        with (
            display.recording(directory),
            build_program(config, directory) as program,
            display.live(program),
            contextlib.closing(Run(program, display, draining)) as run,
            recorded_end(program, draining),
        ):
            run.restore()
            while True:
                run.end_if_asked()
                # Within the loop, because the last cut may be from before anything in it.
                run.evaluate_baselines()
                if run.cut.pending:
                    run.evaluate(run.cut.pending, "learned")
                    run.cut.pending = ""
                    run.save(pin=True)
                if run.cut.phase >= len(config.schedule):
                    break
                run.run_phase()
            report = write_final_report(program, run.cut.stages, run.cut.wall_s)
            program.tracker.finish()
        display.report(report, directory.path)
        return report
