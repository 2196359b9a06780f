"""How many collectors there may be, and where: what the cluster has, seen from the side.

Asking Ray's head is a call that can take long when the head is in trouble. A thread asks, and the driver looks at what
it last heard; news that are too old are no news, and nothing is concluded from them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Mapping, Set

import ray

from common.config import FleetConfig

_EVERY_S = 1.0
_STALE_S = 5.0


@dataclasses.dataclass(frozen=True)
class Nodes:
    """The cluster's nodes at one moment.

    Attributes:
        asked: when [s], monotonic.
        free_cpus: unreserved CPUs of each living node, by Ray's id of the node.
    """

    asked: float
    free_cpus: Mapping[str, float]


def ask_nodes() -> Nodes:
    """The nodes now, by asking Ray's head."""
    from ray._private import state  # the public calls know only the cluster's sum

    asked = time.monotonic()
    alive = {n["NodeID"] for n in ray.nodes() if n["Alive"]}
    free = state.available_resources_per_node()
    return Nodes(asked, {node: float(free.get(node, {}).get("CPU", 0.0)) for node in alive})


class NodeWatch:
    """Asks for the nodes about once a second, in a thread."""

    def __init__(self) -> None:
        self._latest: Nodes | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="nodes", daemon=True)
        self._thread.start()

    def latest(self) -> Nodes | None:
        """What was heard last; None if that is more than 5 s old or nothing was heard yet."""
        latest = self._latest
        return latest if latest is not None and time.monotonic() - latest.asked < _STALE_S else None

    def stop(self) -> None:
        """End the thread; a question that hangs ends with the process."""
        self._stopped.set()
        self._thread.join(2.0)

    def _watch(self) -> None:
        while not self._stopped.is_set():
            # Whatever the question ended in: without an answer the news grow old, and the driver sees that.
            with contextlib.suppress(Exception):
                if ray.is_initialized():
                    self._latest = ask_nodes()
            self._stopped.wait(_EVERY_S)


def bounds(config: FleetConfig) -> tuple[int, int]:
    """Smallest and largest number of collectors that the settings allow."""
    return min(config.min_collectors, config.collectors), max(config.max_collectors, config.collectors)


def room(nodes: Nodes | None, shut: Set[str], config: FleetConfig) -> int:
    """Collectors that the free CPUs of the nodes outside `shut` have room for; none where nothing is known."""
    if nodes is None:
        return 0
    _, most = bounds(config)
    if config.cpus_per_collector == 0:
        return most
    return sum(int(cpus / config.cpus_per_collector + 1e-6) for n, cpus in nodes.free_cpus.items() if n not in shut)


def may_add(slots: int, unplaced: int, nodes: Nodes | None, shut: Set[str], config: FleetConfig) -> int:
    """How many collectors to add.

    Args:
        slots: those there are, with and without a process.
        unplaced: those of them that still need room: without a process, or with one that has not answered yet.
        nodes: the cluster's.
        shut: nodes that get none.
        config: the fleet's settings.
    """
    _, most = bounds(config)
    return max(min(most - slots, room(nodes, shut, config) - unplaced), 0)


def let_go(slots: int, config: FleetConfig) -> bool:
    """Whether a fleet of so many slots gives up one whose node is lost; it comes back when there is room."""
    least, _ = bounds(config)
    return slots > max(least, 1)
