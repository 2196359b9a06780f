"""The driver: start and resume are the same call, and the run directory decides which it is.

What the directory alone refuses or answers is said before the learner's libraries are imported, which takes seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.console import Display
from cluster.draining import Draining
from cluster.run_directory import RunDirectory
from common.config import RunConfig


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
    if not (Path(config.dir) / "config.json").exists() and (config.init_from or config.replay.train_from):
        from cluster.starting_weights import starting_weights
        from cluster.stored_data import check_data

        # What is refused must not be on record as the run's setting.
        starting_weights(config)
        check_data(config)
    with RunDirectory(config) as directory:
        finished = directory.path / "report.json"
        if finished.exists():
            return display.finished(finished)
        from cluster.schedule import walk_schedule

        with display.recording(directory):
            report = walk_schedule(config, directory, display, draining or Draining(config.grace_s))
        display.report(report, directory.path)
        return report
