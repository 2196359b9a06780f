"""Reads windows of episodes as (B, L, ...) arrays, with n-step returns; nothing crosses the end of an episode."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import StoreError, bad_value
from replay.catalog import Place
from replay.store import Store

_OUTCOME = ("reward", "terminated", "truncated")


@dataclasses.dataclass(frozen=True)
class NStep:
    """Discounted sums of the next rewards, for learners that bootstrap.

    Attributes:
        n: rewards in a sum at most; fewer where the episode ends before.
        gamma: discount per step.
        bootstrap: step-level fields that are read at the row to bootstrap from as well.
    """

    n: int
    gamma: float
    bootstrap: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.n < 1:
            raise StoreError(bad_value("n_step n", self.n, "at least 1"))
        if not 0.0 <= self.gamma <= 1.0:
            raise StoreError(bad_value("n_step gamma", self.gamma, "0 .. 1"))


@dataclasses.dataclass(frozen=True)
class Windows:
    """B windows.

    Attributes:
        index: i64 (B,) which episode.
        first: i64 (B,) first row within the episode.
        length: i64 (B,) rows of it that are there.
        usable: i64 (B,) rows of the episode that windows may hold: all of them, or with `NStep` those that acted.
    """

    index: NDArray[np.int64]
    first: NDArray[np.int64]
    length: NDArray[np.int64]
    usable: NDArray[np.int64]


def read_windows(
    store: Store, fields: Sequence[str], places: Sequence[Place], windows: Windows, n_step: NStep | None
) -> dict[str, NDArray[Any]]:
    """Read the rows of windows.

    Args:
        store: to read from.
        fields: step-level fields.
        places: E episodes.
        windows: B windows, the longest of which has L rows.
        n_step: which sums to add, None for none.

    Returns:
        fields (B, L, *shape), zero behind the end of a window; ``row_valid`` bool (B, L), false there; ``first_row``
        i64 (B,). With `n_step` for each row t: ``n_step_return`` f32 (B, L), sum of gamma^k reward[t + k] up to n
        terms, no further than the row that ends the episode; ``n_step_count`` i64 (B, L), terms m;
        ``n_step_discount`` f32 (B, L), what the bootstrapped value is multiplied by: gamma^m, 0 where it terminated;
        ``n_step_terminated`` bool (B, L); ``bootstrap_row`` i64 (B, L) = t + m, a row of the same episode; and
        ``bootstrap_NAME`` (B, L, *shape) of its fields.

    Raises:
        StoreError: if an episode lacks a field.
    """
    size = int(windows.length.max())
    row_valid = np.arange(size) < windows.length[:, None]
    out = _read(store, fields, places, windows.index, windows.first[:, None] + np.arange(size), row_valid)
    out |= {"row_valid": row_valid, "first_row": windows.first}
    if n_step is not None:
        reach = windows.first[:, None] + np.arange(size + n_step.n - 1)
        outcome = _read(store, _OUTCOME, places, windows.index, reach, reach < windows.usable[:, None])
        # Where a record does not say how it ended, its last action is where it was cut.
        ends = outcome["terminated"] | outcome["truncated"] | (reach >= windows.usable[:, None] - 1)
        sums = n_step_sums(outcome["reward"], outcome["terminated"], ends, n_step)
        sums = {k: np.where(row_valid, v, np.zeros((), v.dtype)) for k, v in sums.items()}
        rows = np.where(row_valid, windows.first[:, None] + np.arange(size) + sums["n_step_count"], 0)
        late = _read(store, n_step.bootstrap, places, windows.index, rows, row_valid)
        out |= sums | {"bootstrap_row": rows} | {f"bootstrap_{name}": array for name, array in late.items()}
    return out


def _read(
    store: Store,
    fields: Sequence[str],
    places: Sequence[Place],
    index: NDArray[np.int64],
    rows: NDArray[np.int64],
    there: NDArray[np.bool_],
) -> dict[str, NDArray[Any]]:
    """Fields of rows (B, L) of episodes `index` (B,), zero where they are not `there`: (B, L, *shape)."""
    # Row 0 is read in place of what is not there, so that the answer is one array that nothing is copied into again.
    flat = np.where(there, rows, 0).ravel()
    read = store.read_rows(fields, places, np.repeat(index, rows.shape[1]), flat) if fields else {}
    for array in read.values():
        array[~there.ravel()] = 0
    return {name: array.reshape(*rows.shape, *array.shape[1:]) for name, array in read.items()}


def n_step_sums(
    reward: NDArray[np.float32], terminated: NDArray[np.bool_], ends: NDArray[np.bool_], n_step: NStep
) -> dict[str, NDArray[Any]]:
    """Sums over the rows that follow each of the first L.

    Args:
        reward: (B, L + n - 1).
        terminated: (B, L + n - 1), the action of this row ended the episode for good.
        ends: (B, L + n - 1), no reward of the episode comes after that of this row.
        n_step: n and gamma.

    Returns:
        n_step_return, n_step_count, n_step_discount and n_step_terminated (B, L), see `read_windows`.
    """
    shape = (len(reward), reward.shape[1] - n_step.n + 1)
    total, count = np.zeros(shape), np.zeros(shape, np.int64)
    going, over = np.ones(shape, np.bool_), np.zeros(shape, np.bool_)
    for k in range(n_step.n):
        now = slice(k, k + shape[1])
        total += np.where(going, n_step.gamma**k * reward[:, now].astype(np.float64), 0.0)
        count += going
        over |= going & terminated[:, now]
        going = going & ~ends[:, now]
    return {
        "n_step_return": total.astype(np.float32),
        "n_step_count": count,
        "n_step_discount": np.where(over, 0.0, np.float64(n_step.gamma) ** count).astype(np.float32),
        "n_step_terminated": over,
    }
