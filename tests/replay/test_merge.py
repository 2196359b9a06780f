"""Merging: everything once, whoever has it; other schemas refused; stopped merges go on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from records import assert_same, make_episode

import replay.merge as module
from common.episode import Episode
from common.errors import StoreError
from replay.inspect import content_sha256, store_info
from replay.merge import merge
from replay.record import encode_record, record_path
from replay.store import open_store
from replay.verify import find_faults


def fill(path: Path, episodes: list[Episode], **limits: int) -> Path:
    store = open_store(path, "a", create=True)
    w = store.writer("w", **limits)
    for e in episodes:
        w.append(e)
    w.close()
    return path


def mixed(envs: range) -> list[Episode]:
    return [make_episode("pairs" if env % 2 else "rollout", env=env, rows=1 + env) for env in envs]


def test_every_episode_once_and_the_same_content_in_any_order(tmp_path: Path) -> None:
    a, b = fill(tmp_path / "a", mixed(range(4)), max_episodes=1), fill(tmp_path / "b", mixed(range(2, 7)))
    seen: list[tuple[int, int]] = []
    done = merge([a, b], tmp_path / "c", progress=lambda *at: seen.append(at))
    assert (done.episodes, done.copied, done.duplicates, done.conflicts) == (7, 7, 2, ())
    assert seen[-1] == (9, 9)
    merge([b, a], tmp_path / "d")
    whole = fill(tmp_path / "e", mixed(range(7)))
    assert content_sha256(tmp_path / "c") == content_sha256(tmp_path / "d") == content_sha256(whole)
    assert find_faults(tmp_path / "c") == []
    store = open_store(tmp_path / "c")
    store.refresh()
    for e in mixed(range(7)):
        assert_same(store.read_episode(str(e.meta.id)), e)
    again = merge([a, b], tmp_path / "c")
    assert (again.episodes, again.copied, store_info(tmp_path / "c")["duplicates"]) == (7, 0, 0)


def test_of_different_copies_the_first_source_stands_and_is_named(tmp_path: Path) -> None:
    a, b = fill(tmp_path / "a", [make_episode(seed=1)]), fill(tmp_path / "b", [make_episode(seed=2)])
    done = merge([b, a], tmp_path / "c")
    assert done.conflicts == ("run-a/0000/dagger/00000000/000000",)
    assert content_sha256(tmp_path / "c") == content_sha256(b)


def test_other_shapes_are_refused_by_name_before_anything_is_written(tmp_path: Path) -> None:
    a = fill(tmp_path / "a", [make_episode(env=0), make_episode("rollout", env=0)])
    b = fill(tmp_path / "b", [make_episode(env=1, size=24)])
    with pytest.raises(
        StoreError, match=r"shape of field goal_image of dagger records in store .*b'?.*24.*store .*a: "
    ):
        merge([a, b], tmp_path / "c")
    assert not (tmp_path / "c").exists()
    fill(tmp_path / "c", [make_episode(env=2, size=24)])
    with pytest.raises(StoreError, match="shape of field"):
        merge([a], tmp_path / "c")
    merge([a, fill(tmp_path / "d", [make_episode("pairs", size=24)])], tmp_path / "e")
    for sources in ([], [a, tmp_path / "e" / ".." / "c"]):
        with pytest.raises(StoreError, match="merge output"):
            merge(sources, tmp_path / "c")


@pytest.mark.parametrize("damage", ["data", "hash"])
def test_a_damaged_source_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    a = fill(tmp_path / "a", [make_episode(size=40)])
    if damage == "data":
        image = a / "data" / "w-00000000.zarr" / "goal_image" / "c.0.0.0.0"
        image.write_bytes(bytes([image.read_bytes()[0] ^ 1]) + image.read_bytes()[1:])
    else:
        record = record_path(a, "w", 0)
        body = json.loads(record.read_bytes())
        del body["crc32c"]
        body["episodes"][0]["sha256"] = "0" * 64
        record.write_bytes(encode_record(body))
    named = {"data": "goal_image", "hash": "content of episode run-a/0000/dagger/00000000/000000 in store"}
    with pytest.raises(StoreError, match=named[damage]):
        merge([a], tmp_path / "c")


def test_a_merge_that_was_stopped_is_valid_and_goes_on(tmp_path: Path, monkeypatch) -> None:
    a = fill(tmp_path / "a", mixed(range(6)))

    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    store = open_store(tmp_path / "c", "a", create=True)
    writer = store.writer
    monkeypatch.setattr(type(store), "writer", lambda self, name: writer(name, max_episodes=1))
    with pytest.raises(KeyboardInterrupt):
        merge([a], tmp_path / "c", progress=stop)
    monkeypatch.undo()
    assert find_faults(tmp_path / "c") == [] and store_info(tmp_path / "c")["episodes"] == 4
    assert merge([a], tmp_path / "c").copied == 2
    assert content_sha256(tmp_path / "c") == content_sha256(a)


def test_a_result_that_is_not_whole_is_an_error(tmp_path: Path, monkeypatch) -> None:
    a = fill(tmp_path / "a", mixed(range(2)))
    real = module._copy

    def copy_and_damage(*given: object) -> object:
        done = real(*given)  # type: ignore[arg-type]
        (file, *_) = (tmp_path / "c").glob("data/*/ep_f64/c*")
        file.write_bytes(file.read_bytes()[:-1])
        return done

    monkeypatch.setattr(module, "_copy", copy_and_damage)
    with pytest.raises(StoreError, match=r"not whole after the merge.*ep_f64"):
        merge([a], tmp_path / "c")
