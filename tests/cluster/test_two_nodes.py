"""A store on one of two nodes: a collector on each. Each node has its own Ray processes and object store."""

import sys

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.bench_replay_data import episode
from cluster.replay_writer import open_writer, start_replay_writer, store_location, this_node
from common.errors import StoreError
from common.replay_config import ReplayConfig
from replay.store import open_store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def other_node():
    """Id of the second node; this process is on the first. Each node keeps its files in a folder of its own."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    options = {"num_cpus": 2, "object_store_memory": 80_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=options)
    node = cluster.add_node(num_cpus=2, object_store_memory=80_000_000)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield node.node_id
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def settings():
    return ReplayConfig(segment_episodes=4, slow_free_bytes=0, stop_free_bytes=0)


@pytest.fixture
def location(other_node, tmp_path):
    open_store(tmp_path / "first" / "store", "a", create=True).close()
    return store_location(str(tmp_path / "first" / "store"))


@pytest.fixture
def actor(location, settings):
    actor = start_replay_writer(location, "w-a0000", settings)
    yield actor
    ray.kill(actor)


def commit(location, actor, settings, name, numbers):
    """What a collector does; on the node where it is told to."""
    writer = open_writer(location, actor, settings, name)
    acks = [ack for n in numbers for ack in writer.append(episode(n, 16))]
    acks += writer.close()
    return type(writer).__name__, [(a.episode_id, a.sha256, a.writer) for a in acks], dict(writer.waits())


def on(node, *arguments):
    pinned = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(num_cpus=1, max_retries=0)(commit).options(scheduling_strategy=pinned).remote(*arguments)


def stored(location):
    store = open_store(location.url)
    store.refresh()
    found = {e.id: e.sha256 for e in store.select()}
    store.close()
    return found


def test_episodes_of_the_other_node_arrive_in_the_store_through_the_writer(location, actor, settings, other_node):
    kind, acks, waits = ray.get(on(other_node, location, actor, settings, "c001", range(10)))
    assert kind == "RemoteWriter" and waits["writer"] > 0.0 and waits["disk"] == 0.0
    wanted = {str(e.meta.id): e.sha256() for e in (episode(n, 16) for n in range(10))}
    assert {i: sha for i, sha, _ in acks} == wanted and len(acks) == 10
    assert stored(location) == wanted
    assert all(writer.startswith("w-a0000-") for _, _, writer in acks)


def test_the_writer_runs_on_the_store_s_node_and_a_collector_there_commits_itself(location, actor, settings):
    assert ray.get(actor.__ray_call__.remote(lambda self: this_node()[0])) == location.node == this_node()[0]
    kind, acks, _ = ray.get(on(location.node, location, actor, settings, "c000", range(2)))
    assert kind == "SegmentWriter" and {writer for _, _, writer in acks} == {"c000"}


def test_a_path_of_another_node_is_refused(location, settings, other_node):
    with pytest.raises(StoreError) as refused:
        ray.get(on(other_node, location, None, settings, "c001", range(1)))
    line = str(refused.value).strip().splitlines()[-1]
    assert location.node in line and other_node in line and location.host in line and "replay.url" in line
    assert stored(location) == {}
