"""What the dead leave behind stands in nobody's way: temporary files, locks, folders, stores half made."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import pytest
from damage import episode_of, make_store, use
from records import make_episode

from common.errors import StoreError
from replay.merge import merge
from replay.pins import pin, unpin
from replay.repair import repair
from replay.retention import Retention, plan_prune, prune, sweep
from replay.store import open_store
from replay.verify import find_faults

pytestmark = pytest.mark.faults
OLD = time.time() - 1e6
TEMPORARY = ".00000004.json.0123456789abcdef.tmp"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_store(tmp_path / "s")


def leave(root: Path) -> None:
    """Everything that a kill at the worst moment can leave, and more."""
    for folder in ("commits/w", "commits/dead", "tombstones", "pins", "."):
        (root / folder).mkdir(exist_ok=True)
        (root / folder / TEMPORARY).write_bytes(b'{"torn')
    (root / ".store.json.0123.tmp").write_bytes(b"")
    (root / "pins" / ".lock").write_bytes(b"left by a process that is gone")
    for name in ("w-00000004.zarr", "w-00000004-1.zarr", ".gone-w-00000000.zarr"):
        (root / "data" / name / "image").mkdir(parents=True)
        (root / "data" / name / "image" / "c.0.0.0.0").write_bytes(b"half an image")
    for path in root.rglob("*"):
        if path.name.startswith(".") or "00000004" in str(path):
            os.utime(path, (OLD, OLD))


def test_every_operation_goes_on_beside_them_and_repair_or_sweep_takes_them_away(root: Path, tmp_path: Path) -> None:
    leave(root)
    assert use(root) == []
    store = open_store(root, "a", create=True)
    writer = store.writer("w", max_episodes=1)
    (ack,) = writer.append(make_episode("dagger", env=9, rows=2, size=38))
    assert ack.seq == 4 and open_store(root, "a").writer("dead").seq == 0
    pin(root, "mine", store.refresh(), "again")
    assert len(store.select()) == 3
    assert prune(store, plan_prune(store, Retention(newest_rows=0))) is None  # all is pinned
    unpin(root, "mine")
    assert merge([root], tmp_path / "merged").episodes == 3
    swept = sweep(store, grace_s=0.0)
    assert swept.uncommitted == 3 and swept.deleted == 1
    assert {f.kind for f in find_faults(root)} == {"temp"}
    assert repair(root).lost == () and find_faults(root) == []


def test_a_pin_that_is_being_made_by_a_living_process_is_waited_for_and_by_a_dead_one_is_not(root: Path) -> None:
    child = os.fork()
    if child == 0:
        with open(root / "pins" / ".lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    begin = time.monotonic()
    unpin(root, "mine")
    store = open_store(root, "a")
    assert sweep(store, grace_s=0.0).deleted == 1 and time.monotonic() - begin < 30.0


@pytest.mark.parametrize("torn", ["nothing", "temporary", "racing"])
def test_a_store_that_was_half_made_is_made(tmp_path: Path, torn: str) -> None:
    root = tmp_path / "s"
    root.mkdir()
    if torn != "nothing":
        (root / ".store.json.0123.tmp").write_bytes(b'{"format": "servo')
    if torn == "racing":
        open_store(root, "a", create=True).close()
        for name in ("data", "commits"):
            (root / name).rmdir()
    store = open_store(root, "a", create=True)
    writer = store.writer("w")
    writer.append(episode_of(0))
    writer.close()
    store.refresh()
    assert len(store.select()) == 1 and find_faults(root) == []


@pytest.mark.parametrize("what", ["file", "link", "broken link"])
def test_what_does_not_belong_there_stops_no_sweep(root: Path, tmp_path: Path, what: str) -> None:
    """It is left alone, and the verification names it."""
    stranger, elsewhere = root / "data" / "x-00000000.zarr", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").write_text("not the store's")
    if what == "file":
        stranger.write_text("x")
    else:
        stranger.symlink_to(elsewhere if what == "link" else tmp_path / "nowhere")
    os.utime(stranger, (OLD, OLD), follow_symlinks=False)
    os.utime(elsewhere / "mine", (OLD, OLD))
    os.utime(elsewhere, (OLD, OLD))
    store = open_store(root, "a")
    swept = sweep(store, grace_s=0.0, lease_s=1.0)
    assert sweep(store, grace_s=0.0, lease_s=1.0).deleted == 0 and swept.deleted == 1
    assert (elsewhere / "mine").exists()
    assert [(f.kind, f.path) for f in find_faults(root)] == [("stray", "data/x-00000000.zarr")]
    assert repair(root).lost == () and find_faults(root) == [] and (elsewhere / "mine").exists()


@pytest.mark.parametrize("number", [99_999_999, 40_000_000])
@pytest.mark.parametrize("folder", ["commits/w", "tombstones"])
def test_a_number_far_beyond_the_others_is_named_and_nobody_counts_up_to_it(
    root: Path, folder: str, number: int
) -> None:
    begin = time.monotonic()
    (root / folder / f"{number}.json").write_bytes(b"what is this")
    with pytest.raises(StoreError, match=r"commits/w/00000004\.json|tombstones/00000002\.json"):
        open_store(root).refresh()
    if folder == "commits/w":
        # What follows it would be acknowledged, and never be read.
        with pytest.raises(StoreError, match="numbers of the records of writer w"):
            open_store(root, "a").writer("w")
    assert [(f.kind, f.path) for f in find_faults(root) if str(number) in f.path] == [
        ("stray", f"{folder}/{number}.json")
    ]
    assert repair(root).lost == ()
    assert time.monotonic() - begin < 30.0
