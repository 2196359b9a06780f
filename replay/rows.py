"""Rows of many segments in one array per field: one table of addresses per stored array, no Python per row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import StoreError, bad_value
from replay.layout import ArraySpec
from replay.mapping import Readahead, copy_rows
from replay.segment import Segment


def gather(
    fields: Iterable[str],
    distinct: Sequence[Segment],
    source: NDArray[np.int64],
    at: NDArray[np.int64],
    readahead: Readahead,
    cache: bool,
) -> dict[str, NDArray[Any]]:
    """Read entries of fields.

    Args:
        fields: all step-level, or all episode-level.
        distinct: segments, each once.
        source: (B,) which of them each entry comes from.
        at: (B,) entry within the segment.
        readahead: of the store.
        cache: hold small arrays in RAM from now on.

    Returns:
        field -> (B, *field shape), dtypes of the schema.

    Raises:
        StoreError: if a segment lacks a field, its shape differs from the first segment's, or a file is damaged.
    """
    layouts: dict[int, list[int]] = {}  # segments of one layout share their specs
    for k, segment in enumerate(distinct):
        layouts.setdefault(id(segment.specs), []).append(k)
    stored: dict[int, NDArray[Any]] = {}
    out = {}
    for name in fields:
        groups = [(distinct[members[0]].spec_of(name), members) for members in layouts.values()]
        first = groups[0][0]
        for spec, members in groups:
            shape, expected = spec.fields[name][1], first.fields[name][1]
            if shape != expected:
                where = distinct[members[0]].path.name
                raise StoreError(bad_value(f"shape of field {name} in {where}", shape, str(expected)))
        if first.form != "columns":  # arrays of one field and shape are the same in every layout
            groups = [(first, list(range(len(distinct))))]
        for spec, members in groups:
            chosen = np.flatnonzero(np.isin(source, members)) if len(groups) > 1 else slice(None)
            if id(spec) not in stored:
                stored[id(spec)] = _stored(spec, distinct, members, source[chosen], at[chosen], readahead, cache)
            values = spec.decode(stored[id(spec)], name)
            if len(groups) == 1:
                out[name] = np.ascontiguousarray(values)
            else:
                out.setdefault(name, np.empty((len(at), *values.shape[1:]), values.dtype))[chosen] = values
    return out


def _stored(
    spec: ArraySpec,
    segments: Sequence[Segment],
    members: Sequence[int],
    source: NDArray[np.int64],
    at: NDArray[np.int64],
    readahead: Readahead,
    cache: bool,
) -> NDArray[Any]:
    # The arrays are held until the copy is made: another thread may close a segment meanwhile.
    arrays, starts, counts = [], np.zeros(len(segments), np.int64), np.zeros(len(segments), np.int64)
    for k in members:
        array, starts[k] = segments[k].located(spec.name, cache and spec.form != "plain")
        counts[k] = len(array)
        arrays.append(array)
    bad = (at < 0) | (at >= counts[source])
    if bad.any():  # an address beyond the array would be read all the same
        k = int(np.flatnonzero(bad)[0])
        raise StoreError(
            bad_value(f"row of {segments[source[k]].path.name}", int(at[k]), f"0 .. {counts[source[k]] - 1}")
        )
    addresses = starts[source] + at * spec.row_bytes
    copy = readahead.copy if spec.sharded else copy_rows
    rows = copy(addresses, spec.row_bytes)
    return rows.view(spec.dtype).reshape(len(at), *spec.shape)
