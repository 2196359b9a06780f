"""Samplers of windows and of whole episodes in time order, for recurrent policies and n-step learners."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.episode import FIELDS
from common.errors import StoreError, bad_value
from replay.catalog import Catalog, Place
from replay.drawing import Batch, CounterSampler, Group, Pool, episode_slots, make_pool
from replay.store import Store
from replay.windows import NStep, Windows, read_windows


class _SequenceSampler(CounterSampler):
    def __init__(
        self, store: Store, seed: int, fields: Sequence[str], n_step: NStep | None, settings: dict[str, object]
    ) -> None:
        if n_step is not None:
            for name in n_step.bootstrap:
                if name not in FIELDS or FIELDS[name].level != "step":
                    raise StoreError(bad_value("bootstrap field", name, "a step-level field of the schema"))
            settings |= {"n_step": {**dataclasses.asdict(n_step), "bootstrap": list(n_step.bootstrap)}}
        super().__init__(store, seed, fields, settings)
        self._n_step = n_step

    def _usable(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        # The last row of an episode is its final observation: no action, no reward.
        return rows if self._n_step is None else rows - 1

    def _read(self, drawn: Sequence[Place], first: NDArray[np.int64], length: NDArray[np.int64]) -> Batch:
        episodes, slots = episode_slots(drawn)
        index = np.array(slots, np.int64)
        usable = self._usable(np.array([p.rows for p in drawn], np.int64))
        windows = Windows(index, first, np.minimum(usable - first, length), usable)
        out = read_windows(self.store, self._step_fields, episodes, windows, self._n_step)
        out["episode_index"] = index
        return out | self.store.read_fixed(self._fixed_fields, episodes)


class WindowSampler(_SequenceSampler):
    """Batches of windows of equal length; each window of an episode that fits is equally likely, or by its weight.

    A window begins at rows 0, stride, 2 stride, ... of an episode. It holds rows in time order: all of an episode's
    rows, or with `NStep` those that acted (all but the last). Rows are not left out for ``label_valid``: read that
    field to mask a loss.
    """

    def __init__(
        self,
        store: Store,
        seed: int,
        fields: Sequence[str],
        length: int,
        *,
        stride: int = 1,
        pad: bool = False,
        n_step: NStep | None = None,
    ) -> None:
        """Draw windows of `fields` from `store`.

        Args:
            store: to read from.
            seed: of the run.
            fields: names from `common.episode.FIELDS`; every episode that fits must have them.
            length: rows L of a window.
            stride: rows between the beginnings of windows.
            pad: let the last window of an episode, and the only one of an episode that is shorter, run over its end:
                ``row_valid`` is false there. Without it windows that do not fit are not drawn.
            n_step: also sum up rewards; see `replay.windows.read_windows`.

        Raises:
            StoreError: if a field is unknown, or length or stride is out of range.
        """
        for name, value in (("length", length), ("stride", stride)):
            if value < 1:
                raise StoreError(bad_value(f"window {name}", value, "at least 1"))
        if pad and stride > length:
            raise StoreError(bad_value("window stride", stride, f"1 .. length = {length} where windows are padded"))
        super().__init__(store, seed, fields, n_step, {"length": length, "stride": stride, "pad": pad})
        self._length, self._stride, self._pad = length, stride, pad

    def batch(self, groups: Sequence[Group], step: int) -> Batch:
        """The windows of update `step`; a group's `rows` and `rows_per_episode` count windows.

        Returns:
            What `read_windows` gives, for B windows of L rows; ``episode_index`` i64 (B,) into the E distinct episodes
            of the batch; episode-level fields (E, *shape).

        Raises:
            StoreError: if no window fits a group, an episode lacks a field, or a group asks for pair blocks.
        """
        drawn: list[Place] = []
        items: list[int] = []
        for number, group in enumerate(groups):
            _check_order(group)
            each = group.rows_per_episode
            places, chosen = self._pool(group).draw(self._rng(step, number), group.rows // each, each)
            drawn += [p for p in places for _ in range(each)]
            items += chosen
        length = np.full(len(drawn), self._length, np.int64)
        return self._read(drawn, np.array(items, np.int64) * self._stride, length)

    def _counts(self, catalog: Catalog) -> NDArray[np.int64]:
        usable = self._usable(catalog.numbers["rows"])
        beyond = usable - self._length  # rows that the first window leaves
        if self._pad:
            return np.where(usable > 0, 1 + (np.maximum(beyond, 0) + self._stride - 1) // self._stride, 0)
        return np.where(beyond >= 0, 1 + beyond // self._stride, 0)


class EpisodeSampler(_SequenceSampler):
    """Batches of whole episodes of similar length, padded to the longest of the batch.

    A batch draws a bucket of lengths, then episodes of that bucket, with replacement; each in proportion to what it
    holds, so that each episode that fits is equally likely (or by its weight) whatever bucket it is in.
    """

    def __init__(
        self, store: Store, seed: int, fields: Sequence[str], bounds: Sequence[int], *, n_step: NStep | None = None
    ) -> None:
        """Draw episodes of `fields` from `store`.

        Args:
            store: to read from.
            seed: of the run.
            fields: names from `common.episode.FIELDS`; every episode that fits must have them.
            bounds: most rows of an episode per bucket, ascending; with `n_step`, of rows that acted.
            n_step: also sum up rewards; see `replay.windows.read_windows`.

        Raises:
            StoreError: if a field is unknown, or the bounds do not ascend from at least 1.
        """
        edges = list(bounds)
        if not edges or edges[0] < 1 or sorted(set(edges)) != edges:
            raise StoreError(bad_value("bucket bounds", edges, "ascending numbers of rows, the first at least 1"))
        super().__init__(store, seed, fields, n_step, {"bounds": edges})
        self._bounds = edges
        self._buckets: dict[tuple[Group, int], Pool] = {}

    def batch(self, groups: Sequence[Group], step: int) -> Batch:
        """The episodes of update `step`; a group's `rows` counts episodes, and its bucket is drawn per batch.

        Returns:
            What `read_windows` gives, for B episodes and as many rows as the longest of them has; ``lengths`` i64 (B,);
            ``episode_index`` i64 (B,) into the E distinct episodes of the batch; episode-level fields (E, *shape).

        Raises:
            StoreError: if no episode fits a group, one lacks a field or is longer than the last bound, or a group asks
                for pair blocks or for more than one row per episode.
        """
        drawn: list[Place] = []
        for number, group in enumerate(groups):
            _check_order(group)
            if group.rows_per_episode != 1:
                raise StoreError(bad_value("rows_per_episode", group.rows_per_episode, "1 for whole episodes"))
            drawn += self._draw(group, self._rng(step, number))
        lengths = self._usable(np.array([p.rows for p in drawn], np.int64))
        return self._read(drawn, np.zeros(len(drawn), np.int64), lengths) | {"lengths": lengths}

    def _draw(self, group: Group, rng: np.random.Generator) -> list[Place]:
        pool = self._pool(group)
        (first,), _ = pool.draw(rng, 1, 1)
        k = int(np.searchsorted(self._bounds, self._usable(np.array([first.rows]))[0]))
        if (group, k) not in self._buckets:
            usable = self._usable(pool.catalog.numbers["rows"])
            inside = (usable > (self._bounds[k - 1] if k else 0)) & (usable <= self._bounds[k])
            self._buckets[group, k] = make_pool(pool.catalog, inside.astype(np.int64), group.weights)
        return self._buckets[group, k].draw(rng, group.rows, 1)[0]

    def _forget(self) -> None:
        self._buckets.clear()

    def _counts(self, catalog: Catalog) -> NDArray[np.int64]:
        usable = self._usable(catalog.numbers["rows"])
        longest = int(usable.max(initial=0))
        if longest > self._bounds[-1]:
            raise StoreError(
                bad_value("rows of an episode that fits", longest, f"at most {self._bounds[-1]}, the last bucket bound")
            )
        return (usable > 0).astype(np.int64)


def _check_order(group: Group) -> None:
    if group.kind == "pairs":
        raise StoreError(bad_value("kind of a sequence", group.kind, "a kind whose rows follow each other"))
