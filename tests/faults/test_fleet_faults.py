"""Collectors that are killed, stopped, caught in loops and outgrown, on real processes and a real store.

Moments and victims come from a seed that is in the test's name; how long each recovery took is printed (pytest -s).
"""

import dataclasses
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import ray

from actors.tasks import TaskResult, split
from cluster.bench_replay_data import episode
from cluster.crew import WATCH
from cluster.fleet import Fleet, FleetError
from cluster.replay_writer import open_writer, store_location
from common.config import FleetConfig
from common.replay_config import ReplayConfig
from common.rng import Purpose, philox
from replay.store import open_store

pytestmark = [pytest.mark.faults, pytest.mark.slow]

REPLAY = ReplayConfig(segment_episodes=2, slow_free_bytes=0, stop_free_bytes=0)


@pytest.fixture(scope="module", autouse=True)
def cluster():
    # Worker processes cannot import a test module.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    options = {"object_store_memory": 80_000_000, "include_dashboard": False, "log_to_driver": False}
    ray.init(address="local", num_cpus=2, logging_level="ERROR", **options)
    yield
    ray.shutdown()


class Committing:
    """Commits one small episode per environment, slowly, and tells of its progress; has the troubles asked for."""

    def __init__(self, folder, location=None, name="c", step_s=0.02):
        self.folder, self.step_s, self.count, self.rss_bytes = Path(folder), step_s, 0, 0
        self.writer = open_writer(location, None, REPLAY, name) if location is not None else None

    def ping(self):
        return "pong"

    def apply(self, func, *args, **kwargs):
        return func(self, *args, **kwargs)

    def progress(self):
        return self.count, 7

    def grow(self):
        self.rss_bytes = 2

    def run(self, task, weights=None):
        for trouble in ("loop", "slow", "raise"):
            for wish in sorted(self.folder.glob(f"{trouble}-{task.first_env}*")):
                wish.unlink()
                began = time.monotonic()
                while trouble == "loop":
                    time.sleep(0.01)
                while trouble == "slow" and time.monotonic() - began < 6.0:
                    time.sleep(0.1)
                    self.count += 1
                if trouble == "raise":
                    raise RuntimeError(f"task {task.first_env} is cursed")
        ids = []
        for env in range(task.first_env, task.last_env):
            time.sleep(self.step_s)
            self.count += 1
            if self.writer is not None:
                self.writer.append(episode(env, 16))
            ids.append(f"bench/0/dagger/0/{env}")
        if self.writer is not None:
            self.writer.flush()
        return TaskResult(tuple(ids), 0, task.num_envs, {"total": 0.0}, str(os.getpid()), self.rss_bytes)


@pytest.fixture
def make(tmp_path):
    fleets = []

    def build(location=None, **settings):
        actor = ray.remote(num_cpus=0.5, max_restarts=0, concurrency_groups={WATCH: 1})(Committing)
        fleet = Fleet(lambda i: actor.remote(str(tmp_path), location, f"c{i:03d}"), FleetConfig(**settings))
        fleets.append(fleet)
        return fleet

    yield build
    for fleet in fleets:
        fleet.stop()


def tasks(count, envs=12):
    return split("pairs", envs, count, phase="il", lineage=0, round=0)


def pids(fleet):
    return sorted(m.where.pid for m in fleet._crew._members.values() if m.up)


def poll_until(fleet, wished, timeout_s=60.0):
    """Poll until it is so; seconds that took."""
    began = time.monotonic()
    while not wished():
        assert time.monotonic() - began < timeout_s
        fleet.poll(0.02)
    return time.monotonic() - began


