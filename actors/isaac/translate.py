"""From a scene to what is changed on the stage: plain records, worked out without Isaac Sim or USD.

The stage has a fixed number of object slots per environment; a scene is put into them by these edits and nothing is
added or removed. What the two renderers cannot share is said here: colours are lit in linear light and shown as sRGB,
highlights are GGX with the roughness that equals our exponent, a shadow is whole or not there, and the sky that is seen
is the one that lights.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from actors.scenes.mesh import Mesh
from actors.scenes.shapes import build_mesh
from actors.scenes.sky import sh_basis
from actors.scenes.textures import build_texture
from common.errors import SceneError, bad_value
from common.geometry import matrix_to_quaternion
from common.protocols import F32, F64, I32, U8
from common.scene import Light, Material, SceneObject, SceneSpec, Texture, Triple

GROUND = -1  # the place of the ground's look
# Nominal: brightness is not matched between renderers, only what is where.
SUN_INTENSITY = 3000.0
DOME_INTENSITY = 1000.0
_SKY_SIZE = (32, 64)
# What is left of each degree of a radiance in an irradiance divided by pi.
_LOBE = np.array([1.0] + 3 * [2.0 / 3.0] + 5 * [1.0 / 4.0])
Quaternion = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class Geometry:
    """A mesh as USD takes it: points f32 (V, 3) [m], normals f32 (V, 3), st f32 (V, 2), t up, corners i32 (3 F,)."""

    points: F32
    normals: F32
    st: F32
    corners: I32


@dataclasses.dataclass(frozen=True)
class PutMesh:
    """Slot `slot` shows the geometry named `mesh`."""

    slot: int
    mesh: str


@dataclasses.dataclass(frozen=True)
class Paint:
    """The slot, or `GROUND`, shows the picture named `picture`; `specular` 0..1 and USD `roughness` 0..1."""

    place: int
    picture: str
    specular: float
    roughness: float


@dataclasses.dataclass(frozen=True)
class Place:
    """The slot is visible at `position` [m] in its environment, turned by (w, x, y, z), its mesh scaled."""

    slot: int
    position: Triple
    quaternion: Quaternion
    scale: float


@dataclasses.dataclass(frozen=True)
class Hide:
    """The slot is invisible."""

    slot: int


@dataclasses.dataclass(frozen=True)
class SizeGround:
    """The ground's picture repeats every `metres`."""

    metres: float


Edit = PutMesh | Paint | Place | Hide | SizeGround


@dataclasses.dataclass(frozen=True)
class SceneEdits:
    """What puts a scene into an environment.

    Attributes:
        edits: in the order they are made.
        meshes: the geometries that they name.
        pictures: the pictures that they name, u8 (H, W, 3), row 0 on top.
        instances: instance id of each used slot.
    """

    edits: tuple[Edit, ...]
    meshes: dict[str, Geometry]
    pictures: dict[str, U8]
    instances: dict[int, int]


@dataclasses.dataclass(frozen=True)
class LightEdits:
    """The two lights of the stage, which all environments that are drawn together share.

    Attributes:
        sun: (w, x, y, z) of a distant light, which shines along its own -z.
        sun_intensity, sun_color, shadows: of it.
        dome_intensity: of the light from everywhere.
        sky: radiance f32 (H, W, 3) of the dome as latitude and longitude, or None for white.
    """

    sun: Quaternion
    sun_intensity: float
    sun_color: Triple
    shadows: bool
    dome_intensity: float
    sky: F32 | None


def translate(scene: SceneSpec, assets: Mapping[str, Any], slots: int) -> SceneEdits:
    """The edits of a checked scene.

    Args:
        scene: that `actors.scenes.checks.check_scene` passed.
        assets: by content hash, `actors.scenes.mesh.Mesh` or texels u8 (S, S, 3): those that the scene names.
        slots: objects that the environment has room for.

    Raises:
        SceneError: if there are more objects than slots.
    """
    if len(scene.objects) > slots:
        raise SceneError(
            bad_value("len(scene.objects)", len(scene.objects), f"at most {slots}, the slots of the stage")
        )
    edits: list[Edit] = []
    meshes: dict[str, Geometry] = {}
    pictures: dict[str, U8] = {}
    for slot, obj in enumerate(scene.objects):
        geometry = geometry_of(_mesh_of(obj, assets))
        mesh, picture = key_of_geometry(geometry), _baked(obj.texture, obj.material, assets)
        meshes[mesh] = geometry
        pictures[key_of_picture(picture)] = picture
        scale = obj.shape.params[0] if obj.shape.kind == "mesh" and obj.shape.params else 1.0
        pose = obj.pose()
        edits += [
            PutMesh(slot, mesh),
            Paint(slot, key_of_picture(picture), float(obj.material.specular), usd_roughness(obj.material)),
            Place(slot, _triple(pose[:3, 3]), _quaternion(pose[:3, :3]), float(scale)),
        ]
    edits += [Hide(slot) for slot in range(len(scene.objects), slots)]
    ground = _baked(scene.ground, Material(), assets)
    pictures[key_of_picture(ground)] = ground
    edits += [SizeGround(float(scene.ground_size)), Paint(GROUND, key_of_picture(ground), 0.0, 1.0)]
    instances = {slot: obj.instance_id for slot, obj in enumerate(scene.objects)}
    return SceneEdits(tuple(edits), meshes, pictures, instances)


