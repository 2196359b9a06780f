"""Catalogs without a store, for the tests of what is drawn from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from replay.catalog import Catalog


def make_catalog(rows: Sequence[int], valid: Sequence[int] | None = None, **columns: Sequence[object]) -> Catalog:
    """One episode per entry of `rows`; `columns` sets others of a catalog, names as text. Episode k starts at 100 k."""
    n = len(rows)
    numbers = {name: np.zeros(n, np.int64) for name in ("seq", "slot", "start", "round")}
    numbers |= {"rows": np.array(rows), "valid_rows": np.array(rows if valid is None else valid)}
    numbers["start"] = 100 * np.arange(n)
    scores = {name: np.full(n, np.nan) for name in ("iou_final", "iou_max")}
    names = {name: ["x"] for name in ("segment", "writer", "kind", "phase", "role", "lineage", "policy_version")}
    codes = {name: np.zeros(n, np.int32) for name in names}
    for name, values in columns.items():
        if name in names:
            names[name] = sorted({str(v) for v in values})
            codes[name] = np.array([names[name].index(str(v)) for v in values], np.int32)
        elif name in scores:
            scores[name] = np.array(values, np.float64)
        else:
            numbers[name] = np.array(values, np.int64)
    return Catalog(numbers, scores, names, codes)
