"""Measurements on a real RTX machine that decide whether the adapter may be believed: one command, one record.

    python -m actors.isaac.acceptance --out FOLDER

Run with Isaac Sim's Python. Writes FOLDER/record.json (machine, versions, numbers; "done" is true only at the end, for
Isaac Sim ends with status 0 whatever happened) and FOLDER/frames.npz (pictures to compare with the embedded renderer).
The limits are in tests/actors/isaac/test_acceptance.py, which runs this and judges: `pytest -m isaac`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from actors.isaac.folders import cache_root, claim_folder
from actors.isaac.renderer import IsaacConfig, IsaacRenderer
from actors.isaac.version import installed_version, list_gpus
from actors.scenes.shapes import build_mesh
from common.errors import ServofleetError
from common.geometry import intrinsics_from_fov, inverse_pose, look_at, make_pose, so3_exp, transform_points
from common.processes import rss_bytes
from common.protocols import F64, Channel, Frames
from common.rng import Purpose, philox
from common.scene import Light, SceneObject, SceneSpec, Shape, Symmetry, Texture

ENVS = 4
_ALL: tuple[Channel, ...] = ("rgb", "instance_id", "depth")
_GROUND = Texture("noise", ((0.3, 0.3, 0.3), (0.7, 0.7, 0.6)), 6.0, 3)
_SHAPES = (
    Shape("cube", (0.2,)), Shape("box", (0.1, 0.2, 0.3)), Shape("cylinder", (0.1, 0.2)), Shape("cone", (0.1, 0.2)),
    Shape("sphere", (0.1,)), Shape("revolution", (0.3, 0.05, 0.1, 0.04)), Shape("frustum", (0.1, 0.06, 0.2)),
    Shape("capsule", (0.05, 0.3)), Shape("torus", (0.1, 0.03)), Shape("prism", (6, 0.1, 0.2)),
    Shape("pyramid", (4, 0.1, 0.2)), Shape("lathe", (0.0, 0.0, 0.1, 0.0, 0.1, 0.2, 0.0, 0.2)),
)  # fmt: skip


@dataclasses.dataclass
class Probe:
    """A renderer under test, and the size of its pictures."""

    renderer: IsaacRenderer
    size: tuple[int, int]

    def lens(self, count: int, fov_deg: float = 50.0) -> F64:
        """Intrinsics (count, 4) of one vertical field of view."""
        return np.tile(intrinsics_from_fov(np.deg2rad(fov_deg), *self.size), (count, 1))

    def draw(self, poses: F64, envs: Sequence[int] | None = None, fov_deg: float = 50.0) -> Frames:
        """All channels, of environment 0 unless others are named."""
        ids = np.array(envs if envs is not None else [0] * len(poses), dtype=np.int64)
        return self.renderer.render(ids, poses, self.lens(len(poses), fov_deg), self.size, _ALL)


def thing(shape: Shape, at: Sequence[float], instance_id: int = 1, yaw: float = 0.0) -> SceneObject:
    """An object of one colour, which its id gives, turned by `yaw` [rad]."""
    hue = (0.2 + 0.6 * (instance_id % 3 == 0), 0.2 + 0.6 * (instance_id % 3 == 1), 0.2 + 0.6 * (instance_id % 3 == 2))
    pose = make_pose(so3_exp([0.0, 0.0, yaw]), at)
    return SceneObject(shape, Texture("plain", (hue,)), Symmetry(), instance_id, tuple(pose.ravel().tolist()))


def scene(*objects: SceneObject) -> SceneSpec:
    """A scene of these objects under white light."""
    return SceneSpec(tuple(objects), objects[0].instance_id, _GROUND, Light())


def cameras(count: int, seed: int) -> F64:
    """Poses (count, 4, 4) that look at the origin from all around and above, rolled."""
    rng = philox(seed, Purpose.CAMERA)
    direction = rng.normal(size=(count, 3))
    direction[:, 2] = np.abs(direction[:, 2]) + 0.4
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    eyes = direction * rng.uniform(0.7, 1.1, size=(count, 1)) + [0.0, 0.0, 0.1]
    return look_at(eyes, np.array([0.0, 0.0, 0.1]), rng.uniform(-np.pi, np.pi, size=count))


def measure_axes(probe: Probe) -> dict[str, Any]:
    """Where the middle of a small ball is seen, against where it is [px], over 20 poses; the mean tells half pixels."""
    off = []
    at = np.array([0.08, -0.05, 0.12])
    probe.renderer.reset(np.array([0]), [scene(thing(Shape("sphere", (0.03,)), at.tolist()))])
    for pose in cameras(20, 1):
        frames = probe.draw(pose[None])
        assert frames.instance_id is not None
        rows, columns = np.nonzero(frames.instance_id[0] == 1)
        x, y, z = transform_points(inverse_pose(pose), at[None])[0]
        fx, fy, cx, cy = probe.lens(1)[0]
        if len(rows) == 0:
            off.append([np.inf, np.inf])
            continue
        off.append([columns.mean() + 0.5 - (fx * x / z + cx), rows.mean() + 0.5 - (fy * y / z + cy)])
    errors = np.array(off)
    worst = float(np.linalg.norm(errors, axis=1).max())
    return {"worst_px": worst, "mean_px": errors.mean(axis=0).tolist() if np.isfinite(worst) else None}


def measure_intrinsics(probe: Probe) -> dict[str, Any]:
    """Width of a cube's top from straight above under three fields of view, seen over expected."""
    probe.renderer.reset(np.array([0]), [scene(thing(Shape("cube", (0.3,)), [0.0, 0.0, 0.15]))])
    ratios = []
    for fov in (40.0, 55.0, 75.0):
        frames = probe.draw(look_at([[0.0, 0.0, 1.3]], [[0.0, 0.0, 0.0]]), fov_deg=fov)
        assert frames.instance_id is not None
        seen = int((frames.instance_id[0] == 1).any(axis=0).sum())
        ratios.append(seen / (probe.lens(1, fov)[0, 0] * 0.3 / 1.0))
    return {"ratios": ratios}


