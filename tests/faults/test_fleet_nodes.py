"""A fleet whose nodes come, go, die and break, on a cluster of real raylets on this machine."""

import os
import signal
import sys
import time

import pytest
import ray
from ray.cluster_utils import Cluster

from actors.tasks import TaskResult, split
from cluster.fleet import Fleet, FleetError
from common.config import FleetConfig

pytestmark = [pytest.mark.faults, pytest.mark.slow]

OPTIONS = {"num_cpus": 1, "object_store_memory": 80_000_000}


class Telling:
    """Its tasks name their node; on the node `bad` they fail."""

    def __init__(self, bad=""):
        self.node, self.bad = ray.get_runtime_context().get_node_id(), bad

    def ping(self):
        return "pong"

    def apply(self, func, *args, **kwargs):
        return func(self, *args, **kwargs)

    def run(self, task, weights=None):
        time.sleep(0.1)
        if self.node == self.bad:
            raise OSError("device not found")
        return TaskResult((f"e{task.first_env}",), 0, 1, {}, self.node, 0)


@pytest.fixture
def nodes():
    """A cluster of a head with room for two collectors."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    cluster = Cluster(initialize_head=True, head_node_args=OPTIONS | {"include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def make(nodes):
    fleets = []

    def build(bad="", **settings):
        def collector(index, avoid=()):
            selector = {"ray.io/node-id": f"!in({','.join(avoid)})"} if avoid else None
            return ray.remote(num_cpus=0.5, max_restarts=0, label_selector=selector)(Telling).remote(bad)

        fleets.append(Fleet(collector, FleetConfig(**settings)))
        return fleets[-1]

    yield build
    for fleet in fleets:
        fleet.stop()


def tasks(count):
    return split("pairs", count, count, phase="il", lineage=0, round=0)


def where(fleet):
    return sorted(m.node for m in fleet._crew._members.values() if m.up)


def poll_until(fleet, wished, timeout_s=90.0):
    began = time.monotonic()
    while not wished():
        assert time.monotonic() - began < timeout_s
        fleet.poll(0.02)
    return time.monotonic() - began


def test_a_node_that_joins_is_used_and_one_that_leaves_or_dies_is_let_go(nodes, make):
    head = nodes.head_node.node_id
    fleet = make(collectors=2, max_collectors=4, max_restarts=0)
    poll_until(fleet, lambda: fleet.healthy == 2)
    for end in ("leaves", "dies"):
        node = nodes.add_node(**OPTIONS)
        joined = poll_until(fleet, lambda: fleet.healthy == 4)
        assert where(fleet) == sorted([head, head, node.node_id, node.node_id])
        work = fleet.start(tasks(40))
        poll_until(fleet, lambda: len(fleet._busy) == 4)
        if end == "leaves":
            nodes.remove_node(node)
        else:
            raylet = node.all_processes["raylet"][0].process.pid
            os.kill(raylet, signal.SIGKILL)
        gone = poll_until(fleet, lambda: fleet.size == 2)
        results = fleet.wait(work)
        assert [r.episode_ids for r in results] == [(f"e{i}",) for i in range(40)]
        assert where(fleet) == [head, head]
        print(f"\nnode {end}: used {joined:.1f} s after it joined, let go {gone:.1f} s after it was gone")
        assert joined < 15.0
    assert fleet.status().causes == {"node lost": 4} and (fleet.status().alive, fleet.status().wanted) == (2, 2)


def test_below_the_smallest_fleet_the_run_stops_and_both_limits_are_named(nodes, make):
    node = nodes.add_node(**OPTIONS)
    fleet = make(collectors=4, min_collectors=3, start_timeout_s=20.0, max_restarts=0)
    poll_until(fleet, lambda: fleet.healthy == 4)
    nodes.remove_node(node)
    limits = (
        r"2 collectors answer, fewer than fleet\.min_collectors = 3, for fleet\.start_timeout_s = 20 s; last error: "
    )
    with pytest.raises(FleetError, match=limits + r"collector \d node lost"):
        while True:
            fleet.run(tasks(4))


def test_a_node_that_keeps_failing_is_left_alone_and_tried_again_later(nodes, make):
    node = nodes.add_node(**OPTIONS)
    nodes.add_node(**OPTIONS)
    fleet = make(bad=node.node_id, collectors=3, max_collectors=5, quarantine_s=15.0)
    poll_until(fleet, lambda: fleet.healthy >= 3 and node.node_id in where(fleet))
    works = []

    def is_shut():
        if not fleet._queue:
            works.append(fleet.start(tasks(20)))
        return fleet._crew.supervision.quarantined(time.monotonic())

    poll_until(fleet, is_shut)
    assert f"node {node.node_id[:12]} quarantined for 15 s after 3 in a row" in fleet.totals.last_failure
    failures = fleet.totals.failures
    poll_until(fleet, lambda: fleet.healthy >= 3 and node.node_id not in where(fleet))
    assert node.node_id not in {r.collector for work in works for r in fleet.wait(work)}
    assert fleet.totals.failures <= failures + 1 and fleet.status().causes["raised: OSError"] >= 3
    poll_until(fleet, lambda: not fleet._crew.supervision.quarantined(time.monotonic()))
    poll_until(fleet, lambda: node.node_id in where(fleet))
