"""The stores that ours is measured against, and the limits of this machine, each with the same pictures and masks.

A reader is built once and then asked for rows or for whole episodes: torch tensors image u8 (n, 128, 128, 3) and mask
bool (n, 128, 128). A writer takes segments of 8 episodes. A library that is not installed raises ImportError.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cluster.bench_replay_data import ROWS, SIDE
from common.episode import Episode
from replay.store import open_store

Pixels = tuple[torch.Tensor, torch.Tensor]
_SHAPE = (SIDE, SIDE, 3)
_MASK = (SIDE, SIDE)


class Reader(NamedTuple):
    """Reads rows by number, and whole episodes by number where it can."""

    rows: Callable[[NDArray[np.int64]], Pixels]
    episode: Callable[[int], Pixels] | None


def blocks(store: Path) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Pictures and masks of a store, episode by episode."""
    ours = open_store(store)
    ours.refresh()
    for entry in ours.select():
        steps = ours.read_episode(entry).steps
        yield steps["image"], steps["mask"]
    ours.close()


def _pair(image: NDArray[Any], mask: NDArray[Any]) -> Pixels:
    return torch.from_numpy(image), torch.from_numpy(mask)


def ram_reader(store: Path, folder: Path) -> Reader:
    """Limit: numpy.take from arrays in RAM."""
    parts = list(blocks(store))
    image, mask = np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
    del parts
    return Reader(lambda i: _pair(np.take(image, i, axis=0), np.take(mask, i, axis=0)), None)


def memmap_reader(store: Path, folder: Path) -> Reader:
    """Limit: two flat files, mapped; an episode is one slice that is copied."""
    with open(folder / "image", "wb") as images, open(folder / "mask", "wb") as masks:
        for image, mask in blocks(store):
            images.write(image.data)
            masks.write(mask.data)
    image = np.memmap(folder / "image", np.uint8, "r").reshape(-1, *_SHAPE)
    mask = np.memmap(folder / "mask", np.bool_, "r").reshape(-1, *_MASK)

    def episode(k: int) -> Pixels:
        rows = slice(k * ROWS, (k + 1) * ROWS)
        return _pair(np.array(image[rows]), np.array(mask[rows]))

    return Reader(lambda i: _pair(np.array(image[i]), np.array(mask[i])), episode)


def zarr_reader(store: Path, folder: Path) -> Reader:
    """Plain zarr-python on our own segments, one index per row: several times faster than its `oindex`."""
    import zarr

    ours = open_store(store)
    ours.refresh()
    where = [(e.segment, e.start) for e in ours.select()]
    groups = {path: zarr.open_group(store / path, mode="r") for path, _ in where}
    arrays = {path: (group["image"], group["mask"]) for path, group in groups.items()}

    def rows(i: NDArray[np.int64]) -> Pixels:
        images, masks = [], []
        for k in i.tolist():
            path, start = where[k // ROWS]
            image, mask = arrays[path]
            images.append(image[start + k % ROWS])
            masks.append(np.unpackbits(mask[start + k % ROWS]).view(np.bool_).reshape(_MASK))
        return _pair(np.stack(images), np.stack(masks))

    return Reader(rows, None)


def _lance_table(image: NDArray[Any], mask: NDArray[Any]) -> Any:
    import pyarrow as pa

    columns = {}
    for name, array in (("image", image), ("mask", mask.view(np.uint8))):
        flat = pa.py_buffer(np.ascontiguousarray(array))
        width = array[0].nbytes
        columns[name] = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(array), [None, flat])
    return pa.table(columns)


def lance_reader(store: Path, folder: Path) -> Reader:
    """Lance: pictures and masks as columns of fixed-size binaries."""
    import lance

    path = str(folder / "lance")
    for image, mask in blocks(store):
        lance.write_dataset(_lance_table(image, mask), path, mode="append" if Path(path).exists() else "create")
    data = lance.dataset(path)
    data.optimize.compact_files()
    data = lance.dataset(path)

    def pixels(table: Any) -> Pixels:
        out = []
        for name, shape, dtype in (("image", _SHAPE, np.uint8), ("mask", _MASK, np.bool_)):
            column = table.column(name).combine_chunks()
            first, nbytes = column.offset * column.type.byte_width, len(column) * column.type.byte_width
            flat = np.frombuffer(column.buffers()[1], np.uint8)[first : first + nbytes]
            out.append(np.array(flat).view(dtype).reshape(-1, *shape))
        return _pair(out[0], out[1])

    def rows(i: NDArray[np.int64]) -> Pixels:
        distinct, back = np.unique(i, return_inverse=True)
        image, mask = pixels(data.take(distinct.tolist(), columns=["image", "mask"]))
        return image[back], mask[back]

    return Reader(rows, lambda k: pixels(data.to_table(offset=k * ROWS, limit=ROWS)))


