"""With what a run is made: a hash of this code, and the versions of the libraries that its results depend on."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path

CODE = "servofleet code"  # the entry of our own sources
PACKAGES = ("common", "replay", "actors", "learner", "cluster")
LIBRARIES = ("numpy", "torch", "ray", "zarr", "mlflow", "hydra-core", "warp-lang")


def source_sha256(root: Path) -> str:
    """Hash over the names and bytes of all Python files of our packages under `root`."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            data = path.read_bytes()
            digest.update(f"{path.relative_to(root).as_posix()} {len(data)}\n".encode())
            digest.update(data)
    return digest.hexdigest()


@functools.cache
def versions() -> dict[str, str]:
    """Versions by library, and under `CODE` this code's own: its release and the start of its hash.

    The files are read once per process, as the process itself read them.
    """
    code = f"{importlib.metadata.version('servofleet')}+{source_sha256(Path(__file__).parent.parent)[:12]}"
    return {CODE: code, **{name: importlib.metadata.version(name) for name in LIBRARIES}}


def version_changes(recorded: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """A line for each version that differs. What a record lacks is older than this list and is not compared."""
    return [
        f"{name} was {was}, now {now.get(name, 'not there')}: what follows may differ from a run that kept it"
        for name, was in recorded.items()
        if now.get(name) != was
    ]
