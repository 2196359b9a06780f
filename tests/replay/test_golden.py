"""A store of format version 1 as it was written once: all later code must read it, to the bit."""

from __future__ import annotations

import json
import runpy
import sys
import tarfile
from pathlib import Path

import pytest

from common.episode import KINDS
from replay.dataset import open_dataset
from replay.inspect import content_sha256
from replay.merge import merge
from replay.pins import read_pins
from replay.store import open_store
from replay.verify import find_faults

GOLDEN = Path(__file__).parent / "golden_v1"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "open_a_store.py"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    with tarfile.open(GOLDEN / "store.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "store"


def test_the_golden_store_is_small() -> None:
    assert sum(p.stat().st_size for p in GOLDEN.iterdir()) < 100_000


def test_every_episode_reads_back_with_its_hash(root: Path) -> None:
    store = open_store(root)
    assert store.refresh() == EXPECTED["position"]
    entries = store.select()
    assert {e.id: e.sha256 for e in entries} == EXPECTED["episodes"] and len(entries) == 8
    assert {e.id: store.read_episode(e).sha256() for e in entries} == EXPECTED["episodes"]
    assert {e.meta.kind for e in entries} == set(KINDS)
    assert content_sha256(root) == EXPECTED["content_sha256"]
    # A position from before there were tombstones; one record of it is deleted, the other one still lies there.
    assert store.refresh(upto=EXPECTED["older_position"]) == EXPECTED["older_position"]
    older = {e.id: store.read_episode(e).sha256() for e in store.select()}
    assert older == EXPECTED["older_episodes"] and len(older) == 9
    assert [(p.name, p.phases) for p in read_pins(root)] == [("checkpoint-00000001", ())]


def test_it_is_whole_and_all_that_handles_stores_takes_it(root: Path, tmp_path: Path) -> None:
    assert find_faults(root) == []
    merge([root], tmp_path / "again")
    assert content_sha256(tmp_path / "again") == EXPECTED["content_sha256"]
    for kind in KINDS:
        assert open_dataset(root, kind=kind).sizes["episode"] == 2
    writer = open_store(root, "a").writer("v.1")
    assert writer.seq == 2
    writer.close()


def test_the_example_opens_it(root: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(root)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    out = capsys.readouterr().out
    for text in ("'row': ", "'low_f64_column': 16", "unit of world_T_cam: m", "goal_image", "rows, collected in phase"):
        assert text in out
