"""`replay.train_from=`: an existing store as the data of imitation, which then collects nothing.

The store is only read. A run draws from what it held when the run was started: that view stands in every cut, so that a
resume draws the same rows, also while others write to the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.phase_rounds import dagger_rows, num_rounds
from cluster.program import open_data
from common.config import PhaseConfig, RunConfig
from common.episode import FIELDS
from common.errors import CheckpointError, ConfigError, bad_value
from learner.batches import IMITATION_FIELDS
from replay.description import read_description
from replay.index import Query
from replay.store import Store

_KINDS = ("pairs", "dagger")


def check_data(config: RunConfig) -> None:
    """Refuse a store that lacks what the schedule's imitation phases draw.

    Of each kind of episode and each writer one is looked at: a writer is one process, and writes one sort of records.

    Raises:
        ConfigError: naming the kind, or the fields with their shapes, and what is needed.
        StoreError: if it is no store or cannot be read.
    """
    store = open_data(config)
    if store is None:
        return
    try:
        found = _episodes(store)
        where = f"replay.train_from = {config.replay.train_from!r}"
        for name in config.schedule:
            for kind, first in _drawn(config.phases[name]).items():
                if not found[kind]:
                    advice = f"; phases.{name}.imitation.dagger_envs=0 draws none" if kind == "dagger" else ""
                    raise ConfigError(
                        f"{where}: holds {found}: allowed is a store with {kind} episodes, which phase {name} draws "
                        f"from its round {first} on{advice}"
                    )
                _check_fields(config, store, kind, where)
    finally:
        store.close()


def note_data(store: Store) -> dict[str, Any]:
    """What the store shows now, for the cut: `url`, `store_id`, `position`, and `episodes`, their number by kind."""
    return {
        "url": store.url,
        "store_id": read_description(store.storage)["store_id"],
        "position": store.position(),
        "episodes": _episodes(store),
    }


def go_on_with(store: Store, noted: Mapping[str, Any]) -> None:
    """Show what `note_data` saw, and nothing that came since.

    Raises:
        CheckpointError: if this is another store, or episodes were deleted from it since.
        StoreError: if its records cannot be read, or some are missing.
    """
    store_id = read_description(store.storage)["store_id"]
    if store_id != noted["store_id"]:
        allowed = f"{noted['store_id']}, the one that the run was started with"
        raise CheckpointError(bad_value(f"replay.train_from = {store.url!r}, store_id", store_id, allowed))
    store.refresh(noted["position"])
    if (found := _episodes(store)) != noted["episodes"]:
        allowed = f"{noted['episodes']}, which the run was started with: put back what was deleted"
        raise CheckpointError(bad_value(f"replay.train_from = {store.url!r}, episodes", found, allowed))


def _episodes(store: Store) -> dict[str, int]:
    sql = "SELECT COUNT(*) FROM episodes WHERE kind = ?"
    return {kind: int(store.index.rows(sql, (kind,))[0][0]) for kind in _KINDS}


def _drawn(phase: PhaseConfig) -> dict[str, int]:
    """Kinds that a phase draws from, and the first round that does."""
    first: dict[str, int] = {}
    if phase.kind == "imitation":
        for round in range(rounds := num_rounds(phase)):
            dagger = dagger_rows(phase.imitation, round, rounds)
            for kind, rows in (("dagger", dagger), ("pairs", phase.imitation.batch_size - dagger)):
                if rows:
                    first.setdefault(kind, round)
    return first


def _check_fields(config: RunConfig, store: Store, kind: str, where: str) -> None:
    sizes = {
        "height": config.env.image_size,
        "width": config.env.image_size,
        "grid": config.network.match_grid,
    }
    needed = {n: tuple(sizes.get(str(d), d) for d in FIELDS[n].dims) for n in IMITATION_FIELDS}
    clause, values = Query(kind=kind).sql()
    for (episode_id,) in store.index.rows(f"SELECT MIN(id) FROM episodes WHERE {clause} GROUP BY writer", values):
        has = store.segment(store.entry(episode_id).segment).signature
        lacks = {n: has.get(n, "missing") for n, shape in needed.items() if has.get(n) != shape}
        if lacks:
            raise ConfigError(
                f"{where}: {kind} episode {episode_id} has {lacks}: allowed is { {n: needed[n] for n in lacks} }"
            )
