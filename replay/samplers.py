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
from replay.row_blocks import EPISODE, LONGEST, PARTLY, Block, make_block, where_of
from replay.store import Store
from replay.tables import Int64s, Tables

__all__ = ["Group", "OnPolicySampler", "RowSampler", "SuccessSampler", "UniformSampler"]


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
        self._valid: dict[int, Int64s] = {}  # by the number of the episode
        self._tables: dict[Group, Int64s] = {}
        self._numbering: Tables | None = None  # of the segments in these
        self._block: Block | None = None

    def batch(self, groups: Sequence[Group], step: int) -> Batch:
        """The batch of update `step`; the same whenever it is asked for, as long as the same episodes fit.

        Returns:
            Step-level fields (B, *shape), groups one behind the other, rows of one episode drawn side by side;
            ``episode_index`` i64 (B,) into the E distinct episodes of the batch; episode-level fields (E, *shape).
            Masks are bool, images uint8 as stored.

        Raises:
            StoreError: if nothing fits a group, an episode lacks a field, or it cannot be weighed.
        """
        block = self._block_of(groups, step)
        k = step - block.first
        out = self._read(block, k)
        out["episode_index"] = block.index[k].copy()
        if self._fixed_fields:
            out |= self.store.read_at(self._fixed_fields, *block.slots(k), block.numbering)
        return out

    def episode_ids(self, groups: Sequence[Group], step: int) -> list[str]:
        """Ids of the E episodes of ``batch(groups, step)``, in the order of its episode-level fields.

        They are drawn and looked up again, so that batches whose ids nobody asks for do not pay for them.
        """
        places = []
        for number, group in enumerate(groups):
            pool, each = self._pool(group), group.rows_per_episode
            k, _ = pool.pick(self._rngs(range(step, step + 1), number), group.rows // each, each)
            places += pool.catalog.places(pool.which[k.ravel()])
        sql = "SELECT id FROM episodes WHERE writer = ? AND seq = ? AND slot = ?"
        found = (self.store.index.rows(sql, (p.writer, p.seq, p.slot))[0][0] for p in places)
        return list(dict.fromkeys(str(episode_id) for episode_id in found))

    def _read(self, block: Block, k: int) -> Batch:
        rows = block.at.shape[1]
        if block.located is None and len(block.at) > 1:
            block.located = block.numbering.located(self._step_fields, block.segments.ravel(), block.at.ravel())
        if block.located is not None:
            read = self.store.read_located(block.located, k * rows, (k + 1) * rows)
            if read is not None:
                return read
            block.located = None
        return self.store.read_at(self._step_fields, block.segments[k], block.at[k], block.numbering)

    def _block_of(self, groups: Sequence[Group], step: int) -> Block:
        """The block that has this step. Blocks grow while steps follow each other in an unchanged view of the store,
        so that little is drawn in vain where they do not.
        """
        last = self._block
        if last is not None and last.holds(groups, step, self.store.generation):
            return last
        follows = last is not None and last.holds(groups, step - 1, self.store.generation) and step == last.end
        steps = min(LONGEST, 2 * (last.end - last.first)) if follows and last is not None else 1
        pools = [self._pool(group) for group in groups]
        drawn = []
        for number, (group, pool) in enumerate(zip(groups, pools, strict=True)):
            each = group.rows_per_episode
            k, items = pool.pick(self._rngs(range(step, step + steps), number), group.rows // each, each)
            where = self._where(group, pool).take(k, axis=0)
            if where[:, :, PARTLY].any():
                self._skip_invalid(pool, k.ravel(), where.reshape(-1, 4), items.reshape(-1, each))
            drawn.append((where, items))
        self._block = make_block(groups, self._generation, step, drawn, self._numbered())
        return self._block

    def _where(self, group: Group, pool: Pool) -> Int64s:
        table = self._tables.get(group)
        if table is None:
            numbers = self._numbered().numbers(pool.catalog.names["segment"])
            table = self._tables[group] = where_of(pool, numbers)
        return table

    def _numbered(self) -> Tables:
        if self._numbering is None:
            self._numbering = self.store.numbering
        return self._numbering

    def _skip_invalid(self, pool: Pool, k: Int64s, where: Int64s, items: Int64s) -> None:
        """Turn `items` (n, each), which count the rows of episodes that may be drawn, into rows."""
        for i in np.flatnonzero(where[:, PARTLY]).tolist():
            key = int(where[i, EPISODE])
            if key not in self._valid:
                (place,) = pool.catalog.places(pool.which[k[i : i + 1]])
                self._valid[key] = self.store.valid_rows(place)
            items[i] = self._valid[key][items[i]]

    def _counts(self, catalog: Catalog) -> NDArray[np.int64]:
        return catalog.numbers["valid_rows"]

    def _forget(self) -> None:
        self._valid.clear()
        self._tables.clear()
        self._numbering = None
        self._block = None


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
