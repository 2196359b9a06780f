"""Segments are standard zarr v3: other readers see what we wrote, and damage is noticed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from records import make_episode

from common.episode import FIELDS, KINDS, Episode
from common.errors import StoreError
from replay.layout import array_json, column_labels, plan, signature
from replay.segment import Segment, Usage, file_crc32c
from replay.segment_files import shard_index
from replay.store import open_store


def write(folder: Path, episodes: list[Episode]) -> Path:
    store = open_store(folder / "s", "a", create=True)
    w = store.writer("w")
    for e in episodes:
        w.append(e)
    w.close()
    store.refresh()
    (path,) = {e.segment for e in store.select()}
    return store.root / path


def expected_field(episodes: list[Episode], name: str) -> np.ndarray:
    if FIELDS[name].level == "step":
        return np.concatenate([e.steps[name] for e in episodes])
    return np.stack([e.fixed[name] for e in episodes])


@pytest.mark.parametrize("kind", KINDS)
def test_zarr_python_reads_every_array_identically(tmp_path: Path, kind: str) -> None:
    # 40 pixels: image rows are large enough for a shard with one chunk per row; 20 rows of bits are padded.
    episodes = [make_episode(kind, env=i, rows=2 + i, size=40) for i in range(3)]
    path = write(tmp_path, episodes)
    group = zarr.open_group(path, mode="r")
    seen = set()
    for spec in plan(signature(episodes[0])):
        array = group[spec.name]
        assert array.metadata.dimension_names == ("row" if spec.level == "step" else "episode", *spec.dims)
        if spec.sharded:
            assert array.chunks == (1, *spec.shape) and array.shards == array.shape
        stored = array[:]
        if spec.form == "columns":
            assert list(group[spec.dims[0]][:]) == column_labels(spec)
            assert set(array.attrs["units"]) == set(spec.fields)
        else:
            assert array.attrs["unit"] == FIELDS[spec.name].unit and array.attrs["meaning"]
        for field in spec.fields:
            if field in FIELDS:
                seen.add(field)
                got, expected = spec.decode(stored, field), expected_field(episodes, field)
                assert got.dtype == expected.dtype
                assert got.tobytes() == expected.tobytes(), field
    assert seen == set(signature(episodes[0]))
    assert group["ep_i64"][:].tolist() == [[0, 2], [2, 3], [5, 4]]
    if kind in ("pairs", "dagger"):
        assert group["image"].shards is not None
        np.testing.assert_array_equal(group["image"][4], expected_field(episodes, "image")[4])


def test_metadata_is_what_zarr_python_would_write(tmp_path: Path) -> None:
    """Ours parses to the metadata that zarr-python makes for an array created with the same properties."""
    episodes = [make_episode("dagger", size=40)]
    path = write(tmp_path, episodes)
    for spec in plan(signature(episodes[0])):
        shape = tuple(json.loads((path / spec.name / "zarr.json").read_text())["shape"])
        made = zarr.create_array(
            zarr.storage.MemoryStore(),
            shape=shape,
            dtype=spec.dtype,
            chunks=(1, *shape[1:]) if spec.sharded else shape,
            shards=shape if spec.sharded else None,
            compressors=None if spec.sharded else zarr.codecs.Crc32cCodec(),
            chunk_key_encoding={"name": "default", "separator": "."},
            dimension_names=["row" if spec.level == "step" else "episode", *spec.dims],
            attributes=spec.attributes,
        )
        assert zarr.open_array(path / spec.name, mode="r").metadata == made.metadata


def test_xarray_opens_a_segment_both_ways(tmp_path: Path) -> None:
    episodes = [make_episode("dagger", env=i, rows=3, size=40) for i in range(2)]
    path = write(tmp_path, episodes)
    for dataset in (xr.open_zarr(path), xr.open_dataset(path, engine="zarr")):
        assert dataset.sizes["row"] == 6 and dataset.sizes["episode"] == 2
        assert dataset.image.dtype == np.uint8
        np.testing.assert_array_equal(dataset.image.values, expected_field(episodes, "image"))
        column = dataset.low_f32.sel(low_f32_column="expert_twist[2]").values
        np.testing.assert_array_equal(column, expected_field(episodes, "expert_twist")[:, 2])
        assert dataset.low_f32.attrs["units"]["expert_twist"] == "1/s"
        assert dataset.attrs["episode_id"] == [str(e.meta.id) for e in episodes]


def test_zarr_python_notices_a_flipped_bit_in_a_column_array(tmp_path: Path) -> None:
    """The crc32c codec is real: a chunk that does not fit it is refused by another reader too."""
    path = write(tmp_path, [make_episode("rollout")])
    chunk = path / "low_f32" / "c.0.0"
    data = bytearray(chunk.read_bytes())
    data[5] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(ValueError, match="checksum"):
        zarr.open_group(path, mode="r")["low_f32"][:]


def test_metadata_is_consolidated_and_matches_the_arrays(tmp_path: Path) -> None:
    path = write(tmp_path, [make_episode("rollout", size=40)])
    consolidated = json.loads((path / "zarr.json").read_text())["consolidated_metadata"]["metadata"]
    folders = {p.name for p in path.iterdir() if p.is_dir()}
    assert folders == set(consolidated)
    for name in folders:
        assert json.loads((path / name / "zarr.json").read_text()) == consolidated[name]


def test_recorded_sums_are_those_of_the_files(tmp_path: Path) -> None:
    path = write(tmp_path, [make_episode(env=i, size=40) for i in range(2)])
    (record,) = (path.parents[1] / "commits" / "w").glob("*.json")
    files = json.loads(record.read_text())["files"]
    on_disk = {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()}
    assert set(files) == on_disk
    for name, recorded in files.items():
        assert (recorded["bytes"], recorded["crc32c"]) == file_crc32c(path / name)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("cut", r"size of .*image/c\.0\.0\.0\.0 = "),
        ("index", "shard index of .* is damaged"),
        ("gone", "cannot be read"),
        ("root", r"segment .* cannot be read: JSONDecodeError"),
        ("format", "format of segment"),
    ],
)
def test_damage_that_would_crash_a_reader_is_an_error(tmp_path: Path, damage: str, message: str) -> None:
    path = write(tmp_path, [make_episode(size=40)])
    shard, root = path / "image" / "c.0.0.0.0", path / "zarr.json"
    data = bytearray(shard.read_bytes())
    if damage == "cut":
        shard.write_bytes(data[:-1])
    elif damage == "index":
        data[-20] ^= 1
        shard.write_bytes(data)
    elif damage == "gone":
        shard.unlink()
    elif damage == "root":
        root.write_text("{")
    else:
        root.write_text(root.read_text().replace("servofleet-segment", "something"))
    with pytest.raises(StoreError, match=message):
        Segment(path).stored("image")


def test_shard_index_is_offsets_and_sizes() -> None:
    pairs = np.frombuffer(shard_index(3, 7), "<u8").reshape(3, 2)
    assert pairs.tolist() == [[0, 7], [7, 7], [14, 7]]


def test_rows_are_sharded_only_where_they_are_large() -> None:
    fields = signature(make_episode("dagger", size=40))
    codecs = {s.name: array_json(s, 5)["codecs"][0]["name"] for s in plan(fields)}
    assert {n for n, c in codecs.items() if c == "sharding_indexed"} == {"image", "goal_image"}


def test_a_file_is_checked_when_it_is_opened_first_and_only_then(tmp_path: Path, monkeypatch) -> None:
    path = write(tmp_path, [make_episode(size=40)])
    shard = path / "image" / "c.0.0.0.0"
    data = bytearray(shard.read_bytes())
    data[1000] ^= 1
    shard.write_bytes(data)
    store = open_store(path.parents[1])
    store.refresh()
    (entry,) = store.select()
    row = np.array([0])
    assert store.read_rows(["mask", "expert_twist"], [entry], row, row)["mask"].any()  # other files are whole
    for _ in range(2):
        with pytest.raises(StoreError, match=r"crc32c of .*image/c\.0\.0\.0\.0 = .*the file is damaged"):
            store.read_rows(["image"], [entry], row, row)
        with pytest.raises(StoreError, match="the file is damaged"):
            store.read_episode(entry)
    data[1000] ^= 1
    shard.write_bytes(data)
    checks: list[str] = []
    real = Segment._check
    monkeypatch.setattr(Segment, "_check", lambda self, name, *rest: (checks.append(name), real(self, name, *rest))[1])
    store.read_rows(["image"], [entry], row, row)
    store._segments.close()
    store.read_rows(["image"], [entry], row, row)
    assert checks == ["image/c.0.0.0.0"]


def test_a_column_array_is_checked_by_its_own_sum_where_no_record_is_known(tmp_path: Path) -> None:
    path = write(tmp_path, [make_episode("rollout")])
    chunk = path / "low_f32" / "c.0.0"
    data = bytearray(chunk.read_bytes())
    data[5] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(StoreError, match=r"crc32c of .*low_f32"):
        Segment(path).stored("low_f32")
    Segment(path).stored("low_f64")


def test_a_segment_that_was_closed_while_it_is_read_holds_nothing(tmp_path: Path) -> None:
    usage = Usage()
    segment = Segment(write(tmp_path, [make_episode()]), usage)
    kept = segment.stored("image")
    assert (usage.files, usage.cached_bytes) == (1, 0)
    segment.stored("mask", cache=True)
    assert usage.files == 1 and usage.cached_bytes == segment.stored("mask").nbytes
    segment.close()
    assert (usage.files, usage.cached_bytes) == (0, 0)
    np.testing.assert_array_equal(segment.stored("image"), kept)
    assert usage.files == 0
