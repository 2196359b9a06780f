"""Looking at stored data with xarray: named fields, named dimensions, units and meanings.

Plain ``xarray.open_zarr(segment)`` works too, and shows the arrays as they lie on the disk (`replay.layout`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from common.episode import FIELDS
from common.errors import StoreError, bad_value
from replay.index import Query
from replay.layout import dim_names
from replay.segment import Segment
from replay.storage import Storage, Where, open_storage, refusing
from replay.store import open_store


def open_dataset(
    where: Where, *, kind: str | None = None, phase: str | None = None, fields: Sequence[str] | None = None
) -> xr.Dataset:
    """Open one segment, or every committed episode of a store, as a dataset.

    Args:
        where: folder or URL of a segment or of a store.
        kind: of a store, which kind of episodes; needed where the store holds several kinds.
        phase: of a store, only episodes of this phase.
        fields: only these; None is all. Of a store everything asked for is copied to RAM.

    Returns:
        Step-level fields along ``row``, episode-level fields along ``episode``, each with the attributes ``unit`` and
        ``meaning``; masks are bool. Coordinates: ``episode_id``, ``ep_start``, ``ep_len`` (episode), and
        ``row_episode`` and ``row_in_episode`` (row). Episodes of a store are sorted by id.

    Raises:
        StoreError: if the path is neither, nothing fits, or the episodes' fields do not go together.
    """
    storage = open_storage(where)
    with refusing(storage, "opened"):
        is_segment = not storage.exists("store.json") and storage.exists("zarr.json")
    if is_segment:
        if kind is not None or phase is not None:
            raise StoreError(bad_value("open_dataset kind, phase", (kind, phase), "None where the path is a segment"))
        with refusing(storage, "read"), storage.as_folder("") as folder:  # maps of a copy stay good when it is gone
            return _of_segment(Segment(folder), fields)
    return _of_store(storage, kind, phase, fields)


def _of_segment(segment: Segment, fields: Sequence[str] | None) -> xr.Dataset:
    starts, lengths = segment.view("ep_start"), segment.view("ep_len")
    arrays = {}
    for name in segment.signature if fields is None else fields:
        spec, view = segment.spec_of(name), segment.view(name)
        arrays[name] = spec.decode(view, name) if spec.form == "bits" else view
    return _dataset(arrays, segment.attributes["episode_id"], starts, lengths)


def _of_store(storage: Storage, kind: str | None, phase: str | None, fields: Sequence[str] | None) -> xr.Dataset:
    store = open_store(storage, ram_bytes=0)
    try:
        store.refresh()
        entries = store.select(Query(kind=kind, phase=phase))
        if not entries:
            raise StoreError(f"no episode of {Query(kind=kind, phase=phase)} in store {storage.url}")
        kinds = sorted({row[0] for row in store.index.rows("SELECT DISTINCT kind FROM episodes")})
        if kind is None and len({e.meta.kind for e in entries}) > 1:
            raise StoreError(bad_value("open_dataset kind", kind, f"one of {kinds}: they have different fields"))
        lengths = np.array([e.rows for e in entries], np.int64)
        index = np.repeat(np.arange(len(entries)), lengths)
        starts = np.cumsum(lengths) - lengths
        names = list(store.segment(entries[0].segment).signature) if fields is None else list(fields)
        for name in names:
            if name not in FIELDS:
                raise StoreError(bad_value("open_dataset field", name, f"one of {sorted(FIELDS)}"))
        steps = [n for n in names if FIELDS[n].level == "step"]
        arrays = store.read_rows(steps, entries, index, np.arange(len(index)) - starts[index])
        arrays |= store.read_fixed([n for n in names if n not in arrays], entries)
        return _dataset(arrays, [e.id for e in entries], starts, lengths)
    finally:
        store.close()


def _dataset(arrays: dict[str, Any], ids: Sequence[str], starts: Any, lengths: Any) -> xr.Dataset:
    variables = {}
    for name, array in arrays.items():
        field = FIELDS[name]
        first = "row" if field.level == "step" else "episode"
        variables[name] = ((first, *dim_names(field)), array, {"unit": field.unit, "meaning": field.meaning})
    index = np.repeat(np.arange(len(ids)), lengths)
    coords = {
        "episode_id": ("episode", np.array(ids)),
        "ep_start": ("episode", starts),
        "ep_len": ("episode", lengths),
        "row_episode": ("row", index),
        "row_in_episode": ("row", np.arange(len(index)) - np.asarray(starts)[index]),
    }
    return xr.Dataset(variables, coords)
