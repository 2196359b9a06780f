"""Which Isaac Sim and which GPU the adapter starts on; what it refuses, it refuses before Isaac is imported.

The adapter is written against the sources of 5.1.0 and 6.0.1; it has not been run on an RTX machine until an acceptance
record says so (docs/isaac.md).
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from common.errors import ServofleetError, bad_value

Manifest = Literal["5_1", "6_0"]

PYTHONS: dict[Manifest, tuple[int, int]] = {"5_1": (3, 11), "6_0": (3, 12)}
# Compute GPUs without ray-tracing cores; the requirement pages of 5.1 and 6.0 exclude them, and crashes are reported.
WITHOUT_RT_CORES = ("V100", "P100", "A100", "A800", "A30", "H100", "H800", "H200", "H20", "GH200")
_NO_RT = re.compile(rf"\b(?:{'|'.join(WITHOUT_RT_CORES)})(?![0-9])")
_ACCEPTED = ("YES", "Y", "1")
EULA_VARIABLE = "OMNI_KIT_ACCEPT_EULA"


class IsaacError(ServofleetError):
    """Isaac Sim is missing, is not the one the adapter knows, or does not behave as its manifest says."""


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A GPU as its driver names it: product name, driver version, memory [MiB]."""

    name: str
    driver: str
    memory_mib: int


def manifest_for(version: str) -> Manifest:
    """Which manifest describes a version of Isaac Sim.

    Args:
        version: as the wheel or the container says it, "5.1.0.0", "6.0.1-rc.7".

    Raises:
        IsaacError: if the adapter does not know it. 6.1 and later are taken for 6.0, of which they are updates; what is
            missing there is named at the start by `actors.isaac.api.Api.verify`.
    """
    found = re.match(r"(\d+)\.(\d+)", version)
    if found and (int(found[1]), int(found[2])) == (5, 1):
        return "5_1"
    if found and int(found[1]) == 6:
        return "6_0"
    raise IsaacError(bad_value("Isaac Sim version", version, "5.1.x or 6.x"))


def installed_version(environment: Mapping[str, str] = os.environ) -> str:
    """Version of the Isaac Sim that `import isaacsim` would find: the wheel's, or the VERSION file of an installation.

    Raises:
        IsaacError: if there is none.
    """
    try:
        return importlib.metadata.version("isaacsim")
    except importlib.metadata.PackageNotFoundError:
        pass
    root = environment.get("ISAAC_PATH", "")
    file = Path(root) / "VERSION"
    if root and file.is_file():
        return file.read_text().strip()
    raise IsaacError(
        "isaacsim is not installed in this Python, and ISAAC_PATH names no installation: see docs/isaac.md"
    )


def list_gpus(timeout_s: float = 20.0) -> tuple[Gpu, ...]:
    """The GPUs that `nvidia-smi` lists, none where there is no such program.

    Raises:
        IsaacError: if it fails, hangs, or prints something else.
    """
    query = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader,nounits")
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        return ()
    except subprocess.TimeoutExpired as e:
        raise IsaacError(f"nvidia-smi did not answer within {timeout_s:g} s: the driver hangs, restart it") from e
    if done.returncode:
        complaint = (done.stdout.strip() or done.stderr.strip() or "no message").splitlines()[-1]
        raise IsaacError(f"nvidia-smi failed with status {done.returncode}: {complaint}")
    return parse_gpus(done.stdout)


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """GPUs of the lines "name, driver version, MiB".

    Raises:
        IsaacError: naming the line that is none.
    """
    gpus = []
    for line in filter(None, map(str.strip, text.splitlines())):
        fields = [field.strip() for field in line.rsplit(",", 2)]
        if len(fields) != 3 or not fields[2].isdigit():
            raise IsaacError(bad_value("line of nvidia-smi", line, "'NAME, DRIVER, MIB'"))
        gpus.append(Gpu(fields[0], fields[1], int(fields[2])))
    return tuple(gpus)


def has_rt_cores(name: str) -> bool:
    """False for the products that are known to have no ray-tracing cores; a name that is not known passes."""
    return not _NO_RT.search(name.upper())


def check_gpus(gpus: Sequence[Gpu], allow_unsupported: bool = False) -> None:
    """Refuse machines on which Isaac Sim's renderer is not supported.

    Args:
        gpus: of the machine; Vulkan sees them all, whatever CUDA_VISIBLE_DEVICES says.
        allow_unsupported: go on without ray-tracing cores, at the user's own risk.

    Raises:
        IsaacError: if there is no GPU, or one without ray-tracing cores.
    """
    if not gpus:
        raise IsaacError("Isaac Sim needs an NVIDIA RTX GPU: nvidia-smi lists none on this machine")
    bad = [gpu.name for gpu in gpus if not has_rt_cores(gpu.name)]
    if bad and not allow_unsupported:
        allowed = (
            "a GPU with ray-tracing cores (L4, L40S, RTX 6000 Ada, RTX PRO 6000, RTX 4090, ...), or allow_unsupported"
        )
        raise IsaacError(bad_value("GPU", bad[0], allowed))


def check_eula(environment: Mapping[str, str]) -> None:
    """Without the variable, importing `isaacsim` asks on the terminal and waits for ever.

    Raises:
        IsaacError: if it is not set to an accepting value.
    """
    value = environment.get(EULA_VARIABLE, "")
    if value.upper() not in _ACCEPTED:
        raise IsaacError(bad_value(EULA_VARIABLE, value, f"one of {_ACCEPTED}, after reading NVIDIA's licence"))
