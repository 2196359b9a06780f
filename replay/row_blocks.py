"""Which rows the batches of some steps in a row hold: drawn together, because arithmetic on many numbers costs as much
as on few. What a step draws does not depend on which steps it is drawn with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.drawing import Group, Pool
from replay.tables import Int64s, Located, Tables

LONGEST = 16  # steps
SEGMENT, START, EPISODE, PARTLY = range(4)  # columns of `where_of`
_MAX_SLOTS = 1 << 32  # an episode's number is that of its segment times this, and its slot


@dataclasses.dataclass
class Block:
    """The draws of n steps, B rows each.

    Attributes:
        groups: what was asked for.
        generation: of the store.
        first: step of the first batch.
        segments: i64 (n, B) number of the segment of each row.
        at: i64 (n, B) row within the segment.
        index: i64 (n, B) into `episodes` of the step.
        episodes: numbers of the distinct episodes of each step, in order of appearance.
        numbering: that the numbers of segments are of.
        located: where the rows of all steps lie, once every segment is open.
    """

    groups: tuple[Group, ...]
    generation: int
    first: int
    segments: Int64s
    at: Int64s
    index: Int64s
    episodes: list[list[int]]
    numbering: Tables
    located: Located | None = None

    @property
    def end(self) -> int:
        """The step after its last one."""
        return self.first + len(self.segments)

    def holds(self, groups: Sequence[Group], step: int, generation: int) -> bool:
        """Whether it has the batch of `step`."""
        return self.first <= step < self.end and self.generation == generation and self.groups == tuple(groups)

    def slots(self, k: int) -> tuple[Int64s, Int64s]:
        """Segment numbers and slots of the episodes of the k-th step, i64 (E,) each."""
        numbers = np.array(self.episodes[k], np.int64)
        return numbers // _MAX_SLOTS, numbers % _MAX_SLOTS


def where_of(pool: Pool, segments: Int64s) -> Int64s:
    """What reading needs of the K episodes of a pool, i64 (K, 4): side by side, for memory far apart is slow.

    Args:
        pool: of the episodes.
        segments: i64 numbers of the segments that the catalog names.

    Returns:
        Columns number of the segment, first row in it, number of the episode, 1 where not every row may be drawn.
    """
    catalog, which = pool.catalog, pool.which
    numbers = {name: column[which] for name, column in catalog.numbers.items()}
    segment = segments[catalog.codes["segment"][which]]
    partly = numbers["valid_rows"] != numbers["rows"]
    return np.stack([segment, numbers["start"], segment * _MAX_SLOTS + numbers["slot"], partly], axis=1)


def make_block(
    groups: Sequence[Group], generation: int, first: int, drawn: Sequence[tuple[Int64s, Int64s]], numbering: Tables
) -> Block:
    """A block of draws.

    Args:
        groups, generation, first, numbering: see `Block`.
        drawn: per group, where i64 (n, episodes, 4) the episodes lie (`where_of`), and rows i64 (n, rows) of them,
            those of one episode side by side.
    """
    where = np.concatenate([np.repeat(w, r.shape[1] // w.shape[1], axis=1) for w, r in drawn], axis=1)
    index: list[list[int]] = []
    episodes: list[list[int]] = []
    for keys in where[:, :, EPISODE].tolist():
        slots: dict[int, int] = {}
        index.append([slots.setdefault(key, len(slots)) for key in keys])
        episodes.append(list(slots))
    rows: NDArray[Any] = np.concatenate([rows for _, rows in drawn], axis=1)
    segments = np.ascontiguousarray(where[:, :, SEGMENT])
    at, numbers = where[:, :, START] + rows, np.array(index, np.int64)
    return Block(tuple(groups), generation, first, segments, at, numbers, episodes, numbering)
