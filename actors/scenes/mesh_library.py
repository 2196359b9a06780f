"""The library of procedural shapes that scenes are drawn from: two disjoint splits, a function of the seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from actors.scenes.lathe_profiles import draw_profile
from common.errors import ConfigError, bad_value
from common.rng import Purpose, philox
from common.scene import Shape, ShapeKind

Split = Literal["train", "heldout"]
_SPLITS: tuple[Split, ...] = get_args(Split)


def mesh_library(seed: int, count: int, kinds: Sequence[str], split: Split = "train") -> tuple[Shape, ...]:
    """Shapes of 10 to 30 cm, kinds in turn.

    Args:
        seed: of the run or the suite.
        count: how many; a longer library begins with the shorter one.
        kinds: which kinds of shape, from `common.scene.ShapeKind` (without "mesh").
        split: the two splits share no shape, whatever their seeds.

    Raises:
        ConfigError: if a kind or the split is unknown, or there is nothing to draw.
    """
    if split not in _SPLITS:
        raise ConfigError(bad_value("split", split, f"one of {_SPLITS}"))
    if count < 1 or not kinds:
        raise ConfigError(
            bad_value("mesh library count, kinds", (count, list(kinds)), "at least one shape of one kind")
        )
    known = [k for k in get_args(ShapeKind) if k != "mesh"]
    for kind in kinds:
        if kind not in known:
            raise ConfigError(bad_value("scenes.shapes", kind, f"one of {known}"))
    side = _SPLITS.index(split)
    return tuple(_draw(seed, i, kinds[i % len(kinds)], side) for i in range(count))


def _draw(seed: int, index: int, kind: str, side: int) -> Shape:
    rng = philox(seed, Purpose.MESH_LIBRARY, env=index, step=side)
    if kind == "cube":
        values = [rng.uniform(0.14, 0.22)]
    elif kind == "box":
        values = list(rng.uniform(0.10, 0.26, size=3))
    elif kind == "cylinder":
        values = [rng.uniform(0.06, 0.11), rng.uniform(0.14, 0.28)]
    elif kind == "cone":
        values = [rng.uniform(0.08, 0.14), rng.uniform(0.16, 0.30)]
    elif kind == "sphere":
        values = [rng.uniform(0.08, 0.13)]
    elif kind == "revolution":
        values = _profile(rng)
    elif kind == "frustum":
        bottom = rng.uniform(0.07, 0.13)
        values = [bottom, bottom * rng.uniform(0.35, 0.8), rng.uniform(0.12, 0.28)]
    elif kind == "capsule":
        radius = rng.uniform(0.05, 0.09)
        values = [radius, 2.0 * radius + rng.uniform(0.04, 0.12)]
    elif kind == "torus":
        values = [rng.uniform(0.07, 0.11), rng.uniform(0.025, 0.04)]
    elif kind in ("prism", "pyramid"):
        corners = float(rng.integers(3, 9))
        return _shape(kind, side, [rng.uniform(0.07, 0.12), rng.uniform(0.12, 0.28)], (corners,))
    else:
        values = [value for point in draw_profile(rng) for value in point]
        # The axis is the axis in both splits.
        sizes = (0.0 if i % 2 == 0 and value == 0.0 else _on_side(value, side) for i, value in enumerate(values))
        return Shape("lathe", tuple(sizes))
    return _shape(kind, side, values)


def _shape(kind: str, side: int, values: Sequence[float], counts: tuple[float, ...] = ()) -> Shape:
    return Shape(kind, (*counts, *(_on_side(v, side) for v in values)))  # type: ignore[arg-type]


def _on_side(value: float, side: int) -> float:
    """Sizes are whole numbers of 1/10 mm: even in one split, odd in the other, so that no shape is in both."""
    return round((2 * round(value * 5000.0) + side) / 10000.0, 4)


def _profile(rng: np.random.Generator) -> list[float]:
    """A bottle (body, shoulder, neck), a cup (widening upwards) or a vase (bulge and waist); 8 radii."""
    height, radius = rng.uniform(0.18, 0.30), rng.uniform(0.07, 0.11)
    family = rng.integers(3)
    if family == 0:
        neck, waist = rng.uniform(0.3, 0.5), rng.uniform(0.88, 1.0)
        shape = [0.94, 1.0, waist, 1.0, 0.5 + 0.5 * neck + rng.uniform(0.0, 0.1), neck * 1.1, neck, neck]
    elif family == 1:
        foot = rng.uniform(0.55, 0.8)
        bend = rng.uniform(0.8, 1.4)
        shape = [foot + (1.0 - foot) * (i / 7) * (bend + (1.0 - bend) * i / 7) for i in range(8)]
        height *= 0.8
    else:
        foot, waist = rng.uniform(0.5, 0.7), rng.uniform(0.4, 0.6)
        shape = [foot, 0.85, 1.0, 0.95, 0.5 * (0.95 + waist), waist, waist * 1.05, waist + rng.uniform(0.1, 0.3)]
    return [height, *(radius * s for s in shape)]
