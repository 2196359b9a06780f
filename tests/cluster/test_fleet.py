"""The fleet's decisions on a crew that does what the test wrote down, and a fleet of real Ray actors.

What befalls processes is in tests/faults/test_fleet_faults.py.
"""

import dataclasses
import sys
import time

import numpy as np
import pytest
import ray

from actors.tasks import TaskResult, split
from cluster.crew_member import Loss
from cluster.fleet import Fleet, FleetError
from cluster.supervision import Cause, Supervision, WatchedTime
from cluster.versions import check_code
from common.config import FleetConfig
from replay.disk_space import DiskFullError


def tasks(count, envs=12):
    return split("pairs", envs, count, phase="il", lineage=0, round=0)


def result_of(task, name="c", frames=0):
    return TaskResult((f"e{task.first_env}",), frames, task.num_envs, {"store_disk": 0.5}, name, 1000)


class WrittenCrew:
    """Two collectors; `troubles` by a task's first environment: what becomes of it, one after the other."""

    def __init__(self, make, config):
        self.supervision, self.watched, self.last_error = Supervision(config), WatchedTime(), "none ever answered"
        self.slots, self.up, self.rss_bytes = config.collectors, [0, 1], 5
        self.troubles, self.sent, self.order, self.idle_losses = {}, {}, [], []

    def send(self, member, task, weights):
        assert member in self.up and member not in self.sent
        self.sent[member] = task
        self.order.append(task.first_env)
        return True

    def results(self, timeout_s):
        ready, self.sent = self.sent, {}
        answers = []
        for member, task in ready.items():
            trouble = next(iter(self.troubles.get(task.first_env, [])), None)
            if trouble is not None:
                del self.troubles[task.first_env][0]
            answers.append((member, trouble is None, trouble or result_of(task)))
        return answers

    def done(self, member, rss_bytes, now):
        pass

    def failed(self, member, trouble, now):
        error, cause = trouble
        if cause is not None:
            self.supervision.lost(member, "n", cause, now, set())
        return Loss(member, cause, f"{type(error).__name__}: {error}", error)

    def tend(self, now, busy):
        self.watched.look(now)
        losses, self.idle_losses = self.idle_losses, []
        return losses


DIED = (RuntimeError("gone"), Cause("died", "SIGKILL"))
RAISED = (RuntimeError("task is cursed"), Cause("raised", "RuntimeError"))
HUNG = (RuntimeError("stuck"), Cause("hung"))
UNKNOWN = (RuntimeError("out of reach"), None)


@pytest.fixture
def written(monkeypatch):
    monkeypatch.setattr("cluster.fleet.Crew", WrittenCrew)
    monkeypatch.setattr("cluster.fleet._POLL_S", 0.0)

    def build(troubles=(), **settings):
        fleet = Fleet(None, FleetConfig(**settings))
        fleet._crew.troubles = {env: list(what) for env, what in dict(troubles).items()}
        return fleet

    return build


@pytest.mark.parametrize("trouble", [DIED, RAISED, HUNG, UNKNOWN])
def test_what_a_lost_collector_did_is_done_next(written, trouble):
    fleet = written({2: [trouble]})
    assert [r.episode_ids for r in fleet.run(tasks(6))] == [(f"e{2 * i}",) for i in range(6)]
    assert fleet._crew.order == [0, 2, 2, 4, 6, 8, 10]
    assert fleet.totals.failures == int(trouble is not UNKNOWN) and fleet.totals.tasks == 6


@pytest.mark.parametrize("trouble", [RAISED, HUNG])
def test_a_task_that_fails_three_times_stops_the_run_with_its_cause(written, trouble):
    with pytest.raises(FleetError, match=rf"Task\(.*first_env=0.* failed 3 times: RuntimeError: {trouble[0]}"):
        written({0: [trouble] * 3}).run(tasks(2))


def test_a_task_whose_collectors_die_is_not_to_blame_for_it(written):
    fleet = written({0: [DIED] * 5 + [UNKNOWN] * 5})
    assert len(fleet.run(tasks(2))) == 2 and fleet.totals.failures == 5


def test_the_restart_budget_is_a_limit(written):
    with pytest.raises(FleetError, match=r"fleet\.max_restarts = 1 is used up.*; last: RuntimeError: gone"):
        written({0: [DIED] * 2}, max_restarts=1).run(tasks(2))
    assert written({0: [DIED]}, max_restarts=1).run(tasks(2))


def test_a_full_disk_stops_the_run_at_once_with_one_line(written):
    full = DiskFullError("disk of store /data/store is full: free space or prune the store")
    with pytest.raises(FleetError) as stopped:
        written({0: [(full, Cause("raised", "DiskFullError"))]}).run(tasks(2))
    assert str(stopped.value) == (
        "disk of store /data/store is full: free space or prune the store; started again, the run goes on from its "
        "last checkpoint"
    )


