"""`servofleet bench render-server`: batches of a render server against those of the renderer in one's own process.

One fresh process holds the client and a renderer of its own, another is the server; both draw the same 64 environments.
Batches of all ways are drawn in turn, so that noise hits all, and wall time counts, for that is what a collector waits.
Every batch is read: its pixels become what a policy takes. Where it says overlapped, the server draws the next batch
meanwhile. Every way's first pictures are compared bit for bit with the renderer's own.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from typing import Any

from rich.console import Console
from rich.progress import track

from cluster.bench_machine import machine
from cluster.bench_render_report import print_result
from common.errors import RendererError

Row = dict[str, Any]
LOCAL, SHARED, SENT = "in process", "shared memory", "socket"
OVERLAPPED = {SHARED: "shared memory, overlapped", SENT: "socket, overlapped"}
SIZES = (128, 256)
GOALS = {"shared_memory_vs_local": (0.9, True), "socket_vs_local": (0.5, True)}
_TIMEOUT = 900.0


def bench_render_server(*, repeats: int, quick: bool, as_json: bool) -> dict[str, Any]:
    """Measure and print.

    Args:
        repeats: fresh pairs of processes per figure; medians count.
        quick: fewer batches and one repeat, about half a minute.
        as_json: print the JSON of design section 3 instead of tables.

    Raises:
        RendererError: if a process fails, or a picture that came through the server is another one.
    """
    repeats, batches = (1, 4) if quick else (repeats, 30)
    answers: dict[int, list[dict[str, Any]]] = {size: [] for size in SIZES}
    jobs = [(size, repeat) for repeat in range(repeats) for size in SIZES]
    for size, _ in track(jobs, "rendering", console=Console(stderr=True)):
        answers[size].append(_run({"size": size, "batches": batches}))
    rows = [row for size in SIZES for row in _rows(size, answers[size])]
    result = {"bench": "render-server", "machine": machine(), "rows": rows, "ratios": ratios(answers)}
    if as_json:
        print(json.dumps(result))
    else:
        print_result(result, GOALS)
    return result


def ratios(answers: dict[int, list[dict[str, Any]]]) -> list[Row]:
    """The goals are held by the worse of the sizes; per size without goals, and how much of the reading was hidden.

    Args:
        answers: by size, one per repeat: seconds per batch by way, and of the reading alone under "read".
    """
    values: dict[str, float] = {}
    for way, name in ((SHARED, "shared_memory"), (SENT, "socket")):
        by_size = {size: _median(a[LOCAL] / a[way] for a in answers[size]) for size in answers}
        values[f"{name}_vs_local"] = min(by_size.values())
        for size, value in by_size.items():
            values[f"{name}_{size}_vs_local"] = value
            hidden = _median((a[way] - a[OVERLAPPED[way]]) / min(a["read"], a[way] - a["read"]) for a in answers[size])
            values[f"{name}_{size}_overlapped_vs_local"] = _median(a[LOCAL] / a[OVERLAPPED[way]] for a in answers[size])
            values[f"{name}_{size}_overlap_of_reading"] = hidden
    return [_ratio(name, value) for name, value in values.items()]


def _rows(size: int, answers: list[dict[str, Any]]) -> list[Row]:
    envs = answers[0]["environments"]
    params = {"size": size, "scenes": envs, "bytes": answers[0]["bytes"], "repeats": len(answers)}
    rows = []
    for way in (LOCAL, SHARED, SENT, *OVERLAPPED.values()):
        rows.append(_row(f"frames_{size}", way, envs / _median(a[way] for a in answers), "frames/s", **params))
    for kind, unit in (("read", "ms/batch"), ("reset_in_process", "ms/scene"), ("reset_server", "ms/scene")):
        each = 1 if kind == "read" else envs
        rows.append(_row(f"{kind}_{size}", "", 1000.0 * _median(a[kind] for a in answers) / each, unit, **params))
    return rows


def _run(job: dict[str, Any]) -> dict[str, Any]:
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    done = subprocess.run(
        [sys.executable, "-m", "cluster.bench_render_server_worker", json.dumps(job)],
        env={**os.environ, **one, "WARP_QUIET": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RendererError(f"bench render-server, {job}: {said[-1]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def _median(values: Any) -> float:
    return float(statistics.median(values))


def _ratio(name: str, value: float) -> Row:
    goal = GOALS[name][0] if name in GOALS else None
    return {
        "name": name,
        "value": round(value, 3),
        "goal": goal,
        "holds": None if goal is None else value >= goal,
    }


def _row(name: str, system: str, value: float, unit: str, **params: Any) -> Row:
    return {"name": name, "system": system, "value": round(value, 3), "unit": unit, "params": params}
