"""Blocks of draws: what a step draws does not depend on the steps it is drawn with."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from records import make_episode

from replay.row_blocks import LONGEST
from replay.samplers import Group, RowSampler
from replay.store import Store, open_store
from replay.weights import Weights

FIELDS = ["image", "label_valid", "world_T_cam", "goal_image", "d_star"]
GROUPS = [Group("dagger", 6, 2), Group("pairs", 4), Group("dagger", 3, weights=Weights(round_age=((0, 1.0), (1, 0.5))))]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = open_store(tmp_path_factory.mktemp("b") / "s", "a", create=True)
    with closing(store.writer("w", max_episodes=3)) as w:
        for env in range(7):
            valid = np.arange(3 + env) % 3 != 1
            w.append(make_episode("dagger", env=env, round=env % 2, rows=3 + env, size=8, label_valid=valid))
            w.append(make_episode("pairs", env=env, rows=4, size=8))
    store.refresh()
    return store


def assert_same(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name])


def test_a_step_draws_the_same_alone_and_in_a_block(store: Store) -> None:
    running = RowSampler(store, 5, FIELDS)
    steps = 2 * LONGEST + 3
    batches = [running.batch(GROUPS, step) for step in range(steps)]
    assert running._block is not None and running._block.end - running._block.first == LONGEST
    for step in np.random.default_rng(0).permutation(steps).tolist():
        alone = RowSampler(store, 5, FIELDS)
        assert_same(alone.batch(GROUPS, step), batches[step])
        assert alone._block is not None and alone._block.end == step + 1  # nothing drawn in vain


def test_blocks_grow_only_while_steps_follow_each_other(store: Store) -> None:
    sampler = RowSampler(store, 5, FIELDS)
    sizes = []
    for step in (0, 1, 2, 3, 9, 10, 4, 5):
        sampler.batch(GROUPS, step)
        assert sampler._block is not None
        sizes.append((sampler._block.first, sampler._block.end - sampler._block.first))
    assert sizes == [(0, 1), (1, 2), (1, 2), (3, 4), (9, 1), (10, 2), (4, 1), (5, 2)]


def test_other_groups_and_a_newer_view_are_drawn_anew(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s", "a", create=True)
    with closing(store.writer("a")) as w:
        w.append(make_episode("dagger", env=0, rows=3, size=8))
    store.refresh()
    sampler = RowSampler(store, 1, ["world_T_cam"])
    groups = [Group("dagger", 20)]
    for step in range(4):  # the block in hand has steps 3 .. 6
        sampler.batch(groups, step)
    assert len(sampler.batch([Group("dagger", 2)], 4)["world_T_cam"]) == 2
    for step in range(4):
        sampler.batch(groups, step)
    with closing(store.writer("b")) as w:
        w.append(make_episode("dagger", env=1, rows=30, size=8))
    store.refresh()
    assert max(sampler.batch(groups, 4)["episode_index"]) == 1


def test_a_batch_that_is_changed_does_not_change_the_next_answer(store: Store) -> None:
    sampler = RowSampler(store, 5, FIELDS)
    sampler.batch(GROUPS, 0)
    first = sampler.batch(GROUPS, 1)
    kept = {name: array.copy() for name, array in first.items()}
    for array in first.values():
        array[...] = 0
    assert_same(sampler.batch(GROUPS, 1), kept)


def test_draws_go_on_after_the_store_let_go_of_its_files(store: Store) -> None:
    sampler, other = RowSampler(store, 5, FIELDS), RowSampler(store, 5, FIELDS)
    groups = [Group("dagger", 8)]
    for step in range(12):
        expected = other.batch(groups, step)
        if step in (4, 9):
            store.release()
        assert_same(sampler.batch(groups, step), expected)
