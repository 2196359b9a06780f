"""Counter-based random numbers: a draw depends on its key alone, never on who makes it or when.

Every draw outside the learner comes from a Philox generator keyed by (run seed, purpose, round, env, step). Two
collectors that are given the same piece of work draw the same numbers, so a piece of work can be repeated anywhere
after a crash, and the repeated episode is the same episode.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_U64 = (1 << 64) - 1


class Purpose(enum.IntEnum):
    """What a stream of numbers is for. Values are part of the format of recorded runs: never renumber."""

    MESH_LIBRARY = 1
    SCENE = 2
    CAMERA = 3
    PAIR_SHRINK = 4
    EXPLORATION = 5
    SAMPLER = 6
    EVALUATION = 7
    LEARNER = 8
    BOOTSTRAP = 9
    TEXTURE = 10
    DAGGER_MIX = 11
    SENSOR = 12
    CLUTTER = 13
    LOOK = 14
    HYPOTHESES = 15


def philox(seed: int, purpose: Purpose, *, round: int = 0, env: int = 0, step: int = 0) -> np.random.Generator:
    """Generator for one draw site.

    Args:
        seed: seed of the run, any non-negative integer.
        purpose: what the numbers are for; keeps streams of one round apart.
        round: collection round or update index.
        env: environment index, unique over the whole fleet within a round.
        step: step within the episode.

    Returns:
        A numpy generator whose stream is a function of the arguments only, equal on every machine.

    Raises:
        ValueError: if a part of the key is negative or does not fit 64 bits.
    """
    for name, value in (("seed", seed), ("round", round), ("env", env), ("step", step)):
        if not 0 <= int(value) <= _U64:
            raise ValueError(f"rng key {name} = {value!r}: allowed is 0 .. 2^64-1")
    # 128-bit key from the seed and the purpose; the 256-bit counter starts at (0, step, env, round): its lowest word
    # runs while numbers are drawn, so streams of different keys meet only after 2^64 blocks.
    counter = np.array([0, step, env, round], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=_key(int(seed), int(purpose)), counter=counter))


def philox_rounds(seed: int, purpose: Purpose, rounds: range, *, env: int = 0) -> Iterator[np.random.Generator]:
    """`philox` of each of these rounds in turn, in half the time: each is good until the next one is asked for."""
    if not rounds:
        return
    rng = philox(seed, purpose, round=rounds[0], env=env)
    state = rng.bit_generator.state
    yield rng
    for round_ in rounds[1:]:
        if not 0 <= round_ <= _U64:
            raise ValueError(f"rng key round = {round_!r}: allowed is 0 .. 2^64-1")
        state["state"]["counter"][3] = round_
        rng.bit_generator.state = state
        yield rng


@lru_cache(maxsize=256)
def _key(seed: int, purpose: int) -> NDArray[np.uint64]:
    """128-bit key, u64 (2,) read-only; kept, for a sampler asks for the same one with every batch."""
    return np.frombuffer(hashlib.blake2b(f"{seed}:{purpose}".encode(), digest_size=16).digest(), dtype=np.uint64)


def derived_seed(seed: int, purpose: Purpose, *, round: int = 0, env: int = 0, step: int = 0) -> int:
    """A 63-bit seed for a library that wants one integer, drawn from the stream of the same key."""
    return int(philox(seed, purpose, round=round, env=env, step=step).integers(0, 2**63 - 1))
