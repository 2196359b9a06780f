"""From a run's last cut to the end of its schedule: restore, evaluate the baselines, phase after phase, report."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from cluster.console import Display
from cluster.draining import Drained, Draining
from cluster.program import Program, build_program
from cluster.report import write_final_report
from cluster.run import Run
from cluster.run_directory import RunDirectory
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


def walk_schedule(config: RunConfig, directory: RunDirectory, display: Display, draining: Draining) -> dict[str, Any]:
    """Build the program and train until the schedule is over.

    Args:
        config: checked configuration.
        directory: the run's, open.
        display: where progress goes.
        draining: who may ask the run to end early.

    Returns:
        The report, as in report.json.

    Raises:
        Drained: if it was asked to end, and is at a safe point.
        ServofleetError: one line that names what is wrong.
    """
    torch.set_num_threads(config.learner_threads)
    with (
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
    return report