def measure_depth(probe: Probe) -> dict[str, Any]:
    """Relative error of the depth of the ground, a plane, over a slanted view, and of what has no depth."""
    probe.renderer.reset(np.array([0]), [scene(thing(Shape("cube", (0.1,)), [1.5, 0.0, 0.05]))])
    pose = look_at([[0.0, -0.8, 0.9]], [[0.0, 0.0, 0.0]])
    frames = probe.draw(pose)
    assert frames.depth is not None and frames.instance_id is not None
    fx, fy, cx, cy = probe.lens(1)[0]
    rows, columns = np.mgrid[: probe.size[0], : probe.size[1]] + 0.5
    rays = np.stack([(columns - cx) / fx, (rows - cy) / fy, np.ones(probe.size)], axis=-1) @ pose[0, :3, :3].T
    wanted = -pose[0, 2, 3] / rays[..., 2]
    error = np.abs(frames.depth[0] / wanted - 1.0)[(frames.instance_id[0] == 0) & (wanted > 0)]
    return {"median": float(np.median(error)), "p99": float(np.percentile(error, 99))}


def measure_staleness(probe: Probe) -> dict[str, Any]:
    """Mean difference of pictures: still (A, A), back after a jump (A, B, A), and of the jump itself (A, B)."""
    probe.renderer.reset(np.array([0]), [scene(thing(Shape("cube", (0.2,)), [0.0, 0.0, 0.1]))])
    here, there = cameras(2, 5)[:, None]
    pictures = [probe.draw(pose).rgb for pose in (here, here, there, here)]
    a, still, b, back = (np.asarray(p, dtype=np.float64) for p in pictures)
    return {
        "still": float(np.abs(a - still).mean()),
        "back": float(np.abs(still - back).mean()),
        "jump": float(np.abs(a - b).mean()),
        "latency_updates": probe.renderer.latency,
    }


