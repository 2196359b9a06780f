"""`servofleet bench scale`: what more environments cost the driver, the store's manifest and the learner.

Everything but rendering and learning is real: fleet, tasks, writers, segments, commit records, index, limiter, sampler
and the loop of imitation rounds. A sleep stands for the renderer, another one for the gradient step, and one process
plays many collectors (`cluster.bench_scale_worker`), so that the traffic of 1024 environments comes out of a few
processes. One collector serves 8 environments; each of its tasks is one episode of each of them, and one segment.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from rich.console import Console
from rich.progress import track

from cluster.bench_machine import machine
from cluster.bench_replay_report import print_result
from cluster.bench_scale_level import ENVS_PER_COLLECTOR, TASK_S, Level, ingest, run_level
from cluster.config_loading import load_config
from cluster.program import start_ray
from common.errors import ServofleetError

Row = dict[str, Any]

LEVELS = (8, 64, 256, 1024)
_QUICK = (8, 64)
RAM = Path("/dev/shm")
# Ratio -> (goal, must reach it); the others must not exceed theirs.
GOALS: dict[str, tuple[float | None, bool]] = {
    "driver_cpu_ms_per_segment": (2.0, False),
    "records_ingested_per_s": (200.0, True),
    "cost_growth": (1.3, False),
    "learner_wait": (None, False),
}


def bench_scale(*, quick: bool, as_json: bool) -> dict[str, Any]:
    """Measure and print.

    Args:
        quick: 8 and 64 environments, for a few seconds each.
        as_json: print the JSON of design section 3 instead of tables.

    Raises:
        ServofleetError: if Ray runs in this process already, or there is no file system in RAM.
    """
    if ray.is_initialized():
        raise ServofleetError("this bench ends the Ray it started: this process has one already")
    if not RAM.is_dir():
        raise ServofleetError(f"{RAM} is not there: the bench keeps its store in RAM, so that no disk is measured")
    levels, seconds = (_QUICK, 3.0) if quick else (LEVELS, 15.0)
    start_ray(load_config(["experiment=smoke"]))
    try:
        found = []
        for envs in track(levels, "environments", console=Console(stderr=True), transient=True):
            with _folder(RAM) as folder:
                found.append(run_level(folder, envs, seconds))
        rates = {}
        for system, place in (("in RAM", RAM), ("on the disk, durable", Path(tempfile.gettempdir()))):
            with _folder(place) as folder:
                rates[system] = ingest(folder, seconds)
    finally:
        ray.shutdown()
    rows = [row for level in found for row in level_rows(level)]
    rows += [_row("ingest", system, rate, "records/s") for system, rate in rates.items()]
    result = {"bench": "scale", "machine": machine(), "rows": rows, "ratios": ratios(found, rates["in RAM"])}
    if as_json:
        print(json.dumps(result))
    else:
        print_result(result, GOALS)
    return result


@contextlib.contextmanager
def _folder(place: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="servofleet-scale-", dir=place) as folder:
        yield Path(folder)


def level_rows(level: Level) -> list[Row]:
    """What was measured at one number of environments."""
    system = f"{level.envs} environments"
    each = 1000.0 / level.segments
    wanted = level.envs / ENVS_PER_COLLECTOR / TASK_S
    return [
        _row("commit_rate", system, level.segments / level.wall_s, "segments/s", without_learner=round(wanted, 1)),
        _row("learner_wait", system, level.wait_s / level.wall_s, "of the time"),
        _row("driver_cpu", system, level.cpu_s * each, "ms/segment", segments=level.segments),
        *(_row(f"{n}_cost", system, s * each, "ms/segment") for n, s in level.parts.items()),
        _row("cost", system, level.cost_s * each, "ms/segment", parts="fleet, index and limiter"),
        _row("round_trip", system, level.task_s, "s", rendering=TASK_S),
    ]


def ratios(levels: Sequence[Level], rate: float) -> list[Row]:
    """Judge the largest level, and it against the smallest."""
    first, last = levels[0], levels[-1]
    values = {
        "driver_cpu_ms_per_segment": 1000.0 * last.cpu_s / last.segments,
        "records_ingested_per_s": rate,
        "cost_growth": (last.cost_s / last.segments) / (first.cost_s / first.segments),
        "learner_wait": last.wait_s / last.wall_s,
    }
    out = []
    for name, (goal, at_least) in GOALS.items():
        value = values[name]
        holds = None if goal is None else bool(value >= goal if at_least else value <= goal)
        out.append({"name": name, "value": round(value, 3), "goal": goal, "holds": holds})
    return out


def _row(name: str, system: str, value: float, unit: str, **params: Any) -> Row:
    return {"name": name, "system": system, "value": round(value, 3), "unit": unit, "params": params}
