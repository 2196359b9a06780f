"""One read over segments of different layouts gives what every episode holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from records import make_episode

from common.errors import StoreError
from replay.store import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store(tmp_path / "s", "a", create=True)
    w = store.writer("w", max_episodes=2)
    for i in range(4):
        w.append(make_episode("dagger", env=i, rows=3 + i, size=40))
        w.append(make_episode("pairs", env=i, rows=4, size=40))
    w.close()
    store.refresh()
    return store


@pytest.mark.parametrize("ram_bytes", [0, 1_000_000])
def test_rows_of_two_layouts_come_in_the_order_asked_for(store: Store, ram_bytes: int) -> None:
    store = open_store(store.root, ram_bytes=ram_bytes)
    store.refresh()
    episodes = store.select()
    assert len({e.segment for e in episodes}) == 4 and {e.meta.kind for e in episodes} == {"dagger", "pairs"}
    rng = np.random.default_rng(5)
    index = rng.integers(0, len(episodes), 50)
    rows = rng.integers(0, 3, 50)
    whole = [store.read_episode(e) for e in episodes]
    names = ["image", "mask", "match", "expert_twist", "label_valid", "world_T_cam"]
    got = store.read_rows(names, episodes, index, rows)
    assert list(got) == names
    for name in names:
        expected = np.stack([whole[k].steps[name][r] for k, r in zip(index, rows, strict=True)])
        assert got[name].dtype == expected.dtype and got[name].tobytes() == expected.tobytes(), name
        assert got[name].flags.c_contiguous and got[name].flags.writeable
    fixed = store.read_fixed(["goal_image", "d_star"], episodes)
    for name, values in fixed.items():
        np.testing.assert_array_equal(values, np.stack([e.fixed[name] for e in whole]))


def test_a_field_that_one_layout_lacks_is_named(store: Store) -> None:
    episodes = store.select()
    index = np.arange(len(episodes))
    with pytest.raises(StoreError, match=r"field of segment .* = 'action'"):
        store.read_rows(["action"], episodes, index, np.zeros_like(index))
    with pytest.raises(StoreError, match="field image cannot be read: no episode"):
        store.read_rows(["image"], [], index[:0], index[:0])


@pytest.mark.parametrize("row", [-1, 99])
def test_a_row_beyond_the_segment_is_refused_before_memory_is_touched(store: Store, row: int) -> None:
    source = store.numbering.numbers([store.select()[0].segment] * 2)
    with pytest.raises(StoreError, match=rf"row of .* = {row}: allowed is 0 \.\. "):
        store.read_at(["image"], source, np.array([0, row]), store.numbering)


def test_a_segment_that_no_record_names_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match=r"segment data/x\.zarr is not in store"):
        store.segment("data/x.zarr")
