"""What a scene is: a plain, serialisable record that every renderer can build from.

It stands in `common` because the wire and the render service carry it; how scenes are *sampled* and how shapes become
meshes is in `actors`. World frame: z up, the ground is the plane z = 0. Metres, radians; colours are 0..1 as shown on
a screen (no gamma is applied anywhere).
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Literal

import numpy as np

from common.errors import SceneError, bad_value
from common.records import decode_record

SCENE_VERSION = 2

ShapeKind = Literal[
    "cube", "box", "cylinder", "cone", "sphere", "revolution",
    "frustum", "capsule", "torus", "prism", "pyramid", "lathe", "mesh",
]  # fmt: skip
TextureKind = Literal["plain", "checker", "noise", "stripes", "image"]
Triple = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Shape:
    """A mesh by recipe: the same kind and parameters give the same vertices on every machine.

    Attributes:
        kind: which generator.
        params: its numbers, see `actors.scenes.shapes`; of an imported mesh nothing, or one factor it is scaled by.
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

    axis_continuous: Triple | None = None
    rotations: tuple[Triple, ...] = ()

    @property
    def is_symmetric(self) -> bool:
        """True if any rotation besides the identity is a symmetry."""
        return self.axis_continuous is not None or bool(self.rotations)


@dataclasses.dataclass(frozen=True)
class Texture:
    """Texture by recipe: the same record gives the same texels on every machine.

    Attributes:
        kind: "plain" is one colour; "image" is an imported picture; the others are patterns.
        colors: RGB colours 0..1 that the pattern is made of; unused by images.
        scale: pattern repeats per texture.
        seed: of the pattern's random parts.
        asset: content hash of the picture where kind is "image", else "".
        symmetric: lay the texture so that it repeats with every symmetry of a procedural shape; a patterned texture
            laid the ordinary way breaks them all.
    """

    kind: TextureKind = "plain"
    colors: tuple[Triple, ...] = ((0.7, 0.7, 0.7),)
    scale: float = 4.0
    seed: int = 0
    asset: str = ""
    symmetric: bool = False


@dataclasses.dataclass(frozen=True)
class Material:
    """How a surface answers light (Blinn-Phong).

    Attributes:
        diffuse: factor on the texture's colour, 0..1.
        specular: strength of the highlight of the directional light, 0..1.
        roughness: 0.05 (a small, sharp highlight) .. 1 (a wide, dull one); the exponent is 2 / roughness^2 - 2.
    """

    diffuse: float = 1.0
    specular: float = 0.0
    roughness: float = 0.5


