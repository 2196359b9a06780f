"""A collector in this process on a real store: what `run` promises the driver."""

import itertools
import os

import numpy as np
import pytest
from workshop_for_tests import HASHES, done, hashes_of, make_shop, small_config, some_weights, task_of, version_of

from actors.collector import Collector, _max_envs
from actors.tasks import split
from common.config import FleetConfig
from common.errors import StoreError
from replay.index import Query
from replay.store import open_store


@pytest.fixture(scope="module")
def config():
    return small_config("replay.segment_episodes=4")


@pytest.fixture(scope="module")
def weights(config):
    return some_weights(config)


@pytest.fixture
def path(tmp_path):
    open_store(tmp_path / "store", mode="a", create=True).close()
    return str(tmp_path / "store")


@pytest.fixture
def reader(path):
    store = open_store(path)
    yield store
    store.close()


def collector(config, path, name="c000-a0000"):
    settings = {"max_episodes": config.replay.segment_episodes, "max_bytes": config.replay.segment_bytes}
    return Collector(
        config, "unit", lambda name: open_store(path, mode="a").writer(name, **settings), name, dict(HASHES)
    )


def ids_in(store):
    store.refresh()
    return [e.id for e in store.select()]


@pytest.mark.parametrize("kind", ["pairs", "dagger", "rollout", "evaluation"])
def test_what_a_task_reports_is_committed_and_equals_what_collect_gives(config, path, reader, weights, kind):
    task = task_of(kind, 1, 7, round=2, weights=weights)
    result = collector(config, path).run(task, weights)
    assert ids_in(reader) == sorted(result.episode_ids) and len(result.episode_ids) == 6
    wanted = done(make_shop(config, weights), kind, 1, 7, round=2, weights=weights)
    stored = [reader.read_episode(i) for i in result.episode_ids]
    assert hashes_of(stored) == hashes_of(wanted)
    assert result.rows == sum(e.num_rows for e in wanted)
    assert {e.meta.collector for e in stored} == {"c000-a0000"} == {result.collector}


def test_the_result_says_what_it_cost(config, path, weights):
    result = collector(config, path).run(task_of("rollout", 0, 3, weights=weights), weights)
    assert result.frames == 3 * 2 * (config.phases["ppo"].ppo.steps + 2)
    spent = dict(result.seconds)
    total, slowed = spent.pop("total"), spent.pop("store_disk")
    assert slowed == 0.0
    assert set(spent) == {"render", "policy", "store"} and all(s > 0 for s in spent.values())
    assert sum(spent.values()) < total
    assert 50e6 < result.rss_bytes < 20e9


def test_costs_are_per_task(config, path):
    worker = collector(config, path)
    first, second = (worker.run(task_of("pairs", 0, 2, round=r)) for r in range(2))
    assert first.frames == second.frames > 0


def test_the_same_task_twice_leaves_one_copy_of_each_episode(config, path, reader, weights):
    worker, task = collector(config, path), task_of("rollout", 0, 5, weights=weights)
    first = worker.run(task, weights)
    held = hashes_of(reader.read_episode(i) for i in ids_in(reader))
    assert worker.run(task, weights).episode_ids == first.episode_ids
    assert ids_in(reader) == sorted(first.episode_ids)
    assert hashes_of(reader.read_episode(i) for i in ids_in(reader)) == held
    assert len(reader.select(Query(kind="rollout"))) == 5


def test_another_collector_doing_the_task_again_adds_nothing(config, path, reader, weights):
    task = task_of("dagger", 0, 4, weights=weights)
    ids = collector(config, path, "first").run(task, weights).episode_ids
    held = hashes_of(reader.read_episode(i) for i in (ids_in(reader)))
    assert collector(config, path, "second").run(task, weights).episode_ids == ids
    assert set(reader.refresh()) == {"first", "second"}
    assert ids_in(reader) == sorted(ids)
    assert hashes_of(reader.read_episode(i) for i in ids) == held


def test_a_restarted_collector_continues_under_its_name(config, path, reader):
    collector(config, path).run(task_of("pairs", 0, 5))
    before = reader.refresh()
    collector(config, path).run(task_of("pairs", 5, 8))
    after = reader.refresh()
    assert list(before) == list(after) == ["c000-a0000"] and after["c000-a0000"] > before["c000-a0000"]
    assert [int(i.rpartition("/")[2]) for i in ids_in(reader)] == list(range(8))


def test_segments_have_the_size_that_the_configuration_says(config, path, reader):
    collector(config, path).run(task_of("pairs", 0, 8))
    reader.refresh()
    assert [len(r.episodes) for r in reader.records()] == [4, 4]


def test_weights_that_are_not_those_named_are_refused_before_anything_happens(config, path, reader, weights):
    worker = collector(config, path)
    other = some_weights(config, seed=6)
    task = task_of("rollout", 0, 2, weights=weights)
    with pytest.raises(
        ValueError, match=f"weights hash to {version_of(other).sha256[:12]}, the task names {task.version}"
    ):
        worker.run(task, other)
    assert ids_in(reader) == []
    assert worker.run(task, weights).rows > 0