def test_too_few_for_too_long_stop_the_run_while_there_is_work_also_between_short_rounds(written):
    fleet = written(min_collectors=2, start_timeout_s=10.0)
    fleet._crew.up, fleet._crew.watched.now = [0], 9.9
    fleet.run(tasks(3))
    fleet._crew.watched.now = 10.1
    fleet.poll(0.0)  # nothing to do: nobody is missed
    with pytest.raises(FleetError, match=r"^1 collectors answer.*min_collectors = 2.*start_timeout_s = 10 s; last err"):
        fleet.run(tasks(3))
    fleet._crew.up = [0, 1]
    fleet.run(tasks(3))
    fleet._crew.up, fleet._crew.watched.now = [], 20.0
    fleet.start(tasks(1))


def test_draining_drops_the_queue_and_leaves_nothing_under_way(written):
    fleet = written({0: [DIED]})
    work = fleet.start(tasks(6))
    fleet.drain()
    assert not fleet._queue and not fleet._busy and not work.done and fleet._crew.order == [0, 2, 0]
    assert len(fleet.run(tasks(2))) == 2


def test_a_spare_takes_the_task_of_a_lost_collector_before_that_is_replaced(written):
    fleet = written({0: [DIED]})
    fleet.start(tasks(1))
    assert set(fleet._crew.sent) == {0}
    fleet._crew.up = [1]
    fleet.poll(0.0)
    assert set(fleet._crew.sent) == {1} and fleet._crew.order == [0, 0] and fleet.totals.failures == 1


def test_the_loss_of_an_idle_collector_is_counted(written):
    fleet = written()
    fleet._crew.idle_losses = [Loss(1, Cause("hung"), "collector 1 hung")]
    fleet.poll(0.0)
    assert (fleet.totals.failures, fleet.totals.last_failure) == (1, "collector 1 hung")


def test_the_status_says_what_the_table_shows(written):
    fleet = written({0: [DIED, HUNG]}, collectors=3)
    fleet.run(tasks(2))
    status = fleet.status()
    assert (status.role, status.alive, status.wanted, status.samples, status.rss_bytes) == ("collectors", 2, 3, 12, 5)
    assert status.restarts == 2 and status.causes == {"died: SIGKILL": 1, "hung": 1}
    assert status.seconds == {"wait_store_disk": 1.0} and status.last_failure == "RuntimeError: stuck"


class Naming:
    """Does a task by naming it."""

    def ping(self):
        return "pong"

    def apply(self, func, *args, **kwargs):
        return func(self, *args, **kwargs)

    def run(self, task, weights=None):
        found = result_of(task, frames=0 if weights is None else int(sum(a.sum() for a in weights.values())))
        # Interning a copy gives the name itself where that is interned.
        interned = [name for name in weights or () if sys.intern("".join(list(name))) is name]
        return dataclasses.replace(found, collector=",".join(interned))


@pytest.fixture(scope="module")
def cluster():
    # Worker processes cannot import a test module.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def fleet(cluster):
    actor = ray.remote(num_cpus=0.5, max_restarts=0)(Naming)
    fleet = Fleet(lambda i: actor.remote(), FleetConfig())
    yield fleet
    fleet.stop()


def test_results_come_in_the_order_of_the_tasks(fleet):
    results = fleet.run(tasks(6))
    assert [r.episode_ids for r in results] == [(f"e{2 * i}",) for i in range(6)]
    assert sum(r.rows for r in results) == 12


def test_weights_reach_every_task(fleet):
    results = fleet.run(tasks(4), {"encoder.mlp.0.bias": np.full(3, 2.0, np.float32)})
    assert [r.frames for r in results] == [6] * 4
    assert [r.collector for r in results] == [""] * 4, "names of weights were interned"


def test_two_pieces_of_work_overlap_without_mixing(fleet):
    first, second = fleet.start(tasks(4)), fleet.start(tasks(3))
    assert [r.episode_ids[0] for r in fleet.wait(second)] == ["e0", "e4", "e8"]
    assert [r.episode_ids[0] for r in fleet.wait(first)] == ["e0", "e3", "e6", "e9"]


def test_split_covers_every_environment_once():
    for envs in (1, 2, 7, 100):
        for shards in (1, 2, 3, 8):
            cut = tasks(shards, envs)
            assert [e for t in cut for e in range(t.first_env, t.last_env)] == list(range(envs))
            assert len(cut) == min(envs, shards)
            sizes = [t.num_envs for t in cut]
            assert max(sizes) - min(sizes) <= 1


class OfOtherCode(Naming):
    """A collector of another release: it refuses when it starts."""

    def __init__(self):
        check_code("0.1.0+0123456789ab", role="collector c000")


def test_a_collector_of_other_code_stops_the_run_at_once_and_both_versions_are_named(cluster):
    actors = ray.remote(num_cpus=0.5, max_restarts=0)(OfOtherCode)
    fleet = Fleet(lambda index: actors.remote(), FleetConfig(collectors=2, start_timeout_s=100.0))
    began = time.monotonic()
    with pytest.raises(FleetError, match=r"^collector c000 .* servofleet \S+\+\w{12}, the driver has 0\.1\.0\+0123"):
        fleet.run(split("pairs", 4, 4, phase="il", lineage=0, round=0))
    fleet.stop()
    assert time.monotonic() - began < 60.0
