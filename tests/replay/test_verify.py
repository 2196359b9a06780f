"""Every kind of damage is found and named; a whole store has none."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from records import make_episode

from common.errors import StoreError
from replay.pins import pin
from replay.record import encode_record, record_path
from replay.store import open_store
from replay.tombstones import Buried, publish_tombstone, tombstone_path
from replay.verify import find_faults


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Writers v and w; w/0 is taken out by a tombstone, and a pin holds w/1."""
    store = open_store(tmp_path / "s", "a", create=True)
    for name in "vw":
        w = store.writer(name, max_episodes=2)
        for env in range(2 if name == "v" else 4):
            w.append(make_episode("pairs" if name == "v" else "rollout", env=env, rows=2))
        w.close()
    publish_tombstone(store.root, [Buried("w", 0, "data/w-00000000.zarr")], "a test", {})
    pin(store.root, "mine", store.refresh(), "a test")
    store.close()
    return tmp_path / "s"


def kinds(root: Path, **more: float) -> list[tuple[str, str]]:
    return [(f.kind, f.path) for f in find_faults(root, **more)]


def change_record(root: Path, seq: int, **changed: object) -> None:
    path = record_path(root, "w", seq)
    body = json.loads(path.read_bytes())
    del body["crc32c"]
    path.write_bytes(encode_record(body | changed))


def test_a_flipped_bit_in_any_file_is_found_and_the_file_named(root: Path) -> None:
    seen: list[tuple[int, int]] = []
    assert find_faults(root, progress=lambda done, total: seen.append((done, total))) == []
    assert len(seen) == 3 and seen[-1][0] == seen[-1][1] > 0
    kind_of = {"data": "data", "commits": "record", "tombstones": "tombstone", "pins": "pin", "decisions": "decision"}
    files = [p for p in root.rglob("*") if p.is_file() and p.name not in ("store.json", ".lock")]
    # Files of v's segment stand for those of the others.
    for file in [p for p in files if "w-0000000" not in str(p)]:
        good = file.read_bytes()
        middle = len(good) // 2
        file.write_bytes(good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :])
        faults = find_faults(root)
        where = file.relative_to(root)
        first = [f for f in faults if f.kind == kind_of[where.parts[0]]]
        assert len(first) == 1 and str(where) in str(first[0]), where
        file.write_bytes(good)
    assert find_faults(root) == []


def test_missing_cut_and_additional_files_are_found(root: Path) -> None:
    segment = root / "data" / "v-00000000.zarr"
    (segment / "extra").write_text("x")
    (fault,) = find_faults(root)
    assert fault.kind == "data" and (fault.writer, fault.seq) == ("v", 0) and "names no such file" in fault.text
    (segment / "extra").unlink()
    array = segment / "low_f32" / "c.0.0"
    array.write_bytes(array.read_bytes()[:-3])
    assert "bytes, the record says" in find_faults(root)[0].text
    shutil.rmtree(segment)
    assert {f.kind for f in find_faults(root)} == {"data"}
    record_path(root, "w", 1).unlink()
    assert ("need", "pins/mine.json") in kinds(root)  # the last record of a writer is missed by those who know of it


@pytest.mark.parametrize("lie", ["ids", "places", "sha256", "iou_max", "outside", "absolute"])
def test_a_record_whose_checksum_holds_but_that_lies_is_found(root: Path, lie: str) -> None:
    episodes = json.loads(record_path(root, "w", 1).read_bytes())["episodes"]
    files = json.loads(record_path(root, "w", 1).read_bytes())["files"]
    if lie == "ids":
        change_record(root, 1, episodes=episodes[::-1])
    elif lie == "places":
        change_record(root, 1, episodes=[episodes[0] | {"rows": 3}, episodes[1]])
    elif lie == "sha256":
        change_record(root, 1, episodes=[episodes[0] | {"sha256": "0" * 64}, episodes[1]])
    elif lie == "iou_max":
        change_record(root, 1, episodes=[episodes[0] | {"iou_max": 2.0}, episodes[1]])
    elif lie == "outside":
        change_record(root, 1, segment="data/../../elsewhere")
    else:
        change_record(root, 1, files=files | {"/etc/passwd": {"bytes": 1, "crc32c": 1}})
    (fault, *_) = find_faults(root)
    expected = {
        "ids": "not those of the record",
        "places": "do not lie where",
        "sha256": "the record says 000000000000",
        "iou_max": "iou_max",
        "outside": "path in commit record",
        "absolute": "/etc/passwd",
    }
    assert expected[lie] in fault.text and fault.kind == ("record" if lie in ("outside", "absolute") else "data")


def test_leftovers_count_only_past_their_lease(root: Path) -> None:
    (root / "data" / "x-00000000.zarr" / "image").mkdir(parents=True)
    (root / "data" / ".gone-y").mkdir()
    for folder in ("commits/w", "pins", "tombstones", "."):
        (root / folder / ".a.json.0.tmp").touch()
    assert find_faults(root) == []
    for path in (root / "data" / ".gone-y", root / "pins" / ".a.json.0.tmp"):
        os.utime(path, (time.time() - 1e6,) * 2)
    assert kinds(root) == [("temp", "data/.gone-y"), ("temp", "pins/.a.json.0.tmp")]
    time.sleep(0.02)
    assert sorted(k for k, _ in kinds(root, lease_s=0.01)) == ["orphan"] + ["temp"] * 5
    (root / "commits" / "w" / "notes.txt").touch()
    (root / "data" / "notes.txt").touch()
    assert [k for k, _ in kinds(root) if k == "stray"] == ["stray"] * 2


def test_a_pruned_store_is_whole_and_a_missing_tombstone_is_a_fault(root: Path) -> None:
    record_path(root, "w", 0).unlink()
    assert find_faults(root) == []
    shutil.rmtree(root / "data" / "w-00000000.zarr")
    assert find_faults(root) == []
    publish_tombstone(root, [], "nothing", {})
    tombstone_path(root, 0).unlink()
    assert [k for k, _ in kinds(root)][:2] == ["tombstone", "gap"]
    with pytest.raises(StoreError, match="does not exist"):
        find_faults(root / "nowhere")
