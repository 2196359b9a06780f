"""The index: queries, and that the file of it is only a cache."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from records import make_episode, version

from common.errors import StoreError
from replay.index import Query
from replay.record import Record
from replay.store import Store, open_store


@pytest.fixture
def root(tmp_path: Path) -> Path:
    store = open_store(tmp_path / "s", "a", create=True)
    w = store.writer("w")
    for i in range(4):
        w.append(make_episode("pairs", env=i, round=i))
        iou = np.array([0.1, 0.3 * i, 0.2 * i], np.float32)
        w.append(make_episode("rollout", env=i, round=i, rows=3, phase="ppo", acted=version(i // 2, i % 2), iou=iou))
    w.close()
    store.close()
    return tmp_path / "s"


def opened(root: Path, index: Path | None = None) -> Store:
    store = open_store(root, index_path=index)
    store.refresh()
    return store


@pytest.mark.parametrize(
    ("query", "envs"),
    [
        (Query(kind="pairs"), [0, 1, 2, 3]),
        (Query(phase="ppo", min_round=1, max_round=2), [1, 2]),
        (Query(role="pairs", max_round=0), [0]),
        (Query(run="run-b"), []),
        (Query(kind="rollout", lineage=0), [0, 1, 2, 3]),
        (Query(lineage=1), []),
        (Query(policy_version=version(1, 1)), [3]),
        (Query(policy_version=version(1, 0)), [2]),
        (Query(min_iou_max=0.55), [2, 3]),
        (Query(min_iou_final=0.55), [3]),
        (Query(min_iou_max=0.0, kind="pairs"), []),
    ],
)
def test_queries(root: Path, query: Query, envs: list[int]) -> None:
    assert [e.meta.id.env for e in opened(root).select(query)] == envs


def test_order_is_that_of_episode_ids_and_not_of_text(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s", "a", create=True)
    w = store.writer("w")
    episodes = []
    for run in ("run-a", "run", "run.b", "run0"):
        e = make_episode(env=1)
        meta = {**e.meta.to_dict(), "id": f"{run}/0000/dagger/00000000/000001"}
        episodes.append(type(e)(type(e.meta).from_dict(meta), e.steps, e.fixed))
        w.append(episodes[-1])
    w.close()
    store.refresh()
    assert [e.meta.id for e in store.select()] == sorted(e.meta.id for e in episodes)
    assert [e.id for e in store.select()] != sorted(e.id for e in store.select())


def test_an_index_file_is_used_again_and_rebuilt_when_it_does_not_fit(root: Path, tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "cache" / "index.sqlite"
    with pytest.raises(StoreError, match=r"index .* cannot be opened"):
        open_store(root, index_path=file)
    file.parent.mkdir()
    first = opened(root, file)
    everything = first.select()
    first.close()

    again = open_store(root, index_path=file)
    assert again.position() == {"w": 2} and again.select() == everything  # without reading a record
    again.close()

    for damage in (b"not a database", file.read_bytes()[:3000]):
        for leftover in file.parent.iterdir():
            leftover.unlink()
        file.write_bytes(damage)
        rebuilt = open_store(root, index_path=file)
        assert rebuilt.position() == {}
        rebuilt.refresh()
        assert rebuilt.select() == everything
        rebuilt.close()

    other = open_store(tmp_path / "t", "a", create=True, index_path=file)
    assert other.position() == {} and other.select() == []


def test_entries_carry_what_the_record_says(root: Path) -> None:
    entry = opened(root).select(Query(kind="rollout"))[3]
    assert (entry.rows, entry.iou_max, entry.iou_final) == (3, pytest.approx(0.9), pytest.approx(0.6))
    assert entry.meta.policy_version == version(1, 1) and entry.meta.phase == "ppo"
    pair = opened(root).select(Query(kind="pairs"))[0]
    assert pair.iou_max is None
    assert pair.valid_rows == np.count_nonzero(make_episode("pairs", env=0).steps["label_valid"])


def test_records_that_cannot_be_read_to_the_end_leave_the_index_as_it_was(root: Path) -> None:
    store = opened(root)
    before = (store.position(), store.select())
    records = store.records()

    def broken() -> Iterator[Record]:
        yield from records
        raise StoreError("damaged")

    with pytest.raises(StoreError, match="damaged"):
        store.index.add(broken(), position={"w": 99}, anew=True)
    assert (store.position(), store.select()) == before
    assert store.index.add(iter(records), anew=True) == len(records) and store.select() == before[1]


def test_seeds_of_any_length_are_kept_to_the_last_digit(tmp_path: Path) -> None:
    seeds = [0, 2**63 - 1, 2**64 + 1, 3**80]
    store = open_store(tmp_path / "s", "a", create=True)
    with closing(store.writer("w")) as w:
        for env, seed in enumerate(seeds):
            episode = make_episode("pairs", env=env)
            meta = dataclasses.replace(episode.meta, scene_seed=seed, scene="\u00e9 \\ud800")
            w.append(dataclasses.replace(episode, meta=meta))
    store.refresh()
    assert [e.meta.scene_seed for e in store.select()] == seeds
    assert {e.meta.scene for e in store.select()} == {"\u00e9 \\ud800"}