def torchrl_reader(store: Path, folder: Path) -> Reader:
    """LazyMemmapStorage of torchrl."""
    from tensordict import TensorDict
    from torchrl.data import LazyMemmapStorage

    parts = list(blocks(store))
    count = ROWS * len(parts)
    memory = LazyMemmapStorage(count, scratch_dir=str(folder))
    for k, (image, mask) in enumerate(parts):
        data = TensorDict({"image": torch.from_numpy(image), "mask": torch.from_numpy(mask)}, batch_size=[ROWS])
        memory.set(range(k * ROWS, (k + 1) * ROWS), data)

    def rows(i: NDArray[np.int64]) -> Pixels:
        got = memory.get(torch.from_numpy(i))
        return got["image"], got["mask"]

    def episode(k: int) -> Pixels:
        got = memory.get(slice(k * ROWS, (k + 1) * ROWS)).clone()
        return got["image"], got["mask"]

    return Reader(rows, episode)


def reverb_reader(store: Path, folder: Path) -> Reader:
    """A reverb table in the same process; it draws the rows itself."""
    import reverb

    parts = list(blocks(store))
    table = reverb.Table(
        name="rows",
        sampler=reverb.selectors.Uniform(),
        remover=reverb.selectors.Fifo(),
        max_size=ROWS * len(parts),
        rate_limiter=reverb.rate_limiters.MinSize(1),
    )
    client = reverb.Server([table]).localhost_client()
    for image, mask in parts:
        for row in zip(image, mask, strict=True):
            client.insert(list(row), {"rows": 1.0})

    def rows(i: NDArray[np.int64]) -> Pixels:
        drawn = [s[0].data for s in client.sample("rows", num_samples=len(i))]
        return _pair(np.stack([d[0] for d in drawn]), np.stack([d[1] for d in drawn]))

    return Reader(rows, None)


READERS: dict[str, Callable[[Path, Path], Reader]] = {
    "RAM np.take": ram_reader,
    "numpy memmap": memmap_reader,
    "zarr-python": zarr_reader,
    "lance": lance_reader,
    "torchrl": torchrl_reader,
    "reverb": reverb_reader,
}


def raw_write(folder: Path, number: int, data: bytes) -> None:
    """Limit: one file, written and flushed."""
    with open(folder / f"raw-{number}", "xb", buffering=0) as f:
        view = memoryview(data)
        while len(view):
            view = view[f.write(view) :]
        os.fsync(f.fileno())


def lance_write(folder: Path, number: int, episodes: Sequence[Episode]) -> None:
    """One append of all rows of these episodes, pictures and masks only; lance does not flush."""
    import lance

    path = str(folder / "lance-in")
    tables = [_lance_table(e.steps["image"], e.steps["mask"]) for e in episodes]
    import pyarrow as pa

    lance.write_dataset(pa.concat_tables(tables), path, mode="append" if number else "create")


def torchrl_write(folder: Path, number: int, episodes: Sequence[Episode]) -> None:
    """One LazyMemmapStorage per segment, filled; it does not flush."""
    from tensordict import TensorDict
    from torchrl.data import LazyMemmapStorage

    place = folder / f"torchrl-{number}"
    place.mkdir()
    memory = LazyMemmapStorage(ROWS * len(episodes), scratch_dir=str(place))
    for k, e in enumerate(episodes):
        pixels = {name: torch.from_numpy(e.steps[name]) for name in ("image", "mask")}
        memory.set(range(k * ROWS, (k + 1) * ROWS), TensorDict(pixels, batch_size=[ROWS]))


WRITERS: dict[str, Callable[[Path, int, Sequence[Episode]], None]] = {"lance": lance_write, "torchrl": torchrl_write}
