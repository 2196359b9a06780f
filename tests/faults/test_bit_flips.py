"""One flipped bit in any file of a store is found and the file named; nobody is shown anything wrong."""

from __future__ import annotations

import secrets
import shutil
import sqlite3
from pathlib import Path

import pytest
from damage import episode_of, make_store, use

from common.errors import StoreError
from common.rng import Purpose, philox
from replay.store import open_store
from replay.verify import find_faults

pytestmark = pytest.mark.faults
# One file of each kind -> how many of its bits are flipped, one at a time.
KINDS = {
    "store.json": 16,
    "commits/w/00000001.json": 6,
    "tombstones/00000000.json": 6,
    "pins/mine.json": 6,
    "decisions/00000000.json": 10,
    "data/w-00000001.zarr/zarr.json": 6,
    "data/w-00000001.zarr/image/zarr.json": 4,
    "data/w-00000001.zarr/image/c.0.0.0.0": 6,
    "data/w-00000001.zarr/mask/c.0.0": 6,
    "data/w-00000001.zarr/low_f32/c.0.0": 6,
    "data/w-00000001.zarr/low_f32_column/c.0": 4,
    "data/w-00000001.zarr/ep_i64/c.0.0": 6,
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_store(tmp_path_factory.mktemp("good") / "s")
    assert use(root) == [] and find_faults(root) == []
    return root


def positions(size: int, count: int, seed: int) -> list[int]:
    """Bits of a file: its first, its last, and others anywhere between."""
    return [0, 8 * size - 1, *philox(seed, Purpose.SAMPLER).integers(8 * size, size=count - 2).tolist()]


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def named_by(root: Path) -> str:
    """Where damage was found, in words; "" where none was."""
    try:
        return "\n".join(map(str, find_faults(root)))
    except StoreError as error:
        return str(error)


@pytest.mark.parametrize("name", KINDS)
def test_a_flipped_bit_is_found_and_never_read(good: Path, tmp_path: Path, name: str) -> None:
    root = tmp_path / "s"
    shutil.copytree(good, root)
    seed = secrets.randbits(32)
    print(f"seed: {seed}")
    whole = (root / name).read_bytes()
    for bit in positions(len(whole), KINDS[name], seed):
        flip(root / name, bit)
        assert name in named_by(root), f"bit {bit} of {name}: {named_by(root)!r}"
        # Whatever is shown is right (`use` looks at all of it).
        use(root)
        (root / name).write_bytes(whole)
    assert use(root) == [] and find_faults(root) == []


def test_the_shard_index_of_an_image_array_is_looked_at_too(good: Path, tmp_path: Path) -> None:
    root = tmp_path / "s"
    shutil.copytree(good, root)
    array = root / "data/w-00000001.zarr/image/c.0.0.0.0"
    whole = array.read_bytes()
    for bit in (8 * len(whole) - 8, 8 * len(whole) - 60):
        flip(array, bit)
        assert str(array) in named_by(root)
        assert any(f"shard index of {array} is damaged" in error for error in use(root)), use(root)
        array.write_bytes(whole)


def test_a_damaged_index_is_built_anew(good: Path, tmp_path: Path) -> None:
    seed = secrets.randbits(32)
    print(f"seed: {seed}")
    index = tmp_path / "index.sqlite"
    assert use(good, index) == []
    whole = index.read_bytes()
    for bit in positions(len(whole), 14, seed):
        flip(index, bit)
        assert use(good, index) == [], f"bit {bit}"
        assert named_by(good) == ""


def test_an_index_whose_numbers_were_changed_is_built_anew(good: Path, tmp_path: Path) -> None:
    """SQLite itself takes such a file for whole."""
    index = tmp_path / "index.sqlite"
    assert use(good, index) == []
    with sqlite3.connect(index) as db:
        db.execute("UPDATE episodes SET sha256 = 'x', rows = rows + 1, valid_rows = 0")
    db.close()
    assert use(good, index) == []


def test_a_whole_index_is_used_again_and_one_that_was_not_closed_is_not(good: Path, tmp_path: Path) -> None:
    root, index = tmp_path / "s", tmp_path / "index.sqlite"
    shutil.copytree(good, root)
    shown = 0
    for more in (0, 1, 0):
        store = open_store(root, "a", index_path=index)
        assert len(store.select()) == shown  # without a refresh
        if more:
            writer = store.writer("x")
            writer.append(episode_of(0))
            writer.close()
        store.refresh()
        shown = len(store.select())
        store.close()
    assert shown == 3
    store = open_store(root, "a", index_path=index)
    assert len(store.select()) == 3
    writer = store.writer("x")
    writer.append(episode_of(3))
    writer.close()
    store.refresh()
    killed = tmp_path / "killed.sqlite"  # its file as it would be if the reader died now
    for suffix in ("", "-wal", "-shm", ".sum"):
        if (part := index.with_name(index.name + suffix)).exists():
            shutil.copyfile(part, killed.with_name(killed.name + suffix))
    store.close()
    store = open_store(root, index_path=killed)
    assert store.select() == []
    store.close()
