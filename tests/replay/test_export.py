"""Exports, read back with the libraries they are meant for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import xarray as xr
import zarr
from records import make_episode, version

import replay.export as module
from common.episode import FIELDS
from common.errors import StoreError
from replay.dataset import open_dataset
from replay.export import export
from replay.store import open_store

PAIRS = [make_episode("pairs", env=env, rows=2 + env) for env in range(5)]
ROLLOUTS = [make_episode("rollout", env=env, rows=3, phase="ppo", acted=version(4)) for env in range(2)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    store = open_store(tmp_path / "s", "a", create=True)
    w = store.writer("w", max_episodes=2)
    for e in (*PAIRS, *ROLLOUTS):
        w.append(e)
    w.close()
    return tmp_path / "s"


def test_zarr_export_equals_the_dataset_and_is_plain(root: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", 3000)  # many chunks: they begin and end within episodes
    seen: list[tuple[int, int]] = []
    done = export(root, tmp_path / "out.zarr", "zarr", kind="pairs", progress=lambda *at: seen.append(at))
    assert (done["episodes"], done["rows"]) == (5, 20) and seen[-1] == (5, 5) and len(seen) > 1
    got, expected = xr.open_zarr(tmp_path / "out.zarr"), open_dataset(root, kind="pairs")
    assert set(got.variables) == set(expected.variables)
    for name, variable in expected.variables.items():
        assert got[name].dims == variable.dims, name
        np.testing.assert_array_equal(got[name].values, variable.values)
        if name in FIELDS:
            assert got[name].attrs == {"unit": FIELDS[str(name)].unit, "meaning": FIELDS[str(name)].meaning}
    assert zarr.open_group(tmp_path / "out.zarr", mode="r")["mask"].dtype == bool


def test_parquet_export_has_small_fields_and_provenance_of_all_kinds(root: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "EPISODES_PER_GROUP", 3)
    done = export(root, tmp_path / "out.parquet", "parquet")
    assert done["rows"] == 26 and done["bytes"] == (tmp_path / "out.parquet").stat().st_size
    file = pq.ParquetFile(tmp_path / "out.parquet")
    assert file.num_row_groups == 3
    table = file.read()
    assert table.num_rows == 26 and not {"image", "mask", "z", "match", "goal_image"} & set(table.column_names)
    row = {name: table.column(name).to_pylist() for name in table.column_names}
    for e in (*PAIRS, *ROLLOUTS):
        at = [k for k, i in enumerate(row["episode_id"]) if i == str(e.meta.id)]
        assert [row["row"][k] for k in at] == list(range(e.num_rows))
        poses = np.array([row["world_T_cam"][k] for k in at]).reshape(-1, 4, 4)
        np.testing.assert_array_equal(poses, e.steps["world_T_cam"])
        np.testing.assert_array_equal([row["d_star"][k] for k in at], np.repeat(e.fixed["d_star"], e.num_rows))
        rewards = None if "reward" not in e.steps else e.steps["reward"].tolist()
        assert [row["reward"][k] for k in at] == (rewards or [None] * e.num_rows)
        k = at[0]
        assert (row["kind"][k], row["phase"][k], row["env"][k]) == (e.meta.kind, e.meta.phase, e.meta.id.env)
        assert row["sha256"][k] == e.sha256()
        assert row["policy_version"][k] == (None if e.meta.policy_version is None else str(e.meta.policy_version))
    field = file.schema_arrow.field("world_T_cam")
    assert field.metadata[b"unit"] == b"m" and field.metadata[b"shape"] == b"[4, 4]"


def test_refusals_name_what_is_wrong(root: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"export kind = None: allowed is one of \['pairs', 'rollout'\]"):
        export(root, tmp_path / "x", "zarr")
    with pytest.raises(StoreError, match="no episode of kind = dagger"):
        export(root, tmp_path / "x", "parquet", kind="dagger")
    with pytest.raises(StoreError, match="export form"):
        export(root, tmp_path / "x", "csv")  # type: ignore[arg-type]
    (tmp_path / "x").touch()
    with pytest.raises(StoreError, match="export output"):
        export(root, tmp_path / "x", "parquet")
    with pytest.raises(StoreError, match="cannot be written"):
        export(root, tmp_path / "nowhere" / "x", "parquet")


@pytest.mark.parametrize("to", ["zarr", "parquet"])
def test_an_export_that_was_stopped_leaves_nothing_and_can_start_again(root: Path, tmp_path: Path, to) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(root, tmp_path / "out", to, kind="pairs", progress=stop)
    assert [p.name for p in tmp_path.iterdir()] == ["s"]
    (tmp_path / ".out.partial").mkdir()  # left by a kill
    assert export(root, tmp_path / "out", to, kind="pairs", phase="il")["episodes"] == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "s"]
