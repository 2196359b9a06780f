"""`servofleet bench inference`: frames per second and latency of the whole policy, from image bytes to command.

The goal is encoded once and kept, as in an episode. Every series of batch sizes runs in a fresh process, so that no
configuration warms or crowds another; a size that would take too long or too much memory is reported as missing.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from typing import Any

from rich.console import Console
from rich.progress import track

from cluster.bench_machine import machine
from cluster.bench_replay_report import print_result

Row = dict[str, Any]

SIZES, BATCHES = (64, 128, 256, 512), (1, 8, 64, 256)
MODES = ("eager", "compiled", "exported")
NETWORKS = ("conv_small", "vit_small", "dinov2_b")
BAR = "inference_512_vitb_frames_per_s"
# name -> (goal, the value must reach it)
GOALS: dict[str, tuple[float | None, bool]] = {BAR: (100.0, True)}
# What the papers say of their own policies, not measured here.
ANCHORS = {"Sym-Servo, RTX 4090, as published": 31.7, "CNSv2, RTX 4090, as published": 36.0}
_TIMEOUT_S = 1800.0


@dataclasses.dataclass(frozen=True)
class Series:
    """One network at one image size in one mode, over batch sizes; what a worker measures."""

    network: str
    size: int
    mode: str
    device: str
    precision: str
    batches: tuple[int, ...]

    @property
    def system(self) -> str:
        """As rows name it."""
        return f"{self.mode}, {self.device}, {self.precision}"


def bench_inference(*, quick: bool, as_json: bool) -> dict[str, Any]:
    """Measure and print.

    Args:
        quick: few configurations and short measurements, less than a minute without a GPU.
        as_json: print the JSON of design section 3 instead of tables.

    Returns:
        ``{"bench", "machine", "rows", "ratios"}``. Rows are frames/s; their params have the latency of a call as
        p50_ms and p99_ms, and `missing` with the reason where there is no value.
    """
    gpu = _gpu()
    rows: list[Row] = []
    for series in track(plan(quick, gpu is not None), "acting", console=Console(stderr=True)):
        answers = run_worker(series, seconds=0.3 if quick else 2.0, limit_s=2.0 if quick else 20.0)
        rows += [row_of(series, answer) for answer in answers]
    for system, value in ANCHORS.items():
        rows.append(_row("inference_published_512_b1", system, value, size=512, batch=1, measured=False))
    place = {**machine(), **({} if gpu is None else {"gpu": gpu})}
    result = {"bench": "inference", "machine": place, "rows": rows, "ratios": ratios(rows)}
    if as_json:
        print(json.dumps(result))
    else:
        print_result(result, GOALS)
    return result


def plan(quick: bool, gpu: bool) -> list[Series]:
    """What is measured. On a GPU in float32 (TF32 matrix products) and with bf16 autocast."""
    cuda = [("cuda", precision) for precision in ("float32", "bfloat16")] if gpu else []
    if quick:
        found = [Series("conv_small", size, mode, "cpu", "float32", (1, 16)) for size, mode in _QUICK]
        found.append(Series("vit_small", 64, "eager", "cpu", "float32", (1,)))
        return found + [Series("dinov2_b", 512, mode, *where, (1,)) for where in cuda for mode in ("eager", "compiled")]
    return [
        Series(network, size, mode, *where, BATCHES)
        for where in [("cpu", "float32"), *cuda]
        for network in NETWORKS
        for size in SIZES
        for mode in MODES
    ]


_QUICK = ((64, "eager"), (64, "exported"), (128, "eager"))


def run_worker(series: Series, *, seconds: float, limit_s: float) -> list[Row]:
    """Measure a series in a fresh process: an answer per batch size.

    Args:
        series: what to measure.
        seconds: to measure each batch size for.
        limit_s: a batch size whose one call would take longer is not measured.

    Returns:
        ``{"batch", "frames_per_s", "p50_ms", "p99_ms", "calls", "pixels", "threads"}`` or ``{"batch", "missing"}``.
    """
    job = {**dataclasses.asdict(series), "seconds": seconds, "limit_s": limit_s}
    hidden = {} if series.device == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "cluster.bench_inference_worker", json.dumps(job)]
    try:
        done = subprocess.run(command, env={**os.environ, **hidden}, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return [{"batch": batch, "missing": f"not done after {_TIMEOUT_S:g} s"} for batch in series.batches]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        rest = series.batches[len(lines) :]
        lines += [{"batch": batch, "missing": said[-1][:300]} for batch in rest]
    return lines


def row_of(series: Series, answer: Row) -> Row:
    """A row of the result."""
    name = f"inference_{series.network}_{series.size}_b{answer['batch']}"
    params = {k: v for k, v in answer.items() if k != "frames_per_s"}
    about = {k: v for k, v in dataclasses.asdict(series).items() if k != "batches"}
    return _row(name, series.system, answer.get("frames_per_s"), **about, **params)


def ratios(rows: list[Row]) -> list[Row]:
    """The bar of one image of 512 px through a ViT-B on a GPU, by the fastest mode; missing where there is no GPU."""
    values = [
        row["value"]
        for row in rows
        if row["name"] == "inference_dinov2_b_512_b1" and row["params"]["device"] == "cuda" and row["value"] is not None
    ]
    value, goal = (max(values) if values else None), GOALS[BAR][0]
    assert goal is not None
    return [{"name": BAR, "value": value, "goal": goal, "holds": None if value is None else value >= goal}]


def _row(name: str, system: str, value: float | None, **params: Any) -> Row:
    return {"name": name, "system": system, "value": value, "unit": "frames/s", "params": params}


def _gpu() -> str | None:
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
