"""The driver dies, or the head node with all that is on it: `train` again goes on, on that cluster or another one."""

import os
import signal

import pytest
from ray_nodes import nodes
from train_process import ids, outcome, said, same, train, training, wait_for_rows, wait_until

from common.rng import Purpose, philox

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(1800)]

SEED = 20261124
SPREAD = ("fleet.collectors=2", "fleet.cpus_per_collector=1")


@pytest.mark.parametrize("repeat", [0, 1])
def test_a_killed_driver_goes_on_from_its_cut_on_the_same_cluster(tmp_path, undisturbed, repeat):
    path, rng = tmp_path / "run", philox(SEED + repeat, Purpose.BOOTSTRAP)
    moments = sorted(rng.integers(1, 9, 2).tolist())
    with nodes(1) as cluster:
        for rows in moments:
            with training(path, f"ray_address={cluster.address}", *SPREAD) as process:
                wait_for_rows(path, rows, process)
                os.kill(process.pid, signal.SIGKILL)
        ended = train(path, f"ray_address={cluster.address}", *SPREAD)
    assert "resuming from checkpoint" in ended
    print(f"seed {SEED + repeat}: killed at rows {moments}")
    assert ids(path / "store") == undisturbed["ids"]
    same(outcome(path), undisturbed["outcome"])


@pytest.mark.parametrize("repeat", [0, 1])
def test_a_lost_head_node_ends_the_driver_and_a_fresh_cluster_goes_on_with_the_store(tmp_path, undisturbed, repeat):
    path, rows = tmp_path / "run", int(philox(SEED + 10 + repeat, Purpose.BOOTSTRAP).integers(2, 7))
    with nodes(1) as cluster, training(path, f"ray_address={cluster.address}", *SPREAD) as process:
        wait_for_rows(path, rows, process)
        cluster.lose_head()
        # It does not wait for a head node that does not come back.
        took = wait_until(lambda: process.poll() is not None, lambda: said(path)[-3000:])
        assert process.returncode != 0
    print(f"seed {SEED + 10 + repeat}: head lost at row {rows}, driver ended after {took:.1f} s")
    with nodes(1) as cluster:
        ended = train(path, f"ray_address={cluster.address}", *SPREAD)
    assert "resuming from checkpoint" in ended
    assert ids(path / "store") == undisturbed["ids"]
    same(outcome(path), undisturbed["outcome"])
