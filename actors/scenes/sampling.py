"""Random scenes: objects on a textured ground, and the same scene as the desired image shows it.

Kinds of scene (Sym-Servo IV-A; the desired image may have been taken elsewhere) say what the target is:

- `sym_diff`: a plain object that keeps its shape's symmetry; ground and light differ in the desired image, so that
  nothing tells which of the symmetric poses was meant.
- `sym_same`: a plain object; the desired image shows the same ground and light.
- `asym_same`: a patterned object without symmetry; same ground and light.
- `any`: a plain, patterned or imported object; ground and light differ in half of the desired images.

Around the target stand distractors that may look like anything (CNSv2 III-H: one to six objects in all); some have the
target's shape, as the bottles beside the target in Sym-Servo IV-B.

Everything drawn is a function of (seed, purpose, round, env). The target, a procedural ground and a simple light come
from the stream of that purpose; everything that a setting switches on has a stream of its own, so that it shifts
nothing else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypedDict, get_args

import numpy as np

from actors.scenes import looks
from actors.scenes.clutter import Footprint, at_rest, footprint, on_ground, place
from actors.scenes.models import Model, hull_of
from actors.scenes.sensor import sample_sensor
from actors.scenes.shapes import build_mesh
from common.errors import ConfigError, bad_value
from common.geometry import so3_exp
from common.protocols import F64
from common.rng import Purpose, philox
from common.scene import Light, Material, SceneObject, SceneSpec, Texture
from common.scene_config import SceneConfig, SceneKind

TARGET_ID = 1
_SPREAD = 0.05  # metres around the origin the target stands in
_STANDING = ("cube", "box", "cylinder", "cone", "sphere", "revolution")
# Parts of the CLUTTER stream; distractor k has _DISTRACTOR + k.
_COUNT, _REST, _BARE, _DISTRACTOR = 0, 1, 2, 16
# Parts of the LOOK stream; the desired image's are one higher, object k's material is _SURFACE + k.
_KIND, _PATTERN, _CAMERA, _SKY, _SHADOW, _PICTURE, _SENSOR, _SURFACE = 0, 2, 3, 4, 6, 8, 10, 16


@dataclasses.dataclass(frozen=True)
class _Key:
    seed: int
    purpose: Purpose
    round: int
    env: int

    def stream(self, purpose: Purpose, part: int) -> np.random.Generator:
        """One of the extra streams of the scene with this key."""
        return philox(self.seed, purpose, round=self.round, env=self.env, step=int(self.purpose) * 4096 + part)


def sample_scene(
    config: SceneConfig,
    library: Sequence[Model],
    *,
    seed: int,
    purpose: Purpose,
    round: int,
    env: int,
    kind: str,
    fov_deg: float = 50.0,
    images: Sequence[str] = (),
) -> tuple[SceneSpec, SceneSpec]:
    """Draw a scene.

    Args:
        config: what is drawn.
        library: models to choose from.
        seed: of the run or suite; with the next three the key of the draw: the same key gives the same scene.
        purpose: what the scene is for.
        round: of collection.
        env: within the round.
        kind: one of `SceneKind`.
        fov_deg: vertical field of view that cameras are drawn around where `config.intrinsics` asks for it [deg].
        images: content hashes of the pictures that grounds may show.

    Returns:
        What the camera sees while it moves, and what the desired image shows: the target at the same pose, the
        distractors as well unless `config.bare_goals` takes them away.

    Raises:
        ConfigError: if the kind or the difficulty is unknown, or the library has no target of the kind.
    """
    if kind not in get_args(SceneKind):
        raise ConfigError(bad_value("scene kind", kind, f"one of {get_args(SceneKind)}"))
    if config.difficulty not in ("easy", "hard"):
        raise ConfigError(bad_value("scenes.difficulty", config.difficulty, "one of ('easy', 'hard')"))
    if config.images and not images:
        raise ConfigError(bad_value("scenes.images", config.images, "a folder whose pictures are given as `images`"))
    key = _Key(seed, purpose, round, env)
    rng = philox(seed, purpose, round=round, env=env)
    fitting = [model for model in library if _fits(model, kind)]
    if not fitting:
        raise ConfigError(bad_value("mesh library", f"{len(library)} models", f"one or more for targets of {kind}"))
    model = fitting[int(rng.integers(len(fitting)))]
    texture = _target_texture(config, key, rng, model, kind)
    pose = _standing(rng, model)
    if config.rests == "any" or model.shape.kind not in _STANDING:
        pose = at_rest(key.stream(Purpose.CLUTTER, _REST), model, pose[:2, 3].tolist())
    target = _object(config, key, model, texture, TARGET_ID, pose)
    objects = (target, *_distractors(config, key, library, model, pose))
    current = SceneSpec(objects=objects, target_id=TARGET_ID, seed=seed, **_surroundings(config, key, rng, images, 0))
    if config.intrinsics > 0.0:
        camera = looks.camera(key.stream(Purpose.LOOK, _CAMERA), fov_deg, config.intrinsics)
        current = dataclasses.replace(current, camera=camera)
    goal = current
    if kind == "sym_diff" or (kind == "any" and key.stream(Purpose.LOOK, _KIND + 1).random() < 0.5):
        goal = dataclasses.replace(goal, **_surroundings(config, key, rng, images, 1))
    if config.bare_goals > 0.0 and key.stream(Purpose.CLUTTER, _BARE).random() < config.bare_goals:
        goal = dataclasses.replace(goal, objects=(target,))
    return _sensed(config, key, current, 0), _sensed(config, key, goal, 1)


def _fits(model: Model, kind: str) -> bool:
    """True if the model can be the target of a kind; every procedural shape has symmetries and can wear a pattern."""
    if kind == "any" or model.texture is None:
        return True
    symmetric = model.symmetry is not None and model.symmetry.is_symmetric
    return symmetric != (kind == "asym_same")


def _target_texture(config: SceneConfig, key: _Key, rng: np.random.Generator, model: Model, kind: str) -> Texture:
    """Plain where the kind is symmetric: nobody knows whether a picture keeps the symmetry that a shape has."""
    if kind == "any":
        patterned = key.stream(Purpose.LOOK, _KIND).random() < (0.5 if model.texture is None else 0.75)
    else:
        patterned = kind == "asym_same"
    if patterned:
        return model.texture or looks.pattern(rng)
    drawn = looks.plain(rng)
    if config.symmetric_patterns > 0.0 and model.texture is None:
        stream = key.stream(Purpose.LOOK, _PATTERN)
        if stream.random() < config.symmetric_patterns:
            return looks.symmetric_pattern(stream)
    return drawn


def _standing(rng: np.random.Generator, model: Model) -> F64:
    """world_T_obj of a model on the ground near the origin, turned at random; boxes lie on any of their faces."""
    yaw, face = rng.uniform(-np.pi, np.pi), int(rng.integers(6))
    at = rng.uniform(-_SPREAD, _SPREAD, size=2)
    rotation = so3_exp([0.0, 0.0, yaw])
    if model.shape.kind in ("cube", "box"):
        # Faces 0..3 roll about x, 4 and 5 stand the box on its x faces.
        tip = [np.pi / 2 * face, 0.0, 0.0] if face < 4 else [0.0, np.pi * (face - 4.5), 0.0]
        rotation = rotation @ so3_exp(tip)
    imported = model.shape.kind == "mesh"
    points = hull_of(model) if imported else build_mesh(model.shape).vertices.astype(np.float64)
    return on_ground(points, rotation, at.tolist())


def _distractors(
    config: SceneConfig, key: _Key, library: Sequence[Model], target: Model, pose: F64
) -> list[SceneObject]:
    """The objects besides the target; a scene of fewer objects begins with the same ones."""
    low, high = config.min_objects, config.max_objects
    count = int(key.stream(Purpose.CLUTTER, _COUNT).integers(low, high + 1)) if high > 1 else 1
    standing: list[Footprint] = [footprint(target, pose)] if count > 1 else []
    out = []
    for k in range(count - 1):
        rng = key.stream(Purpose.CLUTTER, _DISTRACTOR + k)
        copy = rng.random() < config.copies
        model = target if copy else library[int(rng.integers(len(library)))]
        texture = model.texture or (looks.plain(rng) if rng.random() < 0.5 else looks.pattern(rng))
        at, mine = place(rng, model, standing, config.spread, config.gap)
        standing.append(mine)
        out.append(_object(config, key, model, texture, TARGET_ID + 1 + k, at))
    return out


def _object(config: SceneConfig, key: _Key, model: Model, texture: Texture, instance_id: int, pose: F64) -> SceneObject:
    material = Material()
    if config.materials == "rich":
        material = looks.shiny(key.stream(Purpose.LOOK, _SURFACE + instance_id))
    symmetry = model.symmetry_in(texture)
    return SceneObject(model.shape, texture, symmetry, instance_id, tuple(pose.ravel().tolist()), material)


class _Surroundings(TypedDict):
    ground: Texture
    light: Light
    ground_size: float


def _surroundings(
    config: SceneConfig, key: _Key, rng: np.random.Generator, images: Sequence[str], image: int
) -> _Surroundings:
    """Ground and light; `image` is 0 for what the camera sees and 1 for another look of the desired image."""
    ground, light = looks.ground(rng, config.difficulty), looks.simple_light(rng)
    size = looks.round_to(rng.uniform(0.8, 1.4), 4)
    if images:
        ground = looks.pictured(key.stream(Purpose.LOOK, _PICTURE + image), ground, images, config.image_share)
    if config.lights == "rich":
        light = looks.rich_light(key.stream(Purpose.LOOK, _SKY + image))
    if config.shadows:
        light = looks.shaded(key.stream(Purpose.LOOK, _SHADOW + image), light)
    return {"ground": ground, "light": light, "ground_size": size}


def _sensed(config: SceneConfig, key: _Key, scene: SceneSpec, image: int) -> SceneSpec:
    """The scene with a sensor of its own: two pictures are two exposures, whatever else they share."""
    if config.sensor == "none":
        return scene
    return dataclasses.replace(scene, sensor=sample_sensor(key.stream(Purpose.LOOK, _SENSOR + image), config.sensor))
