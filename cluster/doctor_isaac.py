"""`servofleet doctor --isaac`: what a machine lacks to render with Isaac Sim. Starts nothing, imports nothing of it.

Run it with the Python that Isaac Sim is, or is to be, installed in: `python -m cluster.doctor_isaac` where there is no
`servofleet` command. Numbers are those of NVIDIA's requirement pages, second hand: see docs/isaac.md.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from actors.isaac.folders import cache_root
from actors.isaac.version import (
    EULA_VARIABLE,
    PYTHONS,
    Gpu,
    IsaacError,
    check_eula,
    has_rt_cores,
    installed_version,
    list_gpus,
    manifest_for,
)
from cluster.doctor_check import GB, Check

MIN_GLIBC = (2, 35)
MIN_DRIVER = (580, 65, 6)
MIN_VRAM_MIB = 15_500  # of a card sold as 16 GB
MIN_MEMORY = 30 * GB
MIN_DISK = 50 * GB
_ICD_FOLDERS = (Path("/etc/vulkan/icd.d"), Path("/usr/share/vulkan/icd.d"))


def check_isaac(environment: Mapping[str, str] = os.environ) -> list[Check]:
    """Look at everything that Isaac Sim leans on, in the order in which to repair it."""
    try:
        gpus: Sequence[Gpu] | str = list_gpus()
    except IsaacError as e:
        gpus = str(e)
    return [
        check_glibc(platform.libc_ver()),
        *check_gpus(gpus),
        check_vulkan(environment, _ICD_FOLDERS),
        check_capabilities(environment),
        check_interpreter(sys.version_info[:2]),
        check_wheel(environment),
        check_licence(environment),
        check_memory_size(),
        check_room(cache_root(environment)),
    ]


def check_glibc(found: tuple[str, str]) -> Check:
    """The C library, (name, version) as `platform.libc_ver` says it."""
    name, version = found
    ok = name == "glibc" and _numbers(version) >= MIN_GLIBC
    return Check(
        "glibc", ok, f"{name or 'unknown'} {version}".strip(), "use Ubuntu 22.04 or 24.04: wheels need glibc 2.35"
    )


def check_gpus(gpus: Sequence[Gpu] | str) -> list[Check]:
    """Name, driver and memory of the GPUs; or why they cannot be listed."""
    if isinstance(gpus, str):
        return [Check("gpu", False, gpus, "repair the driver: nvidia-smi must list the GPU")]
    if not gpus:
        return [
            Check("gpu", False, "none: nvidia-smi is missing or lists none", "use a machine with an NVIDIA RTX GPU")
        ]
    without = [g.name for g in gpus if not has_rt_cores(g.name)]
    small = [g.name for g in gpus if g.memory_mib < MIN_VRAM_MIB]
    old = [g.driver for g in gpus if _numbers(g.driver) < MIN_DRIVER]
    wanted = ".".join(f"{n:02d}" for n in MIN_DRIVER)
    return [
        Check(
            "ray-tracing cores",
            not without,
            ", ".join(g.name for g in gpus),
            f"render elsewhere: {', '.join(without)} cannot run Isaac Sim's renderer; L4, L40S, RTX cards can",
        ),
        Check("gpu memory", not small, ", ".join(f"{g.memory_mib} MiB" for g in gpus), "use a GPU with 16 GB or more"),
        Check("gpu driver", not old, ", ".join(sorted({g.driver for g in gpus})), f"install driver {wanted} or newer"),
    ]


def check_vulkan(environment: Mapping[str, str], folders: Sequence[Path]) -> Check:
    """The file through which Vulkan finds NVIDIA's driver."""
    named = environment.get("VK_DRIVER_FILES", "") or environment.get("VK_ICD_FILENAMES", "")
    if named:
        files = [Path(name) for name in named.split(":")]
    else:
        files = sorted(file for folder in folders if folder.is_dir() for file in folder.glob("*nvidia*.json"))
    good = [str(file) for file in files if _is_icd(file)]
    advice = "install the driver's graphics part (libnvidia-gl); in a container ask for the capability `graphics`"
    return Check(
        "vulkan", bool(good), good[0] if good else f"no readable driver file ({named or 'none named'})", advice
    )


def check_capabilities(environment: Mapping[str, str]) -> Check:
    """What the NVIDIA container runtime was asked for, where there is one."""
    value = environment.get("NVIDIA_DRIVER_CAPABILITIES", "")
    ok = not value or bool({"all", "graphics"} & set(value.split(",")))
    return Check("container capabilities", ok, value or "not set", "set NVIDIA_DRIVER_CAPABILITIES=all")


def check_interpreter(version: tuple[int, int]) -> Check:
    """Isaac Sim's wheels exist for one minor version of Python each."""
    ok = version in PYTHONS.values()
    seen = f"{version[0]}.{version[1]}"
    return Check("python", ok, seen, "use Python 3.11 for Isaac Sim 5.1, 3.12 for 6.x")


def check_wheel(environment: Mapping[str, str]) -> Check:
    """Isaac Sim itself, and whether it is a version that the adapter knows."""
    advice = "pip install 'isaacsim[all,extscache]==5.1.0.0' from NVIDIA's index: see docs/isaac.md"
    try:
        version = installed_version(environment)
        manifest_for(version)
    except IsaacError as e:
        return Check("isaacsim", False, str(e), advice)
    if importlib.util.find_spec("isaacsim") is None:
        return Check("isaacsim", False, f"{version}, but this Python cannot import it", "run Isaac Sim's own python.sh")
    return Check("isaacsim", True, version)


def check_licence(environment: Mapping[str, str]) -> Check:
    """The variable without which the first import asks and waits."""
    value = environment.get(EULA_VARIABLE, "")
    try:
        check_eula(environment)
    except IsaacError:
        return Check(
            "licence", False, f"{EULA_VARIABLE}={value!r}", f"read NVIDIA's licence, then export {EULA_VARIABLE}=YES"
        )
    return Check("licence", True, f"{EULA_VARIABLE}={value}")


def check_memory_size() -> Check:
    """Memory of the machine."""
    size = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return Check("memory", size >= MIN_MEMORY, f"{size / GB:.0f} GB", "use a machine with 32 GB or more")


def check_room(folder: Path) -> Check:
    """Free space for Kit's caches; the installation itself takes another 17 GB."""
    there = folder.expanduser().absolute()
    while not there.is_dir():
        there = there.parent
    free = shutil.disk_usage(there).free
    return Check("disk space", free >= MIN_DISK, f"{free / GB:.0f} GB free at {there}", f"free {MIN_DISK / GB:.0f} GB")


def main() -> int:
    """Print the findings, one per line; 0 if nothing is missing, else 1."""
    checks = check_isaac()
    for check in checks:
        print(
            f"{'ok ' if check.ok else 'FIX'}  {check.name}: {check.seen}" + ("" if check.ok else f" -> {check.advice}")
        )
    return 0 if all(check.ok for check in checks) else 1


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _is_icd(file: Path) -> bool:
    try:
        return "library_path" in json.loads(file.read_text())["ICD"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


if __name__ == "__main__":
    sys.exit(main())
