"""The bench of scale measures the real loop: every episode is stored, costs are counted once, goals are judged."""

import time

import numpy as np
import pytest
import ray

from actors.tasks import Task
from cluster.bench_scale import GOALS, ingest_rows, level_rows, ratios
from cluster.bench_scale_level import (
    ENVS_PER_COLLECTOR,
    Clocks,
    Ingest,
    Level,
    ingest,
    ingest_tasks,
    run_level,
)
from cluster.bench_scale_worker import ROWS, SIDE, SyntheticCollectors, episodes, template
from replay.store import open_store


def task(first, last, round=0):
    return Task("pairs", "il", 0, round, first, last, policy="uniform")


@pytest.fixture
def collectors(tmp_path):
    store = open_store(tmp_path / "store", "a", create=True)
    made = SyntheticCollectors(lambda name: store.writer(name, max_episodes=8), "s0", slots=2, task_s=0.0)
    yield made, store
    made.close()
    store.close()


def test_a_task_is_one_segment_with_an_episode_per_environment(collectors):
    made, store = collectors
    results = [made.run(task(8 * k, 8 * k + 8)) for k in range(3)]
    store.refresh()
    assert sorted(i for r in results for i in r.episode_ids) == [e.id for e in store.select()]
    assert [len(r.episodes) for r in store.records()] == [8, 8, 8]
    assert sum(r.rows for r in results) == 24 * ROWS
    assert store.read_episode(store.select()[5]).steps["image"].shape == (ROWS, SIDE, SIDE, 3)
    assert len({r.collector for r in results}) == 2  # the slots take turns


def test_the_same_task_has_the_same_episodes_everywhere():
    a, b = ([e.sha256() for e in episodes(template(), task(0, 4), name)] for name in ("one", "other"))
    assert a == b and len(set(a)) == 4


def test_a_task_takes_as_long_as_rendering_it_would(collectors):
    made, _ = collectors
    made._task_s = 0.2
    assert made.run(task(0, 1)).seconds["total"] >= 0.2


def test_a_part_that_calls_itself_is_counted_once():
    class Loop:
        def outer(self):
            self.inner()

        def inner(self):
            until = time.thread_time() + 0.05
            while time.thread_time() < until:
                np.arange(100).sum()

    loop, clocks = Loop(), Clocks()
    clocks.watch(loop, "outer", "a")
    clocks.watch(loop, "inner", "a")
    loop.outer()
    assert 0.05 <= clocks.seconds["a"] < 0.1


def level(envs, cost, segments=100):
    parts = {"fleet": cost / 4, "index": cost / 4, "limiter": 0.0, "threads": cost / 2, "sampling": 5.0}
    return Level(envs, segments, 10.0, 2.5, cost + 5.0, parts, 0.7)


def judged(*levels, rate=250.0):
    return {r["name"]: r for r in ratios(levels, rate)}


def test_goals_judge_the_largest_level_and_growth_from_the_smallest():
    found = judged(level(8, 0.15), level(64, 0.2), level(1024, 0.18))
    assert set(found) == set(GOALS)
    assert found["cost_growth"]["value"] == pytest.approx(1.2) and found["cost_growth"]["holds"] is True
    # All but sampling, Ray's threads included.
    assert found["driver_cpu_per_segment_ms"]["value"] == pytest.approx(1.8)
    assert found["sampling_cpu_per_segment_ms"]["value"] == pytest.approx(50.0)
    assert found["learner_wait"]["value"] == 0.25 and found["learner_wait"]["holds"] is None
    worse = {n: r["holds"] for n, r in judged(level(8, 0.15), level(1024, 0.21), rate=150.0).items()}
    assert not (worse["cost_growth"] or worse["driver_cpu_per_segment_ms"] or worse["records_ingested_per_s"])
    assert "cost_growth_from_64" not in worse  # of one level nothing can be said


def test_growth_between_many_is_not_hidden_by_what_few_cost():
    found = judged(level(8, 0.9), level(64, 0.1), level(256, 0.2), level(1024, 0.15))
    assert found["cost_growth"]["holds"] is True
    assert found["cost_growth_from_64"] == {"name": "cost_growth_from_64", "value": 2.0, "goal": 1.3, "holds": False}
    falling = judged(level(64, 0.2), level(256, 0.1), level(1024, 0.11))
    assert falling["cost_growth_from_64"]["value"] == 1.1 and falling["cost_spread_from_64"]["value"] == 2.0


def test_rows_are_per_segment():
    rows = {r["name"]: r for r in level_rows(level(64, 0.05))}
    assert rows["commit_rate"]["value"] == 10.0 and rows["driver_cpu"]["value"] == 50.5
    assert (
        rows["cost"]["value"] == 0.5 and rows["index_cost"]["value"] == 0.125 and rows["learner_wait"]["value"] == 0.25
    )
    taken = {r["name"]: r["value"] for r in ingest_rows("x", Ingest(1000, 4.0, 3.0, 0.5))}
    assert taken == {"ingest": 250.0, "ingest_writing": 3.0, "ingest_reading": 0.5}


def test_a_writer_that_nobody_asks_commits_until_its_time_is_up(collectors):
    made, store = collectors
    (first, cpu), (second, _) = made.commit(0, 0.05), made.commit(1, 0.05)
    store.refresh()
    assert first > 0 and second > 0 and cpu > 0.0
    assert len(store.records()) == first + second and len(store.select()) == 8 * (first + second)


def test_progress_grows_with_every_task(collectors):
    made, _ = collectors
    before, rss = made.progress()
    made.run(task(0, 1))
    assert made.progress()[0] > before and rss > 0


@pytest.mark.slow
def test_the_loop_of_a_run_over_synthetic_collectors(tmp_path):
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        found = run_level(tmp_path / "level", 3 * ENVS_PER_COLLECTOR, 0.5, task_s=0.1)
        store = open_store(tmp_path / "level" / "run" / "store")
        store.refresh()
        # One round before the warm-up and one after each of the measured ones.
        assert len(store.records()) == found.segments + 2 * 3 and found.segments % 3 == 0
        assert len(store.select()) == ENVS_PER_COLLECTOR * len(store.records())
        assert found.task_s >= 0.1 and 0.0 < found.cost_s < found.cpu_s
        assert {"fleet", "index", "limiter", "sampling", "threads", "rest"} == set(found.parts)
        assert sum(found.parts.values()) == pytest.approx(found.cpu_s)
        taken = ingest(tmp_path / "ingest", 2, 0.5)
        assert taken.records > 0 and taken.wall_s >= 0.5 and 0.0 < taken.reading_s < taken.writing_s
        store = open_store(tmp_path / "ingest" / "run" / "store")
        store.refresh()
        assert len(store.position()) == 2 and len(store.records()) > taken.records  # beside what warmed up
        assert ingest_tasks(tmp_path / "tasks", 1.0) > 0
    finally:
        ray.shutdown()
