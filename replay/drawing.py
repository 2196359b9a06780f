"""Counter-based draws of items (rows, windows, episodes) from the episodes that fit a group.

Draws depend on (seed, step, the sorted ids of the episodes that fit, and their properties where they are weighed), not
on who committed first, what was drawn before, or how far ahead somebody draws.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.episode import FIELDS, Kind
from common.errors import StoreError, bad_value
from common.rng import Purpose, philox, philox_rounds
from replay.catalog import Catalog, Place, read_catalog
from replay.index import Query
from replay.store import Store
from replay.weights import Weights

Batch = dict[str, NDArray[Any]]

_KEPT = 32  # answers of the index; more than a batch has groups


@dataclasses.dataclass(frozen=True)
class Group:
    """A share of every batch: `rows` rows of episodes that fit, `rows_per_episode` from each episode drawn.

    Samplers of windows and of whole episodes draw that many of these instead of rows. `min_round` and `max_round` bound
    the round, both included; None is no bound. Without `weights` every row is equally likely.
    """

    kind: Kind
    rows: int
    rows_per_episode: int = 1
    phase: str | None = None
    role: str | None = None
    lineage: int | None = None
    min_round: int | None = None
    max_round: int | None = None
    weights: Weights | None = None

    def __post_init__(self) -> None:
        if self.rows < 1 or self.rows_per_episode < 1 or self.rows % self.rows_per_episode:
            allowed = f"a positive multiple of rows_per_episode = {self.rows_per_episode}"
            raise StoreError(bad_value("group rows", self.rows, allowed))

    def query(self) -> Query:
        """The episodes it draws from."""
        names = ("kind", "phase", "role", "lineage", "min_round", "max_round")
        return Query(**{n: getattr(self, n) for n in names})


@dataclasses.dataclass(frozen=True)
class Pool:
    """Episodes that have something to draw.

    Attributes:
        catalog: the episodes that fit.
        which: i64 (K,) those of them that can be drawn.
        counts: i64 (K,) items each of them has, at least 1.
        ends: (K,) running sum of their shares: i64 where every item has weight 1, else f64.
    """

    catalog: Catalog
    which: NDArray[np.int64]
    counts: NDArray[np.int64]
    ends: NDArray[Any]

    def draw(self, rng: np.random.Generator, episodes: int, each: int) -> tuple[list[Place], list[int]]:
        """`pick` of one step, and where the episodes lie."""
        k, items = self.pick([rng], episodes, each)
        return self.catalog.places(self.which[k[0]]), items[0].tolist()

    def pick(
        self, rngs: Iterable[np.random.Generator], episodes: int, each: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """`each` items from each of `episodes` episodes, drawn with replacement in proportion to their share.

        The items of one episode are distinct unless it has fewer than `each`. Every item of weight w is drawn with a
        probability proportional to w.

        Args:
            rngs: of n steps; each is used before the next one is asked for.
            episodes: per step.
            each: items per episode.

        Returns:
            i64 (n, episodes) below K; i64 (n, episodes * each) item numbers, those of one episode side by side.
        """
        end = self.ends[-1].item()
        whole = self.ends.dtype == np.int64
        firsts, seconds = [], []
        for rng in rngs:
            at: NDArray[Any] = rng.integers(0, end, size=episodes) if whole else rng.random(episodes) * end
            firsts.append(at)
            seconds.append(rng.random(episodes) if each == 1 else self._several(at, rng, each))
        k = self._hit(np.array(firsts))
        if each > 1:
            return k, np.array(seconds, np.int64)
        counts = self.counts.take(k)  # what `_distinct` gives, for every episode has at least one item
        return k, np.minimum((np.array(seconds) * counts).astype(np.int64), counts - 1)

    def _hit(self, at: NDArray[Any]) -> NDArray[np.int64]:
        # A product that was rounded up to the very end would point behind the last episode.
        return np.minimum(self.ends.searchsorted(at, side="right"), len(self.ends) - 1)

    def _several(self, at: NDArray[Any], rng: np.random.Generator, each: int) -> Any:
        counts = self.counts.take(self._hit(at))
        if self.ends.dtype == np.int64 and (counts < each).any():
            return _one_by_one(counts, each, rng)
        return _distinct(counts, rng.random((len(at), each)).T)


def _one_by_one(counts: NDArray[np.int64], each: int, rng: np.random.Generator) -> list[int]:
    """What `_distinct` gives, where an episode that has too few takes its numbers from another kind of draw.

    Runs that are resumed draw as they always did, so this order of draws stays.
    """
    out: list[int] = []
    for count in counts:
        if count < each:
            out += rng.integers(0, count, size=each).tolist()
        else:
            out += _distinct(np.array([count]), rng.random((each, 1)))
    return out


def _distinct(counts: NDArray[np.int64], u: NDArray[np.float64]) -> list[int]:
    """`len(u)` numbers below each of `counts`, distinct where there are enough, each equally likely."""
    each = len(u)
    order = np.arange(each)[:, None]
    enough = counts >= each
    left = np.where(enough, counts - order, counts)
    picked = np.where(enough, order, 0) + np.minimum((u * left).astype(np.int64), left - 1)
    out: list[int] = []
    for column, swap in zip(picked.T.tolist(), enough.tolist(), strict=True):
        if swap:  # the first steps of a Fisher-Yates shuffle of 0 .. count - 1, of which only the moved ones are kept
            moved: dict[int, int] = {}
            for i, j in enumerate(column):
                out.append(moved.get(j, j))
                moved[j] = moved.get(i, i)
        else:
            out += column
    return out


def make_pool(catalog: Catalog, counts: NDArray[np.int64], weights: Weights | None) -> Pool:
    """A pool of `counts` i64 (E,) items per episode of `catalog`; errors as in `Weights.factors`."""
    if weights is None:
        which = np.flatnonzero(counts)
        ends: NDArray[Any] = np.cumsum(counts[which], dtype=np.int64)
    else:
        shares = counts * weights.factors(catalog)
        which = np.flatnonzero(shares)
        ends = np.cumsum(shares[which])
    return Pool(catalog, which, counts[which], ends)


class CounterSampler:
    """Base of the samplers whose draws are a function of (seed, step); a subclass says what an item is."""

    def __init__(self, store: Store, seed: int, fields: Sequence[str], settings: Mapping[str, Any]) -> None:
        """Draw `fields` from `store`; `settings` (JSON-ready) are what else a draw depends on.

        Raises:
            StoreError: if a field is unknown.
        """
        for name in fields:
            if name not in FIELDS:
                raise StoreError(bad_value("sampled field", name, f"one of {sorted(FIELDS)}"))
        self.store = store
        self._about = {"seed": seed, **settings}
        self._seed = seed
        self._step_fields = [n for n in fields if FIELDS[n].level == "step"]
        self._fixed_fields = [n for n in fields if FIELDS[n].level == "episode"]
        self._next = 0
        self._generation = -1
        self._catalogs: dict[Query, Catalog] = {}
        self._pools: dict[Group, Pool] = {}

    def next(self, groups: Sequence[Group]) -> Batch:
        """`batch` of the step after the last one that `next` or `load` set; the first is 0."""
        out = self.batch(groups, self._next)
        self._next += 1
        return out

    def batch(self, groups: Sequence[Group], step: int) -> Batch:
        """The batch of update `step`; see the subclasses."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """What `load` needs to go on with the same draws; JSON-ready."""
        return {**self._about, "next": self._next}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken.

        Raises:
            StoreError: if it belongs to another seed or other settings.
        """
        for name, own in self._about.items():
            if state.get(name) != own:
                raise StoreError(bad_value(f"sampler state {name}", state.get(name), str(own)))
        self._next = int(state["next"])

    def _counts(self, catalog: Catalog) -> NDArray[np.int64]:
        """Items per episode, i64 (E,)."""
        raise NotImplementedError

    def _rng(self, step: int, number: int) -> np.random.Generator:
        return philox(self._seed, Purpose.SAMPLER, round=step, env=number)

    def _rngs(self, steps: range, number: int) -> Iterator[np.random.Generator]:
        """`_rng` of each step in turn; each is good until the next."""
        return philox_rounds(self._seed, Purpose.SAMPLER, steps, env=number)

    def _pool(self, group: Group) -> Pool:
        # Read first: what is asked of the index after this is at least as new, and is asked again if it was newer.
        generation = self.store.generation
        if generation != self._generation:
            self._catalogs, self._pools, self._generation = {}, {}, generation
            self._forget()
        pool = self._pools.get(group)
        if pool is None:
            query = group.query()
            if query not in self._catalogs:
                # Bounds move from round to round: answers to older questions are not asked for again.
                if len(self._catalogs) >= _KEPT:
                    self._catalogs, self._pools = {}, {}
                    self._forget()
                self._catalogs[query] = read_catalog(self.store.index, query)
            catalog = self._catalogs[query]
            pool = self._pools[group] = make_pool(catalog, self._counts(catalog), group.weights)
        if not len(pool.which):
            why = "" if group.weights is None or not len(pool.catalog) else " (or every one has weight 0)"
            raise StoreError(
                f"no row may be drawn for {group.query()}{why} in {self.store.url} as of {self.store.position()}"
            )
        return pool

    def _forget(self) -> None:
        """Drop what was remembered of an older view."""


def episode_slots(places: Sequence[Place]) -> tuple[list[Place], list[int]]:
    """The distinct places in order of appearance, and which of them each of `places` is."""
    slots: dict[Place, int] = {}
    index = [slots.setdefault(p, len(slots)) for p in places]
    return list(slots), index
