"""`servofleet doctor`: is this machine fit to train or to collect, and what to fix where it is not.

Imports none of the heavy libraries: what has to run them does so in processes of its own, with a deadline.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
import json
import os
import platform
import resource
import shutil
import socket
import sys
import time
from pathlib import Path

from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.doctor_check import GB, Check, probe
from cluster.doctor_cluster import check_cluster
from cluster.doctor_disk import (
    check_disk,
    check_durability,
    check_mount,
    check_record,
    check_store,
    existing_folder,
)
from common.config import RunConfig

# A collector holds torch, ray, the renderer and its scenes; the driver the learner and Ray's own processes.
_COLLECTOR_BYTES, _DRIVER_BYTES = 1.0 * GB, 2.0 * GB
_MIN_SHM_BYTES = 128e6
_MIN_OPEN_FILES, _MIN_PROCESSES = 4096, 2048
_MIN_PORTS = 2000
_LIBRARIES = ("torch", "ray", "zarr", "mlflow", "warp-lang")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def check_machine(config: RunConfig | None = None, deadline_s: float = 60.0) -> list[Check]:
    """Look at everything a run leans on.

    Args:
        config: of the run that is meant to go here; the defaults where None.
        deadline_s: limit for each of the checks that start a process (Warp, the store, Ray) [s].

    Returns:
        Checks in the order in which to repair them.
    """
    config = config or RunConfig()
    run = Path(config.dir)
    folder = existing_folder(run)
    return [
        check_python(),
        *check_versions(),
        check_constraints(Path(__file__).parent.parent / "constraints.txt"),
        check_cores(config),
        check_threads(dict(os.environ)),
        check_memory(config.fleet.collectors, available_memory()),
        check_shared_memory(Path("/dev/shm")),
        check_limits(),
        check_ports(),
        check_disk(folder),
        check_mount(folder),
        check_durability(folder),
        check_store(config.replay.url or str(run / "store"), deadline_s),
        check_record(run, folder),
        check_clock(),
        *check_warp(deadline_s),
        *check_cluster(config.ray_address, deadline_s),
    ]


def print_checks(checks: list[Check], as_json: bool = False, console: Console | None = None) -> None:
    """Print a table and, below it, what to fix; or one JSON object: {"ok": bool, "checks": [Check as object]}."""
    console = console or Console()
    if as_json:
        report = {"ok": all(c.ok for c in checks), "checks": [dataclasses.asdict(c) for c in checks]}
        console.file.write(json.dumps(report) + "\n")
        return
    table = Table("", "check", "seen", box=None, pad_edge=False)
    for check in checks:
        mark = Text("ok", style="green") if check.ok else Text("FIX", style="bold red")
        table.add_row(mark, Text(check.name), Text(check.seen))
    console.print(table)
    broken = [c for c in checks if not c.ok]
    for check in broken:
        console.print(Text(f"fix {check.name}: {check.advice}"))
    console.print(
        Text(f"{len(broken)} of {len(checks)} checks need fixing" if broken else "this machine is fit for runs")
    )


def check_python() -> Check:
    """The interpreter's version."""
    return Check("python", sys.version_info >= (3, 11), platform.python_version(), "use Python 3.11 or newer")


def check_versions(names: tuple[str, ...] = _LIBRARIES) -> list[Check]:
    """Installed versions against what servofleet's own package metadata asks for."""
    wanted = {
        r.name: r.specifier for r in map(Requirement, importlib.metadata.requires("servofleet") or []) if not r.marker
    }
    checks = []
    for name in names:
        allowed = wanted[name]
        advice = f"pip install '{name}{allowed}' (or delete .venv/.installed and run make setup)"
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            checks.append(Check(name, False, "not installed", advice))
        else:
            fits = allowed.contains(version, prereleases=True)
            checks.append(Check(name, fits, f"{version} (allowed {allowed})", advice))
    return checks


