"""Describing, hashing and verifying a store."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from records import make_episode, version
from rich.console import Console

from common.episode import Episode
from common.errors import StoreError
from replay.inspect import content_sha256, print_info, store_info, verify_store
from replay.store import open_store


def fill(path: Path, batches: dict[str, list[Episode]]) -> Path:
    store = open_store(path, "a", create=True)
    for writer, episodes in batches.items():
        w = store.writer(writer)
        for e in episodes:
            w.append(e)
        w.close()
    store.close()
    return path


def scored(env: int, final: float, **more: object) -> Episode:
    return make_episode("rollout", env=env, rows=2, iou=np.array([0.5, final], np.float32), phase="ppo", **more)


def test_info_counts_what_is_committed(tmp_path: Path) -> None:
    first = [make_episode("pairs", env=i, rows=3) for i in range(2)] + [scored(0, 0.05, acted=version(2))]
    second = [scored(1, 1.0, acted=version(2)), scored(2, 0.96), make_episode("pairs", env=1, seed=9, rows=3)]
    path = fill(tmp_path / "s", {"a": first, "b": second})
    (path / "data" / "c-00000000.zarr").mkdir()
    info = json.loads(json.dumps(store_info(path)))
    assert (info["episodes"], info["rows"], info["segments"]) == (5, 12, 4)
    assert info["kinds"] == {"pairs": {"episodes": 2, "rows": 6}, "rollout": {"episodes": 3, "rows": 6}}
    assert info["phases"] == {"il": {"episodes": 2, "rows": 6}, "ppo": {"episodes": 3, "rows": 6}}
    assert info["policy_versions"] == {
        "none": {"episodes": 3, "rows": 8},
        "0.2.000000000000": {"episodes": 2, "rows": 4},
    }
    assert info["iou_histogram"] == [1, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    assert {w: v["commits"] for w, v in info["writers"].items()} == {"a": 2, "b": 2}
    assert (info["duplicates"], info["conflicts"], info["orphans"]) == (1, 1, 1)
    files = [p for p in path.glob("data/**/*") if p.is_file()]
    assert info["bytes"] == sum(p.stat().st_size for p in files)
    assert 0 <= info["age_s"] < 60 and info["first_commit"] <= info["last_commit"]

    console = Console(file=io.StringIO(), width=120)
    print_info(info, console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for text in (
        "5 episodes, 12 rows",
        "1 duplicates dropped",
        "0.2.000000000000",
        "0.9 - 1.0",
        info["content_sha256"],
    ):
        assert text in shown


def test_info_of_an_empty_store(tmp_path: Path) -> None:
    info = store_info(fill(tmp_path / "s", {}))
    assert (info["episodes"], info["bytes"], info["age_s"]) == (0, 0, None)
    print_info(info, Console(file=io.StringIO()))
    with pytest.raises(StoreError, match="does not exist"):
        store_info(tmp_path / "gone")


def test_content_hash_ignores_who_when_and_how_but_not_what(tmp_path: Path) -> None:
    episodes = [make_episode(env=i) for i in range(4)]
    one = content_sha256(fill(tmp_path / "a", {"w": episodes}))
    assert content_sha256(fill(tmp_path / "b", {"z": episodes[::-1][:3], "y": episodes[:2]})) == one
    assert store_info(tmp_path / "b")["content_sha256"] == one
    assert content_sha256(fill(tmp_path / "c", {"w": episodes[:3]})) != one
    changed = make_episode(env=0, d_star=np.array(9, np.float32))
    assert content_sha256(fill(tmp_path / "d", {"w": [changed, *episodes[1:]]})) != one


def test_verify_finds_a_flipped_bit_a_cut_and_a_missing_file(tmp_path: Path) -> None:
    path = fill(tmp_path / "s", {"w": [make_episode(size=40)]})
    assert verify_store(path) == []
    for name, damage in (("image/c.0.0.0.0", "flip"), ("mask/c.0.0", "cut"), ("low_f32/zarr.json", "gone")):
        file = path / "data" / "w-00000000.zarr" / name
        good = file.read_bytes()
        if damage == "flip":
            file.write_bytes(good[:100] + bytes([good[100] ^ 16]) + good[101:])
        elif damage == "cut":
            file.write_bytes(good[:-1])
        else:
            file.unlink()
        expected = {"flip": "crc32c", "cut": "bytes, the record says", "gone": "No such file"}[damage]
        (problem,) = verify_store(path)
        assert name in problem and expected in problem
        file.write_bytes(good)
    assert verify_store(path) == []
