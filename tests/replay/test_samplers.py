"""Samplers: what they draw is a function of (seed, step, which episodes fit) and of nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import assert_same, make_episode, version

from common.episode import Episode
from common.errors import StoreError
from replay.samplers import Group, OnPolicySampler, SuccessSampler, UniformSampler
from replay.store import Store, open_store

FIELDS = ["image", "mask", "expert_twist", "goal_image", "d_star"]
GROUPS = [Group("pairs", 6, 2, phase="il"), Group("dagger", 3, max_round=1)]


def fill(path: Path, batches: list[tuple[str, list[Episode]]]) -> Store:
    """A refreshed store with one commit per (writer, episodes)."""
    store = open_store(path, "a", create=True)
    for writer, episodes in batches:
        w = store.writer(writer)
        for e in episodes:
            w.append(e)
        w.close()
    store.refresh()
    return store


def imitation() -> list[Episode]:
    return [make_episode(k, env=i, round=i % 3) for i in range(9) for k in ("pairs", "dagger")]


def assert_equal_batches(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def test_batch_has_the_groups_rows_and_their_goals(tmp_path: Path) -> None:
    episodes = imitation()
    sampler = UniformSampler(fill(tmp_path / "s", [("w", episodes)]), 7, FIELDS)
    for step in range(5):
        batch = sampler.batch(GROUPS, step)
        assert batch["image"].shape == (9, 16, 16, 3) and batch["image"].dtype == np.uint8
        assert batch["mask"].dtype == np.bool_
        assert len(batch["goal_image"]) == len(batch["d_star"]) == batch["episode_index"].max() + 1
        for b in range(9):
            allowed = [
                e
                for e in episodes
                if e.meta.kind == ("pairs" if b < 6 else "dagger") and (b < 6 or e.meta.id.round <= 1)
            ]
            goal = batch["goal_image"][batch["episode_index"][b]]
            (source,) = [e for e in allowed if np.array_equal(e.fixed["goal_image"], goal)]
            (row,) = np.flatnonzero((source.steps["image"] == batch["image"][b]).all((1, 2, 3)))
            assert source.steps["label_valid"][row]
            np.testing.assert_array_equal(source.steps["expert_twist"][row], batch["expert_twist"][b])
            np.testing.assert_array_equal(source.steps["mask"][row], batch["mask"][b])


@settings(max_examples=8)
@given(order=st.permutations(range(9)), cut=st.integers(1, 8))
def test_draws_do_not_depend_on_who_committed_first(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], cut: int
) -> None:
    episodes = [make_episode("dagger", env=i) for i in range(9)]
    folder = tmp_path_factory.mktemp("o")
    plain = fill(folder / "a", [("w", episodes)])
    shuffled = [episodes[k] for k in order]
    other = fill(folder / "b", [("z", shuffled[:cut]), ("a", shuffled[cut:]), ("k", shuffled[:2])])
    groups = [Group("dagger", 8, 2)]
    for step in range(3):
        assert_equal_batches(
            UniformSampler(plain, 1, FIELDS).batch(groups, step), UniformSampler(other, 1, FIELDS).batch(groups, step)
        )


def test_the_ids_of_a_batch_are_those_of_its_episodes(tmp_path: Path) -> None:
    episodes = {str(e.meta.id): e for e in imitation()}
    sampler = UniformSampler(fill(tmp_path / "s", [("w", list(episodes.values()))]), 7, FIELDS)
    for step in (3, 0, 4):
        batch = sampler.batch(GROUPS, step)
        ids = sampler.episode_ids(GROUPS, step)
        assert len(ids) == len(batch["goal_image"])
        for goal, episode_id in zip(batch["goal_image"], ids, strict=True):
            np.testing.assert_array_equal(goal, episodes[episode_id].fixed["goal_image"])


def test_a_resumed_sampler_goes_on_with_the_same_rows_whatever_was_committed_since(tmp_path: Path) -> None:
    store = fill(tmp_path / "s", [("w", imitation())])
    sampler = UniformSampler(store, 3, FIELDS)
    sampler.next(GROUPS)
    checkpoint = json.loads(json.dumps({"sampler": sampler.state(), "position": store.position()}))
    expected = [sampler.next(GROUPS) for _ in range(3)]
    w = store.writer("late")
    w.append(make_episode("pairs", env=77))
    w.close()

    again = open_store(tmp_path / "s")
    again.refresh(upto=checkpoint["position"])
    resumed = UniformSampler(again, 3, FIELDS)
    resumed.load(checkpoint["sampler"])
    for batch in expected:
        assert_equal_batches(batch, resumed.next(GROUPS))
    with pytest.raises(StoreError, match="sampler state seed = 3: allowed is 4"):
        UniformSampler(again, 4, FIELDS).load(checkpoint["sampler"])


def test_drawing_ahead_changes_nothing_and_steps_differ(tmp_path: Path) -> None:
    sampler = UniformSampler(fill(tmp_path / "s", [("w", imitation())]), 3, FIELDS)
    ahead = {step: sampler.batch(GROUPS, step) for step in (4, 0, 2)}
    assert_equal_batches(ahead[2], sampler.batch(GROUPS, 2))
    assert not np.array_equal(ahead[0]["image"], ahead[2]["image"])
    other = UniformSampler(sampler.store, 4, FIELDS)
    assert not np.array_equal(ahead[0]["image"], other.batch(GROUPS, 0)["image"])


def test_every_valid_row_is_equally_likely_and_no_other_is_drawn(tmp_path: Path) -> None:
    masks = [np.array(v, bool) for v in ([1, 0, 1, 1], [0, 1], [0, 0, 0], [1] * 6)]
    episodes = [
        make_episode(
            "dagger",
            env=i,
            rows=len(v),
            label_valid=v,
            reward=np.arange(10 * i, 10 * i + len(v), dtype=np.float32),
        )
        for i, v in enumerate(masks)
    ]
    sampler = UniformSampler(fill(tmp_path / "s", [("w", episodes)]), 0, ["reward"])
    drawn = np.concatenate([sampler.batch([Group("dagger", 200, 2)], step)["reward"] for step in range(60)])
    names, counts = np.unique(drawn, return_counts=True)
    assert names.tolist() == [0, 2, 3, 11, 30, 31, 32, 33, 34, 35]
    # 12,000 draws over 10 rows: the standard deviation of a count is about 35 (twice drawn rows add a little).
    assert np.abs(counts - 1200).max() < 200


def test_uniform_errors_name_the_cause(tmp_path: Path) -> None:
    store = fill(tmp_path / "s", [("w", imitation())])
    with pytest.raises(StoreError, match=r"no row may be drawn for kind = pairs, min_round = 5"):
        UniformSampler(store, 0, FIELDS).batch([Group("pairs", 2, min_round=5)], 0)
    with pytest.raises(StoreError, match="sampled field = 'imag'"):
        UniformSampler(store, 0, ["imag"])
    with pytest.raises(StoreError, match=r"group rows = 5: allowed is a positive multiple of rows_per_episode = 2"):
        Group("pairs", 5, 2)


def test_on_policy_hands_out_each_rollout_once_across_a_resume(tmp_path: Path) -> None:
    def rollouts(envs: list[int], v: int, round: int) -> list[Episode]:
        return [make_episode("rollout", env=i, round=round, phase="ppo", acted=version(v)) for i in envs]

    wanted = rollouts([4, 1, 0, 2], 3, 5)
    noise = [*rollouts([9], 2, 5), *rollouts([8], 3, 4), make_episode("rollout", env=7, round=5, acted=version(3))]
    store = fill(tmp_path / "s", [("w", wanted + noise)])
    sampler = OnPolicySampler(store)
    assert len(sampler.waiting(version(3), "ppo", 5)) == 4
    got = sampler.take(version(3), "ppo", 5)
    assert [e.meta.id.env for e in got] == [0, 1, 2, 4]
    for e in got:
        assert_same(e, next(w for w in wanted if w.meta.id == e.meta.id))
    assert sampler.take(version(3), "ppo", 5) == []

    state = json.loads(json.dumps(sampler.state()))
    assert state == {"consumed": {"run-a/0000/ppo/00000005": [[0, 2], [4, 4]]}}
    w = store.writer("v")
    for e in rollouts([3, 4], 3, 5):  # 4 is a second copy of what was handed out
        w.append(e)
    w.close()
    store.refresh()
    resumed = OnPolicySampler(store)
    resumed.load(state)
    assert [e.meta.id.env for e in resumed.take(version(3), "ppo", 5)] == [3]


def test_on_policy_consumes_nothing_when_an_episode_cannot_be_read(tmp_path: Path) -> None:
    store = fill(tmp_path / "s", [("w", [make_episode("rollout", phase="ppo", acted=version())])])
    entry = store.select()[0]
    shard = store.root / entry.segment / "z" / "c.0.0"
    good = shard.read_bytes()
    shard.write_bytes(good[:-8])
    sampler = OnPolicySampler(store)
    with pytest.raises(StoreError, match=r"size of .*z/c"):
        sampler.take(version(), "ppo", 0)
    shard.write_bytes(good)
    assert len(sampler.take(version(), "ppo", 0)) == 1


def test_success_takes_whole_trajectories_that_reach_the_iou(tmp_path: Path) -> None:
    def reaching(env: int, iou: list[float]) -> Episode:
        return make_episode("rollout", env=env, rows=3, phase="sil", iou=np.array(iou, np.float32), acted=version())

    episodes = [reaching(2, [0.1, 0.99, 0.2]), reaching(0, [0.1, 0.2, 0.95]), reaching(1, [0.1, 0.2, 0.3])]
    store = fill(tmp_path / "s", [("w", [*episodes, make_episode("rollout", env=9, phase="ppo")])])
    sampler = SuccessSampler(store, 0.9)
    assert [e.meta.id.env for e in sampler.take(phase="sil")] == [0, 2]
    assert sampler.take(phase="sil", version=version(8)) == []
    assert [e.meta.id.env for e in sampler.take("sil", min_iou_final=0.9)] == [0]
    sampler.load(sampler.state())
    with pytest.raises(StoreError, match="min_iou"):
        SuccessSampler(store, 0.8).load(sampler.state())
    with pytest.raises(StoreError, match=r"min_iou = 95: allowed is 0 \.\. 1"):
        SuccessSampler(store, 95)