@dataclasses.dataclass(frozen=True)
class SceneObject:
    """One object: shape, look, symmetry, instance id (>= 1; 0 is background), pose ``world_T_obj`` (row-major 4x4)."""

    shape: Shape
    texture: Texture
    symmetry: Symmetry
    instance_id: int
    world_T_obj: tuple[float, ...]
    material: Material = Material()

    def pose(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """``world_T_obj`` as a (4, 4) float64 array."""
        return np.array(self.world_T_obj, dtype=np.float64).reshape(4, 4)


@dataclasses.dataclass(frozen=True)
class Light:
    """A directional light over ambient light.

    Attributes:
        direction: from the scene to the light (unit, world).
        diffuse: strength of the directional light.
        ambient: strength of the ambient light.
        color: RGB of the directional light.
        ambient_sh: 9 RGB coefficients of the ambient irradiance divided by pi, in real spherical harmonics up to
            degree 2 in the order Y00, Y1-1, Y10, Y11, Y2-2, Y2-1, Y20, Y21, Y22; `ambient` multiplies them. Empty:
            the same white light from everywhere.
        shadow: share of the directional light that an object's shadow takes away, 0 (no shadows) .. 1.
    """

    direction: Triple = (0.3, 0.2, 0.93)
    diffuse: float = 0.6
    ambient: float = 0.4
    color: Triple = (1.0, 1.0, 1.0)
    ambient_sh: tuple[Triple, ...] = ()
    shadow: float = 0.0


@dataclasses.dataclass(frozen=True)
class Camera:
    """A pinhole camera, whatever the size of its image: fx and cx in image widths, fy and cy in image heights."""

    fx: float
    fy: float
    cx: float = 0.5
    cy: float = 0.5


@dataclasses.dataclass(frozen=True)
class Occluder:
    """A patch of one colour that hides a part of the image.

    Attributes:
        kind: outline.
        center: (x, y) in image widths and heights.
        size: half width and half height, in image heights.
        angle: it is turned by, clockwise [rad].
        color: RGB.
    """

    kind: Literal["rectangle", "ellipse"]
    center: tuple[float, float]
    size: tuple[float, float]
    angle: float
    color: Triple


@dataclasses.dataclass(frozen=True)
class Sensor:
    """What the camera does to a picture, in this order: occluders, blur, exposure, colour, noise.

    Attributes:
        occluders: patches in front of the scene.
        blur: standard deviation of a Gaussian blur, in image heights.
        exposure: factor on all intensities.
        contrast: factor on the distance from middle grey.
        saturation: factor on the distance from grey of the same brightness.
        white_balance: factors on red, green and blue.
        noise: standard deviation of Gaussian noise per pixel and colour, on the scale 0..1.
    """

    occluders: tuple[Occluder, ...] = ()
    blur: float = 0.0
    exposure: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    white_balance: Triple = (1.0, 1.0, 1.0)
    noise: float = 0.0


@dataclasses.dataclass(frozen=True)
class SceneSpec:
    """A scene that any renderer can build.

    Attributes:
        objects: what stands on the ground.
        target_id: instance id of the object that is servoed to.
        ground: texture of the ground plane; `ground_size` metres per texture repeat.
        light: illumination.
        seed: where the scene came from; the key of the sensor's noise, no renderer draws from it.
        camera: intrinsics of the camera in this scene, or None for the environment's own.
        sensor: what happens to the picture after rendering; renderers do not apply it, `actors.scenes.sensor` does.
        version: of this record's format; a record of an older version is read as one of this.
    """

    objects: tuple[SceneObject, ...]
    target_id: int
    ground: Texture
    light: Light = Light()
    ground_size: float = 1.0
    seed: int = 0
    camera: Camera | None = None
    sensor: Sensor = Sensor()
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
        # As of `dataclasses.asdict`, without its copies: each reset of a render server writes one per environment.
        return json.dumps(vars(self), default=vars, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> SceneSpec:
        """Inverse of `to_json`; reads version 1 as well, whose scenes are drawn as they were.

        Raises:
            SceneError: naming the field, if the text is not a scene of a known version.
        """
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as e:
            raise SceneError(f"not a scene record: {e}") from e
        if not isinstance(raw, dict):
            raise SceneError(bad_value("scene", type(raw).__name__, "a JSON object"))
        version = raw.get("version")
        if version not in (1, SCENE_VERSION) or isinstance(version, bool):
            raise SceneError(bad_value("scene.version", version, f"1 .. {SCENE_VERSION}"))
        return decode_record(cls, _from_version_1(raw) if version == 1 else raw, "scene", SceneError)


def _from_version_1(raw: dict[str, Any]) -> dict[str, Any]:
    """A record of version 1 with what it had not yet: no highlights, no shadows, white light, a perfect sensor."""

    def more(part: Any, **new: Any) -> Any:
        return {**new, **part} if isinstance(part, dict) else part

    def textured(part: Any) -> Any:
        return more(part, asset="", symmetric=False)

    def thing(part: Any) -> Any:
        if not isinstance(part, dict):
            return part
        return more({**part, "texture": textured(part.get("texture"))}, material=dataclasses.asdict(Material()))

    new = dict(raw)
    new["version"] = SCENE_VERSION
    if isinstance(raw.get("objects"), list):
        new["objects"] = [thing(o) for o in raw["objects"]]
    if "ground" in raw:
        new["ground"] = textured(raw["ground"])
    if "light" in raw:
        new["light"] = more(raw["light"], color=[1.0, 1.0, 1.0], ambient_sh=[], shadow=0.0)
    # `asdict` leaves tuples, which JSON has not.
    return more(new, camera=None, sensor=json.loads(json.dumps(dataclasses.asdict(Sensor()))))
