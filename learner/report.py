"""The final word of a run: report.json and the table that a person reads.

report.json is ``{"experiment", "seed", "wall_s", "suite_sha256", "stages": {NAME: {"free": METRICS, "stopped":
METRICS}}}``; METRICS are described at `learner.metrics.evaluate_episodes`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from common.errors import SchemaError, bad_value
from common.fsio import replace_atomically

# Floors and controllers first, then the learned stages in the order they are trained, then what sees the true pose.
STAGES = ("zero", "moment_ibvs", "il", "ppo", "sil", "ppo_smooth", "pbvs", "nearest_goal")
LEARNED = ("il", "ppo", "sil", "ppo_smooth")
METRICS = ("iou", "iou_ci95", "iou50", "iou75", "iou90", "iou95", "energy", "dt_norm", "steps", "stopped_pct")
_TOP = ("experiment", "seed", "wall_s", "suite_sha256", "stages")
_WIDTH = 100
_CAPTION = (
    "free: fixed horizon, stopped: the episode ends at the first small action. IoU: mean final value ± half its 95 % "
    "interval. IoU75, IoU90: % of episodes above. energy: mean of the sum of |twist| dt. dT: mean action norm of the "
    "last ten steps."
)


def check_report(report: Mapping[str, Any]) -> None:
    """Check a report's shape.

    Raises:
        SchemaError: naming the key that is missing or unknown.
    """
    _keys("report", report, _TOP)
    for name, stage in report["stages"].items():
        _keys(f"report stages.{name}", stage, ("free", "stopped"))
        for column in ("free", "stopped"):
            _keys(f"report stages.{name}.{column}", stage[column], METRICS)


def write_report(run_dir: Path, report: Mapping[str, Any]) -> Path:
    """Write `report` to ``report.json`` in the run directory, all of it or nothing, and return its path.

    Raises:
        SchemaError: if the report does not have the promised shape.
    """
    check_report(report)
    path = run_dir / "report.json"
    replace_atomically(path, (json.dumps(report, indent=1, allow_nan=False) + "\n").encode())
    return path


def ordered_stages(names: Mapping[str, Any] | list[str]) -> list[str]:
    """Stage names in the order of `STAGES`; unknown ones follow in the order given."""
    return [s for s in STAGES if s in names] + [s for s in names if s not in STAGES]


def report_table(report: Mapping[str, Any]) -> Table:
    """One row per stage: the fixed horizon at the left, the stop rule at the right. 100 characters wide."""
    table = Table(
        title=f"{report['experiment']}, seed {report['seed']}",
        caption=_CAPTION,
        caption_justify="left",
        caption_style="dim",
        title_style="bold",
        box=box.HORIZONTALS,
        width=_WIDTH,
        padding=(0, 1, 0, 0),
    )
    table.add_column("\nstage", no_wrap=True)
    for name in ("free\nIoU", "\nIoU75", "\nIoU90", "\nenergy", "\ndT"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("stopped\nIoU", "\nIoU75", "\nIoU90", "\nsteps", "\nstop%"):
        table.add_column(name, justify="right", no_wrap=True, style="cyan", header_style="bold cyan")
    section = None
    for name in ordered_stages(report["stages"]):
        if section is not None and (name in LEARNED) != section:
            table.add_section()
        section = name in LEARNED
        free, stopped = report["stages"][name]["free"], report["stages"][name]["stopped"]
        table.add_row(
            name,
            *(_iou(free), f"{free['iou75']:.0f}", f"{free['iou90']:.0f}", f"{free['energy']:.2f}"),
            f"{free['dt_norm']:.3f}",
            *(_iou(stopped), f"{stopped['iou75']:.0f}", f"{stopped['iou90']:.0f}", f"{stopped['steps']:.0f}"),
            f"{stopped['stopped_pct']:.0f}",
            style="bold" if name in LEARNED else "",
        )
    return table


def print_report(report: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the table; `console` defaults to standard output, 100 columns at least."""
    out = console or Console(width=max(_WIDTH, Console().width))
    out.print(report_table(report))


def _iou(metrics: Mapping[str, Any]) -> str:
    low, high = metrics["iou_ci95"]
    return f"{metrics['iou']:.3f} ±{0.5 * (high - low):.3f}"


def _keys(name: str, value: Mapping[str, Any], wanted: tuple[str, ...]) -> None:
    if set(value) != set(wanted):
        raise SchemaError(bad_value(f"keys of {name}", sorted(value), str(sorted(wanted))))
