"""Random scenes: one object on a textured ground, and the same scene as the desired image shows it.

Kinds of scene (Sym-Servo IV-A; the desired image may have been taken elsewhere):

- `sym_diff`: a plain object that keeps its shape's symmetry; ground and light differ in the desired image, so that
  nothing tells which of the symmetric poses was meant.
- `sym_same`: a plain object; the desired image shows the same ground and light.
- `asym_same`: a patterned object without symmetry; same ground and light.

Everything drawn is a function of (seed, purpose, round, env).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from actors.shapes import build_mesh, symmetry_of
from common.config import SceneConfig
from common.errors import ConfigError, bad_value
from common.geometry import make_pose, so3_exp
from common.protocols import F64
from common.rng import Purpose, philox
from common.scene import Light, SceneObject, SceneSpec, Shape, Texture, TextureKind

SceneKind = Literal["sym_diff", "sym_same", "asym_same"]
TARGET_ID = 1
_SPREAD = 0.05  # metres around the origin the object stands in
Color = tuple[float, float, float]


def sample_scene(
    config: SceneConfig,
    library: Sequence[Shape],
    *,
    seed: int,
    purpose: Purpose,
    round: int,
    env: int,
    kind: str,
) -> tuple[SceneSpec, SceneSpec]:
    """Draw a scene.

    Args:
        config: difficulty of the ground.
        library: procedural shapes to choose from.
        seed: of the run or suite; with the next three the key of the draw: the same key gives the same scene.
        purpose: what the scene is for.
        round: of collection.
        env: within the round.
        kind: one of `SceneKind`.

    Returns:
        What the camera sees while it moves, and what the desired image shows: the same objects at the same poses.

    Raises:
        ConfigError: if the kind or the difficulty is unknown, or the library is empty.
    """
    if kind not in get_args(SceneKind):
        raise ConfigError(bad_value("scene kind", kind, f"one of {get_args(SceneKind)}"))
    if config.difficulty not in ("easy", "hard"):
        raise ConfigError(bad_value("scenes.difficulty", config.difficulty, "one of ('easy', 'hard')"))
    if not library:
        raise ConfigError(bad_value("mesh library", list(library), "one or more shapes"))
    rng = philox(seed, purpose, round=round, env=env)
    shape = library[int(rng.integers(len(library)))]
    texture = _pattern(rng) if kind == "asym_same" else Texture("plain", (_vivid(rng, rng.random()),))
    pose = _standing(rng, shape)
    target = SceneObject(shape, texture, symmetry_of(shape, texture), TARGET_ID, tuple(pose.ravel().tolist()))
    current = SceneSpec(
        objects=(target,),
        target_id=TARGET_ID,
        ground=_ground(rng, config.difficulty),
        light=_light(rng),
        ground_size=round_to(rng.uniform(0.8, 1.4), 4),
        seed=seed,
    )
    if kind != "sym_diff":
        return current, current
    ground, light, size = _ground(rng, config.difficulty), _light(rng), round_to(rng.uniform(0.8, 1.4), 4)
    return current, dataclasses.replace(current, ground=ground, light=light, ground_size=size)


def round_to(value: float, digits: int) -> float:
    """A number with few digits: hides last-bit differences between maths libraries from recorded scenes."""
    return round(float(value), digits)


def _standing(rng: np.random.Generator, shape: Shape) -> F64:
    """world_T_obj of a shape on the ground near the origin, turned at random; boxes lie on any of their faces."""
    yaw, face = rng.uniform(-np.pi, np.pi), int(rng.integers(6))
    at = rng.uniform(-_SPREAD, _SPREAD, size=2)
    rotation = so3_exp([0.0, 0.0, yaw])
    if shape.kind in ("cube", "box"):
        # Faces 0..3 roll about x, 4 and 5 stand the box on its x faces.
        tip = [np.pi / 2 * face, 0.0, 0.0] if face < 4 else [0.0, np.pi * (face - 4.5), 0.0]
        rotation = rotation @ so3_exp(tip)
    low = (build_mesh(shape).vertices.astype(np.float64) @ rotation[2]).min()
    return np.round(make_pose(rotation, [at[0], at[1], -low]), 9) + 0.0


def _hsv(hue: float, saturation: float, value: float) -> Color:
    """RGB of hue 0..1 (wrapping), saturation and value 0..1; piecewise linear in the hue."""
    ramp = [abs((hue % 1.0 * 6.0 + shift) % 6.0 - 3.0) - 1.0 for shift in (0.0, 4.0, 2.0)]
    r, g, b = (round_to(value * (1.0 - saturation * (1.0 - min(max(x, 0.0), 1.0))), 4) for x in ramp)
    return r, g, b


def _vivid(rng: np.random.Generator, hue: float) -> Color:
    return _hsv(hue, rng.uniform(0.75, 1.0), rng.uniform(0.65, 1.0))


def _pattern(rng: np.random.Generator) -> Texture:
    """A colourful pattern that repeats nowhere on the object: patches or cells in four hues."""
    start = rng.random()
    colors = tuple(_vivid(rng, start + (k + rng.uniform(-0.25, 0.25)) / 4.0) for k in range(4))
    if rng.random() < 0.5:
        return Texture("noise", colors, float(rng.integers(3, 6)), int(rng.integers(2**31)))
    return Texture("checker", colors, float(rng.integers(5, 9)), int(rng.integers(2**31)))


def _ground(rng: np.random.Generator, difficulty: str) -> Texture:
    """Easy: a calm, low-contrast, greyish ground. Hard: strong colours in any pattern."""
    seed = int(rng.integers(2**31))
    if difficulty == "easy":
        grey = rng.uniform(0.35, 0.7)
        tint = rng.uniform(-0.06, 0.06, size=3)
        contrast = rng.uniform(0.10, 0.2)
        dark, bright = (np.clip(grey + tint + side * contrast / 2, 0.0, 1.0).round(4).tolist() for side in (-1, 1))
        return Texture("noise", (tuple(dark), tuple(bright)), float(rng.integers(5, 10)), seed)
    kinds: tuple[TextureKind, ...] = ("noise", "checker", "stripes")
    kind = kinds[int(rng.integers(3))]
    count = int(rng.integers(2, 6))
    colors = tuple(_hsv(rng.random(), rng.uniform(0.2, 1.0), rng.uniform(0.25, 1.0)) for _ in range(count))
    return Texture(kind, colors, float(rng.integers(3, 12)), seed)


def _light(rng: np.random.Generator) -> Light:
    azimuth, height = rng.uniform(-np.pi, np.pi), rng.uniform(0.6, 0.97)
    side = np.sqrt(1.0 - height * height)
    x, y, z = (round_to(v, 6) for v in (side * np.cos(azimuth), side * np.sin(azimuth), height))
    ambient = rng.uniform(0.35, 0.55)
    return Light((x, y, z), round_to(rng.uniform(0.9, 1.1) - ambient, 4), round_to(ambient, 4))
