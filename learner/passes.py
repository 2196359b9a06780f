"""Which rows a gradient step takes, and how a batch is cut into parts whose gradients add up to the whole one's."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.errors import TrainingError, bad_value

Tensors = dict[str, Tensor]

_OF_GOALS = ("goal_image", "goal_mask")


def minibatches(rows: int, size: int, epochs: int) -> Iterator[NDArray[np.int64]]:
    """Row numbers of each minibatch: `epochs` passes over `rows` rows, as RLlib takes them.

    The first pass is in order, each later one shuffled by numpy's global generator. A minibatch that reaches the end
    goes on at the beginning, so all have `size` rows, and the last may reach into a pass that is not finished.
    """
    order = np.arange(rows)
    start = passed = 0
    while passed < epochs:
        pieces, need = [], size
        while start + need >= rows:
            pieces.append(order[start:])
            need -= rows - start
            start = 0
            passed += 1
            if epochs > 1:
                order = order[np.random.permutation(rows)]
        pieces.append(order[start : start + need])
        start += need
        yield np.concatenate(pieces)


def bounds(rows: int, parts: int) -> list[tuple[int, int]]:
    """First and one-past-last row of each part; sizes differ by one at most.

    Raises:
        TrainingError: if there are fewer rows than parts.
    """
    if rows < parts:
        raise TrainingError(bad_value("rows of a minibatch", rows, f"at least accumulation x learners = {parts}"))
    ends = [rows * k // parts for k in range(parts + 1)]
    return list(itertools.pairwise(ends))


def split_rows(batch: Mapping[str, Tensor], parts: int) -> list[Tensors]:
    """Cut tensors of equal length."""
    return [{k: v[a:b] for k, v in batch.items()} for a, b in bounds(len(next(iter(batch.values()))), parts)]


def split_pairs(batch: Mapping[str, Tensor], parts: int) -> list[Tensors]:
    """Cut an imitation batch of B rows that share E goals: each part has its rows and the goals that these point to.

    Parts get `goal_weight` (E',): one over the number of parts that a goal is in, so that it counts once altogether.
    """
    index = batch["episode_index"]
    goals = [torch.unique(index[a:b], return_inverse=True) for a, b in bounds(len(index), parts)]
    uses = torch.zeros(len(batch["goal_image"]), device=index.device)
    for used, _ in goals:
        uses[used] += 1.0
    out = []
    for (a, b), (used, inverse) in zip(bounds(len(index), parts), goals, strict=True):
        part = {k: v[used] if k in _OF_GOALS else v[a:b] for k, v in batch.items()}
        out.append(part | {"episode_index": inverse, "goal_weight": 1.0 / uses[used]})
    return out


def shares(whole: Mapping[str, Tensor], part: Mapping[str, Tensor]) -> Tensors:
    """By what the mean over a part is multiplied, so that all parts' add up to the mean over the whole."""
    return {name: part[name].clamp_min(1) / whole[name].clamp_min(1) for name in whole}
