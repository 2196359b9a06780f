"""How much an episode counts in a draw, as data: one factor per property, multiplied."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import StoreError, bad_value
from replay.catalog import Catalog

ANY_OTHER = "*"
_BY_NAME = ("kind", "phase", "role", "lineage", "policy_version")
_BY_STEP = ("round_age", "version_age", "iou_max", "iou_final")

Stairs = tuple[tuple[float, float], ...]


@dataclasses.dataclass(frozen=True)
class Weights:
    """Factors; an episode's weight is their product, and each of its rows has that weight. None is factor 1.

    Names map to factors; a name that is not listed has the factor of ``"*"``, and is refused where that is not listed
    either, so that a misspelt name is noticed. Stairs are ((from, factor), ...): a value has the factor of the last
    stair that begins at or below it. The first stair begins at 0.

    Attributes:
        kind, phase, role, lineage: by name; lineages as text.
        policy_version: by ``str(PolicyVersion)``; "none" where nothing learned acted.
        round_age: stairs over rounds back, counted from the newest round among the episodes that fit.
        version_age: stairs over publications back: 0 for the newest version among the episodes that fit, 1 for the
            next older one of them. Episodes in which nothing learned acted have factor 1.
        iou_max, iou_final: stairs over the IoU.
        no_iou: factor of episodes without IoU where stairs over it are given; None refuses them.
    """

    kind: Mapping[str, float] | None = None
    phase: Mapping[str, float] | None = None
    role: Mapping[str, float] | None = None
    lineage: Mapping[str, float] | None = None
    policy_version: Mapping[str, float] | None = None
    round_age: Stairs | None = None
    version_age: Stairs | None = None
    iou_max: Stairs | None = None
    iou_final: Stairs | None = None
    no_iou: float | None = None

    def __post_init__(self) -> None:
        for name in _BY_NAME:
            for key, factor in (getattr(self, name) or {}).items():
                _check_factor(f"weight of {name} {key}", factor)
        for name in _BY_STEP:
            stairs = getattr(self, name)
            if stairs is None:
                continue
            begins = [begin for begin, _ in stairs]
            if not begins or begins[0] != 0 or any(a >= b for a, b in itertools.pairwise(begins)):
                raise StoreError(bad_value(f"weights of {name} begin at", begins, "0, then ascending"))
            for begin, factor in stairs:
                _check_factor(f"weight of {name} from {begin}", factor)
        if self.no_iou is not None:
            _check_factor("weight of no_iou", self.no_iou)

    def __hash__(self) -> int:
        given = [getattr(self, n) for n in _BY_NAME]
        names = tuple(None if g is None else frozenset(g.items()) for g in given)
        return hash((names, *(getattr(self, n) for n in _BY_STEP), self.no_iou))

    def factors(self, catalog: Catalog) -> NDArray[np.float64]:
        """The weight of each episode of `catalog`, f64 (E,).

        Raises:
            StoreError: if a name has no factor, or an episode has no IoU where there are stairs over it.
        """
        out = np.ones(len(catalog))
        for name in _BY_NAME:
            given = getattr(self, name)
            if given is not None:
                out *= _by_name(name, given, catalog)
        if self.round_age is not None:
            rounds = catalog.numbers["round"]
            out *= _climb(self.round_age, rounds.max(initial=0) - rounds)
        if self.version_age is not None:
            out *= self._by_version_age(catalog)
        for name in ("iou_max", "iou_final"):
            if getattr(self, name) is not None:
                out *= self._by_score(name, catalog.scores[name])
        return out

    def _by_version_age(self, catalog: Catalog) -> NDArray[np.float64]:
        assert self.version_age is not None
        names = catalog.names["policy_version"]
        newest_first = sorted((n for n in names if n != "none"), key=_publication, reverse=True)
        by_name = dict(zip(newest_first, _climb(self.version_age, np.arange(len(newest_first))), strict=True))
        return np.array([by_name.get(n, 1.0) for n in names], np.float64)[catalog.codes["policy_version"]]

    def _by_score(self, name: str, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        missing = np.isnan(scores)
        if missing.any() and self.no_iou is None:
            raise StoreError(
                f"{int(missing.sum())} episodes have no {name}, which weights of {name} need: "
                "set no_iou, or ask for episodes that have it"
            )
        return np.where(missing, self.no_iou or 0.0, _climb(getattr(self, name), np.where(missing, 0.0, scores)))


def _check_factor(field: str, factor: float) -> None:
    if not (math.isfinite(factor) and factor >= 0):
        raise StoreError(bad_value(field, factor, "a finite number, at least 0"))


def _by_name(name: str, given: Mapping[str, float], catalog: Catalog) -> NDArray[np.float64]:
    names = catalog.names[name]
    unknown = [n for n in names if n not in given and ANY_OTHER not in given]
    if unknown:
        allowed = f"one of {sorted(given)}, or list {ANY_OTHER!r} for any other"
        raise StoreError(bad_value(f"{name} of an episode that fits, to be weighed", unknown[0], allowed))
    return np.array([given[n] if n in given else given[ANY_OTHER] for n in names], np.float64)[catalog.codes[name]]


def _climb(stairs: Stairs, values: NDArray[Any]) -> NDArray[np.float64]:
    begins = np.array([begin for begin, _ in stairs], np.float64)
    factors = np.array([factor for _, factor in stairs], np.float64)
    return factors[np.searchsorted(begins, values, side="right") - 1]


def _publication(version: str) -> tuple[int, int, str]:
    lineage, counter, sha256 = version.split(".")
    return int(lineage), int(counter), sha256
