"""The Ray cluster a run is meant for: can it be joined, and are its nodes alike?"""

from __future__ import annotations

import platform
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.doctor_check import GB, Check, probe
from cluster.versions import versions

_MAX_SKEW_S = 1.0
_MIN_SHM_BYTES = 128e6
_ASKING_SHARE = 0.6  # of the deadline; the rest is for importing Ray and for joining


def check_cluster(address: str, deadline_s: float) -> list[Check]:
    """Join the configured cluster for real, and ask every node of it.

    Args:
        address: of the cluster; "" where none is configured.
        deadline_s: limit [s].

    Returns:
        "ray cluster"; if it could be joined also "cluster nodes", "cluster versions", "cluster clocks" and
        "cluster shared memory".
    """
    if not address:
        return [Check("ray cluster", True, "none configured: a run starts one on this machine")]
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=min(deadline_s, 5.0)).close()
        except OSError as e:
            advice = "check ray_address, that the head node runs (`ray status` there), and the firewall"
            return [Check("ray cluster", False, f"{address}: {e.strerror or e}", advice)]
    command = (sys.executable, "-m", "cluster.doctor_ray", address, f"{deadline_s * _ASKING_SHARE:g}")
    found = probe(command, deadline_s)
    if isinstance(found, str):
        advice = "something answers there, but no Ray that lets us in: compare versions and tokens (RAY_AUTH_TOKEN)"
        return [Check("ray cluster", False, f"{address}: {found}", advice)]
    nodes = found["nodes"]
    joined = Check("ray cluster", True, f"{address}: {len(nodes)} nodes, {found['cpus']:g} CPUs")
    return [joined, *check_nodes(nodes, versions(), platform.python_version())]


def check_nodes(nodes: Sequence[Mapping[str, Any]], own: Mapping[str, str], python: str) -> list[Check]:
    """Compare what nodes said of themselves with this machine.

    Args:
        nodes: answers of `cluster.doctor_ray.probe`.
        own: versions of this code and its libraries here.
        python: version of the interpreter here.
    """
    silent = [f"{n['host']}: {n['error']}" for n in nodes if "error" in n]
    answered = [n for n in nodes if "error" not in n]
    return [
        Check(
            "cluster nodes",
            not silent,
            "; ".join(silent) or f"all {len(answered)} answer",
            "see `ray status` and the logs of the raylet there; take the node out, or start it again",
        ),
        _versions(answered, own, python),
        _clocks(answered),
        _shared_memory(answered),
    ]


def _versions(nodes: Sequence[Mapping[str, Any]], own: Mapping[str, str], python: str) -> Check:
    different = []
    for node in nodes:
        if "missing" in node:
            different.append(f"{node['host']}: {node['missing']}")
            continue
        theirs = {"python": node["python"], **node["versions"]}
        pairs = [
            f"{name} {theirs.get(name, 'not there')} (here {version})"
            for name, version in {"python": python, **own}.items()
            if theirs.get(name) != version
        ]
        different += [f"{node['host']}: {', '.join(pairs)}"] if pairs else []
    advice = "install the same servofleet, libraries and Python on every node (the same container image)"
    return Check("cluster versions", not different, "; ".join(different) or "as here on every node", advice)


def _clocks(nodes: Sequence[Mapping[str, Any]]) -> Check:
    off = [n for n in nodes if abs(n["skew"]) - n["skew_within"] > _MAX_SKEW_S]
    worst = max(nodes, key=lambda n: abs(n["skew"]), default=None)
    seen = "no node answered" if worst is None else f"at most {_ahead(worst)}"
    seen = ", ".join(_ahead(n) for n in off) or seen
    return Check(
        "cluster clocks", not off, seen, "let chrony or ntpd run on every node: ages and lags are told wrongly"
    )


def _ahead(node: Mapping[str, Any]) -> str:
    return f"{node['skew']:+.2f} s on {node['host']} (known within {node['skew_within']:.2f} s)"


def _shared_memory(nodes: Sequence[Mapping[str, Any]]) -> Check:
    sizes = {n["host"]: n["shared_memory"] for n in nodes if n["shared_memory"] is not None}
    small = {host: size for host, size in sizes.items() if size < _MIN_SHM_BYTES}
    seen = ", ".join(f"{host}: {size / GB:.2f} GB" for host, size in (small or sizes).items()) or "not told"
    advice = "start the containers with --shm-size=2g (Kubernetes: an emptyDir with medium Memory at /dev/shm)"
    return Check("cluster shared memory", not small, seen, advice)
