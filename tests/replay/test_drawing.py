"""Draws: exact in their probabilities, repeatable, and without a question to the index per batch."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from catalogs import make_catalog
from hypothesis import given, settings
from hypothesis import strategies as st
from records import make_episode
from scipy.stats import chisquare

from common.errors import StoreError
from common.rng import Purpose, philox
from replay.drawing import Pool, _distinct, make_pool
from replay.samplers import Group, RowSampler
from replay.store import Store, open_store
from replay.weights import Weights

ENVS = 6
AGED = Weights(round_age=((0, 1.0), (1, 0.5), (2, 0.0)))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Episodes of rounds 0 .. 2, two each, of 3 .. 8 rows; the reward of row r of env e is 100 e + r."""
    store = open_store(tmp_path_factory.mktemp("d") / "s", "a", create=True)
    with closing(store.writer("w")) as w:
        for env in range(ENVS):
            reward = 100 * env + np.arange(3 + env, dtype=np.float32)
            valid = np.arange(3 + env) != 1
            w.append(
                make_episode("dagger", env=env, round=env // 2, rows=3 + env, size=8, reward=reward, label_valid=valid)
            )
    store.refresh()
    return store


def frequencies(pool: Pool, each: int, draws: int) -> dict[tuple[int, int], int]:
    places, items = pool.draw(np.random.default_rng(0), draws // each, each)
    pairs = list(zip([p.start // 100 for p in places for _ in range(each)], items, strict=True))
    return {pair: pairs.count(pair) for pair in set(pairs)}


@settings(max_examples=40)
@given(
    shares=st.lists(st.tuples(st.integers(0, 6), st.sampled_from([0.0, 0.25, 1.0, 3.0])), min_size=1, max_size=6),
    weighted=st.booleans(),
)
def test_an_item_is_drawn_in_proportion_to_its_weight(shares: list[tuple[int, float]], weighted: bool) -> None:
    catalog = make_catalog([n for n, _ in shares], phase=[f"p{k}" for k in range(len(shares))])
    weights = Weights(phase={f"p{k}": w for k, (_, w) in enumerate(shares)}) if weighted else None
    pool = make_pool(catalog, catalog.numbers["rows"], weights)
    expected = {(k, i): w if weighted else 1.0 for k, (n, w) in enumerate(shares) for i in range(n)}
    expected = {pair: w for pair, w in expected.items() if w}
    if not expected:
        assert not len(pool.which)
        return
    seen = frequencies(pool, 1, 6000)
    assert set(seen) <= set(expected)
    if len(expected) > 1:
        share = np.array(list(expected.values()))
        counts = np.array([seen.get(pair, 0) for pair in expected])
        assert chisquare(counts, 6000 * share / share.sum()).pvalue > 1e-7


def test_several_items_of_an_episode_keep_their_probabilities() -> None:
    catalog = make_catalog([2, 5, 3], role=["a", "b", "c"])
    pool = make_pool(catalog, catalog.numbers["rows"], Weights(role={"a": 1.0, "b": 2.0, "c": 0.5}))
    seen = frequencies(pool, 2, 20000)
    share = np.array([1.0] * 2 + [2.0] * 5 + [0.5] * 3)
    counts = np.array([seen[k, i] for k, n in enumerate((2, 5, 3)) for i in range(n)])
    # Items of one draw are not independent: they repel each other, which only narrows the spread.
    assert np.abs(counts / 20000 - share / share.sum()).max() < 0.012


def test_a_draw_that_is_rounded_up_to_the_end_takes_the_last_episode() -> None:
    catalog = make_catalog([1, 1, 1], role=["a", "b", "c"])
    pool = make_pool(catalog, catalog.numbers["rows"], Weights(role={"a": 1.0, "b": 1.0, "c": 0.0}))

    class AtTheEnd:
        def random(self, size: int | tuple[int, int]) -> np.ndarray:
            return np.ones(size)

    places, items = pool.draw(AtTheEnd(), 2, 1)  # type: ignore[arg-type]
    assert [p.start for p in places] == [100, 100] and items == [0, 0]


@given(counts=st.lists(st.integers(1, 30), min_size=1, max_size=5), each=st.integers(1, 12), seed=st.integers(0, 99))
def test_items_of_one_episode_are_distinct_while_there_are_enough(counts: list[int], each: int, seed: int) -> None:
    drawn = _distinct(np.array(counts), np.random.default_rng(seed).random((each, len(counts))))
    assert len(drawn) == each * len(counts)
    for k, count in enumerate(counts):
        items = drawn[k * each : (k + 1) * each]
        assert set(items) <= set(range(count))
        assert count < each or len(set(items)) == each


def test_weighted_rows_have_exactly_their_probabilities(store: Store) -> None:
    sampler = RowSampler(store, 5, ["reward"])
    groups = [Group("dagger", 400, weights=AGED)]
    drawn = np.concatenate([sampler.batch(groups, step)["reward"] for step in range(25)]).astype(int)
    rows, counts = np.unique(drawn, return_counts=True)
    assert set(rows // 100) == {2, 3, 4, 5} and not (rows % 100 == 1).any()
    share = np.where(rows // 100 < 4, 0.5, 1.0)
    assert len(rows) == 4 + 5 + 6 + 7
    assert chisquare(counts, counts.sum() * share / share.sum()).pvalue > 1e-4


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32), skipped=st.integers(0, 5), each=st.sampled_from([1, 3]))
def test_a_restored_sampler_draws_the_same_rows(store: Store, seed: int, skipped: int, each: int) -> None:
    groups = [Group("dagger", 6, each, weights=AGED), Group("dagger", 3, each)]
    sampler = RowSampler(store, seed, ["reward", "d_star"])
    for _ in range(skipped):
        sampler.next(groups)
    state = json.loads(json.dumps(sampler.state()))
    again = RowSampler(store, seed, ["reward", "d_star"])
    again.load(state)
    for _ in range(2):
        a, b = sampler.next(groups), again.next(groups)
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_the_index_is_asked_once_per_view(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path / "s", "a", create=True)

    def commit(env: int) -> None:
        with closing(store.writer(f"w{env}")) as w:
            w.append(make_episode("dagger", env=env, round=env, rows=2, size=8))
        store.refresh()

    asked: list[object] = []
    columns = store.index.columns
    monkeypatch.setattr(store.index, "columns", lambda query, names: asked.append(query) or columns(query, names))
    commit(0)
    sampler = RowSampler(store, 1, ["world_T_cam"])
    groups = [Group("dagger", 4), Group("dagger", 4, weights=AGED)]
    for step in range(4):
        assert set(sampler.batch(groups, step)["episode_index"]) == {0}
    assert len(asked) == 1
    commit(1)
    assert max(max(sampler.batch(groups, step)["episode_index"]) for step in range(4)) == 1
    assert len(asked) == 2


def test_nothing_to_draw_is_said_with_its_cause(store: Store) -> None:
    sampler = RowSampler(store, 0, ["reward"])
    with pytest.raises(StoreError, match=r"no row may be drawn for kind = dagger \(or every one has weight 0\) in"):
        sampler.batch([Group("dagger", 2, weights=Weights(phase={"*": 0.0}))], 0)
    with pytest.raises(StoreError, match="no row may be drawn for kind = dagger, phase = x in"):
        sampler.batch([Group("dagger", 2, phase="x")], 0)


def as_ever(counts, episodes, each, rng):
    """The order of draws that stores have been sampled in from the start, written out one draw after the other."""
    at = rng.integers(0, counts.sum(), size=episodes)
    drawn = np.searchsorted(np.cumsum(counts), at, side="right")
    items = []
    for count in counts[drawn]:
        if count < each:
            items += rng.integers(0, count, size=each).tolist()
            continue
        rows = list(range(count))
        for i, u in enumerate(rng.random(each)):
            j = i + int(u * (count - i))
            rows[i], rows[j] = rows[j], rows[i]
        items += rows[:each]
    return drawn.tolist(), items


class Places:
    def places(self, which):
        return which.tolist()


@given(st.lists(st.integers(1, 6), min_size=1, max_size=20), st.integers(1, 12), st.integers(1, 4), st.integers(0, 99))
def test_draws_without_weights_stay_what_they_have_always_been(counts, episodes, each, step):
    counts = np.array(counts)
    pool = Pool(Places(), np.arange(len(counts)), counts, np.cumsum(counts))
    drawn = pool.draw(philox(3, Purpose.SAMPLER, round=step), episodes, each)
    assert drawn == as_ever(counts, episodes, each, philox(3, Purpose.SAMPLER, round=step))
