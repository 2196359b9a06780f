"""Drawing ahead changes no draw, hides no error and ends when it is told to."""

from __future__ import annotations

import json
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import make_episode

from common.errors import StoreError
from replay.drawing import Batch, Group
from replay.prefetch import Prefetcher
from replay.samplers import RowSampler
from replay.store import Store, open_store

FIELDS = ["image", "expert_twist", "goal_image"]
GROUPS = [Group("dagger", 4)]


def commit(store: Store, env: int) -> None:
    with closing(store.writer(f"w{env}")) as w:
        w.append(make_episode("dagger", env=env, rows=4, size=8, label_valid=np.ones(4, bool)))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = open_store(tmp_path_factory.mktemp("p") / "s", "a", create=True)
    for env in range(6):
        commit(store, env)
    store.refresh(upto={f"w{env}": 1 for env in range(5)})
    return store


def same(a: Batch, b: Batch) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[n], b[n]) for n in a)


def ahead(sampler: RowSampler, depth: int = 2) -> Prefetcher[Batch]:
    return Prefetcher(sampler, GROUPS, lambda batch: batch, depth)


@settings(max_examples=15)
@given(
    depth=st.integers(1, 5),
    events=st.lists(st.sampled_from(["next", "grow", "shrink", "regroup", "restore"]), max_size=14),
)
def test_what_it_gives_is_what_the_sampler_gives_at_that_moment(store: Store, depth: int, events: list[str]) -> None:
    plain, groups = RowSampler(store, 9, FIELDS), GROUPS
    with ahead(RowSampler(store, 9, FIELDS), depth) as prefetcher:
        for event in events:
            if event == "next":
                assert same(prefetcher.next(), plain.next(groups))
            elif event in ("grow", "shrink"):
                store.refresh(upto={f"w{env}": 1 for env in range(6 if event == "grow" else 3)})
            elif event == "regroup":
                groups = [Group("dagger", 2 + len(groups)), *groups[:1]]
                prefetcher.regroup(groups)
            else:
                state = json.loads(json.dumps(prefetcher.state()))
                assert state == plain.state()
                prefetcher.load(state)
        assert same(prefetcher.next(), plain.next(groups))


def test_the_state_is_that_of_the_consumer_and_survives_the_end(store: Store) -> None:
    sampler = RowSampler(store, 9, FIELDS)
    expected = [sampler.batch(GROUPS, step) for step in range(6)]
    with ahead(sampler, 4) as prefetcher:
        for step in range(2):
            assert same(prefetcher.next(), expected[step])
        assert prefetcher.state()["next"] == 2
        assert prefetcher.waited_s > 0
    assert same(sampler.next(GROUPS), expected[2])
    with ahead(sampler) as prefetcher:
        assert same(prefetcher.next(), expected[3])


def test_it_draws_no_further_ahead_than_asked(store: Store) -> None:
    drawn: list[int] = []

    class Counting(RowSampler):
        def batch(self, groups: object, step: int) -> Batch:
            drawn.append(step)
            return super().batch(GROUPS, step)

    with ahead(Counting(store, 1, FIELDS), 3) as prefetcher:
        for _ in range(4):
            prefetcher.next()
        for _, future in prefetcher._ahead:
            future.result()
        assert drawn == list(range(7))


def test_an_error_comes_up_at_its_step_and_the_step_is_drawn_again(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s", "a", create=True)
    store.refresh()
    with ahead(RowSampler(store, 1, FIELDS)) as prefetcher:
        for _ in range(2):
            with pytest.raises(StoreError, match="no row may be drawn for kind = dagger in"):
                prefetcher.next()
        assert prefetcher.state()["next"] == 0
        commit(store, 0)
        store.refresh()
        assert same(prefetcher.next(), RowSampler(store, 1, FIELDS).batch(GROUPS, 0))


def test_an_error_that_passes_is_not_kept(store: Store) -> None:
    class Failing(RowSampler):
        failed = False

        def batch(self, groups: object, step: int) -> Batch:
            if step == 1 and not self.failed:
                self.failed = True
                raise StoreError("the disk did not answer")
            return super().batch(GROUPS, step)

    with ahead(Failing(store, 1, FIELDS)) as prefetcher:
        prefetcher.next()
        with pytest.raises(StoreError, match="the disk did not answer"):
            prefetcher.next()
        assert same(prefetcher.next(), RowSampler(store, 1, FIELDS).batch(GROUPS, 1))


def test_close_ends_the_thread_and_is_final(store: Store) -> None:
    before = set(threading.enumerate())
    prefetcher = ahead(RowSampler(store, 1, FIELDS), 4)
    prefetcher.next()
    (thread,) = set(threading.enumerate()) - before
    prefetcher.close()
    prefetcher.close()
    assert not thread.is_alive()
    with pytest.raises(StoreError, match="a prefetcher that was closed has no next batch"):
        prefetcher.next()
    with pytest.raises(StoreError, match="prefetch depth = 0: allowed is at least 1"):
        ahead(RowSampler(store, 1, FIELDS), 0)


def test_it_ends_where_its_count_does_and_draws_none_beyond_it(store: Store) -> None:
    sampler, drawn = RowSampler(store, 1, FIELDS), []
    sampler.load(sampler.state() | {"next": 5})
    with Prefetcher(sampler, GROUPS, lambda batch: drawn.append(batch) or batch, depth=4, count=3) as batches:
        for step in range(5, 8):
            assert same(batches.next(), RowSampler(store, 1, FIELDS).batch(GROUPS, step))
        with pytest.raises(StoreError, match="ended at step 8"):
            batches.next()
    assert len(drawn) == 3 and sampler.state()["next"] == 8
