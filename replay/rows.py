"""Rows of many segments in one array per field: one calculation of addresses per stored array, no Python per row."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import StoreError, bad_value
from replay.layout import ArraySpec
from replay.mapping import Readahead, Rows
from replay.tables import Int64s, Located, Tables


def gather(
    fields: Iterable[str],
    tables: Tables,
    source: Int64s,
    at: Int64s,
    readahead: Readahead,
    cache: bool,
    among: Int64s | None = None,
) -> dict[str, NDArray[Any]]:
    """Read entries of fields.

    Args:
        fields: all step-level, or all episode-level.
        tables: of the store.
        source: (B,) number of the segment that each entry comes from; see `Tables.numbers`.
        at: (B,) entry within the segment.
        readahead: of the store.
        cache: hold small arrays in RAM from now on.
        among: (N,) numbers of segments, at least one, that must all have the fields; None is `source`.

    Returns:
        field -> (B, *field shape), dtypes of the schema.

    Raises:
        StoreError: if a segment lacks a field, its shape differs from the first segment's, or a file is damaged.
    """
    layouts = tables.layouts(source)
    whole = layouts if among is None else tables.layouts(among)
    numbers = source if among is None else among
    # The first segment of each layout stands for all of that layout.
    firsts = [0] if (whole == whole[0]).all() else sorted(np.unique(whole, return_index=True)[1].tolist())
    kinds = whole[firsts].tolist()
    examples = [tables.segment(number) for number in numbers[firsts].tolist()]
    every: slice[Any, Any, Any] = slice(None)
    stored: dict[tuple[str, int], NDArray[Any]] = {}
    out: dict[str, NDArray[Any]] = {}
    for name in fields:
        specs = [segment.spec_of(name) for segment in examples]
        expected = specs[0].fields[name][1]
        for spec, segment in zip(specs, examples, strict=True):
            shape = spec.fields[name][1]
            if shape != expected:
                raise StoreError(bad_value(f"shape of field {name} in {segment.name}", shape, str(expected)))
        # Arrays of one field and shape are the same in every layout; columns lie elsewhere in each.
        apart = len(kinds) > 1 and specs[0].form == "columns"
        for k, spec in zip(kinds, specs, strict=True) if apart else [(-1, specs[0])]:
            chosen = np.flatnonzero(layouts == k) if apart else every
            if (spec.name, k) not in stored:
                stored[spec.name, k] = _stored(spec, tables, source[chosen], at[chosen], readahead, cache)
            values = spec.decode(stored[spec.name, k], name)
            if apart:
                out.setdefault(name, np.empty((len(at), *values.shape[1:]), values.dtype))[chosen] = values
            else:
                out[name] = np.ascontiguousarray(values)
    return out


def read_located(located: Located, start: int, stop: int, readahead: Readahead) -> dict[str, NDArray[Any]] | None:
    """Entries start .. stop of what was located, as from `gather`; None where the arrays were let go of."""
    columns = located.columns  # held until the copies are made
    if columns is None:
        return None
    rows: dict[str, NDArray[Any]] = {}
    out = {}
    for name, spec in located.fields:
        if spec.name not in rows:
            rows[spec.name] = _copy(spec, located.rows[spec.name], start, stop, readahead)
        out[name] = np.ascontiguousarray(spec.decode(rows[spec.name], name))
    del columns
    return out


def _stored(
    spec: ArraySpec, tables: Tables, source: Int64s, at: Int64s, readahead: Readahead, cache: bool
) -> NDArray[Any]:
    # Held until the copy is made: another thread may close a segment meanwhile.
    column = tables.column(spec, source, cache and spec.form != "plain")
    # Seen as unsigned, a negative row is beyond every end. An address beyond the array would be read all the same.
    bad = at.view(np.uint64) >= column.count.take(source).view(np.uint64)
    if bad.any():
        k = int(np.flatnonzero(bad)[0])
        number = int(source[k])
        name = tables.segment(number).name
        raise StoreError(bad_value(f"row of {name}", int(at[k]), f"0 .. {column.count[number] - 1}"))
    if not len(at):
        return np.empty((0, *spec.shape), spec.dtype)
    rows = Rows(column.address.take(source) + at * spec.row_bytes, spec.row_bytes)
    out = _copy(spec, rows, 0, len(at), readahead)
    del column
    return out


def _copy(spec: ArraySpec, rows: Rows, start: int, stop: int, readahead: Readahead) -> NDArray[Any]:
    copied = readahead.copy(rows, start, stop) if spec.sharded else rows.copy(start, stop)
    return copied.view(spec.dtype).reshape(stop - start, *spec.shape)