@pytest.mark.parametrize("seed", [20261121, 20261122])
def test_killed_and_stopped_collectors_lose_and_double_nothing(make, tmp_path, seed):
    """Twelve troubles at drawn moments: every episode is in the store, once, with its one content."""
    root = tmp_path / "store"
    open_store(root, "a", create=True).close()
    fleet = make(store_location(str(root)), hang_timeout_s=3.0, max_restarts=12)
    rng = philox(seed, Purpose.SAMPLER)
    starting = poll_until(fleet, lambda: fleet.healthy == 2)
    troubles, works, count = 12, [], 4
    noticed, replaced = {signal.SIGKILL: [], signal.SIGSTOP: []}, {signal.SIGKILL: [], signal.SIGSTOP: []}

    def feed():
        """There is always work queued: `count` episodes per task, eight tasks at a time."""
        if not works or works[-1].done or not fleet._queue:
            first = 8 * count * len(works)
            cut = tasks(8, 8 * count)
            works.append(
                fleet.start(
                    [dataclasses.replace(t, first_env=t.first_env + first, last_env=t.last_env + first) for t in cut]
                )
            )

    for k in range(troubles):
        pause = time.monotonic() + float(rng.uniform(0.0, 0.4))
        poll_until(fleet, lambda pause=pause: feed() or time.monotonic() > pause)
        victim, how = int(rng.choice(pids(fleet))), signal.Signals(rng.choice([signal.SIGKILL, signal.SIGSTOP]))
        os.kill(victim, how)
        noticed[how].append(poll_until(fleet, lambda k=k: feed() or fleet.totals.failures == k + 1))
        replaced[how].append(noticed[how][-1] + poll_until(fleet, lambda: feed() or fleet.healthy == 2))
    results = [r for work in works for r in fleet.wait(work)]
    envs = 8 * count * len(works)
    print(f"\nseed {seed}: two processes started in {starting:.1f} s")
    for how in noticed:
        times = [sorted(round(s, 1) for s in found[how]) for found in (noticed, replaced)]
        print(f"{how.name}: noticed after {times[0]} s, replaced after {times[1]} s (hang_timeout_s = 3)")
    kills, stops = (len(noticed[how]) for how in (signal.SIGKILL, signal.SIGSTOP))
    status = fleet.status()
    assert status.causes == {k: v for k, v in (("died: SIGKILL", kills), ("hung", stops)) if v}
    assert status.restarts == fleet.totals.failures == troubles and (status.alive, status.wanted) == (2, 2)
    store = open_store(root)
    store.refresh()
    found = sorted((int(e.id.rsplit("/", 1)[1]), e.sha256) for e in store.select())
    assert [number for number, _ in found] == list(range(envs))
    assert all(sha == episode(n, 16).sha256() for n, sha in found[::97])
    assert [i for r in results for i in r.episode_ids] == [f"bench/0/dagger/0/{n}" for n in range(envs)]
    # A busy machine needs its time to start a process, at the beginning as now.
    limit = max(5.0, 2.0 * starting)
    assert max(noticed[signal.SIGKILL], default=0.0) < 2.0 and max(noticed[signal.SIGSTOP], default=0.0) < 3.0 + 1.0
    assert max(replaced[signal.SIGKILL], default=0.0) < limit and max(replaced[signal.SIGSTOP], default=0.0) < limit + 4


def test_a_loop_without_progress_hangs_and_a_long_task_with_progress_does_not(make, tmp_path):
    (tmp_path / "loop-0").touch()
    (tmp_path / "slow-6").touch()
    fleet = make(hang_timeout_s=2.0)
    poll_until(fleet, lambda: fleet.healthy == 2)
    work = fleet.start(tasks(2))
    took = poll_until(fleet, lambda: fleet.status().restarts == 1)
    assert 1.8 < took < 2.0 * 1.1 + 1.0
    assert fleet.wait(work) and fleet.status().causes == {"hung": 1}
    assert "hung: no progress for fleet.hang_timeout_s = 2 s" in fleet.totals.last_failure


def test_an_idle_collector_that_is_stopped_is_found_before_it_gets_work(make):
    fleet = make(hang_timeout_s=2.0)
    poll_until(fleet, lambda: fleet.healthy == 2)
    os.kill(pids(fleet)[0], signal.SIGSTOP)
    assert poll_until(fleet, lambda: fleet.status().restarts == 1) < 3.0
    assert fleet.status().causes == {"hung": 1} and fleet.totals.tasks == 0


