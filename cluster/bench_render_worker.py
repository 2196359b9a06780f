"""One measurement of `servofleet bench render` in a process of its own: ``python -m cluster.bench_render_worker JOB``.

JOB is a JSON object, the answer one line of JSON on stdout. The process keeps to one core and one thread before any
library is loaded, so that CPU time means the same for every renderer.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cluster import bench_render_cuda, bench_render_peers, bench_render_scene
from cluster.bench_render_scene import CAMERAS, Workload, fresh_meshes, workload
from common.processes import rss_bytes
from common.protocols import Channel
from common.scene import SceneSpec

Answer = dict[str, Any]

MUJOCO_SAMPLES = {"mujoco": 4, "mujoco, no antialiasing": 0}
_CHANNELS: tuple[Channel, ...] = ("rgb", "instance_id", "depth")


def frames(job: dict[str, Any]) -> Answer:
    """Draw all cameras of the scene again and again.

    Args:
        job: system, size, triangles, shadows, seconds (of CPU time, at least) and out (folder for the first pictures,
            or "").

    Returns:
        frames per CPU-second and per wall second, and how many were measured.
    """
    work = workload(job["triangles"], shadows=job["shadows"])
    draw = _view(job["system"], work, job["size"], job["shadows"])
    first = draw()
    if job["out"]:
        np.savez(Path(job["out"]) / f"{job['name']}.npz", rgb=first[0], instance_id=first[1], depth=first[2])
    del first
    count = 0
    cpu, wall = time.process_time(), time.perf_counter()
    while time.process_time() - cpu < job["seconds"]:
        draw()
        count += CAMERAS
    return {
        "cpu": count / (time.process_time() - cpu),
        "wall": count / (time.perf_counter() - wall),
        "frames": count,
        "triangles": work.triangles,
    }


def _view(system: str, work: Workload, size: int, shadows: bool) -> Callable[[], Any]:
    if system == "pybullet":
        return bench_render_peers.pybullet_view(work, size, shadows)
    if system in MUJOCO_SAMPLES:
        return bench_render_peers.mujoco_view(work, size, shadows, MUJOCO_SAMPLES[system])
    if system == "embree":
        return bench_render_peers.embree_view(work, size, shadows)
    scenes = CAMERAS if system == "warp, 64 scenes" else 1
    return _warp_view(work, size, scenes, smooth=system != "warp, no antialiasing")


def _warp_view(work: Workload, size: int, scenes: int, smooth: bool = True) -> Callable[[], Any]:
    """Ours: 64 cameras of one scene, as for the peers, or one camera in each of 64 scenes, as in training."""
    from actors.rasteriser.renderer import WarpRenderer

    renderer = WarpRenderer(scenes, antialias=smooth)
    renderer.load(work.meshes)
    renderer.reset(np.arange(scenes), [work.scene] * scenes)
    ids = np.arange(CAMERAS) % scenes
    lens = bench_render_scene.intrinsics(size)

    def draw() -> tuple[Any, Any, Any]:
        made = renderer.render(ids, work.world_T_cam, lens, (size, size), _CHANNELS)
        return made.rgb, made.instance_id, made.depth

    return draw


def resets(job: dict[str, Any]) -> Answer:
    """CPU seconds per scene that a reset takes: other looks and poses of known meshes, and meshes never seen."""
    from actors.rasteriser.renderer import WarpRenderer

    count = job["scenes"]
    renderer = WarpRenderer(count)
    ids = np.arange(count)
    known = workload(job["triangles"])
    renderer.load(known.meshes)
    renderer.reset(ids, [known.scene] * count)
    out = {}
    for name in ("known", "new"):
        works = [workload(job["triangles"], variant=1 + i + count * (name == "new")) for i in range(count)]
        if name == "new":
            works = [fresh_meshes(work, str(i), 3 + 3 * i) for i, work in enumerate(works)]
        cpu = time.process_time()
        if name == "new":
            for work in works:
                renderer.load(work.meshes)
        renderer.reset(ids, [work.scene for work in works])
        out[name] = (time.process_time() - cpu) / count
    return out


def first_frame(job: dict[str, Any]) -> Answer:
    """Wall seconds from importing the renderer to the first frame; WARP_CACHE_PATH decides what is compiled already."""
    began = time.perf_counter()
    work = workload(job["triangles"])
    _warp_view(work, job["size"], 1)()
    return {"wall": time.perf_counter() - began}


def memory(job: dict[str, Any]) -> Answer:
    """Resident and counted bytes of a renderer with `scenes` environments, all built and drawn once, one at a time."""
    from actors.rasteriser.renderer import WarpRenderer

    work = workload(job["triangles"])
    renderer = WarpRenderer(job["scenes"])
    renderer.load(work.meshes)
    scenes: list[SceneSpec] = [dataclasses.replace(work.scene, seed=i) for i in range(job["scenes"])]
    renderer.reset(np.arange(len(scenes)), scenes)
    lens = bench_render_scene.intrinsics(job["size"])[:1]
    for env in range(len(scenes)):
        renderer.render(np.array([env]), work.world_T_cam[:1], lens, (job["size"], job["size"]), _CHANNELS)
    return {"rss": rss_bytes(), "nbytes": renderer.nbytes()}


def opengl(job: dict[str, Any]) -> Answer:
    """What draws for MuJoCo under this MUJOCO_GL; the process fails where nothing does."""
    work = workload(300)
    draw = bench_render_peers.mujoco_view(work, 16, False, 0)
    draw()
    from OpenGL import GL

    # The context lives as long as `draw` does.
    return {"renderer": GL.glGetString(GL.GL_RENDERER).decode()}


_TASKS: dict[str, Callable[[dict[str, Any]], Answer]] = {
    "frames": frames,
    "resets": resets,
    "first_frame": first_frame,
    "memory": memory,
    "opengl": opengl,
    "cuda_devices": bench_render_cuda.cuda_devices,
    "cuda": bench_render_cuda.cuda_frames,
}


def main() -> None:
    """Do the job in argv[1]; a library that is not installed is an answer, any other failure ends the process."""
    job = json.loads(sys.argv[1])
    if not job["task"].startswith("cuda"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    try:
        answer = _TASKS[job["task"]](job)
    except ImportError as e:
        answer = {"missing": str(e)}
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
