import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.rng import Purpose, derived_seed, philox, philox_rounds

KEY = {"seed": 7, "purpose": Purpose.SCENE, "round": 3, "env": 11, "step": 2}
GOLDEN = [1328276272511860485, 6872865691654000719, 1550930413323808897, 6509506545612840292]
GOLDEN_SEED = 9161590654516525244
GOLDEN_NORMAL = [-0.12714603812158995, -0.5573329583317329, -1.6137518168083038]


def draw(seed, purpose, **key):
    return philox(seed, purpose, **key).integers(0, 2**63 - 1, size=4).tolist()


def test_numbers_are_the_recorded_ones():
    """Recorded runs are repeated by these streams: a change here breaks every run on disk."""
    assert draw(**KEY) == GOLDEN
    assert derived_seed(0, Purpose.BOOTSTRAP) == GOLDEN_SEED
    np.testing.assert_allclose(philox(1, Purpose.CAMERA).standard_normal(3), GOLDEN_NORMAL, rtol=1e-12)


@pytest.mark.parametrize(
    ("part", "other"), [("seed", 8), ("purpose", Purpose.CAMERA), ("round", 4), ("env", 12), ("step", 3)]
)
def test_every_part_of_the_key_counts(part, other):
    assert draw(**(KEY | {part: other})) != draw(**KEY)


parts = st.tuples(st.integers(0, 2**64 - 1), st.sampled_from(Purpose), *[st.integers(0, 2**64 - 1) for _ in range(3)])


@given(parts, parts)
def test_streams_are_equal_exactly_where_the_keys_are(a, b):
    def numbers(k):
        return draw(k[0], k[1], round=k[2], env=k[3], step=k[4])

    assert (numbers(a) == numbers(b)) == (a == b)
    assert numbers(a) == numbers(a)


def test_parts_cannot_stand_in_for_each_other():
    keys = [{"round": 1}, {"env": 1}, {"step": 1}, {"round": 1, "env": 1}, {}]
    assert len({tuple(draw(0, Purpose.SCENE, **k)) for k in keys}) == len(keys)
    assert draw(1, Purpose.MESH_LIBRARY) != draw(11, Purpose.MESH_LIBRARY)


def test_streams_do_not_overlap_in_their_first_thousand_numbers():
    seen = [philox(0, Purpose.SCENE, step=s).integers(0, 2**63 - 1, size=1000) for s in range(8)]
    assert len(np.unique(np.concatenate(seen))) == 8000


@pytest.mark.parametrize("part", ["seed", "round", "env", "step"])
@pytest.mark.parametrize("value", [-1, 2**64])
def test_keys_out_of_range_are_refused_by_name(part, value):
    with pytest.raises(ValueError, match=f"rng key {part} = {value}"):
        philox(**(KEY | {part: value}))


def test_another_process_draws_the_same():
    code = (
        "from common.rng import Purpose, philox;"
        "print(philox(7, Purpose.SCENE, round=3, env=11, step=2).integers(0, 2**63 - 1, size=4).tolist())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == str(draw(**KEY))


def test_purposes_keep_their_numbers():
    recorded = {
        "MESH_LIBRARY": 1, "SCENE": 2, "CAMERA": 3, "PAIR_SHRINK": 4, "EXPLORATION": 5, "SAMPLER": 6, "EVALUATION": 7,
        "LEARNER": 8, "BOOTSTRAP": 9, "TEXTURE": 10, "DAGGER_MIX": 11,
    }  # fmt: skip
    assert {p.name: p.value for p in Purpose if p.name in recorded} == recorded
    assert len({p.value for p in Purpose}) == len(Purpose)


def test_rounds_in_turn_draw_what_each_draws_alone():
    rounds = range(5, 9)
    # An odd number of 32-bit draws leaves half a word over, which the next round must not find.
    drawn = [
        (rng.integers(0, 1000, size=3, dtype=np.int32).tolist(), rng.random(5).tolist())
        for rng in philox_rounds(7, Purpose.SAMPLER, rounds, env=2)
    ]
    for round_, (whole, part) in zip(rounds, drawn, strict=True):
        alone = philox(7, Purpose.SAMPLER, round=round_, env=2)
        assert alone.integers(0, 1000, size=3, dtype=np.int32).tolist() == whole
        assert alone.random(5).tolist() == part
    assert not list(philox_rounds(7, Purpose.SAMPLER, range(3, 3)))
    with pytest.raises(ValueError, match="rng key round"):
        list(philox_rounds(7, Purpose.SAMPLER, range(2**64 - 1, 2**64 + 1)))
