"""Folders that a process keeps to itself while it lives, and that the next one finds warm.

Kit compiles shaders for minutes at its first start and keeps them in its folder; two processes in one folder lock each
other out. So folders are numbered, and a process takes the first that nobody holds.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from actors.isaac.version import IsaacError

CACHE_VARIABLE = "SERVOFLEET_ISAAC_CACHE"
_MOST = 64
_held: list[IO[str]] = []  # open until the process ends, however it ends


def cache_root(environment: Mapping[str, str] = os.environ) -> Path:
    """Where the folders are: $SERVOFLEET_ISAAC_CACHE, else servofleet/isaac in the user's cache folder."""
    if chosen := environment.get(CACHE_VARIABLE, ""):
        return Path(chosen)
    base = environment.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "servofleet" / "isaac"


def claim_folder(root: Path, version: str) -> Path:
    """The first folder of this version that no living process holds; held until this process ends.

    Raises:
        IsaacError: if 64 processes hold one each, or the folder cannot be written.
    """
    for number in range(_MOST):
        folder = root / f"{version}-{number}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = open(folder / "lock", "a")  # noqa: SIM115
        except OSError as e:
            raise IsaacError(
                f"{folder} cannot be written ({e.strerror}): set {CACHE_VARIABLE} to a folder that can"
            ) from e
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        _held.append(lock)
        return folder
    raise IsaacError(f"{_MOST} processes hold the folders in {root}: end some, or set {CACHE_VARIABLE}")
