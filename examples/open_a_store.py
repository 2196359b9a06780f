"""Open a replay store with plain zarr, plain xarray, and our own reader.

python examples/open_a_store.py runs/quickstart-0/store
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import xarray as xr
import zarr

from replay.dataset import open_dataset
from replay.store import open_store


def main(path: str) -> None:
    """Show one segment of the store at `path` three times over."""
    store = open_store(path)
    store.refresh()
    entry = store.select()[0]
    segment = Path(path) / entry.segment

    # 1. zarr-python: a segment is a standard zarr v3 group. Small fields of one dtype are columns of one array.
    group = zarr.open_group(segment, mode="r")
    for name, array in sorted(group.arrays()):
        print(f"{name:24} {array.dtype!s:10} {dict(zip(array.metadata.dimension_names, array.shape, strict=True))}")

    # 2. xarray: the columns have names, so one field is a selection.
    dataset = xr.open_zarr(segment)
    poses = dataset["low_f64"].sel(low_f64_column=[f"world_T_cam[{i},{j}]" for i in range(4) for j in range(4)])
    plain = poses.values.reshape(-1, 4, 4)
    print("unit of world_T_cam:", dataset["low_f64"].attrs["units"]["world_T_cam"])

    # 3. Our reader splits the columns into named fields with units, and unpacks masks. It opens whole stores as well.
    named = open_dataset(segment)
    print(named)
    first = named["world_T_cam"].isel(row=named["row_episode"] == 0)

    # All three, and the store's own way to read an episode, agree.
    episode = store.read_episode(named["episode_id"].values[0].item())
    np.testing.assert_array_equal(plain, named["world_T_cam"].values)
    np.testing.assert_array_equal(first.values, episode.steps["world_T_cam"])
    print(f"{episode.meta.id}: {episode.num_rows} rows, collected in phase {episode.meta.phase}")


if __name__ == "__main__":
    main(sys.argv[1])
