"""Training on three nodes of which one dies or is taken away, and on two through the command line or with a writer that
hangs: the store is on the head node, every episode is in it once, and the run ends as one that nothing disturbed.

The moments are drawn from a recorded seed; the undisturbed run is one on this machine alone.
"""

import json
import os
import signal

import pytest
import ray
from ray_nodes import nodes
from train_process import committed, ids, outcome, said, same, train, training, wait_for_rows, wait_until

from common.rng import Purpose, philox

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(1800)]

SEED, DEADLINE_S = 20261123, 300.0
# One collector per node, so that each node has a part in every round.
SPREAD = ("fleet.collectors=3", "fleet.cpus_per_collector=1")


def moment(repeat):
    """Rows after which the fault comes: in imitation or in PPO, but not behind the last row."""
    return int(philox(SEED + repeat, Purpose.BOOTSTRAP).integers(2, 8))


def all_there(path, undisturbed):
    assert ids(path / "store") == undisturbed["ids"]
    writers = committed(path / "store")
    assert "w" in writers and any(name.startswith("c") for name in writers), "every node's episodes were wanted"
    same(outcome(path), undisturbed["outcome"])


@pytest.mark.parametrize("repeat", [0, 1])
def test_a_killed_raylet_costs_its_collector_and_nothing_else(tmp_path, undisturbed, repeat):
    path = tmp_path / "run"
    with nodes(2) as cluster, training(path, f"ray_address={cluster.address}", *SPREAD) as process:
        wait_for_rows(path, moment(repeat), process)
        cluster.kill_raylet(repeat)
        assert process.wait(DEADLINE_S) == 0, said(path)[-3000:]
    all_there(path, undisturbed)


@pytest.mark.parametrize("repeat", [0, 1])
def test_both_nodes_with_collectors_go_and_one_that_comes_does_their_work(tmp_path, undisturbed, repeat):
    path, rows = tmp_path / "run", moment(repeat)
    # Nobody can collect on the head: without the node that comes, the run could not end.
    options = ("fleet.collectors=2", "fleet.cpus_per_collector=1")
    with nodes(2, head_cpus=0) as cluster, training(path, f"ray_address={cluster.address}", *options) as process:
        wait_for_rows(path, rows, process)
        cluster.remove(0)
        cluster.remove(0)
        came = cluster.add()
        took = wait_until(lambda: cluster.is_used(came), lambda: said(path)[-3000:], process)
        print(f"seed {SEED + repeat}: lost at row {rows}, the node that came was used after {took:.1f} s")
        assert process.wait(DEADLINE_S) == 0, said(path)[-3000:]
    assert ids(path / "store") == undisturbed["ids"] and set(committed(path / "store")) == {"w"}
    same(outcome(path), undisturbed["outcome"])


def test_a_writer_that_hangs_is_replaced_and_loses_nothing(tmp_path, undisturbed):
    path, hang_s = tmp_path / "run", 10.0
    options = ("fleet.collectors=2", "fleet.cpus_per_collector=1", f"fleet.hang_timeout_s={hang_s}")
    with nodes(1) as cluster, training(path, f"ray_address={cluster.address}", *options) as process:
        wait_for_rows(path, moment(0), process)
        (hung,) = writers()
        os.kill(hung, signal.SIGSTOP)
        took = wait_until(lambda: writers() - {hung} != set(), lambda: said(path)[-3000:], process)
        print(f"writer stopped at row {moment(0)}, another one after {took:.1f} s (hang_timeout_s = {hang_s:g})")
        assert process.wait(DEADLINE_S) == 0, said(path)[-3000:]
    assert took < hang_s + 15.0
    all_there(path, undisturbed)


def writers():
    """Process ids of the store's writer actor that Ray knows of as alive."""
    actors = ray._private.state.actors().values()
    return {a["Pid"] for a in actors if a["ActorClassName"] == "ReplayWriter" and a["State"] == "ALIVE"}


def test_the_command_line_trains_smoke_across_two_nodes(tmp_path):
    path = tmp_path / "run"
    with nodes(1) as cluster:
        train(path, "schedule=[il,value_warmup,ppo,sil,ppo_smooth]", "evaluation.baselines=[zero,pbvs]",
              "phases.il.evaluate=true", f"ray_address={cluster.address}", "fleet.cpus_per_collector=1")  # fmt: skip
        assert {n["Alive"] for n in ray.nodes()} == {True} and len(ray.nodes()) == 2
    stages = json.loads((path / "report.json").read_text())["stages"]
    assert {"zero", "pbvs", "il", "sil", "ppo_smooth"} <= set(stages)
    writers = committed(path / "store")
    here = set().union(*(found for name, found in writers.items() if name.startswith("c")))
    assert writers["w"] and here and not writers["w"] & here
    assert sorted(writers["w"] | here) == ids(path / "store")