def check_constraints(path: Path) -> Check:
    """Installed versions against those that the tests ran with, where this is a checkout."""
    if not path.is_file():
        return Check("constraints", True, "an installed package: none to compare with")
    pins = [Requirement(line) for line in path.read_text().splitlines() if line and not line.startswith("#")]
    other, compared = [], 0
    for pin in pins:
        try:
            version = importlib.metadata.version(pin.name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of another extra
        compared += 1
        if not pin.specifier.contains(version, prereleases=True):
            other.append(f"{pin.name} {version} ({pin.specifier})")
    more = f" and {len(other) - 5} more" if len(other) > 5 else ""
    seen = f"{', '.join(other[:5])}{more}" if other else f"{compared} versions as tested"
    return Check("constraints", not other, seen, "delete .venv/.installed and run make setup")


def check_cores(config: RunConfig) -> Check:
    """Processors this process may use against what the collectors reserve on a cluster of this machine alone."""
    cores = usable_cores()
    needed = config.fleet.collectors * config.fleet.cpus_per_collector
    seen = f"{cores} usable of {os.cpu_count()}; the collectors reserve {needed:g}"
    if config.ray_address or needed <= cores:
        return Check("cores", True, seen)
    return Check(
        "cores", False, seen, f"Ray would wait for ever: set fleet.collectors or fleet.cpus_per_collector for {cores}"
    )


def usable_cores() -> int:
    """Processors in this process's affinity mask, where the system has one."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_threads(environment: dict[str, str]) -> Check:
    """Thread variables: unset is fine (each process sets its own number), more threads than processors is not."""
    values = {name: environment[name] for name in _THREAD_VARIABLES if name in environment}
    cores = usable_cores()
    bad = [name for name, value in values.items() if not value.isdigit() or not 1 <= int(value) <= cores]
    seen = ", ".join(f"{name}={value}" for name, value in values.items()) or "none set"
    return Check("threads", not bad, seen, f"unset {', '.join(bad)} or set them to 1")


def available_memory() -> float:
    """Bytes of memory that can be used without swapping: the machine's or, where it is less, the control group's."""
    available = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                available = 1024.0 * int(line.split()[1])
    except FileNotFoundError:
        return available  # not Linux: no control groups either
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        files = Path("/sys/fs/cgroup", limit), Path("/sys/fs/cgroup", used)
        if all(f.exists() for f in files) and (text := files[0].read_text().strip()).isdigit():
            available = min(available, float(text) - float(files[1].read_text()))
    return available


def check_memory(collectors: int, available: float) -> Check:
    """Free memory against a rule of thumb: 1 GB per collector, 2 GB for the driver."""
    needed = collectors * _COLLECTOR_BYTES + _DRIVER_BYTES
    seen = f"{available / GB:.1f} GB available; {collectors} collectors and the driver need about {needed / GB:.0f} GB"
    return Check("memory", available >= needed, seen, "set fleet.collectors lower, or free memory")


def check_shared_memory(path: Path) -> Check:
    """Room for Ray's object store: without it Ray uses files in /tmp, which is slow."""
    if not path.is_dir():
        return Check("shared memory", True, f"{path} does not exist on this system")
    size = shutil.disk_usage(path).total
    advice = "start the container with --shm-size=2g (Kubernetes: an emptyDir with medium Memory at /dev/shm)"
    return Check("shared memory", size >= _MIN_SHM_BYTES, f"{path}: {size / GB:.2f} GB", advice)


def check_limits() -> Check:
    """What the shell allows a process: Ray opens thousands of files and starts many threads."""
    found = {
        "open files": resource.RLIMIT_NOFILE,
        "processes": resource.RLIMIT_NPROC,
        "file size": resource.RLIMIT_FSIZE,
    }
    hard = {name: resource.getrlimit(which)[1] for name, which in found.items()}
    least = {"open files": _MIN_OPEN_FILES, "processes": _MIN_PROCESSES, "file size": int(GB)}
    # Ray raises the soft limit to the hard one.
    low = [name for name, limit in hard.items() if limit != resource.RLIM_INFINITY and limit < least[name]]
    seen = ", ".join(f"{n}: {'unlimited' if v == resource.RLIM_INFINITY else v}" for n, v in hard.items())
    advice = ", ".join(f"raise the hard limit of {name} to {least[name]} or more" for name in low)
    return Check("limits", not low, seen, f"{advice} (ulimit, /etc/security/limits.conf, docker --ulimit)")


def check_ports(range_file: Path = Path("/proc/sys/net/ipv4/ip_local_port_range")) -> Check:
    """Can processes of this machine reach each other at the address that Ray takes, on ports that are handed out?"""
    advice = "let this machine reach itself: check /etc/hosts, the firewall (iptables -L) and the container's network"
    address = own_address()
    try:
        with socket.create_server((address, 0)) as server:
            port = server.getsockname()[1]
            socket.create_connection((address, port), timeout=5.0).close()
    except OSError as e:
        return Check("ports", False, f"{address}: {e.strerror or e}", advice)
    if not range_file.exists():
        return Check("ports", True, f"{address} reaches itself")
    first, last = map(int, range_file.read_text().split())
    seen = f"{address} reaches itself; ports {first} .. {last} are handed out"
    advice = f"sysctl net.ipv4.ip_local_port_range='32768 60999': Ray needs more than the {last - first + 1} there are"
    return Check("ports", last - first + 1 >= _MIN_PORTS, seen, advice)


def own_address() -> str:
    """The address of this machine towards others; the loopback's where there is no network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.connect(("192.0.2.1", 9))  # sends nothing: a datagram socket only looks up the route
        except OSError:
            return "127.0.0.1"
        return str(s.getsockname()[0])


def check_clock(samples: int = 2000) -> Check:
    """The monotonic clock never goes back, is fine enough to time with, and runs as fast as the wall clock."""
    wall, began = time.time(), time.monotonic()
    ticks = [time.monotonic() for _ in range(samples)]
    time.sleep(0.05)
    drift = abs((time.time() - wall) - (time.monotonic() - began))
    back = any(b < a for a, b in itertools.pairwise(ticks))
    resolution = time.get_clock_info("monotonic").resolution
    direction = "goes back" if back else "never goes back"
    seen = f"monotonic {direction}, resolution {resolution * 1e9:.0f} ns, {drift * 1e3:.1f} ms from the wall clock"
    fit = not back and resolution <= 1e-3 and drift <= 0.02
    return Check(
        "clock", fit, seen, "the clock is being stepped: let chrony or ntpd slew it, or fix the hypervisor's clock"
    )


def check_warp(
    deadline_s: float, command: tuple[str, ...] = (sys.executable, "-m", "cluster.doctor_warp")
) -> list[Check]:
    """Compile and launch a kernel on every device; the kernel cache; the GPUs that Warp sees."""
    found = probe(command, deadline_s)
    if isinstance(found, str):
        return [Check("warp", False, found, "run `python -m cluster.doctor_warp`, and reinstall warp-lang if it fails")]
    wrong, cache, cuda = found["wrong"], found["cache"], found["cuda"]
    compiled = Check(
        "warp", not wrong, f"wrong result on {wrong}" if wrong else "kernel compiled and ran", "update the driver"
    )
    writable = os.access(cache, os.W_OK)
    cached = Check("kernel cache", writable, cache, "set WARP_CACHE_PATH to a folder that can be written")
    installed = Path("/proc/driver/nvidia/gpus")
    present = len(list(installed.iterdir())) if installed.is_dir() else 0
    seen = (
        ", ".join(cuda) if cuda else f"{present} without CUDA" if present else "none: renderer and learner use the CPU"
    )
    advice = (
        "the driver knows a GPU that CUDA cannot use: compare nvidia-smi with CUDA_VISIBLE_DEVICES, update the driver"
    )
    return [compiled, cached, Check("gpu", bool(cuda) or not present, seen, advice)]
