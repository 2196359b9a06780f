"""A Ray cluster of several nodes on this machine, whose nodes can be killed, taken away and added.

Each node has its own raylet, object store and workers. They share this machine's disk, but a local store goes by its
node: a process on another one is refused it (`replay.location`), so what arrives there was sent.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import ray
from ray.cluster_utils import Cluster

_NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80_000_000}


class Nodes:
    """The cluster's nodes; this process is connected to it, on the head node.

    Attributes:
        address: for `ray_address`.
        others: nodes besides the head, in the order of their start.
    """

    def __init__(self, others: int, head_cpus: int) -> None:
        head = {**_NODE, "num_cpus": head_cpus, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self.address: str = self._cluster.address
        self.others: list[Any] = []
        for _ in range(others):
            self.add()
        ray.init(address=self.address, log_to_driver=False, logging_level="ERROR")

    def add(self, **options: Any) -> str:
        """Another node, of one CPU; returns its id."""
        self.others.append(self._cluster.add_node(**_NODE, **options))
        return str(self.others[-1].node_id)

    def remove(self, index: int) -> None:
        """All processes of a node die at once, like with its machine."""
        self._cluster.remove_node(self.others.pop(index), allow_graceful=False)

    def kill_raylet(self, index: int) -> int:
        """SIGKILL for the raylet of a node, which then cannot go on; returns its process id."""
        (info,) = self.others[index].all_processes["raylet"]
        info.process.kill()
        self.others[index].kill_all_processes(check_alive=False, allow_graceful=False)
        return int(info.process.pid)

    def lose_head(self) -> None:
        """The head node dies, and with it the cluster's memory of itself."""
        ray.shutdown()
        self._cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False)

    def is_used(self, node_id: str) -> bool:
        """Whether an actor holds the node's CPU."""
        return ray._private.state.available_resources_per_node().get(node_id, {}).get("CPU", 0.0) < 1.0

    def close(self) -> None:
        """End all processes."""
        ray.shutdown()
        self._cluster.shutdown()


@contextlib.contextmanager
def nodes(others: int, head_cpus: int = 1) -> Iterator[Nodes]:
    """A head and so many other nodes, gone when the context ends."""
    # Workers of a node have the environment of its raylet, not the driver's.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    cluster = Nodes(others, head_cpus)
    try:
        yield cluster
    finally:
        cluster.close()
