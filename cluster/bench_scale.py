"""`servofleet bench scale`: what more environments cost the driver, the store's manifest and the learner.

Everything but rendering and learning is real: fleet, tasks, writers, segments, commit records, index, limiter, sampler
and the loop of imitation rounds. A sleep stands for the renderer, another one for the gradient step, and one process
plays many collectors (`cluster.bench_scale_worker`), so that the traffic of 1024 environments comes out of a few
processes. One collector serves 8 environments; each of its tasks is one episode of each of them, and one segment.
"""

from __future__ import annotations

import contextlib
import itertools
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
from cluster.bench_scale_level import ENVS_PER_COLLECTOR, TASK_S, Ingest, Level, ingest, ingest_tasks, run_level
from cluster.config_loading import load_config
from cluster.program import start_ray
from common.errors import ServofleetError

Row = dict[str, Any]

LEVELS = (8, 64, 256, 1024)
_QUICK = (8, 64)
RAM = Path("/dev/shm")
_WRITERS = (1, 2, 4)
_FEW = 64  # environments; with fewer, what a second costs is more than what its segments cost
# Ratio -> (goal, must reach it); the others must not exceed theirs.
GOALS: dict[str, tuple[float | None, bool]] = {
    "driver_cpu_per_segment_ms": (2.0, False),
    "sampling_cpu_per_segment_ms": (None, False),
    "records_ingested_per_s": (200.0, True),
    "cost_growth": (1.3, False),
    "cost_growth_from_64": (1.3, False),
    "cost_spread_from_64": (None, False),
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
        taken = {}
        disk = Path(tempfile.gettempdir())
        for system, place, writers in (
            *((f"{n} writers, in RAM", RAM, n) for n in _WRITERS),
            (f"{_WRITERS[-1]} writers, on the disk, durable", disk, _WRITERS[-1]),
        ):
            with _folder(place) as folder:
                taken[system] = ingest(folder, writers, seconds)
        with _folder(RAM) as folder:
            tasks = ingest_tasks(folder, seconds)
    finally:
        ray.shutdown()
    rows = [row for level in found for row in level_rows(level)]
    rows += [row for system, t in taken.items() for row in ingest_rows(system, t)]
    rows.append(_row("ingest", "tasks of a fleet, in RAM", tasks, "records/s"))
    best = max(t.records / t.wall_s for system, t in taken.items() if system.endswith("in RAM"))
    result = {"bench": "scale", "machine": machine(), "rows": rows, "ratios": ratios(found, best)}
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
        _row("cost", system, level.cost_s * each, "ms/segment", parts="all but sampling"),
        _row("round_trip", system, level.task_s, "s", rendering=TASK_S),
    ]


def ingest_rows(system: str, taken: Ingest) -> list[Row]:
    """What was measured with one number of writers."""
    each = 1000.0 / taken.records
    return [
        _row("ingest", system, taken.records / taken.wall_s, "records/s"),
        _row("ingest_writing", system, taken.writing_s * each, "ms CPU/record"),
        _row("ingest_reading", system, taken.reading_s * each, "ms CPU/record"),
    ]


def ratios(levels: Sequence[Level], rate: float) -> list[Row]:
    """Judge the largest level, it against the smallest, and those with many environments against each other."""
    costs = {level.envs: level.cost_s / level.segments for level in levels}
    first, last = levels[0], levels[-1]
    values = {
        "driver_cpu_per_segment_ms": 1000.0 * costs[last.envs],
        "sampling_cpu_per_segment_ms": 1000.0 * last.parts["sampling"] / last.segments,
        "records_ingested_per_s": rate,
        "cost_growth": costs[last.envs] / costs[first.envs],
        "learner_wait": last.wait_s / last.wall_s,
    }
    many = [cost for envs, cost in costs.items() if envs >= _FEW]
    if len(many) > 1:
        values["cost_growth_from_64"] = max(b / a for a, b in itertools.combinations(many, 2))
        values["cost_spread_from_64"] = max(many) / min(many)
    out = []
    for name, value in values.items():
        goal, at_least = GOALS[name]
        holds = None if goal is None else bool(value >= goal if at_least else value <= goal)
        out.append({"name": name, "value": round(value, 3), "goal": goal, "holds": holds})
    return out


def _row(name: str, system: str, value: float, unit: str, **params: Any) -> Row:
    return {"name": name, "system": system, "value": round(value, 3), "unit": unit, "params": params}