def translate_light(light: Light) -> LightEdits:
    """The edits of a checked light."""
    towards = np.array(light.direction, dtype=np.float64)
    towards /= np.linalg.norm(towards)
    side = np.cross([0.0, 0.0, 1.0] if abs(towards[2]) < 0.9 else [0.0, 1.0, 0.0], towards)
    side /= np.linalg.norm(side)
    axes = np.stack([side, np.cross(towards, side), towards], axis=1)
    red, green, blue = (float(c) for c in light.color)
    sky = sky_picture(np.array(light.ambient_sh, dtype=np.float64)) if light.ambient_sh else None
    return LightEdits(
        _quaternion(axes),
        SUN_INTENSITY * light.diffuse,
        (red, green, blue),
        light.shadow > 0.0,
        DOME_INTENSITY * light.ambient,
        sky,
    )


def sky_picture(ambient_sh: F64) -> F32:
    """Radiance f32 (32, 64, 3) whose irradiance has the coefficients (9, 3), as an OpenEXR latitude-longitude map.

    The map's pole is the stage's up. What would be negative is dark: nine coefficients cannot tell it from zero.
    """
    height, width = _SKY_SIZE
    latitude = np.pi * (0.5 - (np.arange(height) + 0.5) / height)[:, None]
    longitude = np.pi * (1.0 - 2.0 * (np.arange(width) + 0.5) / width)[None]
    # In the dome's own frame y is up; a quarter turn about x (`DOME_TURN`) brings it onto the stage's z.
    x, y, z = np.cos(latitude) * np.sin(longitude), np.sin(latitude), np.cos(latitude) * np.cos(longitude)
    x, y, z = np.broadcast_arrays(x, y, z)
    world = np.stack([x, -z, y], axis=-1)
    radiance = sh_basis(world) @ (np.asarray(ambient_sh) / _LOBE[:, None])
    # Rounded, so that every machine gives the picture the same name.
    return np.round(np.maximum(radiance, 0.0), 4).astype(np.float32)


DOME_TURN: Quaternion = (float(np.sqrt(0.5)), float(np.sqrt(0.5)), 0.0, 0.0)


def geometry_of(mesh: Mesh) -> Geometry:
    """A mesh in USD's terms: texture coordinates run up, and corners stand in one row."""
    st = np.array(mesh.uvs, dtype=np.float32)
    st[:, 1] = 1.0 - st[:, 1]
    vertices, normals = (np.ascontiguousarray(a, dtype=np.float32) for a in (mesh.vertices, mesh.normals))
    return Geometry(vertices, normals, st, np.ascontiguousarray(mesh.faces, dtype=np.int32).ravel())


def key_of_geometry(geometry: Geometry) -> str:
    """Content hash, 32 hexadecimal digits."""
    arrays = (geometry.points, geometry.normals, geometry.st, geometry.corners)
    return _digest(*arrays)


def key_of_picture(picture: U8 | F32) -> str:
    """Content hash, 32 hexadecimal digits."""
    return _digest(picture)


def usd_roughness(material: Material) -> float:
    """Roughness of a preview surface whose GGX highlight is as wide as our Blinn-Phong one.

    An exponent 2 / a^2 - 2 is a GGX width a (Walter and others 2007), and USD squares its roughness to get a.
    """
    return float(np.sqrt(material.roughness)) if material.specular > 0.0 else 1.0


def _digest(*arrays: np.ndarray[Any, Any]) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype.str}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:32]


def _mesh_of(obj: SceneObject, assets: Mapping[str, Any]) -> Mesh:
    if obj.shape.kind == "mesh":
        found: Mesh = assets[obj.shape.asset]
        return found
    return build_mesh(obj.shape, obj.texture.symmetric and obj.texture.kind != "plain")


def _baked(texture: Texture, material: Material, assets: Mapping[str, Any]) -> U8:
    """Texels with the material's diffuse factor, multiplied as shown on a screen, which is where scenes define it."""
    texels: U8 = assets[texture.asset] if texture.kind == "image" else build_texture(texture)
    if material.diffuse == 1.0:
        return texels
    return np.floor(texels * np.float64(material.diffuse) + 0.5).astype(np.uint8)


def _triple(values: F64) -> Triple:
    x, y, z = (float(v) for v in values)
    return x, y, z


def _quaternion(rotation: F64) -> Quaternion:
    w, x, y, z = (float(v) for v in matrix_to_quaternion(rotation))
    return w, x, y, z
