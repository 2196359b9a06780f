"""`servofleet bench render`: our renderer against others, in one run on this machine.

Every figure comes from a fresh process with one thread on one core, and counts CPU time: a shared machine stretches
wall time. Each repeat runs every configuration once, ours next to the peers', so that noise hits all; medians count. A
peer's figure is believed only if it shows the same instance ids at the same pixels as ours.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from cluster.bench_machine import machine
from cluster.bench_render_report import picture, print_result
from common.errors import SceneError

Row = dict[str, Any]
Answer = dict[str, Any]

OURS, OURS_SCENES, OURS_ROUGH = "warp", "warp, 64 scenes", "warp, no antialiasing"
PEERS = ("pybullet", "mujoco", "mujoco, no antialiasing", "embree")
JUDGED = 128, 5000  # pixels and triangles of the goals
MAX_ID_MISMATCH = 0.015  # share of pixels away from silhouettes in which a peer may differ
MIN_SHADED = 0.005  # share of the ground's pixels that must be in shadow where shadows are measured
_SAVED_SIDE = 256  # larger frames are neither compared nor kept
_TIMEOUT = 900.0
# name -> (goal, True if the value must reach it and False if it must not exceed it)
GOALS = {
    "render_128_vs_pybullet": (8.0, True),
    "render_128_vs_mujoco": (4.0, True),
    "render_shadows_vs_none": (0.75, True),
    "render_60k_vs_1k": (4.0, False),
    "reset_vs_10_frames": (1.0, False),
    "cuda_128_frames_per_s": (100_000.0, True),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One configuration whose frames are counted."""

    system: str
    size: int
    triangles: int
    shadows: bool = False

    @property
    def name(self) -> str:
        """``render_SIDE[_TRIANGLES][_shadows]``; the triangles are named where they are not the judged number."""
        triangles = "" if self.triangles == JUDGED[1] else f"_{self.triangles // 1000}k"
        return f"render_{self.size}{triangles}{'_shadows' if self.shadows else ''}"


def bench_render(*, repeats: int, quick: bool, as_json: bool, pictures: str | None) -> dict[str, Any]:
    """Measure and print.

    Args:
        repeats: of every figure; the median counts.
        quick: fewer configurations and shorter measurements, about one minute.
        as_json: print the JSON of design section 3 instead of tables.
        pictures: folder for a PNG of what each renderer drew, or None.

    Raises:
        SceneError: if a renderer fails, or a peer shows other objects than ours.
    """
    if pictures is not None:
        Path(pictures).mkdir(parents=True, exist_ok=True)
    seconds = 0.5 if quick else 1.5
    with tempfile.TemporaryDirectory(prefix="servofleet-bench-") as scratch:
        backend = _opengl()
        rates, rows = _frames(cases(quick), repeats, seconds, Path(scratch), pictures, backend)
        more, resets = _resets(repeats, quick)
        rows += more + _first_frames(repeats, Path(scratch)) + _memory(quick)
        rows += _cuda(quick)
    result = {"bench": "render", "machine": machine(), "rows": rows, "ratios": ratios(rates, resets, rows)}
    if as_json:
        print(json.dumps(result))
    else:
        print_result(result, GOALS)
    return result


def cases(quick: bool) -> list[Case]:
    """What is measured, in the order of one repeat: what is compared stands close together."""
    side, triangles = JUDGED
    first = [Case(s, side, triangles) for s in (OURS, *PEERS)]
    first += [Case(OURS, side, triangles, True), Case(OURS, side, 1000), Case(OURS, side, 60000)]
    first += [Case(OURS_SCENES, side, triangles), Case(OURS_ROUGH, side, triangles), Case(OURS, 64, triangles)]
    if quick:
        return first
    rest = [Case(s, n, triangles) for n in (64, 256) for s in (OURS, *PEERS)]
    rest += [Case(s, side, triangles, True) for s in PEERS]
    grid = [
        (n, t, shadows) for n in (64, 128, 256, 512) for t in (1000, 5000, 20000, 60000) for shadows in (False, True)
    ]
    return list(dict.fromkeys([*first, *rest, *(Case(OURS, *view) for view in grid)]))


