"""From what the annotators give to frames: tiles cut apart, label ids turned into instance ids, everything checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.isaac.version import IsaacError
from common.errors import bad_value
from common.protocols import F32, I32

U32 = NDArray[np.uint32]

BACKGROUND = frozenset({"BACKGROUND", "UNLABELLED", "INVALID"})


def grid(count: int) -> tuple[int, int]:
    """(rows, columns) in which Replicator lays `count` tiles."""
    columns = int(np.ceil(np.sqrt(count)))
    return -(-count // columns), columns


def cut_tiles(
    tiled: NDArray[Any], count: int, size: tuple[int, int], channels: int, dtype: str, name: str
) -> NDArray[Any]:
    """The pictures of a tiled picture (N, H, W, C), as a copy.

    Args:
        tiled: rows * H * columns * W * C numbers, in whatever shape.
        count: N.
        size: (height, width) of a tile.
        channels: C.
        dtype: that the manifest promises.
        name: of the output, for the error.

    Raises:
        IsaacError: if the dtype or the number of values is another one.
    """
    height, width = size
    rows, columns = grid(count)
    shape = (rows, height, columns, width, channels)
    if tiled.dtype != np.dtype(dtype):
        raise IsaacError(bad_value(f"dtype of {name}", str(tiled.dtype), dtype))
    if tiled.size != np.prod(shape):
        allowed = f"{rows} x {columns} tiles of {height} x {width} x {channels}"
        raise IsaacError(bad_value(f"shape of {name}", tiled.shape, allowed))
    cut = tiled.reshape(shape).transpose(0, 2, 1, 3, 4).reshape(rows * columns, height, width, channels)
    return np.array(cut[:count], order="C")


def label_names(info: Mapping[str, Any]) -> dict[int, str]:
    """Id -> label of the frame that came with this record; ids mean something else in the next one.

    Raises:
        IsaacError: if the record is not one of labels.
    """
    table = info.get("idToLabels")
    if not isinstance(table, Mapping):
        raise IsaacError(bad_value("info of labels", sorted(info), "a record with idToLabels"))
    names = {}
    for key, label in table.items():
        if not str(key).isdigit():
            raise IsaacError(bad_value("key of idToLabels", key, "a whole number"))
        found = label.get("class", "UNLABELLED") if isinstance(label, Mapping) else label
        if not isinstance(found, str):
            raise IsaacError(bad_value(f"idToLabels[{key}]", label, "a label, or labels by taxonomy"))
        names[int(key)] = found
    return names


def instance_ids(ids: U32, names: Mapping[int, str], instances: Mapping[str, int]) -> tuple[I32, int]:
    """Instance ids of one picture.

    Args:
        ids: (H, W) as the annotator numbered the labels in this frame.
        names: id -> label, of the same frame.
        instances: label -> instance id of the objects that this picture may show.

    Returns:
        i32 (H, W), 0 where there is no object; and how many pixels carry an id or a label that nothing explains, or
        that belongs to another environment. They are background, never a guess.
    """
    present, inverse = np.unique(ids, return_inverse=True)
    values = np.zeros(len(present), dtype=np.int32)
    unknown = np.zeros(len(present), dtype=bool)
    for k, key in enumerate(present.tolist()):
        label = names.get(key, "BACKGROUND" if key == 0 else "")
        if label in instances:
            values[k] = instances[label]
        else:
            unknown[k] = label not in BACKGROUND
    inverse = inverse.reshape(ids.shape)
    return values[inverse], int(unknown[inverse].sum())


def metres(depth: F32) -> F32:
    """Depth f32 [m] along the optical axis, +inf where nothing is hit.

    Raises:
        IsaacError: if there is a number that is no distance.
    """
    wrong = ~(depth > 0.0)  # also what is not a number
    if wrong.any():
        raise IsaacError(bad_value("depth", float(depth[wrong][0]), "metres > 0, or inf"))
    return depth
