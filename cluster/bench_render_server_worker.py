"""One measurement of `servofleet bench render-server`: ``python -m cluster.bench_render_server_worker JOB``.

JOB is a JSON object of size [px] and batches; the answer is one line of JSON on stdout: seconds per batch by way.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from actors.rasteriser.renderer import WarpRenderer
from actors.render_service.client import RemoteRenderer
from cluster.bench_render_scene import CAMERAS, intrinsics, workload
from cluster.bench_render_server import LOCAL, OVERLAPPED, SENT, SHARED
from common.errors import RendererError
from common.protocols import Channel, Frames

_TRIANGLES = 5000
_IN_A_ROW = 3  # overlapped batches
_CHANNELS: tuple[Channel, ...] = ("rgb", "instance_id", "depth")


@contextmanager
def server() -> Iterator[str]:
    """The address of a fresh server, ended afterwards."""
    with tempfile.TemporaryDirectory(prefix="servofleet-") as folder:
        address = f"unix://{Path(folder) / 'render.sock'}"
        command = [sys.executable, "-m", "actors.render_service", "--listen", address, "--max-envs", str(CAMERAS)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            yield address
        finally:
            process.terminate()
            process.wait(60.0)


def read(frames: Frames) -> float:
    """What a collector does with a batch: intensities 0..1 for the policy, the target's mask, the depth's mean."""
    assert frames.rgb is not None and frames.instance_id is not None and frames.depth is not None
    picture = np.multiply(frames.rgb, np.float32(1 / 255), dtype=np.float32)
    mask = frames.instance_id == 1
    return float(picture[:, 0, 0, 0].sum() + mask.sum() + np.isfinite(frames.depth).sum())


def measure(size: int, batches: int, address: str) -> dict[str, Any]:
    """Seconds per batch by way, of reading a batch, and per reset of all environments.

    Raises:
        RendererError: if a picture of the server differs from the renderer's own, or no memory is shared.
    """
    work = workload(_TRIANGLES)
    ids = np.arange(CAMERAS)
    view = (ids, work.world_T_cam, intrinsics(size), (size, size), _CHANNELS)
    local = WarpRenderer(CAMERAS)
    remote = RemoteRenderer(address, connect_s=120.0)
    if not remote.shares_memory:
        raise RendererError("bench render-server: client and server share no memory here")
    seconds: dict[str, float] = {}
    for name, renderer in (("reset_in_process", local), ("reset_server", remote)):
        renderer.load(work.meshes)
        renderer.reset(ids, [work.scene] * CAMERAS)
        seconds[name] = _timed(lambda r=renderer: r.reset(ids, [work.scene] * CAMERAS))  # type: ignore[misc]

    def by(way: str) -> None:
        remote.shares_memory = way in (SHARED, OVERLAPPED[SHARED])

    def one(way: str) -> Frames:
        by(way)
        return local.render(*view) if way == LOCAL else remote.render(*view)

    want = one(LOCAL)
    for way in (SHARED, SENT):
        got = one(way)
        if not all(np.array_equal(getattr(want, c), getattr(got, c)) for c in _CHANNELS):
            raise RendererError(f"bench render-server: by {way} other pictures came than were drawn here")
    taken: dict[str, list[float]] = {way: [] for way in (LOCAL, SHARED, SENT, *OVERLAPPED.values(), "read")}
    for _ in range(batches):
        for way in (LOCAL, SHARED, SENT):
            taken[way].append(_timed(lambda w=way: read(one(w))))  # type: ignore[misc]
        taken["read"].append(_timed(lambda: read(want)))
        for way in OVERLAPPED.values():
            by(way)
            taken[way].append(_overlapped(remote, view))
    remote.close()
    return {
        **seconds,
        **{way: statistics.median(values) for way, values in taken.items()},
        "environments": CAMERAS,
        "bytes": sum(getattr(want, c).nbytes for c in _CHANNELS),
    }


def _overlapped(remote: RemoteRenderer, view: Any) -> float:
    """Seconds per batch where each is read while the server draws the next."""
    pending = remote.submit(*view)
    began = time.perf_counter()
    for _ in range(_IN_A_ROW):
        following = remote.submit(*view)
        read(pending.result())
        pending = following
    taken = time.perf_counter() - began
    pending.result()
    return taken / _IN_A_ROW


def _timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main(job: dict[str, Any]) -> None:
    """Measure and print."""
    with server() as address:
        print(json.dumps(measure(job["size"], job["batches"], address)))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
