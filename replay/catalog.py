"""Columns over the episodes that fit a query: what samplers weigh and draw from without asking the index per batch."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from replay.index import Index, Query

_PLACE = ("seq", "slot", "start", "rows", "valid_rows")
_NUMBERS = (*_PLACE, "round")
_SCORES = ("iou_final", "iou_max")
_NAMES = ("segment", "writer", "kind", "phase", "role", "lineage", "policy_version")


class Place(NamedTuple):
    """Where an episode lies: the part of an `EpisodeEntry` that reading rows needs."""

    segment: str
    writer: str
    seq: int
    slot: int
    start: int
    rows: int
    valid_rows: int


@dataclasses.dataclass(frozen=True)
class Catalog:
    """E episodes, sorted by id.

    Attributes:
        numbers: i64 (E,) columns seq, slot, start, rows, valid_rows, round.
        scores: f64 (E,) columns iou_final, iou_max; NaN where an episode has none.
        names: the distinct values of segment, writer, kind, phase, role, lineage and policy_version as text; a version
            as its ``str``, "none" where nothing learned acted.
        codes: i32 (E,) which of these each episode has.
    """

    numbers: dict[str, NDArray[np.int64]]
    scores: dict[str, NDArray[np.float64]]
    names: dict[str, list[str]]
    codes: dict[str, NDArray[np.int32]]

    def __len__(self) -> int:
        return len(self.numbers["rows"])

    def places(self, which: NDArray[np.int64]) -> list[Place]:
        """Where episodes lie; `which` (N,) counts from 0 .. E - 1."""
        texts = [[self.names[n][k] for k in self.codes[n][which].tolist()] for n in ("segment", "writer")]
        numbers = [self.numbers[n][which].tolist() for n in _PLACE]
        return list(map(Place._make, zip(*texts, *numbers, strict=True)))


class _Codes(dict[Any, int]):
    """Numbers values as they are first asked for: 0, 1, 2, ..."""

    def __missing__(self, value: Any) -> int:
        self[value] = number = len(self)
        return number


def read_catalog(index: Index, query: Query) -> Catalog:
    """The catalog of the episodes that fit `query`."""
    known = {n: _Codes() for n in _NAMES}
    parts: dict[str, list[NDArray[Any]]] = {n: [] for n in (*_NUMBERS, *_SCORES, *_NAMES)}
    for block in index.columns(query, tuple(parts)):
        columns = dict(zip(parts, block, strict=True))
        for name in _NUMBERS:
            parts[name].append(np.array(columns[name], np.int64))
        for name in _SCORES:
            parts[name].append(np.array(columns[name], np.float64))  # None becomes NaN
        for name in _NAMES:
            codes = map(known[name].__getitem__, columns[name])
            parts[name].append(np.fromiter(codes, np.int32, len(columns[name])))
    names = {n: [str(v) for v in values] for n, values in known.items()}
    names["policy_version"] = [_short(v) for v in known["policy_version"]]
    return Catalog(
        {n: _join(parts[n], np.int64) for n in _NUMBERS},
        {n: _join(parts[n], np.float64) for n in _SCORES},
        names,
        {n: _join(parts[n], np.int32) for n in _NAMES},
    )


def _join(parts: list[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    return np.concatenate([np.empty(0, dtype), *parts])


def _short(version: str | None) -> str:
    """The form of ``str(PolicyVersion)`` of what the index holds: lineage.counter.sha256."""
    if version is None:
        return "none"
    lineage, counter, sha256 = version.split(".")
    return f"{lineage}.{counter}.{sha256[:12]}"
