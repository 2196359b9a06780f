"""The part of `servofleet bench render` that needs a CUDA device: frames that stay on it, and how busy it was."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from cluster.bench_render_scene import CAMERAS, intrinsics, workload
from common.protocols import Channel

_CHANNELS: tuple[Channel, ...] = ("rgb", "instance_id", "depth")
_FRAME_BYTES = 3 + 4 + 4  # per pixel
_PASSES = 3  # of warming up


def cuda_devices(job: dict[str, Any]) -> dict[str, Any]:
    """Number and name of the CUDA devices that Warp sees."""
    import warp as wp

    wp.init()
    count = wp.get_cuda_device_count()
    return {"count": count, "name": wp.get_device("cuda:0").name if count else ""}


def cuda_frames(job: dict[str, Any]) -> dict[str, Any]:
    """Draw many environments again and again through `render_on_device`.

    Args:
        job: size, scenes (environments), triangles, shadows and seconds (of wall time, at least).

    Returns:
        frames per wall second, the share of the time that kernels and copies ran on the device (of a second stretch, in
        which Warp puts an event before and after each of them), and frames; or "missing" where the frames would not
        fit the device's memory.
    """
    import warp as wp

    from actors.rasteriser.renderer import WarpRenderer

    wp.init()
    device, scenes, size = wp.get_device("cuda:0"), job["scenes"], job["size"]
    # Frames, as much again while the next are made, and about as much of scratch.
    needed = 3 * scenes * size * size * _FRAME_BYTES
    if needed > device.free_memory:
        return {
            "missing": f"needs about {needed / 1e9:.1f} GB of device memory, {device.free_memory / 1e9:.1f} are free"
        }
    work = workload(job["triangles"], shadows=job["shadows"])
    renderer = WarpRenderer(scenes, "cuda:0")
    renderer.load(work.meshes)
    renderer.reset(np.arange(scenes), [work.scene] * scenes)
    ids, turn = np.arange(scenes), np.arange(scenes) % CAMERAS
    poses, lens = work.world_T_cam[turn], intrinsics(size)[turn]

    def stretch() -> tuple[float, int]:
        wp.synchronize_device(device)
        began, frames = time.perf_counter(), 0
        while time.perf_counter() - began < job["seconds"]:
            for _ in range(4):
                renderer.render_on_device(ids, poses, lens, (size, size), _CHANNELS)
            wp.synchronize_device(device)
            frames += 4 * scenes
        return time.perf_counter() - began, frames

    for _ in range(_PASSES):
        renderer.render_on_device(ids, poses, lens, (size, size), _CHANNELS)
    wall, frames = stretch()
    wp.timing_begin(cuda_filter=wp.TIMING_ALL)
    timed, _ = stretch()
    busy = sum(event.elapsed for event in wp.timing_end()) / 1000.0 / timed
    return {"wall": frames / wall, "busy": round(busy, 3), "frames": frames}
