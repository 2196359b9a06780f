"""`servofleet bench soak`: a real fleet for a long time, under kills or without; what it lost, leaked and grew by.

Two collectors render scenes of 32 pixels (real ones, because it is renderers and policies that leak), one commits to
the store itself, the other through the store's writer actor, as on another machine. A learner draws from the store and
learns, a few times per second; its weights go out with every round. Retention keeps the store at one size, so that
what still grows is a leak.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from cluster.bench_machine import machine
from cluster.bench_replay_report import print_result
from cluster.bench_soak_fleet import Soak
from cluster.bench_soak_processes import adopting
from cluster.bench_soak_slope import Slope, slope
from cluster.config_loading import load_config
from common.errors import ServofleetError, bad_value
from replay.repair import repair
from replay.retention import sweep
from replay.store import open_store
from replay.verify import find_faults

Row = dict[str, Any]

_SETTINGS = (
    "experiment=smoke",
    "fleet.collectors=2",
    "fleet.max_restarts=1000000",
    # Ray's workers are of low priority: on a busy machine they stand still for some seconds.
    "fleet.hang_timeout_s=60",
    # There is one node, and it is struck on purpose.
    "fleet.quarantine_s=0",
    # Caches of a size that the warm-up fills.
    "renderer.pool_bytes=16000000",
    "phases.il.imitation.scenes_per_round=16",
    "phases.il.imitation.views_per_scene=4",
    "phases.il.imitation.dagger_envs=8",
)
_WARM_UP = 1.0 / 3.0  # of the time; caches, pools and the store fill up in it
_MB = 1e6
ROLES = ("driver", "collectors", "writer")
NONE_OF = (
    "episodes_lost",
    "episodes_wrong",
    "store_faults",
    "leaked_actors",
    "leaked_processes",
    "open_files_growth",
    "open_handles_left",
    "shared_memory_left",
    "temp_files_left",
)
SLOPE_GOAL = 20.0  # MB/hour


def bench_soak(*, minutes: float, kills: int, as_json: bool, seed: int = 0) -> dict[str, Any]:
    """Run a soak and print what it found.

    Args:
        minutes: how long the fleet works.
        kills: SIGKILLs in that time, and a tenth as many SIGSTOPs beside them. Memory is judged where it is 0: a
            process that is replaced again and again shows no trend.
        as_json: print the JSON of design section 3 instead of tables.
        seed: of the moments and the victims.

    Raises:
        ServofleetError: if minutes or kills are out of range, Ray runs in this process, or the fleet gives up.
    """
    if not minutes > 0:
        raise ServofleetError(bad_value("minutes", minutes, "> 0"))
    if kills < 0:
        raise ServofleetError(bad_value("kills", kills, ">= 0"))
    if ray.is_initialized():
        raise ServofleetError("a soak ends the Ray it started: this process has one already")
    with tempfile.TemporaryDirectory(prefix="servofleet-soak-") as scratch, adopting():
        config = load_config([*_SETTINGS, f"seed={seed}", f"dir={scratch}/run"])
        soak = Soak(config, Path(scratch), 60.0 * minutes, kills)
        try:
            soak.work()
        finally:
            soak.end()
        found = _stored(soak, Path(config.dir))
    rows = _counts(soak, found, minutes, seed)
    slopes = {}
    for role in ROLES:
        slopes[role], more = role_memory(soak, role, 60.0 * minutes, seed)
        rows += more
    ratios = judge(found | soak.left | {"kills": soak.striker.kills}, kills, {} if kills else slopes)
    result = {"bench": "soak", "machine": machine(), "rows": rows, "ratios": ratios}
    if as_json:
        print(json.dumps(result))
    else:
        goals = {"kills": (float(kills), True), **dict.fromkeys(NONE_OF, (0.0, False))}
        print_result(result, goals | {f"rss_slope_{role}": (SLOPE_GOAL, False) for role in ROLES})
    return result


def judge(counts: dict[str, float], kills: int, slopes: dict[str, Slope | None]) -> list[Row]:
    """The ratios: as many kills as asked for, none of what must not be, and memory that may be flat and grows by less
    than 20 MB per hour at most; a role without a slope is not judged.
    """
    ratios: list[Row] = [
        {"name": "kills", "value": counts["kills"], "goal": kills, "holds": counts["kills"] >= kills},
        *({"name": n, "value": counts[n], "goal": 0, "holds": counts[n] == 0} for n in NONE_OF),
    ]
    for role in ROLES:
        found = slopes.get(role)
        ratios.append(
            {
                "name": f"rss_slope_{role}",
                "value": None if found is None else round(found.value, 2),
                "goal": SLOPE_GOAL,
                "holds": None if found is None else found.flat and found.high < SLOPE_GOAL,
            }
        )
    return ratios


def _stored(soak: Soak, directory: Path) -> dict[str, float]:
    """Read the whole store once more, and tidy it as after a crash."""
    verdict = soak.ledger.close(soak.url)
    left = [f for f in find_faults(soak.url, lease_s=0.0) if f.kind in ("temp", "orphan")]
    with contextlib.closing(open_store(soak.url, "a", ram_bytes=0)) as store:
        sweep(store, grace_s=0.0, lease_s=0.0)
    repair(soak.url, lease_s=0.0)
    faults = [str(f) for f in find_faults(soak.url, lease_s=0.0)]
    temporary = [p for p in directory.rglob("*.tmp") if "quarantine" not in p.parts]
    if verdict.first or faults:
        print("\n".join([verdict.first, *faults[:5]]).strip(), file=sys.stderr)
    return {
        "acknowledged": verdict.acked,
        "kept": verdict.kept,
        "committed_twice": verdict.repeated,
        "left_by_kills": len(left),
        "episodes_lost": verdict.lost,
        "episodes_wrong": verdict.bad - verdict.lost,
        "store_faults": len(faults),
        "temp_files_left": len(temporary),
    }


def _counts(soak: Soak, found: dict[str, float], minutes: float, seed: int) -> list[Row]:
    settled = [(files, every) for t, files, every in soak.handles if t >= 60.0 * minutes * _WARM_UP]
    # Sockets come and go with actors; files are ours.
    found["open_files_growth"] = growth([files for files, _ in settled])
    return [
        _row("acknowledged", "real collectors, 32 px", found["acknowledged"], "episodes", minutes=minutes, seed=seed),
        _row("kept", "after retention", found["kept"], "episodes"),
        _row("deleted", "by retention", soak.deleted, "segments"),
        _row("committed_twice", "ids, after a kill", found["committed_twice"], "episodes"),
        _row("rounds", "pairs and DAgger", soak.rounds, "rounds"),
        _row("updates", "learner", soak.updates, "updates"),
        _row("kills", "SIGKILL", soak.striker.kills, "signals"),
        _row("stops", "SIGSTOP", soak.striker.stops, "signals"),
        _row("failures", "tasks that the fleet gave out again", soak.fleet.totals.failures, "tasks"),
        _row("left_by_kills", "torn segments and temporary files, then swept", found["left_by_kills"], "files"),
        _row("sockets_left", "driver, Ray's", soak.left["sockets_left"], "sockets"),
        _row("open_handles", "driver", statistics.fmean(n for _, n in settled) if settled else 0.0, "handles"),
    ]


def role_memory(soak: Soak, role: str, seconds: float, seed: int) -> tuple[Slope | None, list[Row]]:
    """The slope of a role's resident memory, None where no process lived long enough, and what there is to show."""
    warm_up = seconds * _WARM_UP
    alive: list[NDArray[np.float64]] = []
    for (name, _, _), samples in soak.memory.items():
        values = np.array(samples, np.float64)
        # A process that came later needs as long to warm up as those that were there from the start.
        late = warm_up + (values[0, 0] if values[0, 0] > 0.1 * seconds else 0.0)
        if name == role:
            alive.append(values[values[:, 0] >= late])
    rows: list[Row] = []
    fits: list[Slope | None] = []
    for name, column in (("rss", 1), ("rss_anonymous", 2)):
        found = slope([(v[:, 0] / 3600.0, v[:, column] / _MB) for v in alive], seed)
        fits.append(found)
        if found is not None:
            shown = {"low": round(found.low, 1), "high": round(found.high, 1), "samples": found.samples}
            about = {**shown, "warm_up_s": round(warm_up, 1)}
            rows.append(_row(f"{name}_slope_{role}", "least squares, block bootstrap", found.value, "MB/hour", **about))
    if sizes := [v[:, 1].mean() for v in alive if len(v)]:
        rows.append(_row(f"rss_{role}", "mean of a process", float(np.mean(sizes)) / _MB, "MB"))
    return fits[0], rows


def growth(counts: list[int]) -> float:
    """Growth of a level that flickers: median of the last fifth over that of the first fifth; 0 for a fall."""
    fifth = max(len(counts) // 5, 1)
    return max(0.0, statistics.median(counts[-fifth:]) - statistics.median(counts[:fifth])) if counts else 0.0


def _row(name: str, system: str, value: float, unit: str, **params: Any) -> Row:
    return {"name": name, "system": system, "value": round(float(value), 3), "unit": unit, "params": params}
