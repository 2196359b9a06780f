"""With what a run is made: a hash of this code, and the versions of the libraries that its results depend on."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import re
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from common.errors import ServofleetError

if TYPE_CHECKING:
    from learner.learners import PhaseLearner

CODE = "servofleet code"  # the entry of our own sources
PACKAGES = ("common", "replay", "actors", "learner", "cluster")
LIBRARIES = ("numpy", "torch", "ray", "zarr", "mlflow", "hydra-core", "warp-lang")

T = TypeVar("T")


class OtherCodeError(ServofleetError):
    """A worker would do the run's work with other code than the driver's."""


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
def code_sha256() -> str:
    """Hash of this code; the files are read once per process, as the process itself read them."""
    return source_sha256(Path(__file__).parent.parent)


@functools.cache
def versions() -> dict[str, str]:
    """Versions by library, and under `CODE` this code's own: its release and the start of its hash."""
    code = f"{importlib.metadata.version('servofleet')}+{code_sha256()[:12]}"
    return {CODE: code, **{name: importlib.metadata.version(name) for name in LIBRARIES}}


def version_changes(recorded: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """A line for each version that differs. What a record lacks is older than this list and is not compared."""
    return [
        f"{name} was {was}, now {now.get(name, 'not there')}: what follows may differ from a run that kept it"
        for name, was in recorded.items()
        if now.get(name) != was
    ]


def check_code(driver: str, own: str | None = None, role: str = "a worker") -> None:
    """Refuse to work for a driver of another code version.

    Args:
        driver: the driver's version, as under `CODE`.
        own: the worker's; None is that of this process.
        role: who the worker is.

    Raises:
        OtherCodeError: naming both, and the machine of this process.
    """
    own = versions()[CODE] if own is None else own
    if own != driver:
        raise OtherCodeError(
            f"{role} (seen on {socket.gethostname()}) has servofleet {own}, the driver has {driver}: allowed is the "
            f"driver's; install it on every node, and start the run anew where sources changed under it"
        )


def with_own_code(driver: str, make: Callable[[str], T], name: str) -> T:
    """`make(name)` in a process of the driver's code version.

    Raises:
        OtherCodeError: as `check_code`.
    """
    check_code(driver, role=f"collector {name}")
    return make(name)


def check_learners(learner: PhaseLearner) -> None:
    """Ask every process that learns for its code.

    Raises:
        OtherCodeError: as `check_code`.
        LearnerLostError: if one does not answer.
    """
    for own in learner.ask_each(_code_of):
        check_code(versions()[CODE], own, "a learner")


def _code_of(_: object) -> str:
    return versions()[CODE]


def refusal(error: BaseException | None) -> str:
    """The line of an `OtherCodeError` in what Ray tells of a process that raised it; "" if it is another error."""
    found = re.search(rf"{OtherCodeError.__name__}: (.+)", str(error))
    return found[1].strip() if found else ""