def test_a_driver_that_does_not_look_for_long_takes_nobody_for_hung(make, tmp_path):
    (tmp_path / "slow-0").touch()
    fleet = make(hang_timeout_s=1.0)
    poll_until(fleet, lambda: fleet.healthy == 2)
    work = fleet.start(tasks(1))
    fleet.poll(0.02)
    for _ in range(2):
        time.sleep(2.5)
        fleet.poll(0.02)
    assert fleet.wait(work) and fleet.status().restarts == 0


@pytest.mark.parametrize("setting", [{"max_tasks": 3}, {"max_age_s": 0.5}, {"max_rss_bytes": 1}])
def test_renewal_loses_no_work_and_costs_no_budget(make, setting):
    fleet = make(max_restarts=0, **setting)
    if "max_rss_bytes" in setting:
        fleet.run(tasks(2))
        fleet.call("grow")
    assert [r.episode_ids[0] for r in fleet.run(tasks(12, 48))] == [f"bench/0/dagger/0/{4 * i}" for i in range(12)]
    (cause,) = fleet.status().causes
    assert cause == {"max_tasks": "recycled: tasks", "max_age_s": "recycled: age"}.get(*setting, "recycled: memory")
    assert fleet.totals.failures == 0 and fleet.status().restarts >= 1


def test_a_collector_that_raised_is_replaced_by_a_fresh_process(make, tmp_path):
    (tmp_path / "raise-0").touch()
    fleet = make(collectors=1)
    poll_until(fleet, lambda: fleet.healthy == 1)
    before = pids(fleet)
    results = fleet.run(tasks(2))
    assert {r.collector for r in results} & {str(p) for p in before} == set()
    assert fleet.status().causes == {"raised: RuntimeError": 1}


def test_too_few_collectors_for_too_long_stop_the_run_with_both_limits(make):
    fleet = make(collectors=5, min_collectors=5, start_timeout_s=20.0)
    with pytest.raises(FleetError, match=r"4 collectors answer.*fleet\.min_collectors = 5, for fleet\.start_timeout_s"):
        while True:
            fleet.run(tasks(8))


class Stuck(Committing):
    """Its start hangs where it is asked to, once."""

    def __init__(self, folder):
        wish = Path(folder) / "stick"
        if wish.exists():
            wish.unlink()
            time.sleep(3600.0)
        super().__init__(folder)


def test_a_start_that_hangs_is_found_and_replaced_alone(tmp_path):
    (tmp_path / "stick").touch()
    actor = ray.remote(num_cpus=0.5, max_restarts=0, concurrency_groups={WATCH: 1})(Stuck)
    fleet = Fleet(lambda i: actor.remote(str(tmp_path)), FleetConfig(start_timeout_s=15.0))
    try:
        poll_until(fleet, lambda: fleet.healthy == 1)
        sound = pids(fleet)
        assert len(fleet.run(tasks(4))) == 4
        poll_until(fleet, lambda: fleet.healthy == 2)
        assert set(sound) < set(pids(fleet)) and fleet.status().causes == {"hung: at its start": 1}
        assert "hung: no answer for fleet.start_timeout_s = 15 s" in fleet.totals.last_failure
    finally:
        fleet.stop()


class Broken(Committing):
    def __init__(self):
        raise ImportError("no renderer here")


def test_a_fleet_that_never_starts_is_an_error_with_its_cause():
    actor = ray.remote(num_cpus=0.5, max_restarts=0)(Broken)
    # Long enough for a process to start, and to fail, beside other tests.
    fleet = Fleet(lambda i: actor.remote(), FleetConfig(start_timeout_s=10.0))
    with pytest.raises(FleetError, match=r"fleet\.start_timeout_s = 10 s; last error: .*no renderer here"):
        fleet.run(tasks(2))
    assert set(fleet.status().causes) == {"raised: ImportError at its start"}
    fleet.stop()
