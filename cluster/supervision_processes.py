"""Processes as the kernel and Ray know them: where a collector runs, how it ended, and its certain end.

Ray says that a worker is gone, not by which signal. Where a collector shares the driver's process table, a process
descriptor (pidfd) tells, and ends a stopped process at once instead of after Ray's 5 s. It names that process for ever:
no other one can be hit that has got its number since.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import re
import select
import signal
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import ActorUnavailableError, NodeDiedError, OutOfMemoryError, RayActorError, RayError, RayTaskError

from actors.tasks import Task
from cluster.supervision import Cause
from common.processes import process_stat

_PIDFD_GET_INFO, _PIDFD_INFO_EXIT = 0xC040FF0B, 1 << 3  # linux/pidfd.h; the exit status since Linux 6.15
_EXIT_STATUS_S = 0.2


@dataclasses.dataclass(frozen=True)
class Whereabouts:
    """Where a process runs.

    Attributes:
        node: Ray's id of the machine.
        space: the process table, by boot of the machine and namespace; process ids mean something only within it.
        pid: process id.
        born: when it started, in clock ticks since the boot.
    """

    node: str
    space: str
    pid: int
    born: int


def whereabouts(_actor: object = None) -> Whereabouts:
    """Of this process; Ray runs it in an actor."""
    node = ray.get_runtime_context().get_node_id()
    return Whereabouts(node, _space(), os.getpid(), process_stat(os.getpid()).born)


def packed(weights: Mapping[str, NDArray[Any]]) -> tuple[list[str], list[NDArray[Any]]]:
    """Weights as `run_task` takes them: names and arrays.

    The keys of a dict Ray would intern, anew in every task, and Python's table of interned strings keeps room for each
    of them until it is copied to another place.
    """
    return list(weights), [np.ascontiguousarray(array) for array in weights.values()]


def run_task(actor: Any, task: Mapping[str, Any], weights: tuple[list[str], list[NDArray[Any]]] | None) -> Any:
    """Let an actor run a task, given as `Task.plain`, with weights of `packed`; Ray runs it in the actor.

    A function of a module is pickled by its name, the name of a method as a closure with its code.
    """
    named = None if weights is None else dict(zip(*weights, strict=True))
    return actor.run(task=Task.from_plain(task), weights=named)


def open_process(where: Whereabouts) -> int | None:
    """A descriptor of the process, to be closed with `os.close`; None where it is out of reach or gone."""
    if where.space != _space():
        return None
    try:
        descriptor = os.pidfd_open(where.pid)
    except OSError:
        return None
    try:
        if process_stat(where.pid).born == where.born:
            return descriptor
    except OSError:  # gone meanwhile
        pass
    os.close(descriptor)
    return None


def end_process(descriptor: int) -> None:
    """SIGKILL, which ends a stopped process too."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)


def has_ended(descriptor: int) -> bool:
    """Whether the process is no more."""
    return bool(select.select([descriptor], [], [], 0.0)[0])


def exit_status(descriptor: int) -> str:
    """How a process ended: the name of a signal or "exit code N"; empty where the kernel does not tell."""
    deadline = time.monotonic() + _EXIT_STATUS_S
    while time.monotonic() < deadline:
        said = bytearray(struct.pack("Q56x", _PIDFD_INFO_EXIT))
        try:
            fcntl.ioctl(descriptor, _PIDFD_GET_INFO, said)
        except OSError:  # an older kernel, or one that has not noted it yet
            if not has_ended(descriptor):
                return ""
        if struct.unpack_from("Q", said)[0] & _PIDFD_INFO_EXIT:
            code = os.waitstatus_to_exitcode(struct.unpack_from("i", said, 60)[0])
            return signal.Signals(-code).name if code < 0 else f"exit code {code}"
        time.sleep(0.005)
    return ""


def cause_of(error: Exception, descriptor: int | None, node_alive: bool) -> Cause | None:
    """What happened to a process whose call ended in `error`.

    Args:
        error: of a call to the actor.
        descriptor: of its process (`open_process`), None where there is none.
        node_alive: whether its node is known to be there, or nothing is known of it.

    Returns:
        The cause; None if the process may still live: Ray lost contact and does not know more.
    """
    text = str(error)
    if isinstance(error, OutOfMemoryError):
        return Cause("died", "out of memory")
    if isinstance(error, RayTaskError):
        return Cause("raised", type(error.cause).__name__ if error.cause is not None else last_line(text))
    if isinstance(error, RayActorError) and error.actor_init_failed:
        named = re.match(r"[A-Za-z_][\w.]*(?=:|$)", last_line(text))
        return Cause("raised", f"{named[0] if named else 'an exception'} at its start")
    if isinstance(error, NodeDiedError) or not node_alive or "node has died" in text:
        return Cause("node lost")
    if isinstance(error, RayActorError) and error.preempted:
        return Cause("node lost")
    status = "" if descriptor is None else exit_status(descriptor)
    if not status and isinstance(error, ActorUnavailableError):
        return None
    if not status and (found := re.search(r"exit code (\d+)", text)):
        status = f"exit code {found[1]}"
    if not status and not isinstance(error, RayError):
        status = type(error).__name__
    return Cause("died", status or "killed or crashed")


def last_line(text: str) -> str:
    """The last line that says something: Ray puts a remote traceback before it."""
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""


def node_of(actor: ray.actor.ActorHandle) -> str:
    """Node on which Ray last put an actor, also one that never answered; empty if nowhere yet."""
    from ray._private import state  # the one place that knows of actors that failed to start

    known = state.actors(actor._actor_id.hex())
    # Before it has a process, the address is that of whoever looks for a place.
    return str(known["Address"]["NodeID"]) if known and known.get("Pid") else ""


def _space() -> str:
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
