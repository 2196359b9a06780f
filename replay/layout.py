"""Which zarr arrays a segment has: the mapping between the fields of an episode record and stored arrays.

A segment is a standard zarr v3 group. Episodes lie one behind the other along the dimension ``row``; fields that an
episode has once lie along ``episode``. Three forms keep the number of files, and so the time of a commit, small:

* fields with named dimensions (images, masks, features) are arrays of their own; those with large rows are one shard
  whose inner chunk is one row, the others one chunk;
* boolean images are stored as bits, eight pixels to a byte, most significant bit first, each row padded to a byte;
* all other fields become *columns* of one array per level and dtype: ``low_f32`` (row, low_f32_column), ``ep_f64``
  (episode, ep_f64_column), ... The coordinate array ``low_f32_column`` names them: ``expert_twist[0]``, ``iou``.

``ep_i64`` always holds the columns ``ep_start`` and ``ep_len``: first row and number of rows of each episode.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from common.episode import FIELDS, SCHEMA_VERSION, Episode, Field
from common.errors import StoreError, bad_value

FORMAT_VERSION = 1
SEGMENT_FORMAT = "servofleet-segment"

# Rows from this size on are chunks of a shard, so that a plain zarr reader can fetch one row without the others.
SHARD_ROW_BYTES = 4096
_SHORT = {"float16": "f16", "float32": "f32", "float64": "f64", "int64": "i64", "bool": "bool", "uint8": "u8"}
_SEGMENT_COLUMNS = {
    "ep_start": ("", "first row of the episode"),
    "ep_len": ("", "number of rows of the episode"),
}

_AXES = {("image", 2): "channel", ("goal_image", 2): "channel", ("match", 2): "xy"}

# Field name -> shape of one entry (without the leading row or episode axis), in the order of the schema.
Signature = dict[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class ArraySpec:
    """One stored array.

    Attributes:
        name: of the array.
        level: "step": first dimension ``row``; "episode": first dimension ``episode``.
        dtype: numpy dtype name as stored.
        shape: of one entry as stored.
        dims: names of the axes of one entry.
        fields: field -> (first column, shape of one entry); arrays of one field start at 0.
        form: how entries are stored.
        attributes: units and meanings.
    """

    name: str
    level: Literal["step", "episode"]
    dtype: str
    shape: tuple[int, ...]
    dims: tuple[str, ...]
    fields: dict[str, tuple[int, tuple[int, ...]]]
    form: Literal["plain", "bits", "columns"]
    attributes: dict[str, Any]

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of one entry."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def sharded(self) -> bool:
        """True if one entry is one inner chunk of a shard."""
        return self.row_bytes >= SHARD_ROW_BYTES

    @property
    def chunk_file(self) -> str:
        """Path of the only chunk or shard below the array's folder."""
        return "c" + ".0" * (1 + len(self.shape))

    def encode(self, arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Stored form (n, *shape) of field arrays with a leading axis n."""
        if self.form == "plain":
            return np.ascontiguousarray(arrays[self.name])
        if self.form == "bits":
            array = arrays[self.name]
            return np.packbits(array.reshape(len(array), -1), axis=1)
        first = arrays[next(iter(self.fields))]
        out = np.empty((len(first), *self.shape), np.dtype(self.dtype))
        for name, (start, shape) in self.fields.items():
            width = math.prod(shape)
            out[:, start : start + width] = arrays[name].reshape(len(out), width)
        return out

    def decode(self, stored: NDArray[Any], field: str) -> NDArray[Any]:
        """Field array (n, *field shape) of stored entries (n, *self.shape); a view where the form allows it."""
        start, shape = self.fields[field]
        if self.form == "plain":
            return stored
        width = math.prod(shape)
        if self.form == "bits":
            return np.unpackbits(stored, axis=1, count=width).view(np.bool_).reshape(len(stored), *shape)
        return stored[:, start : start + width].reshape(len(stored), *shape)


def signature(episode: Episode) -> Signature:
    """Field set and entry shapes of an episode: only episodes with equal signatures share a segment."""
    out: Signature = {}
    for name, field in FIELDS.items():
        if field.level == "step" and name in episode.steps:
            out[name] = episode.steps[name].shape[1:]
        elif field.level == "episode" and name in episode.fixed:
            out[name] = episode.fixed[name].shape
    return out


def plan(fields: Signature) -> list[ArraySpec]:
    """Stored arrays of a segment with this signature, in the order they are written.

    Raises:
        StoreError: if a field is not in the schema.
    """
    own: list[ArraySpec] = []
    columns: dict[str, list[str]] = {"ep_i64": ["ep_start", "ep_len"]}
    for name, shape in fields.items():
        if name not in FIELDS:
            raise StoreError(bad_value("stored field", name, f"one of {sorted(FIELDS)}"))
        field = FIELDS[name]
        if any(isinstance(d, str) for d in field.dims):
            own.append(_own_array(field, tuple(shape)))
        else:
            prefix = "low" if field.level == "step" else "ep"
            columns.setdefault(f"{prefix}_{_SHORT[field.dtype]}", []).append(name)
    return own + [_column_array(name, members) for name, members in columns.items()]


def _own_array(field: Field, shape: tuple[int, ...]) -> ArraySpec:
    attributes = {"unit": field.unit, "meaning": field.meaning}
    if field.dtype == "bool":
        stored = ((math.prod(shape) + 7) // 8,)
        attributes |= {"bits": "8 pixels per byte, most significant first", "entry_shape": json.dumps(shape)}
        dims = (f"{field.name}_byte",)
        return ArraySpec(field.name, field.level, "uint8", stored, dims, {field.name: (0, shape)}, "bits", attributes)
    return ArraySpec(
        field.name, field.level, field.dtype, shape, dim_names(field), {field.name: (0, shape)}, "plain", attributes
    )


def _column_array(name: str, members: Sequence[str]) -> ArraySpec:
    fields: dict[str, tuple[int, tuple[int, ...]]] = {}
    width, units, meanings, dtype = 0, {}, {}, "int64"
    for member in members:
        shape: tuple[int, ...] = ()
        if member in FIELDS:
            field = FIELDS[member]
            dtype = field.dtype
            shape = tuple(d for d in field.dims if isinstance(d, int))
            units[member], meanings[member] = field.unit, field.meaning
        else:
            units[member], meanings[member] = _SEGMENT_COLUMNS[member]
        fields[member] = (width, shape)
        width += math.prod(shape)
    level: Literal["step", "episode"] = "step" if name.startswith("low_") else "episode"
    attributes = {"units": units, "meanings": meanings}
    return ArraySpec(name, level, dtype, (width,), (f"{name}_column",), fields, "columns", attributes)


def dim_names(field: Field) -> tuple[str, ...]:
    """Unique axis names of one entry of a field; equal names have equal lengths within a segment."""
    names = [
        d if isinstance(d, str) else _AXES.get((field.name, k), f"{field.name}_axis{k}")
        for k, d in enumerate(field.dims)
    ]
    return tuple(n if names.count(n) == 1 else f"{n}_{names[:k].count(n)}" for k, n in enumerate(names))


def column_labels(spec: ArraySpec) -> list[str]:
    """One label per column of a column array: ``iou``, ``expert_twist[0]``, ``world_T_cam[0,3]``."""
    labels = []
    for name, (_, shape) in spec.fields.items():
        labels += [name + (f"[{','.join(map(str, i))}]" if i else "") for i in np.ndindex(*shape)]
    return labels


def array_json(spec: ArraySpec, length: int) -> dict[str, Any]:
    """The array's zarr v3 metadata for `length` entries."""
    full = [length, *spec.shape]
    little = {"name": "bytes", "configuration": {"endian": "little"}} if spec.dtype != "uint8" else {"name": "bytes"}
    codecs: list[dict[str, Any]] = [little, {"name": "crc32c"}]
    if spec.sharded:
        inner = {
            "chunk_shape": [1, *spec.shape],
            "codecs": [little],
            "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
            "index_location": "end",
        }
        codecs = [{"name": "sharding_indexed", "configuration": inner}]
    first = "row" if spec.level == "step" else "episode"
    fill: Any = False if spec.dtype == "bool" else 0 if np.dtype(spec.dtype).kind in "iu" else 0.0
    return _array(full, spec.dtype, codecs, fill, [first, *spec.dims], spec.attributes)


def labels_json(spec: ArraySpec) -> dict[str, Any]:
    """Metadata of the coordinate array that names the columns of a column array."""
    codecs = [{"name": "vlen-utf8", "configuration": {}}]
    return _array([spec.shape[0]], "string", codecs, "", list(spec.dims), {"meaning": f"columns of {spec.name}"})


def _array(
    shape: list[int], dtype: str, codecs: list[dict[str, Any]], fill: Any, dims: list[str], attributes: dict[str, Any]
) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shape}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": fill,
        "codecs": codecs,
        "attributes": attributes,
        "dimension_names": dims,
        "storage_transformers": [],
    }


def group_json(fields: Signature, attributes: dict[str, Any], arrays: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The segment's own metadata, with that of its arrays consolidated into it."""
    own = {"format": SEGMENT_FORMAT, "format_version": FORMAT_VERSION, "schema_version": SCHEMA_VERSION}
    return {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": own | {"fields": {n: list(s) for n, s in fields.items()}} | attributes,
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": arrays},
    }
