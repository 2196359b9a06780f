"""The fleet on real Ray actors whose troubles are written down beforehand, so that every count is exact."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import ray

from actors.tasks import TaskResult, split
from cluster.fleet import Fleet, FleetError
from cluster.versions import check_code
from common.config import FleetConfig
from replay.disk_space import DiskFullError


@pytest.fixture(scope="module", autouse=True)
def cluster():
    # Worker processes cannot import a test module.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


class Scripted:
    """Does a task by naming it; before that, it has the trouble that a file of the task's name asks for, once."""

    def __init__(self, name, folder):
        self.name, self.folder = name, Path(folder)

    def ping(self):
        return "pong"

    def apply(self, func, *args, **kwargs):
        return func(self, *args, **kwargs)

    def run(self, task, weights=None):
        for trouble in ("kill", "exit", "hang", "raise", "full"):
            for wish in sorted(self.folder.glob(f"{trouble}-{task.first_env}*")):
                wish.unlink()
                if trouble == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                if trouble == "exit":
                    os._exit(1)
                if trouble == "hang":
                    time.sleep(600)
                if trouble == "full":
                    raise DiskFullError("disk of store /data/store is full: free space or prune the store")
                raise RuntimeError(f"task {task.first_env} is cursed")
        total = 0.0 if weights is None else float(sum(a.sum() for a in weights.values()))
        return TaskResult((f"e{task.first_env}",), int(total), task.num_envs, {"total": 0.0}, self.name, os.getpid())


@pytest.fixture
def make(tmp_path):
    fleets = []

    def build(**settings):
        actor = ray.remote(num_cpus=0.5, max_restarts=0)(Scripted)
        fleet = Fleet(lambda i: actor.remote(f"c{i}", str(tmp_path)), FleetConfig(**settings))
        fleets.append(fleet)
        return fleet

    yield build
    for fleet in fleets:
        fleet.stop()


def tasks(count, envs=12):
    return split("pairs", envs, count, phase="il", lineage=0, round=0)


def test_results_come_in_the_order_of_the_tasks(make):
    results = make().run(tasks(6))
    assert [r.episode_ids for r in results] == [(f"e{2 * i}",) for i in range(6)]
    assert sum(r.rows for r in results) == 12


def test_weights_reach_every_task(make):
    results = make().run(tasks(4), {"a": np.full(3, 2.0, np.float32)})
    assert [r.frames for r in results] == [6] * 4


def test_two_pieces_of_work_overlap_without_mixing(make):
    fleet = make()
    first, second = fleet.start(tasks(4)), fleet.start(tasks(3))
    assert [r.episode_ids[0] for r in fleet.wait(second)] == ["e0", "e4", "e8"]
    assert [r.episode_ids[0] for r in fleet.wait(first)] == ["e0", "e3", "e6", "e9"]


@pytest.mark.faults
@pytest.mark.parametrize("trouble", ["kill", "exit"])
def test_a_dead_collector_is_replaced_and_its_task_done(make, tmp_path, trouble):
    for env in (2, 6):
        (tmp_path / f"{trouble}-{env}").touch()
    fleet = make()
    results = fleet.run(tasks(6))
    assert [r.episode_ids for r in results] == [(f"e{2 * i}",) for i in range(6)]
    assert fleet.totals.failures == 2 and fleet.totals.tasks == 6
    assert list(tmp_path.iterdir()) == []


@pytest.mark.faults
def test_a_hung_collector_is_killed_and_its_task_done(make, tmp_path):
    (tmp_path / "hang-0").touch()
    fleet = make(task_timeout_s=3.0)
    began = time.monotonic()
    results = fleet.run(tasks(4))
    assert len(results) == 4 and fleet.totals.failures == 1
    assert time.monotonic() - began < 60


def test_a_passing_exception_is_tried_again(make, tmp_path):
    (tmp_path / "raise-0a").touch()
    (tmp_path / "raise-0b").touch()
    fleet = make()
    assert len(fleet.run(tasks(2))) == 2
    assert fleet.totals.failures == 2


def test_a_task_that_fails_three_times_stops_the_run_with_its_cause(make, tmp_path):
    for name in "abc":
        (tmp_path / f"raise-0{name}").touch()
    with pytest.raises(FleetError, match=r"failed 3 times.*task 0 is cursed"):
        make().run(tasks(2))


def test_a_full_disk_stops_the_run_at_once_with_one_line(make, tmp_path):
    (tmp_path / "full-0").touch()
    with pytest.raises(FleetError) as stopped:
        make().run(tasks(2))
    assert str(stopped.value) == (
        "disk of store /data/store is full: free space or prune the store; started again, the run goes on from its "
        "last checkpoint"
    )


def test_the_restart_budget_is_a_limit(make, tmp_path):
    for name in "abc":
        (tmp_path / f"exit-0{name}").touch()
    with pytest.raises(FleetError, match=r"fleet\.max_restarts = 1 is used up"):
        make(max_restarts=1).run(tasks(2))


class Broken(Scripted):
    def __init__(self, name, folder):
        raise ImportError("no renderer here")


def test_a_fleet_that_never_starts_is_an_error_with_its_cause(tmp_path):
    actor = ray.remote(num_cpus=0.5, max_restarts=0)(Broken)
    # Long enough for a process to start, and to fail, beside other tests.
    fleet = Fleet(lambda i: actor.remote(f"c{i}", str(tmp_path)), FleetConfig(start_timeout_s=10.0))
    with pytest.raises(FleetError, match=r"fleet\.start_timeout_s = 10 s; last error: .*no renderer here"):
        fleet.run(tasks(2))
    fleet.stop()


def test_split_covers_every_environment_once():
    for envs in (1, 2, 7, 100):
        for shards in (1, 2, 3, 8):
            cut = tasks(shards, envs)
            assert [e for t in cut for e in range(t.first_env, t.last_env)] == list(range(envs))
            assert len(cut) == min(envs, shards)
            sizes = [t.num_envs for t in cut]
            assert max(sizes) - min(sizes) <= 1


def test_draining_drops_the_queue_and_leaves_the_collectors(make, tmp_path):
    """Of many tasks those under way end, even one whose collector dies; nothing is left, and new work is done."""
    (tmp_path / "kill-0").touch()
    fleet = make(collectors=1)
    work = fleet.start(tasks(6))
    while not fleet._busy:
        fleet.poll(0.02)
    fleet.drain()
    assert not fleet._queue and not fleet._busy and not work.done
    assert len(fleet.run(tasks(2))) == 2


class OfOtherCode(Scripted):
    """A collector of another release: it refuses when it starts."""

    def __init__(self):
        check_code("0.1.0+0123456789ab", role="collector c000")


def test_a_collector_of_other_code_stops_the_run_at_once_and_both_versions_are_named():
    actors = ray.remote(num_cpus=0.5, max_restarts=0)(OfOtherCode)
    fleet = Fleet(lambda index: actors.remote(), FleetConfig(collectors=2, start_timeout_s=100.0))
    began = time.monotonic()
    with pytest.raises(FleetError, match=r"^collector c000 .* servofleet \S+\+\w{12}, the driver has 0\.1\.0\+0123"):
        fleet.run(split("pairs", 4, 4, phase="il", lineage=0, round=0))
    fleet.stop()
    assert time.monotonic() - began < 60.0
