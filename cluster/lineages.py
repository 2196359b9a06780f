"""Branches of a run's history: what becomes of what was committed after the cut that a resume goes on from.

Where `deterministic` is false a resume cannot promise that the same happens again, so it opens a new lineage. Imitation
data is adopted: pairs depend on no weights, and DAgger's labels are right whoever acted. Rollouts and evaluations are
fenced off: they are of weights that the new branch may never have. Samplers take rollouts by policy version, which has
the lineage in it; evaluations are read by the ids that the new branch's tasks name.
"""

from __future__ import annotations

import collections
from typing import Any

from cluster.cut import Cut
from common.identity import json_sha256
from replay.store import Store

ADOPTED, FENCED = ("pairs", "dagger"), ("rollout", "evaluation")
# By the primary key of `copies`: what came after a cut is little, the store may be large. Only standing copies.
_SINCE = (
    "SELECT e.kind, e.lineage, e.writer, e.seq, e.id FROM copies c JOIN episodes e ON e.id = c.id "
    "AND e.writer = c.writer AND e.seq = c.seq AND e.slot = c.slot WHERE c.writer = ? AND c.seq >= ? AND e.run = ?"
)


def open_lineage(cut: Cut, store: Store, run_id: str) -> str:
    """Give a cut that is gone on from the next lineage, and note there what is adopted and what is fenced off.

    Args:
        cut: gets `lineage`, one more than any that the store shows, and under its name entries of `adopted` and
            `fenced`: ``{"episodes": {KIND: number}, "lineages": [those of their ids], "positions": {WRITER: [first,
            last] record}, "ids_sha256": of the sorted ids}``.
        store: of the run, refreshed.
        run_id: first part of the run's episode ids.

    Returns:
        One line that says so.
    """
    (newest,) = store.index.rows("SELECT COALESCE(MAX(lineage), 0) FROM episodes WHERE run = ?", (run_id,))[0]
    cut.lineage = max(cut.lineage, int(newest)) + 1
    found: list[tuple[Any, ...]] = []
    for writer, count in store.position().items():
        seen = cut.store_position.get(writer, 0)
        if count > seen:
            found += store.index.rows(_SINCE, (writer, seen, run_id))
    noted = {}
    for name, kinds in (("adopted", ADOPTED), ("fenced", FENCED)):
        noted[name] = _summary([row for row in found if row[0] in kinds], kinds)
        getattr(cut, name)[str(cut.lineage)] = noted[name]
    said = {name: ", ".join(f"{n} {k}" for k, n in noted[name]["episodes"].items()) for name in noted}
    return (
        f"lineage {cut.lineage} begins; episodes committed after the checkpoint: adopted {said['adopted']}, "
        f"fenced off {said['fenced']}"
    )


def _summary(found: list[tuple[Any, ...]], kinds: tuple[str, ...]) -> dict[str, Any]:
    positions: dict[str, list[int]] = {}
    for _, _, writer, seq, _ in found:
        first, last = positions.get(writer, [seq, seq])
        positions[writer] = [min(first, seq), max(last, seq)]
    counts = collections.Counter(kind for kind, *_ in found)
    return {
        "episodes": {kind: counts[kind] for kind in kinds},
        "lineages": sorted({lineage for _, lineage, *_ in found}),
        "positions": positions,
        "ids_sha256": json_sha256(sorted(row[4] for row in found)),
    }
