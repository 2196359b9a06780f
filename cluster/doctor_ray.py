"""`python -m cluster.doctor_ray ADDRESS SECONDS`: join a Ray cluster, ask each of its nodes, print JSON."""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def look() -> dict[str, Any]:
    """What one node says of itself: host, clock [s since the epoch], Python, versions, shared memory [bytes]."""
    import platform
    import shutil
    import socket
    import time
    from pathlib import Path

    shared = Path("/dev/shm")
    out: dict[str, Any] = {
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "shared_memory": shutil.disk_usage(shared).total if shared.is_dir() else None,
    }
    try:
        from cluster.versions import versions

        out["versions"] = versions()
    except ImportError as e:
        out["missing"] = str(e)
    return out | {"clock": time.time()}


def probe(address: str, seconds: float) -> dict[str, Any]:
    """Ask every node.

    Args:
        address: of the cluster.
        seconds: limit for the answers, together [s].

    Returns:
        {"cpus": of the cluster, "nodes": [...]}; of each node either what `look` says with "skew", by how much its
        clock is ahead of this machine's, and "skew_within", how exactly that is known [s], or {"host", "error"}.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(address=address, log_to_driver=False, logging_level="ERROR", configure_logging=False)
    deadline = time.monotonic() + seconds
    alive = [node for node in ray.nodes() if node["Alive"]]
    ask = ray.remote(num_cpus=0, max_retries=0)(look)
    pinned = [ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(n["NodeID"], soft=False)) for n in alive]
    # The first answers start processes everywhere at once; only later ones tell the time.
    first = [task.remote() for task in pinned]
    ray.wait(first, num_returns=len(first), timeout=max(deadline - time.monotonic(), 0.0))
    nodes = []
    for node, task, started in zip(alive, pinned, first, strict=True):
        try:
            ray.get(started, timeout=0.0)
            sent = time.time()
            answer = ray.get(task.remote(), timeout=max(deadline - time.monotonic(), 1.0))
            took = time.time() - sent
        except (ray.exceptions.RayError, TimeoutError) as e:
            text = str(e).strip().splitlines() or [type(e).__name__]
            late = isinstance(e, ray.exceptions.GetTimeoutError)
            why = f"no answer within {seconds:g} s" if late else text[-1]
            nodes.append({"host": node["NodeManagerHostname"], "error": why})
        else:
            nodes.append(answer | {"skew": answer["clock"] - sent - took / 2, "skew_within": took / 2})
    return {"cpus": ray.cluster_resources().get("CPU", 0.0), "nodes": nodes}


if __name__ == "__main__":
    print(json.dumps(probe(sys.argv[1], float(sys.argv[2]))))
