"""`servofleet doctor`: is this machine fit to train or to collect, and what to fix where it is not.

Imports none of the heavy libraries: what has to run them does so in processes of its own, with a deadline.
"""

from __future__ import annotations

import dataclasses
import fcntl
import importlib.metadata
import itertools
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.config import RunConfig

GB = 1e9
# A collector holds torch, ray, the renderer and its scenes; the driver the learner and Ray's own processes.
_COLLECTOR_BYTES, _DRIVER_BYTES = 1.0 * GB, 2.0 * GB
_MIN_SHM_BYTES = 128e6
_MIN_DISK_BYTES = 5 * GB
_MAX_FSYNC_S = 0.1
_LIBRARIES = ("torch", "ray", "zarr", "mlflow", "warp-lang")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

_RAY_PROBE = """
import json, sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR", configure_logging=False)
alive = [n for n in ray.nodes() if n["Alive"]]
print(json.dumps({"nodes": len(alive), "cpus": ray.cluster_resources().get("CPU", 0.0)}))
"""


@dataclasses.dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: what was looked at.
        ok: false if a run would fail, or crawl, because of it.
        seen: what was found.
        advice: what to do about it, "" where there is nothing to do.
    """

    name: str
    ok: bool
    seen: str
    advice: str = ""

    def __post_init__(self) -> None:
        if self.ok:
            object.__setattr__(self, "advice", "")


def check_machine(config: RunConfig | None = None, deadline_s: float = 60.0) -> list[Check]:
    """Look at everything a run leans on.

    Args:
        config: of the run that is meant to go here; the defaults where None.
        deadline_s: limit for each of the two checks that start a process (Warp and Ray) [s].

    Returns:
        Checks in the order in which to repair them.
    """
    config = config or RunConfig()
    folder = existing_folder(Path(config.dir))
    return [
        check_python(),
        *check_versions(),
        check_cores(config),
        check_threads(dict(os.environ)),
        check_memory(config.fleet.collectors, available_memory()),
        check_shared_memory(Path("/dev/shm")),
        check_disk(folder),
        check_durability(folder),
        check_clock(),
        *check_warp(deadline_s),
        check_ray(config.ray_address, deadline_s),
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


def existing_folder(path: Path) -> Path:
    """The folder itself or its nearest ancestor that exists: where a run directory would be made."""
    path = path.expanduser().absolute()
    while not path.is_dir():
        path = path.parent
    return path


def check_disk(folder: Path) -> Check:
    """Free space for the replay store and the checkpoints."""
    free = shutil.disk_usage(folder).free
    seen = f"{free / GB:.1f} GB free at {folder}"
    return Check(
        "disk space", free >= _MIN_DISK_BYTES, seen, f"free {_MIN_DISK_BYTES / GB:.0f} GB, or set dir= elsewhere"
    )


def check_durability(folder: Path, rounds: int = 8) -> Check:
    """What the store's promises need from the file system: fsync (its latency), hard links and locks."""
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=folder) as name:
            seconds = []
            for i in range(rounds):
                with open(Path(name) / str(i), "wb") as f:
                    f.write(bytes(65536))
                    f.flush()
                    began = time.perf_counter()
                    os.fsync(f.fileno())
                    seconds.append(time.perf_counter() - began)
            os.link(Path(name) / "0", Path(name) / "link")
            with open(Path(name) / "0") as f:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        advice = "set dir= to a folder you may write, on a file system with hard links and locks"
        return Check("run directory", False, f"{folder}: {e.strerror or e}", advice)
    median = statistics.median(seconds)
    seen = f"{folder}: fsync of 64 kB takes {median * 1e3:.1f} ms; hard links and locks work"
    return Check(
        "run directory", median <= _MAX_FSYNC_S, seen, "set dir= to a local disk: every commit waits for fsync"
    )


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
    found = _probe(command, deadline_s)
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


def check_ray(address: str, deadline_s: float) -> Check:
    """Can the configured Ray cluster be joined? Connects for real, within the deadline."""
    if not address:
        return Check("ray cluster", True, "none configured: a run starts one on this machine")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=min(deadline_s, 5.0)).close()
        except OSError as e:
            advice = "check ray_address, that the head node runs (`ray status` there), and the firewall"
            return Check("ray cluster", False, f"{address}: {e.strerror or e}", advice)
    found = _probe((sys.executable, "-c", _RAY_PROBE, address), deadline_s)
    if isinstance(found, str):
        advice = "something answers there, but no Ray that lets us in: compare versions and tokens (RAY_AUTH_TOKEN)"
        return Check("ray cluster", False, f"{address}: {found}", advice)
    return Check("ray cluster", True, f"{address}: {found['nodes']} nodes, {found['cpus']:g} CPUs")


def _probe(command: tuple[str, ...], deadline_s: float) -> dict[str, Any] | str:
    """The JSON object on the last line that a process prints, or one line about why there is none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=deadline_s, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return f"no answer within {deadline_s:g} s"
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        found: dict[str, Any] = json.loads(lines[-1])
        return found
    complaint = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return f"exit status {done.returncode}: {complaint[:200]}"