def test_a_learned_policy_never_acts_with_weights_nobody_named(config, path, reader, weights):
    worker, task = collector(config, path), task_of("rollout", 0, 2, weights=weights)
    with pytest.raises(ValueError, match="are needed"):
        worker.run(task)
    worker.run(task, weights)
    with pytest.raises(ValueError, match="are needed"):
        worker.run(task_of("rollout", 0, 2, weights=some_weights(config, seed=6)))
    with pytest.raises(ValueError, match="weights of policy None are needed"):
        worker.run(task_of("evaluation", 0, 2, version=None), weights)
    # Those of the last task are still there.
    assert worker.run(task_of("rollout", 2, 4, weights=weights)).rows > 0
    assert len(ids_in(reader)) == 4


def test_new_weights_replace_the_old_ones(config, path, reader, weights):
    other = some_weights(config, seed=6)
    worker = collector(config, path)
    for round, acting in enumerate((weights, other, weights)):
        worker.run(task_of("rollout", 0, 2, round=round, weights=acting), acting)
    for round, acting in enumerate((weights, other, weights)):
        wanted = done(make_shop(config, acting), "rollout", 0, 2, round=round, weights=acting)
        reader.refresh()
        entries = reader.select(Query(kind="rollout", min_round=round, max_round=round))
        assert hashes_of(map(reader.read_episode, entries)) == hashes_of(wanted)


def test_classical_policies_need_no_weights(config, path, reader):
    worker = collector(config, path)
    for name in ("zero", "pbvs"):
        worker.run(task_of("evaluation", 0, 3, phase=name, policy=name))
    assert len(ids_in(reader)) == 6


def test_read_only_weights_from_shared_memory_are_taken(config, path, weights):
    shared = {name: array.copy() for name, array in weights.items()}
    for array in shared.values():
        array.flags.writeable = False
    assert collector(config, path).run(task_of("dagger", 0, 1, weights=weights), shared).rows > 0


def test_the_renderer_has_room_for_every_task_of_the_run():
    for shards in (1, 2, 3, 5, 100):
        config = small_config()
        config.fleet = FleetConfig(shards=shards)
        counts = [config.evaluation.scenes]
        for phase in config.phases.values():
            counts += {
                "imitation": [phase.imitation.scenes_per_round, phase.imitation.dagger_envs],
                "self_imitation": [phase.self_imitation.episodes],
            }.get(phase.kind, [phase.ppo.envs])
        largest = max(t.num_envs for c in counts for t in split("pairs", c, shards, phase="il", lineage=0, round=0))
        assert _max_envs(config) >= largest


def test_a_manager_can_talk_to_it(config, path):
    worker = collector(config, path)
    assert worker.ping() == "pong"
    assert worker.apply(lambda self, a, b: (self is worker, a, b), 1, b=2) == (True, 1, 2)
    mine = os.sched_getaffinity(0)
    worker.pin(sorted(mine)[:1])
    try:
        assert os.sched_getaffinity(0) == set(sorted(mine)[:1])
    finally:
        worker.pin(sorted(mine))


def test_a_store_must_exist(config, tmp_path):
    with pytest.raises(StoreError, match="does not exist"):
        collector(config, str(tmp_path / "nowhere"))


def test_numbers_do_not_depend_on_the_global_generator(config, path, reader, weights):
    task = task_of("rollout", 0, 2, weights=weights)
    np.random.seed(1)
    first = collector(config, path, "one")
    first.run(task, weights)
    held = hashes_of(reader.read_episode(i) for i in ids_in(reader))
    np.random.seed(2)
    assert hashes_of(done(make_shop(config, weights), "rollout", 0, 2, weights=weights)) == held


def test_progress_grows_with_every_picture_action_and_wait_for_the_store(config, path, weights, monkeypatch):
    """Asked at each of these moments, as the thread beside the task may."""
    maker = collector(config, path)
    seen = {"picture": [], "action": [], "store": []}

    def asking(name, call, times):
        def wrapped(*arguments, **options):
            seen[name] += [maker.progress()[0] for _ in range(times)]
            return call(*arguments, **options)

        return wrapped

    monkeypatch.setattr(maker._shop.renderer, "render", asking("picture", maker._shop.renderer.render, 1))
    monkeypatch.setattr(maker._shop.policy, "act", asking("action", maker._shop.policy.act, 1))
    monkeypatch.setattr(maker._writer, "append", asking("store", maker._writer.append, 2))
    before = maker.progress()[0]
    for kind in ("rollout", "dagger", "pairs"):
        maker.run(task_of(kind, 0, 2, weights=weights), weights)
    for counts in seen.values():
        assert len(counts) > 5 and before <= counts[0] and all(b > a for a, b in itertools.pairwise(counts))
    assert maker.progress()[0] > seen["store"][-1] and 50e6 < maker.progress()[1] < 20e9
