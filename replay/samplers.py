"""What the learner reads: random rows (imitation), whole rollouts once (PPO), successful trajectories (SIL).

Random rows are counter-based draws (`replay.drawing`); `replay.sequences` has windows and padded episodes. A sampler
sees what its store saw at the last `Store.refresh`; refresh at update boundaries only, and keep `Store.position` in the
checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.episode import Episode, Kind
from common.errors import StoreError, bad_value
from common.identity import PolicyVersion
from replay.catalog import Catalog
from replay.drawing import Batch, CounterSampler, Group, Pool
from replay.index import Query
from replay.record import EpisodeEntry
from replay.store import Store

__all__ = ["Group", "OnPolicySampler", "RowSampler", "SuccessSampler", "UniformSampler"]

_SEGMENT, _START, _EPISODE, _PARTLY = range(4)  # columns of `RowSampler._where`
_MAX_SLOTS = 1 << 32  # an episode's number is that of its segment times this, and its slot


class RowSampler(CounterSampler):
    """Batches of rows: uniform over the rows that may be drawn, or in proportion to the weights of a group.

    A row may be drawn where ``label_valid`` is true; in records without that field every row may. Episodes are drawn
    with replacement, with a probability proportional to the number of such rows (times their weight); within an
    episode the rows are distinct unless it has fewer than `rows_per_episode` of them. So each such row of a group is
    drawn with a probability proportional to its weight.
    """

    def __init__(self, store: Store, seed: int, fields: Sequence[str]) -> None:
        """Draw `fields` (step-level and episode-level) from `store`.

        Args:
            store: to read from.
            seed: of the run.
            fields: names from `common.episode.FIELDS`; every episode that fits must have them.

        Raises:
            StoreError: if a field is unknown.
        """
        super().__init__(store, seed, fields, {})
        self._valid: dict[int, NDArray[np.int64]] = {}  # by the number of the episode, see `_where`
        self._tables: dict[Group, NDArray[np.int64]] = {}

    def batch(self, groups: Sequence[Group], step: int) -> Batch:
        """The batch of update `step`; the same whenever it is asked for, as long as the same episodes fit.

        Returns:
            Step-level fields (B, *shape), groups one behind the other, rows of one episode drawn side by side;
            ``episode_index`` i64 (B,) into the E distinct episodes of the batch; episode-level fields (E, *shape).
            Masks are bool, images uint8 as stored.

        Raises:
            StoreError: if nothing fits a group, an episode lacks a field, or it cannot be weighed.
        """
        drawn, rows = [], []
        for number, group in enumerate(groups):
            each = group.rows_per_episode
            pool = self._pool(group)
            k, items = pool.pick(self._rng(step, number), group.rows // each, each)
            where = self._where(group, pool)[k]
            if where[:, _PARTLY].any():
                self._skip_invalid(pool, k, where, items.reshape(-1, each))
            drawn.append(where if each == 1 else np.repeat(where, each, axis=0))
            rows.append(items)
        where = np.concatenate(drawn)
        slots: dict[int, int] = {}
        index = [slots.setdefault(key, len(slots)) for key in where[:, _EPISODE].tolist()]
        segment, at = where[:, _SEGMENT], where[:, _START] + np.concatenate(rows)
        out = self.store.read_at(self._step_fields, segment, at)
        out["episode_index"] = np.array(index, np.int64)
        if self._fixed_fields:
            distinct = np.array(list(slots), np.int64)
            out |= self.store.read_at(self._fixed_fields, distinct // _MAX_SLOTS, distinct % _MAX_SLOTS)
        return out

    def _where(self, group: Group, pool: Pool) -> NDArray[np.int64]:
        """What reading needs of the episodes of a pool, i64 (K, 4): side by side, for memory far apart is slow."""
        table = self._tables.get(group)
        if table is None:
            catalog, which = pool.catalog, pool.which
            numbers = {name: column[which] for name, column in catalog.numbers.items()}
            segment = self.store.segment_numbers(catalog.names["segment"])[catalog.codes["segment"][which]]
            partly = numbers["valid_rows"] != numbers["rows"]
            columns = [segment, numbers["start"], segment * _MAX_SLOTS + numbers["slot"], partly]
            table = self._tables[group] = np.stack(columns, axis=1)
        return table

    def _skip_invalid(
        self, pool: Pool, k: NDArray[np.int64], where: NDArray[np.int64], items: NDArray[np.int64]
    ) -> None:
        """Turn `items` (n, each), which count the rows of episodes that may be drawn, into rows."""
        for i in np.flatnonzero(where[:, _PARTLY]).tolist():
            key = int(where[i, _EPISODE])
            if key not in self._valid:
                (place,) = pool.catalog.places(pool.which[k[i : i + 1]])
                self._valid[key] = self.store.valid_rows(place)
            items[i] = self._valid[key][items[i]]

    def _counts(self, catalog: Catalog) -> NDArray[np.int64]:
        return catalog.numbers["valid_rows"]

    def _forget(self) -> None:
        self._valid.clear()
        self._tables.clear()


UniformSampler = RowSampler  # what it is without weights


class OnPolicySampler:
    """Whole rollouts of one policy version, each handed out exactly once, also across a resume from `state`."""

    def __init__(self, store: Store) -> None:
        """Read from `store`."""
        self._store = store
        self._consumed: dict[str, set[int]] = {}  # id without env -> envs

    def waiting(self, version: PolicyVersion, phase: str, round: int, kind: Kind = "rollout") -> list[EpisodeEntry]:
        """Episodes that `take` would hand out, sorted by id."""
        found = self._store.select(
            Query(kind=kind, phase=phase, min_round=round, max_round=round, policy_version=version)
        )
        return [e for e in found if not self._was_consumed(e)]

    def _was_consumed(self, entry: EpisodeEntry) -> bool:
        prefix, env = _split(entry.id)
        return env in self._consumed.get(prefix, ())

    def take(self, version: PolicyVersion, phase: str, round: int, kind: Kind = "rollout") -> list[Episode]:
        """Hand out every episode of these weights, phase and round that was not handed out yet, sorted by id.

        Raises:
            StoreError: if one cannot be read; then none counts as handed out.
        """
        entries = self.waiting(version, phase, round, kind)
        episodes = [self._store.read_episode(e) for e in entries]
        for e in entries:
            prefix, env = _split(e.id)
            self._consumed.setdefault(prefix, set()).add(env)
        return episodes

    def state(self) -> dict[str, Any]:
        """What was handed out, as ranges of environments per (run, lineage, role, round); JSON-ready."""
        return {"consumed": {prefix: _ranges(envs) for prefix, envs in sorted(self._consumed.items())}}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        consumed: Mapping[str, list[list[int]]] = state["consumed"]
        self._consumed = {
            prefix: {env for first, last in ranges for env in range(first, last + 1)}
            for prefix, ranges in consumed.items()
        }


def _split(episode_id: str) -> tuple[str, int]:
    prefix, _, env = episode_id.rpartition("/")
    return prefix, int(env)


def _ranges(numbers: set[int]) -> list[list[int]]:
    out: list[list[int]] = []
    for n in sorted(numbers):
        if out and out[-1][1] == n - 1:
            out[-1][1] = n
        else:
            out.append([n, n])
    return out


class SuccessSampler:
    """Whole trajectories that reached an IoU, again and again; nothing is drawn, so there is no state but the bound."""

    def __init__(self, store: Store, min_iou: float) -> None:
        """Read trajectories of `store` whose largest IoU is at least `min_iou`.

        Raises:
            StoreError: if the bound is no IoU.
        """
        if not 0.0 <= min_iou <= 1.0:
            raise StoreError(bad_value("min_iou", min_iou, "0 .. 1"))
        self._store, self._min_iou = store, min_iou

    def take(
        self, phase: str | None = None, version: PolicyVersion | None = None, kind: Kind = "rollout", **bounds: Any
    ) -> list[Episode]:
        """The trajectories that fit, sorted by id; `bounds` are further attributes of `Query`."""
        query = Query(kind=kind, phase=phase, policy_version=version, min_iou_max=self._min_iou, **bounds)
        return [self._store.read_episode(e) for e in self._store.select(query)]

    def state(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"min_iou": self._min_iou}

    def load(self, state: Mapping[str, Any]) -> None:
        """Check that `state` was taken from a sampler with the same bound.

        Raises:
            StoreError: if it was not.
        """
        if state["min_iou"] != self._min_iou:
            raise StoreError(bad_value("sampler state min_iou", state["min_iou"], str(self._min_iou)))
