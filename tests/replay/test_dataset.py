"""The xarray view: named fields with units, of a segment and of a store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from records import make_episode

from common.episode import FIELDS, Episode
from common.errors import StoreError
from replay.dataset import open_dataset
from replay.store import open_store


def fill(path: Path, episodes: list[Episode]) -> Path:
    store = open_store(path, "a", create=True)
    w = store.writer("w", max_episodes=3)
    for e in episodes:
        w.append(e)
    w.close()
    store.refresh()
    return store.root / store.select()[0].segment


@pytest.mark.parametrize("of", ["segment", "store"])
@pytest.mark.parametrize("kind", ["dagger", "rollout"])
def test_every_field_has_its_values_dims_unit_and_meaning(tmp_path: Path, kind: str, of: str) -> None:
    episodes = [make_episode(kind, env=i, rows=2 + i) for i in range(3)]
    segment = fill(tmp_path / "s", episodes)
    dataset = open_dataset(segment if of == "segment" else tmp_path / "s")
    assert set(dataset.data_vars) == set(episodes[0].steps) | set(episodes[0].fixed)
    assert dataset.ep_len.values.tolist() == [2, 3, 4] and dataset.ep_start.values.tolist() == [0, 2, 5]
    assert dataset.episode_id.values.tolist() == [str(e.meta.id) for e in episodes]
    for name, variable in dataset.data_vars.items():
        field = FIELDS[str(name)]
        assert variable.attrs == {"unit": field.unit, "meaning": field.meaning}
        assert variable.dtype == np.dtype(field.dtype)
        if field.level == "step":
            expected = np.concatenate([e.steps[str(name)] for e in episodes])
        else:
            expected = np.stack([e.fixed[str(name)] for e in episodes])
        np.testing.assert_array_equal(variable.values, expected)
    picked = dataset.sel(row=(dataset.row_episode == 2) & (dataset.row_in_episode == 1))
    np.testing.assert_array_equal(picked.world_T_cam.values[0], episodes[2].steps["world_T_cam"][1])
    assert dataset.world_T_cam.dims == ("row", "world_T_cam_axis0", "world_T_cam_axis1")


def test_images_have_named_axes(tmp_path: Path) -> None:
    dataset = open_dataset(fill(tmp_path / "s", [make_episode()]), fields=["image", "mask", "match"])
    assert dataset.image.dims == ("row", "height", "width", "channel")
    assert dataset["mask"].dims == ("row", "height", "width")
    assert dataset.match.dims == ("row", "grid_0", "grid_1", "xy")


def test_a_store_is_sorted_by_id_and_shows_duplicates_once(tmp_path: Path) -> None:
    fill(tmp_path / "s", [make_episode("pairs", env=i) for i in (4, 2, 3, 2, 0)])
    dataset = open_dataset(tmp_path / "s", fields=["expert_twist", "d_star"])
    assert [str(i)[-1] for i in dataset.episode_id.values] == ["0", "2", "3", "4"]
    expected = np.concatenate([make_episode("pairs", env=i).steps["expert_twist"] for i in (0, 2, 3, 4)])
    np.testing.assert_array_equal(dataset.expert_twist.values, expected)


def test_what_does_not_go_together_is_named(tmp_path: Path) -> None:
    segment = fill(tmp_path / "s", [make_episode("pairs"), make_episode("dagger")])
    with pytest.raises(StoreError, match=r"kind = None: allowed is one of \['dagger', 'pairs'\]"):
        open_dataset(tmp_path / "s")
    assert open_dataset(tmp_path / "s", kind="pairs").sizes["row"] == 5
    with pytest.raises(StoreError, match="no episode of kind = rollout"):
        open_dataset(tmp_path / "s", kind="rollout")
    with pytest.raises(StoreError, match="field = 'imag'"):
        open_dataset(tmp_path / "s", kind="pairs", fields=["imag"])
    with pytest.raises(StoreError, match="None where the path is a segment"):
        open_dataset(segment, kind="pairs")
    with pytest.raises(StoreError, match="does not exist"):
        open_dataset(tmp_path / "gone")
