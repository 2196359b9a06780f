"""What the learner reads: uniform rows (imitation), whole rollouts once (PPO), successful trajectories (SIL).

Draws are counter-based: they depend on (seed, update, the sorted ids of the episodes that fit), not on who committed
first, what was drawn before, or how far ahead somebody draws. A sampler sees what its store saw at the last
`Store.refresh`; refresh at update boundaries only, and keep `Store.position` in the checkpoint.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.episode import FIELDS, Episode, Kind
from common.errors import StoreError, bad_value
from common.identity import PolicyVersion
from common.rng import Purpose, philox
from replay.index import Query
from replay.record import EpisodeEntry
from replay.store import Store


@dataclasses.dataclass(frozen=True)
class Group:
    """A share of every batch: `rows` rows of episodes that fit, `rows_per_episode` from each episode drawn.

    `min_round` and `max_round` bound the round, both included; None is no bound.
    """

    kind: Kind
    rows: int
    rows_per_episode: int = 1
    phase: str | None = None
    role: str | None = None
    lineage: int | None = None
    min_round: int | None = None
    max_round: int | None = None

    def __post_init__(self) -> None:
        if self.rows < 1 or self.rows_per_episode < 1 or self.rows % self.rows_per_episode:
            allowed = f"a positive multiple of rows_per_episode = {self.rows_per_episode}"
            raise StoreError(bad_value("group rows", self.rows, allowed))

    def query(self) -> Query:
        """The episodes it draws from."""
        names = ("kind", "phase", "role", "lineage", "min_round", "max_round")
        return Query(**{n: getattr(self, n) for n in names})


class UniformSampler:
    """Batches of rows, uniform over the rows that may be drawn.

    A row may be drawn where ``label_valid`` is true; in records without that field every row may. Episodes are drawn
    with replacement, with a probability proportional to the number of such rows; within an episode the rows are
    distinct unless it has fewer than `rows_per_episode` of them. So each such row of a group is equally likely.
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
        for name in fields:
            if name not in FIELDS:
                raise StoreError(bad_value("sampled field", name, f"one of {sorted(FIELDS)}"))
        self._store, self._seed = store, seed
        self._step_fields = [n for n in fields if FIELDS[n].level == "step"]
        self._fixed_fields = [n for n in fields if FIELDS[n].level == "episode"]
        self._next = 0
        self._answers: dict[Query, tuple[int, list[EpisodeEntry], NDArray[np.int64]]] = {}

    def next(self, groups: Sequence[Group]) -> dict[str, NDArray[Any]]:
        """`batch` of the step after the last one that `next` or `load` set; the first is 0."""
        out = self.batch(groups, self._next)
        self._next += 1
        return out

    def batch(self, groups: Sequence[Group], step: int) -> dict[str, NDArray[Any]]:
        """The batch of update `step`; the same whenever it is asked for, as long as the same episodes fit.

        Returns:
            Step-level fields (B, *shape), groups one behind the other, rows of one episode drawn side by side;
            ``episode_index`` i64 (B,) into the E distinct episodes of the batch; episode-level fields (E, *shape).
            Masks are bool, images uint8 as stored.

        Raises:
            StoreError: if nothing fits a group, or an episode lacks a field.
        """
        slots: dict[str, int] = {}
        episodes: list[EpisodeEntry] = []
        index: list[int] = []
        rows: list[int] = []
        for number, group in enumerate(groups):
            rng = philox(self._seed, Purpose.SAMPLER, round=step, env=number)
            for entry in self._draw_episodes(group, rng):
                slot = slots.setdefault(entry.id, len(episodes))
                if slot == len(episodes):
                    episodes.append(entry)
                index += [slot] * group.rows_per_episode
                rows += _draw_rows(self._store.valid_rows(entry), group.rows_per_episode, rng)
        episode_index = np.array(index, np.int64)
        out = self._store.read_rows(self._step_fields, episodes, episode_index, np.array(rows, np.int64))
        out["episode_index"] = episode_index
        return out | self._store.read_fixed(self._fixed_fields, episodes)

    def _draw_episodes(self, group: Group, rng: np.random.Generator) -> list[EpisodeEntry]:
        query = group.query()
        known = self._answers.get(query)
        if known is None or known[0] != self._store.generation:
            found = [e for e in self._store.select(query) if e.valid_rows]
            known = (self._store.generation, found, np.cumsum([e.valid_rows for e in found], dtype=np.int64))
            # Bounds move from round to round: answers to older questions are not asked for again.
            self._answers = {q: a for q, a in self._answers.items() if a[0] == self._store.generation}
            self._answers[query] = known
        _, found, ends = known
        if not found:
            raise StoreError(f"no row may be drawn for {query} in {self._store.root} as of {self._store.position()}")
        draws = rng.integers(0, ends[-1], size=group.rows // group.rows_per_episode)
        return [found[k] for k in np.searchsorted(ends, draws, side="right")]

    def state(self) -> dict[str, Any]:
        """What `load` needs to go on with the same draws; JSON-ready."""
        return {"seed": self._seed, "next": self._next}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken.

        Raises:
            StoreError: if it belongs to another seed.
        """
        if state["seed"] != self._seed:
            raise StoreError(bad_value("sampler state seed", state["seed"], str(self._seed)))
        self._next = int(state["next"])


def _draw_rows(valid: NDArray[np.int64], count: int, rng: np.random.Generator) -> list[int]:
    """`count` of the valid rows, distinct where there are enough, each equally likely."""
    if len(valid) < count:
        return list(valid[rng.integers(0, len(valid), size=count)])
    pool = valid.tolist()
    for i, k in enumerate(rng.random(count)):  # the first steps of a Fisher-Yates shuffle
        j = i + int(k * (len(pool) - i))
        pool[i], pool[j] = pool[j], pool[i]
    return pool[:count]


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
