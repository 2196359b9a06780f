"""The writer actor on a real Ray: ready, at work, killed and started again, hung and ended; the watch never waits."""

import os
import signal
import time

import pytest
import ray

from cluster.bench_replay_data import episode
from cluster.replay_writer import RemoteWriter, start_replay_writer, store_location
from cluster.status_writer import WriterWatch
from common.replay_config import ReplayConfig
from replay.store import open_store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=80_000_000)
    yield
    ray.shutdown()


@pytest.fixture
def actor(tmp_path):
    open_store(tmp_path / "store", "a", create=True).close()
    settings = ReplayConfig(slow_free_bytes=0, stop_free_bytes=0)
    actor = start_replay_writer(store_location(str(tmp_path / "store")), "w-a0000", settings)
    yield actor
    ray.kill(actor)


def until(watch, holds, timeout_s=60.0):
    """Look as the board does, on a clock that runs ten times as fast, until something holds."""
    deadline, longest = time.monotonic() + timeout_s, 0.0
    while time.monotonic() < deadline:
        began = time.perf_counter()
        status = watch.look(10.0 * time.monotonic())
        longest = max(longest, time.perf_counter() - began)
        if holds(status):
            return status, longest
        time.sleep(0.02)
    raise AssertionError(f"still {status}")


def test_a_writer_that_works_dies_and_comes_back(actor):
    watch = WriterWatch(actor, 900.0)
    until(watch, lambda s: s.alive == 1)
    first = ray.get(actor.report.remote())
    episodes = [episode(n, 16) for n in range(3)]
    rows = sum(e.num_rows for e in episodes)
    ray.get(actor.commit.remote(episodes, False))
    status, _ = until(watch, lambda s: s.samples == rows)
    assert status.seconds["total"] > 0.0 and status.rss_bytes > 50e6 and status.restarts == 0
    os.kill(first["where"].pid, signal.SIGKILL)
    status, _ = until(watch, lambda s: s.restarts == 1)
    assert status.alive == 1 and status.causes == {"died": 1}
    ray.get(actor.commit.remote([episode(9, 16)], False))
    # What the first process did is still counted.
    until(watch, lambda s: s.samples == rows + episode(9, 16).num_rows)


def test_a_writer_that_is_suspended_is_told_of_and_does_not_hold_the_driver_up(actor):
    watch = WriterWatch(actor, 900.0)
    until(watch, lambda s: s.alive == 1)
    pid = ray.get(actor.report.remote())["where"].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        status, longest = until(watch, lambda s: s.alive == 0)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert status.wanted == 1 and longest < 0.5
    status, _ = until(watch, lambda s: s.alive == 1)
    assert status.restarts == 0


def test_a_writer_that_hangs_is_ended_and_what_it_was_sent_is_committed_by_the_next(actor, tmp_path):
    watch, sender = WriterWatch(actor, 60.0), RemoteWriter(actor, max_episodes=1, max_bytes=10**9, timeout_s=100.0)
    until(watch, lambda s: s.alive == 1)
    os.kill(ray.get(actor.report.remote())["where"].pid, signal.SIGSTOP)
    sent = [episode(n, 16) for n in range(2)]
    assert [sender.append(e) for e in sent] == [[], []]
    status, _ = until(watch, lambda s: s.restarts == 1)
    assert status.causes == {"hung": 1} and status.alive == 1
    assert [(a.episode_id, a.sha256) for a in sender.flush()] == [(str(e.meta.id), e.sha256()) for e in sent]
    store = open_store(tmp_path / "store")
    store.refresh()
    assert len(store.select()) == 2


def test_a_commit_that_takes_long_is_no_silence(actor):
    watch = WriterWatch(actor, 40.0)
    until(watch, lambda s: s.alive == 1)
    busy = actor.__ray_call__.remote(lambda self: time.sleep(8.0))
    status, _ = until(watch, lambda s: bool(ray.wait([busy], timeout=0.0)[0]))
    assert status.restarts == 0 and status.alive == 1
