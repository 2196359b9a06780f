"""Polylines of the bodies of revolution that the mesh library draws: what stands in a kitchen or lies in a workshop.

Every function takes a generator and gives (radius, z) points [m] from the bottom up along the outside, then down the
inside where there is one; see the kind "lathe" in `actors.scenes.shapes`.
"""

from __future__ import annotations

import numpy as np

Points = list[tuple[float, float]]

GRID = 2e-4  # metres; sums and differences of drawn numbers are whole multiples, so that mirror images stay exact


def draw_profile(rng: np.random.Generator) -> Points:
    """A cup or a bowl with an inside, a bottle, a vase, a flange, a nut with a hole or a tube."""
    families = (_cup, _bowl, _bottle, _vase, _flange, _nut, _tube)
    return families[int(rng.integers(len(families)))](rng)


def _cup(rng: np.random.Generator) -> Points:
    rim, height, wall = rng.uniform(0.05, 0.08), rng.uniform(0.10, 0.16), rng.uniform(0.006, 0.012)
    foot = rim * rng.uniform(0.65, 1.0)
    return [(0.0, 0.0), (foot, 0.0), (rim, height), (rim - wall, height), (foot - wall, wall), (0.0, wall)]


def _bowl(rng: np.random.Generator) -> Points:
    rim, height, wall = rng.uniform(0.08, 0.14), rng.uniform(0.06, 0.10), rng.uniform(0.006, 0.012)
    foot = rim * rng.uniform(0.35, 0.5)
    rise = np.linspace(0.0, np.pi / 2, 6)
    out, up = np.sin(rise), 1.0 - np.cos(rise)
    outside = zip(foot + (rim - foot) * out, height * up, strict=True)
    # The inside begins nearer the axis and ends a wall off the rim, so that it keeps away from the outside.
    bottom = 0.9 * foot
    inside = zip(bottom + (rim - wall - bottom) * out, wall + (height - wall) * up, strict=True)
    return [(0.0, 0.0), *outside, *reversed(list(inside)), (0.0, wall)]


def _bottle(rng: np.random.Generator) -> Points:
    body, height = rng.uniform(0.05, 0.08), rng.uniform(0.20, 0.30)
    neck, lip = body * rng.uniform(0.3, 0.45), rng.uniform(0.006, 0.012)
    shoulder, throat = height * rng.uniform(0.5, 0.65), height * rng.uniform(0.72, 0.82)
    bevel = rng.uniform(0.006, 0.012)
    middle = (body + neck) / 2.0, (shoulder + throat) / 2.0
    rest = [(neck, throat), (neck, height - 2.0 * lip), (neck + lip, height - 2.0 * lip), (neck + lip, height)]
    return [(body - bevel, 0.0), (body, bevel), (body, shoulder), middle, *rest]


def _vase(rng: np.random.Generator) -> Points:
    belly, height, wall = rng.uniform(0.07, 0.10), rng.uniform(0.18, 0.28), rng.uniform(0.006, 0.012)
    foot, waist = rng.uniform(0.5, 0.7), rng.uniform(0.4, 0.6)
    shares = (foot, 0.85, 1.0, 0.95, 0.5 * (0.95 + waist), waist, waist + rng.uniform(0.1, 0.3))
    outside = [(belly * share, height * i / (len(shares) - 1)) for i, share in enumerate(shares)]
    inside = [(radius - wall, z) for radius, z in reversed(outside[1:])]
    return [(0.0, 0.0), *outside, *inside, (belly * foot - wall, wall), (0.0, wall)]


def _flange(rng: np.random.Generator) -> Points:
    disc, thick = rng.uniform(0.08, 0.13), rng.uniform(0.014, 0.03)
    hub, hole = disc * rng.uniform(0.45, 0.6), disc * rng.uniform(0.2, 0.35)
    height = thick + rng.uniform(0.03, 0.10)
    return [(hole, 0.0), (disc, 0.0), (disc, thick), (hub, thick), (hub, height), (hole, height), (hole, 0.0)]


def _nut(rng: np.random.Generator) -> Points:
    outside, height = rng.uniform(0.06, 0.10), _on_grid(rng.uniform(0.05, 0.10))
    hole, bevel = outside * rng.uniform(0.4, 0.6), _on_grid(rng.uniform(0.006, 0.014))
    low, high = [(outside - bevel, 0.0), (outside, bevel)], [(outside, height - bevel), (outside - bevel, height)]
    return [(hole, 0.0), *low, *high, (hole, height), (hole, 0.0)]


def _tube(rng: np.random.Generator) -> Points:
    outside, height = rng.uniform(0.05, 0.09), rng.uniform(0.10, 0.28)
    hole = outside * rng.uniform(0.6, 0.85)
    return [(hole, 0.0), (outside, 0.0), (outside, height), (hole, height), (hole, 0.0)]


def _on_grid(value: float) -> float:
    return GRID * round(value / GRID)
