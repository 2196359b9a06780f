"""One series of `servofleet bench inference`: a JSON job comes in, a line of JSON per batch size goes out."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass

from common.config import NetworkConfig
from common.errors import ConfigError
from common.network_config import token_stride
from common.networks.exported_programs import GoalProgram, PolicyProgram, trace_programs
from common.networks.servo_net import ServoNet
from common.rng import Purpose, philox

_PATCH = 16  # of the ViTs that have a choice: the one of ViT-S/16
_MIN_CALLS = 5
_MEMORY_SHARE = 0.5  # of what is free; a batch expected to need more is not tried


def network_of(name: str, size: int) -> tuple[NetworkConfig, int]:
    """A backbone's network with everything else as the defaults, and the side of its images.

    The side is `size` rounded up to whole tokens: DINOv2's are 14 px wide, so its 512 px are 518.
    """
    stride = token_stride(NetworkConfig(backbone=name, patch=_PATCH))
    tokens = -(-size // stride)
    return NetworkConfig(backbone=name, patch=_PATCH, match_grid=tokens), tokens * stride


def programs(net: ServoNet, side: int, mode: str, device: str) -> tuple[nn.Module, Callable[..., Any]]:
    """The goal's program and the policy as `mode` runs it: eager, compiled or exported."""
    if mode == "exported":
        goal, policy = trace_programs(net, side, float(side), 3.0)
        if device == "cuda":
            goal, policy = move_to_device_pass(goal, device), move_to_device_pass(policy, device)
        return goal.module(), policy.module()
    net.to(device)
    eager = PolicyProgram(net, float(side), 3.0)
    if mode == "eager":
        return GoalProgram(net), eager
    # CUDA graphs: one image keeps a large GPU busy for less time than its kernels take to be launched.
    compiled: Callable[..., Any] = torch.compile(eager, mode="reduce-overhead" if device == "cuda" else "default")
    return GoalProgram(net), compiled


def measure(call: Callable[[], Any], batch: int, seconds: float, limit_s: float) -> dict[str, Any]:
    """Rate and latency of a call that acts on `batch` images; the first two calls, which may compile, do not count."""
    call()
    began = time.perf_counter()
    call()
    once = time.perf_counter() - began
    if once > limit_s:
        return {"missing": f"one call takes {once:.1f} s: allowed is {limit_s:g}"}
    spent: list[float] = []
    while len(spent) < _MIN_CALLS or sum(spent) < seconds:
        began = time.perf_counter()
        call()
        spent.append(time.perf_counter() - began)
    p50, p99 = np.percentile(spent, [50, 99]) * 1e3
    rate = batch * len(spent) / sum(spent)
    return {
        "frames_per_s": round(rate, 2),
        "p50_ms": round(float(p50), 3),
        "p99_ms": round(float(p99), 3),
        "calls": len(spent),
    }


def run(job: dict[str, Any]) -> None:
    """Print an answer per batch size, smallest first."""
    # One thread, as in the other benchmarks: a second one on a busy core makes a call many times slower.
    device, threads = job["device"], 1
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(0)
    config, side = network_of(job["network"], job["size"])
    try:
        encode, policy = programs(ServoNet(config).eval(), side, job["mode"], device)
    except (ConfigError, ImportError) as e:
        for batch in job["batches"]:
            print(json.dumps({"batch": batch, "missing": str(e)}), flush=True)
        return
    per_frame, per_frame_bytes = 0.0, 0.0
    for batch in job["batches"]:
        facts: dict[str, Any] = {"batch": batch, "pixels": side, "threads": threads}
        needed = batch * per_frame_bytes
        if batch * per_frame > job["limit_s"]:
            facts["missing"] = f"one call would take {batch * per_frame:.0f} s: allowed is {job['limit_s']:g}"
        elif device == "cpu" and needed > _MEMORY_SHARE * _free_bytes():
            facts["missing"] = f"would need {needed / 2**30:.1f} GiB of memory"
        else:
            before = _peak_bytes()
            try:
                facts |= _series(encode, policy, batch, side, job)
            except torch.OutOfMemoryError as e:
                facts["missing"] = str(e).splitlines()[0]
            per_frame_bytes = max(per_frame_bytes, (_peak_bytes() - before) / batch)
        if "frames_per_s" in facts:
            per_frame = 1.0 / facts["frames_per_s"]
        print(json.dumps(facts), flush=True)


@torch.no_grad()
def _series(encode: nn.Module, policy: Callable[..., Any], batch: int, side: int, job: dict[str, Any]) -> Any:
    device = job["device"]
    half = torch.autocast(device, torch.bfloat16, enabled=job["precision"] == "bfloat16")
    rng = philox(0, Purpose.TEXTURE, env=batch)
    image, desired = (torch.from_numpy(rng.integers(0, 256, (batch, side, side, 3), dtype=np.uint8)) for _ in range(2))
    numbers = torch.ones(batch, dtype=torch.float64, device=device)
    camera = torch.full((batch, 4), float(side), dtype=torch.float64, device=device)
    with half:
        goal = {name: t.clone() for name, t in encode(desired.to(device)).items()}

        def call() -> Tensor:
            # From the bytes that a camera delivers to numbers that a robot takes: both ways over the bus count.
            command: Tensor = policy(image.to(device), goal, camera, numbers, numbers)[0].cpu()
            return command

        return measure(call, batch, job["seconds"], job["limit_s"])


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _free_bytes() -> int:
    with open("/proc/meminfo") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("MemAvailable"))


if __name__ == "__main__":
    run(json.loads(sys.argv[1]))
