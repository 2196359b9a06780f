"""Windows and padded episodes: which there are, how often each is drawn, and that a cursor brings them back."""

from __future__ import annotations

import json
from contextlib import closing

import numpy as np
import pytest
from catalogs import make_catalog
from hypothesis import given, settings
from hypothesis import strategies as st
from records import make_episode
from scipy.stats import chisquare

from common.errors import StoreError
from replay.drawing import CounterSampler, Group
from replay.sequences import EpisodeSampler, WindowSampler
from replay.store import Store, open_store
from replay.weights import Weights
from replay.windows import NStep

ROWS = {0: 2, 1: 4, 2: 5, 3: 9, 4: 9, 5: 1}  # env -> rows
GROUPS = [Group("rollout", 4), Group("rollout", 2, weights=Weights(round_age=((0, 1.0), (1, 2.0))))]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The reward of row r of env e is 100 e + r."""
    store = open_store(tmp_path_factory.mktemp("s") / "s", "a", create=True)
    with closing(store.writer("w")) as w:
        for env, rows in ROWS.items():
            reward = 100 * env + np.arange(rows, dtype=np.float32)
            w.append(make_episode("rollout", env=env, round=env % 2, rows=rows, phase="ppo", reward=reward))
        w.append(make_episode("pairs", env=9))
    store.refresh()
    return store


@settings(max_examples=60)
@given(
    rows=st.integers(1, 20),
    length=st.integers(1, 8),
    stride=st.integers(1, 8),
    pad=st.booleans(),
    acting=st.booleans(),
)
def test_windows_of_an_episode_are_those_that_fit(
    store: Store, rows: int, length: int, stride: int, pad: bool, acting: bool
) -> None:
    stride = min(stride, length) if pad else stride
    n_step = NStep(1, 1.0) if acting else None
    sampler = WindowSampler(store, 0, [], length, stride=stride, pad=pad, n_step=n_step)
    (count,) = sampler._counts(make_catalog([rows]))
    usable = rows - acting
    if pad:
        begins = list(range(0, usable, stride))
        while len(begins) > 1 and begins[-2] + length >= usable:  # the one before reaches the end already
            begins.pop()
    else:
        begins = [k for k in range(0, usable, stride) if k + length <= usable]
    assert count == len(begins)
    if pad:
        assert {r for b in begins for r in range(b, min(b + length, usable))} == set(range(usable))


def test_windows_hold_rows_in_order_of_one_episode(store: Store) -> None:
    sampler = WindowSampler(store, 3, ["reward", "z", "d_star"], 3, stride=2, pad=True)
    seen = set()
    for step in range(30):
        batch = sampler.batch(GROUPS, step)
        assert batch["reward"].shape == (6, 3) and batch["z"].shape == (6, 3, 24)
        assert len(batch["d_star"]) == batch["episode_index"].max() + 1
        for b in range(6):
            there = batch["reward"][b][batch["row_valid"][b]]
            env, first = divmod(int(there[0]), 100)
            assert first == batch["first_row"][b] and first % 2 == 0
            assert there.tolist() == [100 * env + r for r in range(first, min(first + 3, ROWS[env]))]
            assert not batch["z"][b][~batch["row_valid"][b]].any()
            seen.add((env, first))
    assert seen == {(0, 0), (1, 0), (1, 2), (2, 0), (2, 2), (5, 0), *((e, f) for e in (3, 4) for f in (0, 2, 4, 6))}


def test_windows_without_padding_are_whole_and_equally_likely(store: Store) -> None:
    sampler = WindowSampler(store, 4, ["reward"], 4)
    firsts = np.concatenate([sampler.batch([Group("rollout", 300)], step)["reward"][:, 0] for step in range(10)])
    names, counts = np.unique(firsts.astype(int), return_counts=True)
    assert names.tolist() == [100, 200, 201, *range(300, 306), *range(400, 406)]
    assert chisquare(counts).pvalue > 1e-4
    batch = sampler.batch([Group("rollout", 20, 4)], 0)
    assert batch["row_valid"].all()
    for k, env in enumerate((batch["reward"][:, 0] // 100).reshape(5, 4)):
        assert len(set(env)) == 1  # side by side, and distinct where the episode has as many
        windows = set(batch["reward"][4 * k : 4 * k + 4, 0])
        assert env[0] < 3 or len(windows) == 4


def test_n_step_windows_leave_the_final_observation_to_the_bootstrap(store: Store) -> None:
    n_step = NStep(3, 1.0, ("reward",))
    sampler = WindowSampler(store, 5, ["reward"], 1, n_step=n_step)
    drawn: set[int] = set()
    for step in range(40):
        batch = sampler.batch([Group("rollout", 8)], step)
        drawn |= set(batch["reward"][:, 0].astype(int).tolist())
        env = batch["reward"][:, 0] // 100
        assert (batch["bootstrap_reward"][:, 0] // 100 == env).all()
        assert (batch["bootstrap_row"] == batch["first_row"][:, None] + batch["n_step_count"]).all()
    assert drawn == {100 * env + r for env, rows in ROWS.items() for r in range(rows - 1)}


def test_padded_episodes_share_a_bucket_and_are_equally_likely(store: Store) -> None:
    sampler = EpisodeSampler(store, 6, ["reward"], [3, 6, 9])
    counts = dict.fromkeys(ROWS, 0)
    buckets = [{0, 5}, {1, 2}, {3, 4}]
    for step in range(600):
        batch = sampler.batch([Group("rollout", 3)], step)
        envs = (batch["reward"][:, 0] // 100).astype(int).tolist()
        assert any(set(envs) <= bucket for bucket in buckets)
        assert batch["reward"].shape == (3, max(ROWS[e] for e in envs))
        assert batch["lengths"].tolist() == [ROWS[e] for e in envs] == batch["row_valid"].sum(1).tolist()
        counts[envs[0]] += 1  # those of one batch share their bucket, so only one of them is independent
    assert chisquare(list(counts.values())).pvalue > 1e-4


def test_weighted_episodes_are_drawn_by_their_weight(store: Store) -> None:
    weights = Weights(round_age=((0, 1.0), (1, 3.0)))  # envs 0, 2, 4 are of the older round
    sampler = EpisodeSampler(store, 7, ["reward"], [4, 9])
    batches = [sampler.batch([Group("rollout", 2, weights=weights)], step) for step in range(600)]
    for slot in range(2):
        envs = np.array([batch["reward"][slot, 0] // 100 for batch in batches], int)
        counts = np.bincount(envs, minlength=6)
        assert chisquare(counts, 600 * np.array([3, 1, 3, 1, 3, 1]) / 12).pvalue > 1e-4


def samplers(store: Store, seed: int, kind: str) -> CounterSampler:
    fields, n_step = ["reward", "z", "d_star"], NStep(2, 0.9, ("value",))
    if kind == "episodes":
        return EpisodeSampler(store, seed, fields, [4, 9], n_step=n_step)
    return WindowSampler(store, seed, fields, 3, pad=kind == "padded", n_step=n_step)


@settings(max_examples=12)
@given(kind=st.sampled_from(["windows", "padded", "episodes"]), seed=st.integers(0, 2**32), skipped=st.integers(0, 3))
def test_a_restored_sampler_draws_the_same_sequences(store: Store, kind: str, seed: int, skipped: int) -> None:
    sampler, again = samplers(store, seed, kind), samplers(store, seed, kind)
    for _ in range(skipped):
        sampler.next(GROUPS)
    again.load(json.loads(json.dumps(sampler.state())))
    for _ in range(2):
        a, b = sampler.next(GROUPS), again.next(GROUPS)
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
    with pytest.raises(StoreError, match="sampler state seed"):
        samplers(store, seed + 1, kind).load(sampler.state())


def test_a_state_of_other_settings_is_refused(store: Store) -> None:
    state = WindowSampler(store, 0, [], 3, stride=2).state()
    with pytest.raises(StoreError, match="sampler state length = 3: allowed is 4"):
        WindowSampler(store, 0, [], 4, stride=2).load(state)
    with pytest.raises(StoreError, match="sampler state n_step = None"):
        WindowSampler(store, 0, [], 3, stride=2, n_step=NStep(1, 1.0)).load(state)
    with pytest.raises(StoreError, match=r"sampler state bounds = \[9\]: allowed is \[3, 9\]"):
        EpisodeSampler(store, 0, [], [3, 9]).load(EpisodeSampler(store, 0, [], [9]).state())


def test_bad_requests_are_refused(store: Store) -> None:
    for sampler in (WindowSampler(store, 0, [], 2), EpisodeSampler(store, 0, [], [9])):
        with pytest.raises(StoreError, match="kind of a sequence = 'pairs'"):
            sampler.batch([Group("pairs", 1)], 0)
    with pytest.raises(StoreError, match="no row may be drawn for kind = rollout"):
        WindowSampler(store, 0, [], 10).batch([Group("rollout", 1)], 0)
    with pytest.raises(StoreError, match="rows of an episode that fits = 9: allowed is at most 8, the last bucket"):
        EpisodeSampler(store, 0, [], [4, 8]).batch([Group("rollout", 1)], 0)
    with pytest.raises(StoreError, match="rows_per_episode = 2: allowed is 1"):
        EpisodeSampler(store, 0, [], [9]).batch([Group("rollout", 2, 2)], 0)
    with pytest.raises(StoreError, match=r"bucket bounds = \[4, 4\]"):
        EpisodeSampler(store, 0, [], [4, 4])
    with pytest.raises(StoreError, match="window length = 0"):
        WindowSampler(store, 0, [], 0)
    with pytest.raises(StoreError, match=r"window stride = 3: allowed is 1 \.\. length = 2 where"):
        WindowSampler(store, 0, [], 2, stride=3, pad=True)
    with pytest.raises(StoreError, match="bootstrap field = 'd_star'"):
        WindowSampler(store, 0, [], 2, n_step=NStep(1, 1.0, ("d_star",)))
