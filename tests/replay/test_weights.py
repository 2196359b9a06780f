"""Weights: the factors of each property multiply, and what they do not speak of is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from catalogs import make_catalog

from common.errors import StoreError
from replay.weights import Weights


def test_factors_multiply() -> None:
    catalog = make_catalog(
        [5] * 4,
        kind=["dagger", "rollout", "rollout", "dagger"],
        phase=["il", "ppo", "sil", "il"],
        role=["a", "a", "b", "b"],
        lineage=[0, 0, 1, 1],
        policy_version=["0.2.aa", "0.10.bb", "1.0.cc", "none"],
        round=[3, 7, 5, 6],
        iou_max=[0.1, 0.5, 0.95, math.nan],
        iou_final=[0.0, 0.4999, 0.9, math.nan],
    )

    def factors(**given: object) -> list[float]:
        return Weights(**given).factors(catalog).tolist()  # type: ignore[arg-type]

    assert factors() == [1, 1, 1, 1]
    assert factors(kind={"dagger": 3.0, "rollout": 0.0}) == [3, 0, 0, 3]
    assert factors(phase={"il": 2.0, "*": 0.5}) == [2, 0.5, 0.5, 2]
    assert factors(role={"a": 1.0, "b": 4.0}) == [1, 1, 4, 4]
    assert factors(lineage={"1": 2.0, "*": 1.0}) == [1, 1, 2, 2]
    assert factors(policy_version={"0.10.bb": 9.0, "none": 5.0, "*": 0.0}) == [0, 9, 0, 5]
    assert factors(round_age=((0, 1.0), (1, 0.5), (3, 0.25))) == [0.25, 1, 0.5, 0.5]
    # Publications count as (lineage, counter): 1.0 is newer than 0.10, and that is newer than 0.2.
    assert factors(version_age=((0, 8.0), (1, 4.0), (2, 2.0))) == [2, 4, 8, 1]
    assert factors(iou_max=((0.0, 1.0), (0.5, 3.0), (0.9, 7.0)), no_iou=0.5) == [1, 3, 7, 0.5]
    assert factors(iou_final=((0.0, 0.0), (0.5, 3.0)), no_iou=2.0) == [0, 0, 3, 2]
    assert factors(kind={"dagger": 3.0, "rollout": 2.0}, round_age=((0, 1.0), (1, 0.5))) == [1.5, 2, 1, 1.5]


def test_what_has_no_factor_is_refused() -> None:
    catalog = make_catalog([5, 5], phase=["il", "ppo"], iou_max=[0.5, math.nan])
    with pytest.raises(
        StoreError, match=r"phase of an episode that fits, to be weighed = 'il': .* \['ppo'\], or list '\*'"
    ):
        Weights(phase={"ppo": 1.0}).factors(catalog)
    with pytest.raises(StoreError, match="1 episodes have no iou_max, which weights of iou_max need: set no_iou"):
        Weights(iou_max=((0, 1.0),)).factors(catalog)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"phase": {"il": -1.0}}, r"weight of phase il = -1.0: allowed is a finite number, at least 0"),
        ({"role": {"a": math.inf}}, "weight of role a = inf"),
        ({"round_age": ((1, 1.0),)}, r"weights of round_age begin at = \[1\]: allowed is 0, then ascending"),
        ({"version_age": ((0, 1.0), (0, 2.0))}, r"weights of version_age begin at = \[0, 0\]"),
        ({"iou_max": ()}, r"weights of iou_max begin at = \[\]"),
        ({"iou_final": ((0, math.nan),)}, "weight of iou_final from 0 = nan"),
        ({"no_iou": -0.5}, "weight of no_iou = -0.5"),
    ],
)
def test_bad_factors_are_refused(given: dict, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        Weights(**given)


def test_equal_weights_share_a_hash_whatever_the_order_of_their_names() -> None:
    a, b = Weights(phase={"il": 1.0, "ppo": 2.0}), Weights(phase={"ppo": 2.0, "il": 1.0})
    assert a == b and hash(a) == hash(b)
    assert hash(a) != hash(Weights(phase={"ppo": 1.0, "il": 2.0}))
    assert np.all(a.factors(make_catalog([1, 1], phase=["il", "ppo"])) == [1.0, 2.0])
