"""n-step sums against the definition, and windows that never leave their episode."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import make_episode

from common.episode import Episode
from common.errors import StoreError
from replay.catalog import read_catalog
from replay.index import Query
from replay.store import Store, open_store
from replay.windows import NStep, Windows, n_step_sums, read_windows


@given(
    rows=st.lists(st.tuples(st.integers(-9, 9), st.booleans(), st.booleans()), min_size=1, max_size=12),
    n=st.integers(1, 5),
    gamma=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    data=st.data(),
)
def test_sums_are_those_of_the_definition(
    rows: list[tuple[int, bool, bool]], n: int, gamma: float, data: st.DataObject
) -> None:
    length = data.draw(st.integers(1, len(rows)))
    reach = length + n - 1
    padded = (rows + [(99, True, True)] * reach)[:reach]
    reward, terminated = np.array([[r for r, _, _ in padded]], np.float32), np.array([[t for _, t, _ in padded]])
    ends = np.array([[t or cut or k >= len(rows) - 1 for k, (_, t, cut) in enumerate(padded)]])
    sums = n_step_sums(reward, terminated, ends, NStep(n, gamma))
    for t in range(length):
        total, m, over = 0.0, 0, False
        while m < n:
            total += gamma**m * padded[t + m][0]
            over, stop = padded[t + m][1], ends[0, t + m]
            m += 1
            if stop:
                break
        assert sums["n_step_return"][0, t] == np.float32(total)
        assert sums["n_step_count"][0, t] == m
        assert sums["n_step_terminated"][0, t] == over
        assert sums["n_step_discount"][0, t] == np.float32(0.0 if over else gamma**m)


def acting(env: int, rows: int, terminated: bool, said: bool = True) -> Episode:
    ended = (np.arange(rows) == rows - 2) & said
    return make_episode(
        "rollout",
        env=env,
        rows=rows,
        phase="ppo",
        reward=np.arange(rows, dtype=np.float32) + 10 * env,
        value=np.arange(rows, dtype=np.float32) + 100 * env,
        terminated=ended & terminated,
        truncated=ended & (not terminated),
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Episodes of 5, 3 and 2 actions in one segment: the first terminates, the second is cut, the third just ends."""
    store = open_store(tmp_path_factory.mktemp("w") / "s", "a", create=True)
    with closing(store.writer("w")) as w:
        w.append(acting(1, 6, terminated=True))
        w.append(acting(2, 4, terminated=False))
        w.append(acting(3, 3, terminated=False, said=False))
        w.append(acting(4, 9, terminated=False))
    store.refresh()
    return store


def test_a_window_ends_where_its_episode_ends(store: Store) -> None:
    places = read_catalog(store.index, Query()).places(np.arange(2))
    index, first = np.array([0, 1]), np.array([2, 1])
    windows = Windows(index, first, length=np.array([3, 2]), usable=np.array([5, 3]))
    out = read_windows(store, ["reward", "z"], places, windows, NStep(2, 0.5, ("value",)))
    assert out["row_valid"].tolist() == [[True, True, True], [True, True, False]]
    assert out["reward"].tolist() == [[12, 13, 14], [21, 22, 0]]
    assert out["z"].shape == (2, 3, 24) and not out["z"][1, 2].any() and out["z"][1, 1].any()
    # Row 4 of the first is its last action, and it terminated; that of the second was cut and is bootstrapped.
    assert out["n_step_return"].tolist() == [[12 + 6.5, 13 + 7, 14], [21 + 11, 22, 0]]
    assert out["n_step_count"].tolist() == [[2, 2, 1], [2, 1, 0]]
    assert out["n_step_terminated"].tolist() == [[False, True, True], [False, False, False]]
    assert out["n_step_discount"].tolist() == [[0.25, 0, 0], [0.25, 0.5, 0]]
    assert out["bootstrap_row"].tolist() == [[4, 5, 5], [3, 3, 0]]
    assert out["bootstrap_value"].tolist() == [[104, 105, 105], [203, 203, 0]]
    assert out["first_row"].tolist() == [2, 1]


def test_an_episode_that_does_not_say_how_it_ended_was_cut_there(store: Store) -> None:
    places = read_catalog(store.index, Query()).places(np.array([2]))
    windows = Windows(np.array([0]), np.array([0]), length=np.array([2]), usable=np.array([2]))
    out = read_windows(store, [], places, windows, NStep(3, 1.0, ("value",)))
    assert out["n_step_return"].tolist() == [[30 + 31, 31]]
    assert out["bootstrap_value"].tolist() == [[302, 302]]
    assert out["n_step_discount"].tolist() == [[1, 1]]


def test_bad_settings_are_refused() -> None:
    with pytest.raises(StoreError, match="n_step n = 0: allowed is at least 1"):
        NStep(0, 0.9)
    with pytest.raises(StoreError, match=r"n_step gamma = 1\.1: allowed is 0 \.\. 1"):
        NStep(1, 1.1)