def measure_ids(probe: Probe) -> dict[str, Any]:
    """Share of pixels whose instance id is the same in ten frames, and after other scenes came in between."""
    places = [[0.25 * (k % 3) - 0.25, 0.25 * (k // 3) - 0.12, 0.1] for k in range(6)]
    objects = [thing(s, at, 10 + k) for k, (s, at) in enumerate(zip(_SHAPES[:6], places, strict=True))]
    pose = look_at([[0.0, -0.6, 0.9]], [[0.0, 0.0, 0.05]])
    first, same = None, []
    for k in range(10):
        if k == 5:
            probe.renderer.reset(np.array([0]), [scene(thing(_SHAPES[4], [0.0, 0.0, 0.1], 77))])
            probe.draw(pose)
        if k in (0, 5):
            probe.renderer.reset(np.array([0]), [scene(*objects)])
        ids = probe.draw(pose).instance_id
        assert ids is not None
        first = ids if first is None else first
        same.append(float((ids == first).mean()))
    seen = sorted(int(i) for i in np.unique(first)) if first is not None else []
    return {"least_same": min(same), "seen": seen, "unexplained": probe.renderer.unexplained}


def measure_isolation(probe: Probe) -> dict[str, Any]:
    """Ids of other environments along the rows of cells, and what a change next door does to a picture."""
    low = look_at([[-3.0, 0.0, 0.15]], [[3.0, 0.0, 0.15]])
    scenes = [scene(thing(Shape("cube", (0.3,)), [0.0, 0.0, 0.15], 100 + env)) for env in range(ENVS)]
    probe.renderer.reset(np.arange(ENVS), scenes)
    before = probe.draw(np.repeat(low, ENVS, axis=0), range(ENVS))
    again = probe.draw(np.repeat(low, ENVS, axis=0), range(ENVS))
    tall = scene(thing(Shape("box", (0.5, 0.5, 3.0)), [0.0, 0.0, 1.5], 9))
    probe.renderer.reset(np.array([1]), [tall])
    after = probe.draw(low, [0])
    assert before.instance_id is not None
    foreign = [sorted({int(i) for i in np.unique(ids)} - {0, 100 + e}) for e, ids in enumerate(before.instance_id)]
    still = np.abs(np.asarray(before.rgb, float)[0] - np.asarray(again.rgb, float)[0]).mean()
    changed = np.abs(np.asarray(after.rgb, float)[0] - np.asarray(again.rgb, float)[0]).mean()
    return {"foreign": foreign, "still": float(still), "changed": float(changed)}


def measure_leak(probe: Probe, resets: int = 200) -> dict[str, Any]:
    """Memory of the process and of the GPU, and prims, over many resets; the first tenth is warming up."""
    poses, points = cameras(1, 9), []
    for k in range(resets):
        shape = _SHAPES[k % len(_SHAPES)]
        texture = Texture("noise", ((0.1, 0.5, 0.9), (0.9, 0.3, 0.1)), 4.0, k)
        made = dataclasses.replace(thing(shape, [0.0, 0.0, 0.15]), texture=texture)
        probe.renderer.reset(np.array([0]), [scene(made)])
        probe.draw(poses)
        if k in (resets // 10, resets - 1):
            points.append((rss_bytes(), gpu_used_mib(), probe.renderer.prim_count()))
    (rss, vram, prims), (rss_end, vram_end, prims_end) = points[0], points[-1]
    return {
        "resets": resets,
        "rss_growth": rss_end / rss,
        "gpu_mib": [vram, vram_end],
        "prims": [prims, prims_end],
    }


def measure_rate(probe: Probe, seconds: float = 10.0) -> dict[str, Any]:
    """Frames per second of single views of changing poses."""
    probe.renderer.reset(np.arange(ENVS), [scene(thing(s, [0.0, 0.0, 0.15])) for s in _SHAPES[:ENVS]])
    poses, count, began = cameras(ENVS, 3), 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        probe.draw(poses, range(ENVS))
        count += ENVS
    rate = count / (time.perf_counter() - began)
    return {"frames_per_s": rate, "size": list(probe.size), "frames": count}


def draw_for_comparison(probe: Probe) -> dict[str, Any]:
    """Frames of all kinds of shapes, and the scenes and poses they are of, for another renderer to draw."""
    beside = thing(_SHAPES[0], [0.3, 0.2, 0.1], 2)
    scenes = [scene(thing(s, [0.0, 0.0, _height(s)], 1, 0.3), beside) for s in _SHAPES]
    poses, ids, depths = cameras(len(scenes), 7), [], []
    for made, pose in zip(scenes, poses, strict=True):
        probe.renderer.reset(np.array([0]), [made])
        frames = probe.draw(pose[None])
        ids.append(frames.instance_id)
        depths.append(frames.depth)
    return {
        "scenes": np.array([s.to_json() for s in scenes]),
        "poses": poses,
        "intrinsics": probe.lens(len(scenes)),
        "instance_id": np.concatenate([i for i in ids if i is not None]),
        "depth": np.concatenate([d for d in depths if d is not None]),
    }


def gpu_used_mib() -> int:
    """Memory in use on the first GPU [MiB], by nvidia-smi; 0 where it does not tell."""
    import subprocess

    query = ("nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits")
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return 0
    first = done.stdout.strip().splitlines()[:1]
    return int(first[0]) if first and first[0].strip().isdigit() else 0


def measure(renderer: IsaacRenderer, size: tuple[int, int], out: Path, start_s: float) -> dict[str, Any]:
    """All measurements; `record.json` is rewritten after each, so that a crash leaves what came before it."""
    probe = Probe(renderer, size)
    record: dict[str, Any] = {
        "done": False,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "isaacsim": renderer.version,
        "gpus": [dataclasses.asdict(gpu) for gpu in list_gpus()],
        "start": {"seconds": start_s, "prims": renderer.prim_count()},
    }
    steps = {
        "axes": measure_axes, "intrinsics": measure_intrinsics, "depth": measure_depth, "staleness": measure_staleness,
        "ids": measure_ids, "isolation": measure_isolation, "leak": measure_leak, "rate": measure_rate,
    }  # fmt: skip
    for name, step in steps.items():
        record[name] = step(probe)
        _write(out, record)
    np.savez_compressed(out / "frames.npz", **draw_for_comparison(probe))
    record["done"] = True
    _write(out, record)
    return record


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 0 once the record is whole, 1 if Isaac Sim could not be started or broke."""
    parser = argparse.ArgumentParser(prog="python -m actors.isaac.acceptance", description="Measure the Isaac adapter.")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the record goes")
    parser.add_argument("--side", type=int, default=256, help="of the square pictures (default 256)")
    parser.add_argument("--subframes", type=int, default=IsaacConfig.subframes, help="updates to settle (default 4)")
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    size = (chosen.side, chosen.side)
    began = time.perf_counter()
    try:
        folder = claim_folder(cache_root(), installed_version())
        renderer = IsaacRenderer(IsaacConfig(ENVS, size, folder, slots=8, subframes=chosen.subframes))
        measure(renderer, size, chosen.out, time.perf_counter() - began)
    except ServofleetError as e:
        print(f"acceptance: {e}", file=sys.stderr)
        return 1
    print(f"{chosen.out / 'record.json'} is written", flush=True)
    renderer.close()
    return 0


def _height(shape: Shape) -> float:
    """How high the middle of a shape stands that stands upright on the ground [m]."""
    return float(-build_mesh(shape).vertices[:, 2].min())


def _write(out: Path, record: dict[str, Any]) -> None:
    (out / "record.json").write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    sys.exit(main())
