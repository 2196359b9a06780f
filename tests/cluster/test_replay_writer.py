"""The writer actor of a store and those that send to it, on real Ray: killed, stopped, refused, sent to twice."""

import os
import signal
import time

import pytest
import ray

from cluster.bench_replay_data import episode
from cluster.replay_writer import (
    RemoteWriter,
    ReplayWriter,
    open_writer,
    start_replay_writer,
    store_location,
)
from common.errors import StoreError
from common.replay_config import ReplayConfig
from replay.disk_space import DiskFullError
from replay.location import StoreLocation
from replay.store import open_store
from replay.writer import SegmentWriter


@pytest.fixture(scope="module", autouse=True)
def cluster():
    options = {"object_store_memory": 80_000_000, "include_dashboard": False, "log_to_driver": False}
    ray.init("local", num_cpus=1, logging_level="ERROR", **options)
    yield
    ray.shutdown()


@pytest.fixture
def settings():
    return ReplayConfig(segment_episodes=4, send_timeout_s=60.0, slow_free_bytes=0, stop_free_bytes=0)


@pytest.fixture
def location(tmp_path):
    open_store(tmp_path / "first" / "store", "a", create=True).close()
    return store_location(str(tmp_path / "first" / "store"))


@pytest.fixture
def make(location, settings):
    actors = []

    def start(settings=settings):
        actors.append(start_replay_writer(location, "w-a0000", settings))
        return actors[-1]

    yield start
    for actor in actors:
        ray.kill(actor)


def stored(location):
    store = open_store(location.url)
    store.refresh()
    found = {e.id: e.sha256 for e in store.select()}
    committed = sum(len(record.episodes) for record in store.records())
    store.close()
    return found, committed


def pid_of(actor):
    return ray.get(actor.__ray_call__.remote(lambda self: os.getpid()))


def test_an_actor_that_is_not_on_the_store_s_node_cannot_be_the_writer(location, settings):
    elsewhere = StoreLocation(location.url, "another", "elsewhere")
    with pytest.raises(StoreError, match="lies on node elsewhere"):
        ReplayWriter(elsewhere, "w", settings)


def test_a_killed_writer_loses_nothing_that_was_acknowledged_and_stores_ids_once(location, make, settings):
    actor = make()
    writer = RemoteWriter(actor, max_episodes=2, max_bytes=10**9, timeout_s=60.0)
    acks = []
    for n in range(24):
        acks += writer.append(episode(n, 16))
        if n in (5, 13, 19):
            found, _ = stored(location)
            os.kill(pid_of(actor), signal.SIGKILL)
            assert {a.episode_id for a in acks} <= set(found)
    acks += writer.flush()
    wanted = {str(e.meta.id): e.sha256() for e in (episode(n, 16) for n in range(24))}
    assert {a.episode_id: a.sha256 for a in acks} == wanted and len(acks) == 24
    found, committed = stored(location)
    assert found == wanted and committed == 24
    assert len({a.writer for a in acks}) > 1


def test_what_was_committed_before_it_is_sent_again_is_not_written_twice(location, make):
    actor = make()
    batch = [episode(n, 16) for n in range(3)]
    first, _ = ray.get(actor.commit.remote(batch, False))
    again, _ = ray.get(actor.commit.remote([*batch, episode(3, 16)], True))
    assert again[:3] == first and len(again) == 4
    assert stored(location)[1] == 4


def test_a_sender_waits_while_two_batches_are_on_the_way(location, make):
    actor = make()
    pid = pid_of(actor)
    writer = RemoteWriter(actor, max_episodes=1, max_bytes=10**9, timeout_s=1.0)
    os.kill(pid, signal.SIGSTOP)
    try:
        assert writer.append(episode(0, 16)) == writer.append(episode(1, 16)) == []
        began = time.monotonic()
        with pytest.raises(StoreError, match=r"did not acknowledge 1 episodes within replay.send_timeout_s = 1"):
            writer.append(episode(2, 16))
        assert 1.0 <= time.monotonic() - began < 10.0 and writer.waits()["writer"] >= 1.0
    finally:
        os.kill(pid, signal.SIGCONT)
    writer._timeout_s = 60.0  # what comes now has no need to be quick
    assert len(writer.flush()) == 3
    assert stored(location)[1] == 3


def test_a_full_disk_of_the_store_s_node_reaches_the_sender_by_its_name(make, location, settings):
    full = ReplayConfig(segment_episodes=4, slow_free_bytes=2**62, stop_free_bytes=2**61)
    writer = open_writer(StoreLocation(location.url, "elsewhere", "x"), make(full), settings, "c001")
    writer.append(episode(0, 16))
    with pytest.raises(DiskFullError, match=f"disk of store {location.url} is full"):
        writer.flush()
    assert isinstance(open_writer(location, None, settings, "c000"), SegmentWriter)
