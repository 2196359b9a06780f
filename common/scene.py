"""What a scene is: a plain, serialisable record that every renderer can build from.

It stands in `common` because the wire and the render service carry it; how scenes are *sampled* and how shapes become
meshes is in `actors`. World frame: z up, the ground is the plane z = 0. Metres, radians; colours are linear 0..1.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Literal

import numpy as np

from common.errors import SceneError, bad_value

SCENE_VERSION = 1

ShapeKind = Literal["cube", "box", "cylinder", "cone", "sphere", "revolution", "mesh"]
TextureKind = Literal["plain", "checker", "noise", "stripes"]


@dataclasses.dataclass(frozen=True)
class Shape:
    """A mesh by recipe: the same kind and parameters give the same vertices on every machine.

    Attributes:
        kind: which generator.
        params: its numbers: edge lengths [m], radii [m], or the radii of a profile of revolution from the bottom up.
        asset: content hash of an imported mesh where kind is "mesh", else "".
    """

    kind: ShapeKind
    params: tuple[float, ...] = ()
    asset: str = ""


@dataclasses.dataclass(frozen=True)
class Symmetry:
    """Which rotations of the object frame leave the object's look unchanged.

    Attributes:
        axis_continuous: unit axis of a continuous rotational symmetry, or None.
        rotations: rotation vectors [rad] of a finite set besides the identity; with a continuous axis, its flips.
    """

    axis_continuous: tuple[float, float, float] | None = None
    rotations: tuple[tuple[float, float, float], ...] = ()

    @property
    def is_symmetric(self) -> bool:
        """True if any rotation besides the identity is a symmetry."""
        return self.axis_continuous is not None or bool(self.rotations)


@dataclasses.dataclass(frozen=True)
class Texture:
    """Procedural texture: same kind, colours, scale and seed give the same texels on every machine.

    Attributes:
        kind: "plain" is one colour (and keeps the symmetry of the shape); the others break it unless the shape says so.
        colors: RGB colours 0..1 that the pattern is made of.
        scale: pattern repeats per texture.
        seed: of the pattern's random parts.
    """

    kind: TextureKind = "plain"
    colors: tuple[tuple[float, float, float], ...] = ((0.7, 0.7, 0.7),)
    scale: float = 4.0
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class SceneObject:
    """One object: shape, look, symmetry, instance id (>= 1; 0 is background), pose ``world_T_obj`` (row-major 4x4)."""

    shape: Shape
    texture: Texture
    symmetry: Symmetry
    instance_id: int
    world_T_obj: tuple[float, ...]

    def pose(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """``world_T_obj`` as a (4, 4) float64 array."""
        return np.array(self.world_T_obj, dtype=np.float64).reshape(4, 4)


@dataclasses.dataclass(frozen=True)
class Light:
    """A directional light over constant ambient light. `direction` points from the scene to the light (unit, world)."""

    direction: tuple[float, float, float] = (0.3, 0.2, 0.93)
    diffuse: float = 0.6
    ambient: float = 0.4


@dataclasses.dataclass(frozen=True)
class SceneSpec:
    """A scene that any renderer can build.

    Attributes:
        objects: what stands on the ground.
        target_id: instance id of the object that is servoed to.
        ground: texture of the ground plane; `ground_size` metres per texture repeat.
        light: illumination.
        seed: where the scene came from; no renderer draws from it.
        version: of this record's format.
    """

    objects: tuple[SceneObject, ...]
    target_id: int
    ground: Texture
    light: Light = Light()
    ground_size: float = 1.0
    seed: int = 0
    version: int = SCENE_VERSION

    def target(self) -> SceneObject:
        """The object that is servoed to.

        Raises:
            SceneError: if no object carries the target id.
        """
        for obj in self.objects:
            if obj.instance_id == self.target_id:
                return obj
        raise SceneError(
            bad_value("scene.target_id", self.target_id, f"one of {[o.instance_id for o in self.objects]}")
        )

    def to_json(self) -> str:
        """JSON text; `from_json` gives an equal spec back."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> SceneSpec:
        """Inverse of `to_json`.

        Raises:
            SceneError: if the text is not a scene of a known version.
        """
        try:
            raw = json.loads(text)
            if raw["version"] != SCENE_VERSION:
                raise SceneError(bad_value("scene.version", raw["version"], f"{SCENE_VERSION}"))
            objects = tuple(_object_from(o) for o in raw["objects"])
            light = Light(**{**raw["light"], "direction": tuple(raw["light"]["direction"])})
            return cls(
                objects=objects,
                target_id=int(raw["target_id"]),
                ground=_texture_from(raw["ground"]),
                light=light,
                ground_size=float(raw["ground_size"]),
                seed=int(raw["seed"]),
                version=int(raw["version"]),
            )
        except (KeyError, TypeError, ValueError) as e:
            raise SceneError(f"not a scene record: {type(e).__name__}: {e}") from e


def _texture_from(raw: dict[str, Any]) -> Texture:
    return Texture(**{**raw, "colors": tuple(tuple(c) for c in raw["colors"])})


def _object_from(raw: dict[str, Any]) -> SceneObject:
    axis = raw["symmetry"]["axis_continuous"]
    return SceneObject(
        shape=Shape(**{**raw["shape"], "params": tuple(raw["shape"]["params"])}),
        texture=_texture_from(raw["texture"]),
        symmetry=Symmetry(
            axis_continuous=None if axis is None else tuple(axis),
            rotations=tuple(tuple(r) for r in raw["symmetry"]["rotations"]),
        ),
        instance_id=int(raw["instance_id"]),
        world_T_obj=tuple(raw["world_T_obj"]),
    )