def run_worker(job: dict[str, Any], **environment: str) -> Answer:
    """Do one job of `cluster.bench_render_worker` in a fresh process and return its answer.

    Raises:
        SceneError: if the process fails; the line says what it said last.
    """
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    # Mesa on the calling thread alone; nothing of ours or theirs on a GPU unless it is what is measured.
    quiet = {"LP_NUM_THREADS": "0", "LIBGL_ALWAYS_SOFTWARE": "1", "WARP_QUIET": "1"}
    hidden = {} if job["task"].startswith("cuda") else {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", "cluster.bench_render_worker", json.dumps(job)],
        env={**os.environ, **one, **quiet, **hidden, **environment},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise SceneError(f"bench render, {job}: {said[-1]}")
    answer: Answer = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def _opengl() -> dict[str, str]:
    """The first of EGL and OSMesa that MuJoCo can draw with here, as {"backend", "renderer"}, or {"missing"}."""
    reasons = []
    for backend in ("egl", "osmesa"):
        try:
            answer = run_worker({"task": "opengl"}, MUJOCO_GL=backend)
        except SceneError as e:
            reasons.append(f"{backend}: {e}")
            continue
        if "missing" in answer:
            return {"missing": str(answer["missing"])}
        return {"backend": backend, "renderer": str(answer["renderer"])}
    return {"missing": "; ".join(reasons)}


def _frames(
    plan: list[Case], repeats: int, seconds: float, scratch: Path, pictures: str | None, backend: dict[str, str]
) -> tuple[dict[Case, list[float]], list[Row]]:
    """CPU rates per case and repeat, and a row per case."""
    answers: dict[Case, list[Answer]] = {case: [] for case in plan}
    facts: dict[Case, Row] = {case: {} for case in plan}
    jobs = [(repeat, case) for repeat in range(repeats) for case in plan]
    for repeat, case in track(jobs, "rendering", console=Console(stderr=True)):
        theirs = case.system in PEERS
        if theirs and case.system.startswith("mujoco") and "missing" in backend:
            facts[case] = {"missing": backend["missing"]}
        if "missing" in facts[case]:
            continue
        keep = repeat == 0 and case.size <= _SAVED_SIDE and (theirs or case.system == OURS)
        label = f"{case.name}-{case.system.replace(', ', '-').replace(' ', '-')}"
        job = {"task": "frames", **dataclasses.asdict(case), "seconds": seconds, "name": label}
        answer = run_worker({**job, "out": str(scratch) if keep else ""}, MUJOCO_GL=backend.get("backend", "egl"))
        if "missing" in answer:
            facts[case] = {"missing": answer["missing"]}
            continue
        answers[case].append(answer)
        if keep:
            shown = scratch / f"{label}.npz"
            if pictures is not None:
                with np.load(shown) as frames:
                    picture(frames).save(Path(pictures) / f"{label}.png")
            plain = scratch / f"{dataclasses.replace(case, shadows=False).name}-{OURS}.npz"
            if theirs:
                facts[case] = _compared(case, plain, shown)
                shown.unlink()
            elif case.shadows:
                facts[case] = {"shaded": shaded(plain, shown)}
                shown.unlink()
    rows = [_frames_row(case, answers[case], facts[case], backend) for case in plan]
    return {case: [a["cpu"] for a in answers[case]] for case in plan}, rows


def _frames_row(case: Case, answers: list[Answer], facts: Row, backend: dict[str, str]) -> Row:
    params = {"size": case.size, "triangles": case.triangles, "shadows": case.shadows, **facts}
    if case.system.startswith("mujoco") and "backend" in backend:
        params.update(backend)
    if not answers:
        return _row(case.name, case.system, None, "frames/CPU-s", **params)
    params["triangles"] = answers[0]["triangles"]
    params["frames_per_wall_s"] = round(statistics.median(a["wall"] for a in answers), 1)
    params["repeats"] = [round(a["cpu"], 1) for a in answers]
    return _row(case.name, case.system, statistics.median(a["cpu"] for a in answers), "frames/CPU-s", **params)


def _compared(case: Case, ours: Path, theirs: Path) -> Row:
    """How a peer's ids and depths differ from ours, away from silhouettes.

    Raises:
        SceneError: if the ids differ in more than `MAX_ID_MISMATCH` of those pixels.
    """
    with np.load(ours) as mine, np.load(theirs) as other:
        wrong, depth = mismatch(mine["instance_id"], mine["depth"], other["instance_id"], other["depth"])
    if not wrong <= MAX_ID_MISMATCH:
        allowed = f"<= {MAX_ID_MISMATCH}, or its frames are not ours and its figure says nothing"
        raise SceneError(
            f"{case.system}, {case.name}: share of pixels with another id = {wrong:.4f}: allowed is {allowed}"
        )
    return {"id_mismatch": round(wrong, 6), "depth_error_median": float(f"{depth:.2e}")}


def mismatch(
    ids: NDArray[Any], depth: NDArray[Any], other_ids: NDArray[Any], other_depth: NDArray[Any]
) -> tuple[float, float]:
    """Share of differing ids away from silhouettes, and the median relative difference of the objects' depths.

    Args:
        ids: (N, H, W) ours; a pixel is away from silhouettes if its 3 x 3 neighbourhood has one id.
        depth: (N, H, W) [m].
        other_ids: theirs, as `ids`.
        other_depth: theirs, as `depth`.

    Raises:
        SceneError: if nothing but background is seen.
    """
    padded, (height, width) = np.pad(ids, ((0, 0), (1, 1), (1, 1)), mode="edge"), ids.shape[1:]
    around = [padded[:, i : i + height, j : j + width] == ids for i in range(3) for j in range(3)]
    sure = np.all(around, axis=0)
    objects = sure & (ids > 0)
    if not objects.any():
        raise SceneError("bench render: the pictures show no object")
    return float((other_ids != ids)[sure].mean()), float(np.median(np.abs(other_depth[objects] / depth[objects] - 1.0)))


def shaded(plain: Path, shadows: Path) -> float:
    """Share of the ground's pixels that shadows made darker, of two saved sets of frames.

    Raises:
        SceneError: if it is next to none: what was measured was not shadows.
    """
    with np.load(plain) as without, np.load(shadows) as with_them:
        darker = without["rgb"].sum(axis=-1, dtype=np.int64) - with_them["rgb"].sum(axis=-1, dtype=np.int64) > 10
        share = float(darker[without["instance_id"] == 0].mean())
    if not share >= MIN_SHADED:
        raise SceneError(f"bench render: share of the ground in shadow = {share:.4f}: allowed is >= {MIN_SHADED}")
    return round(share, 4)


def _resets(repeats: int, quick: bool) -> tuple[list[Row], list[float]]:
    """Cost of a reset per scene [CPU s], with known and with new meshes; and the former's repeats."""
    job = {"task": "resets", "scenes": 8 if quick else 32, "triangles": JUDGED[1]}
    answers = [run_worker(job) for _ in range(repeats)]
    rows = []
    for kind in ("known", "new"):
        values = [1000.0 * a[kind] for a in answers]
        repeated = [round(v, 3) for v in values]
        rows.append(_row(f"reset_{kind}_meshes", OURS, statistics.median(values), "CPU-ms/scene", repeats=repeated))
    return rows, [a["known"] for a in answers]


def _first_frames(repeats: int, scratch: Path) -> list[Row]:
    """Seconds to the first frame of a process, its kernels compiled first or found in the cache."""
    job = {"task": "first_frame", "size": JUDGED[0], "triangles": JUDGED[1]}
    walls = [run_worker(job, WARP_CACHE_PATH=str(scratch / "kernels"))["wall"] for _ in range(1 + repeats)]
    return [
        _row("first_frame_cold", OURS, walls[0], "s", size=JUDGED[0]),
        _row("first_frame_warm", OURS, statistics.median(walls[1:]), "s", size=JUDGED[0]),
    ]


def _memory(quick: bool) -> list[Row]:
    """Bytes that one more environment takes: what the process holds, and what the renderer counts."""
    few, many = 1, 33 if quick else 257
    job = {"task": "memory", "size": JUDGED[0], "triangles": JUDGED[1]}
    less, more = (run_worker({**job, "scenes": n}) for n in (few, many))
    rows = [
        _row(f"memory_per_env_{name}", OURS, (more[name] - less[name]) / (many - few) / 1e6, "MB", scenes=many)
        for name in ("rss", "nbytes")
    ]
    return [*rows, _row("memory_one_env_rss", OURS, less["rss"] / 1e6, "MB", scenes=few)]


def _cuda(quick: bool) -> list[Row]:
    found = run_worker({"task": "cuda_devices"})
    if not found["count"]:
        return [_row("cuda", OURS, None, "frames/s", missing="no CUDA device")]
    rows = []
    for size in (128,) if quick else (64, 128, 256, 512):
        for scenes in (64, 512) if quick else (64, 512, 4096):
            job = {"task": "cuda", "size": size, "scenes": scenes, "triangles": JUDGED[1], "shadows": False}
            answer = run_worker({**job, "seconds": 1.0 if quick else 3.0})
            facts: Row = {k: v for k, v in answer.items() if k in ("busy", "missing")}
            params = {"size": size, "scenes": scenes, "device": found["name"], **facts}
            rows.append(_row(f"cuda_{size}", OURS, answer.get("wall"), "frames/s", **params))
    return rows


def ratios(rates: dict[Case, list[float]], resets: list[float], rows: list[Row]) -> list[Row]:
    """The goals: medians over the repeats of what was measured in the same repeat; None where a part is missing."""
    side, triangles = JUDGED
    ours = rates[Case(OURS, side, triangles)]

    def per_repeat(a: list[float], b: list[float]) -> float | None:
        return statistics.median(x / y for x, y in zip(a, b, strict=True)) if a and b else None

    values = {
        f"render_128_vs_{s.replace(', ', '_').replace(' ', '_')}": per_repeat(ours, rates[Case(s, side, triangles)])
        for s in PEERS
    }
    values["render_shadows_vs_none"] = per_repeat(rates[Case(OURS, side, triangles, True)], ours)
    values["render_60k_vs_1k"] = per_repeat(rates[Case(OURS, side, 1000)], rates[Case(OURS, side, 60000)])
    values["render_64_scenes_vs_1"] = per_repeat(rates[Case(OURS_SCENES, side, triangles)], ours)
    values["reset_vs_10_frames"] = per_repeat([r * f for r, f in zip(resets, ours, strict=True)], [10.0] * len(ours))
    cuda = [row["value"] for row in rows if row["name"] == "cuda_128" and row["value"] is not None]
    values["cuda_128_frames_per_s"] = max(cuda, default=None)
    return [_ratio(name, value) for name, value in values.items()]


def _ratio(name: str, value: float | None) -> Row:
    goal, at_least = GOALS.get(name, (None, True))
    holds = None
    if goal is not None and value is not None:
        holds = value >= goal if at_least else value <= goal
    return {"name": name, "value": None if value is None else round(value, 3), "goal": goal, "holds": holds}


def _row(name: str, system: str, value: float | None, unit: str, **params: Any) -> Row:
    rounded = None if value is None else round(value, 3)
    return {"name": name, "system": system, "value": rounded, "unit": unit, "params": params}
