"""Exports for other tools: one plain zarr group with everything, or a Parquet table of the small fields.

Both are written aside and renamed when they are complete, so that an export that was stopped leaves nothing that looks
like one.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from common.episode import FIELDS, Field
from common.errors import StoreError, bad_value
from replay.index import Query
from replay.layout import dim_names
from replay.record import EpisodeEntry
from replay.storage import Where
from replay.store import Store, open_store

# Rows of one chunk of the zarr export hold about this many bytes.
CHUNK_BYTES = 4_000_000
EPISODES_PER_GROUP = 256
_PROVENANCE = (
    "run", "lineage", "role", "round", "env", "kind", "phase", "policy", "policy_version", "target_id", "scene_seed",
    "collector", "encoder_sha256", "renderer", "assets_sha256", "code_sha256", "config_sha256",
)  # fmt: skip
_NUMBERS = ("lineage", "round", "env", "target_id", "scene_seed")

Progress = Callable[[int, int], None]  # episodes done, of how many


def export(
    where: Where,
    out: str | Path,
    to: Literal["zarr", "parquet"],
    *,
    kind: str | None = None,
    phase: str | None = None,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Write the committed episodes of a store in another form.

    Args:
        where: the store.
        out: folder (zarr) or file (parquet) that does not exist yet.
        to: "zarr": one group, step fields along ``row``, the others along ``episode``, masks as bool, units and
            meanings as attributes, and the coordinates of `replay.dataset.open_dataset`. "parquet": one row per step
            with the fields that have no image, grid or feature axis, provenance beside them; fields that a kind of
            record lacks are null, matrices are lists in row-major order, units are in the columns' metadata.
        kind: only episodes of this kind; needed for zarr where the store holds several.
        phase: only episodes of this phase.
        progress: called with (episodes done, of how many).

    Returns:
        {"episodes", "rows", "bytes"}.

    Raises:
        StoreError: if nothing fits, `out` exists, the episodes' fields do not go together, or the disk refuses.
    """
    if to not in ("zarr", "parquet"):
        raise StoreError(bad_value("export form", to, "'zarr' or 'parquet'"))
    target = Path(out)
    if target.exists():
        raise StoreError(bad_value("export output", str(out), "a path where nothing is yet"))
    aside = target.with_name(f".{target.name}.partial")
    store = open_store(where, ram_bytes=0)
    try:
        store.refresh()
        query = Query(kind=kind, phase=phase)
        entries = store.select(query)
        if not entries:
            raise StoreError(f"no episode of {query} in store {store.url}")
        _remove(aside)
        (_write_zarr if to == "zarr" else _write_parquet)(store, entries, aside, progress)
        files = [p for p in aside.rglob("*") if p.is_file()] if aside.is_dir() else [aside]
        size = sum(p.stat().st_size for p in files)
        os.rename(aside, target)
    except OSError as error:
        raise StoreError(f"export {target} cannot be written: {error.strerror or error}") from error
    finally:
        _remove(aside)
        store.close()
    return {"episodes": len(entries), "rows": sum(e.rows for e in entries), "bytes": size}


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write_zarr(store: Store, entries: Sequence[EpisodeEntry], out: Path, progress: Progress | None) -> None:
    import zarr

    kinds = sorted({e.meta.kind for e in entries})
    if len(kinds) > 1:
        raise StoreError(bad_value("export kind", None, f"one of {kinds}: they have different fields"))
    signature = store.segment(entries[0].segment).signature
    lengths = np.array([e.rows for e in entries], np.int64)
    starts = np.cumsum(lengths) - lengths
    group = zarr.open_group(out, mode="w", zarr_format=3)
    group.attrs.update({"source": store.url, "kind": kinds[0], "title": "servofleet episodes"})
    rows, arrays = int(lengths.sum()), {}
    for name, shape in signature.items():
        field = FIELDS[name]
        first, count = ("row", rows) if field.level == "step" else ("episode", len(entries))
        width = max(math.prod(shape) * np.dtype(field.dtype).itemsize, 1)
        arrays[name] = group.create_array(
            name,
            shape=(count, *shape),
            dtype=field.dtype,
            chunks=(min(max(CHUNK_BYTES // width, 1), count), *shape),
            dimension_names=(first, *dim_names(field)),
            attributes={"unit": field.unit, "meaning": field.meaning},
        )
    for name, array in arrays.items():
        step = FIELDS[name].level == "step"
        for a, b in _chunks(array.shape[0], array.chunks[0]):
            array[a:b] = _rows(store, name, entries, starts, a, b) if step else _fixed(store, name, entries[a:b])
            if progress is not None and name == next(iter(signature)):
                progress(min(int(np.searchsorted(starts, b)), len(entries)), len(entries))
    index = np.repeat(np.arange(len(entries)), lengths)
    coordinates: dict[str, tuple[str, NDArray[Any]]] = {
        "ep_start": ("episode", starts),
        "ep_len": ("episode", lengths),
        "row_episode": ("row", index),
        "row_in_episode": ("row", np.arange(rows) - starts[index]),
    }
    for name, (dim, values) in coordinates.items():
        group.create_array(name, data=values, dimension_names=(dim,))
    ids = group.create_array("episode_id", shape=(len(entries),), dtype="str", dimension_names=("episode",))
    ids[:] = np.array([e.id for e in entries], dtype=object)
    with warnings.catch_warnings():
        # An extension of zarr v3 that zarr-python and xarray read; others ignore it, as they should.
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(out)


def _chunks(count: int, size: int) -> Iterator[tuple[int, int]]:
    return ((a, min(a + size, count)) for a in range(0, count, size))


def _rows(store: Store, name: str, entries: Sequence[EpisodeEntry], starts: NDArray[np.int64], a: int, b: int) -> Any:
    rows = np.arange(a, b)
    owner = np.searchsorted(starts, rows, side="right") - 1
    first = int(owner[0])
    return store.read_rows([name], entries[first : int(owner[-1]) + 1], owner - first, rows - starts[owner])[name]


def _fixed(store: Store, name: str, entries: Sequence[EpisodeEntry]) -> Any:
    return store.read_fixed([name], entries)[name]


def _write_parquet(store: Store, entries: Sequence[EpisodeEntry], out: Path, progress: Progress | None) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    present = {name for s in sorted({e.segment for e in entries}) for name in store.segment(s).signature}
    fields = [f for f in FIELDS.values() if f.name in present and all(isinstance(d, int) for d in f.dims)]
    schema = pa.schema(
        [pa.field("episode_id", pa.string()), pa.field("row", pa.int64()), pa.field("sha256", pa.string())]
        + [pa.field(n, pa.int64() if n in _NUMBERS else pa.string()) for n in _PROVENANCE]
        + [
            pa.field(f.name, _arrow_type(f), metadata={"unit": f.unit, "meaning": f.meaning, "shape": _shape(f)})
            for f in fields
        ]
    )
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        for a, b in _chunks(len(entries), EPISODES_PER_GROUP):
            tables = [_table(store, entry, fields, schema) for entry in entries[a:b]]
            writer.write_table(pa.concat_tables(tables).combine_chunks())
            if progress is not None:
                progress(b, len(entries))


def _shape(field: Field) -> str:
    return json.dumps([d for d in field.dims if isinstance(d, int)])


def _arrow_type(field: Field) -> Any:
    import pyarrow as pa

    scalar = pa.from_numpy_dtype(np.dtype(field.dtype))
    # Lists of a fixed size would say more, but pyarrow cannot read a column of them back that has nulls.
    return pa.list_(scalar) if field.dims else scalar


def _table(store: Store, entry: EpisodeEntry, fields: Sequence[Field], schema: Any) -> Any:
    import pyarrow as pa

    meta = entry.meta
    version = None if meta.policy_version is None else str(meta.policy_version)
    constants = {name: getattr(meta, name, getattr(meta.id, name, None)) for name in _PROVENANCE}
    constants |= {"policy_version": version, "episode_id": entry.id, "sha256": entry.sha256}
    segment = store.segment(entry.segment)
    columns = []
    for column in schema:
        field = FIELDS.get(column.name)
        if column.name == "row":
            columns.append(pa.array(np.arange(entry.rows)))
        elif column.name in constants:
            columns.append(pa.repeat(pa.scalar(constants[column.name], column.type), entry.rows))
        elif field is None or field.name not in segment.signature:
            columns.append(pa.nulls(entry.rows, column.type))
        else:
            step = field.level == "step"
            start, stop = (entry.start, entry.start + entry.rows) if step else (entry.slot, entry.slot + 1)
            values = segment.read(field.name, start, stop)
            values = values if step else np.repeat(values, entry.rows, axis=0)
            flat = pa.array(np.ascontiguousarray(values).reshape(-1))
            ends = np.arange(entry.rows + 1, dtype=np.int32) * (len(flat) // entry.rows)
            columns.append(pa.ListArray.from_arrays(ends, flat) if field.dims else flat)
    return pa.table(columns, schema=schema)
