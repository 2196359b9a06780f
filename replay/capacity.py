"""How much disk episodes take, from their shapes alone, and how fast a store grew."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from common.episode import FIELDS, Kind
from common.errors import StoreError
from replay.layout import Signature, plan
from replay.store import open_store

# A commit record's text about one episode, with hashes of provenance but without its scene; and a segment's metadata.
RECORD_BYTES = 1100
SEGMENT_BYTES = 25_000


@dataclasses.dataclass(frozen=True)
class Growth:
    """How fast a store grew: episodes and bytes of segments between its first and last commit [s]."""

    episodes: int
    nbytes: int
    seconds: float


def episode_bytes(
    kind: Kind, rows: int, lengths: Mapping[str, int], *, scene_bytes: int = 0, segment_episodes: int = 64
) -> int:
    """Bytes on disk of one record.

    Args:
        kind: of the record; optional fields are not counted.
        rows: T + 1 for an episode of T steps, pairs of a pair block.
        lengths: of the named dimensions of the fields: ``height``, ``width``, ``grid``, ``feature``.
        scene_bytes: length of the scene's JSON text.
        segment_episodes: records that share a segment's metadata.
    """
    fields: Signature = {
        f.name: tuple(d if isinstance(d, int) else lengths[d] for d in f.dims)
        for f in FIELDS.values()
        if kind in f.kinds
    }
    total = RECORD_BYTES + scene_bytes + SEGMENT_BYTES // segment_episodes
    for spec in plan(fields):
        count = rows if spec.level == "step" else 1
        total += count * (spec.row_bytes + (16 if spec.sharded else 0))
    return total


def measured_growth(path: str | Path) -> Growth:
    """How fast a store grew.

    Raises:
        StoreError: if it is no store, or has no two commits at different times.
    """
    store = open_store(path, ram_bytes=0)
    try:
        store.refresh()
        episodes = store.index.rows("SELECT COUNT(*) FROM episodes")[0][0]
        nbytes, seconds = store.index.rows(
            "SELECT COALESCE(SUM(bytes), 0), MAX(committed_at) - MIN(committed_at) FROM records"
        )[0]
    finally:
        store.close()
    if not seconds:
        raise StoreError(f"store {path} has no two commits at different times: its growth cannot be measured")
    return Growth(episodes, nbytes, seconds)
