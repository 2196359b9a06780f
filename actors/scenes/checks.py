"""Everything about a scene that could keep it from being built, checked before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.scenes.mesh import Mesh, check_mesh
from actors.scenes.shapes import check_shape
from actors.scenes.textures import check_texture
from common.errors import SceneError, bad_value
from common.scene import Light, Material, SceneSpec, Texture

MAX_OBJECTS = 64  # per scene; the rasteriser's names of drawn triangles leave room for 127


def check_scene(scene: SceneSpec, assets: Mapping[str, Any]) -> None:
    """Check a scene.

    Args:
        scene: to check.
        assets: by content hash `actors.scenes.mesh.Mesh` or texels u8 (S, S, 3), S a power of two; only looked at for
            what the scene names.

    Raises:
        SceneError: naming the field, its value and what is allowed.
    """
    if not 1 <= len(scene.objects) <= MAX_OBJECTS:
        raise SceneError(bad_value("len(scene.objects)", len(scene.objects), f"1 .. {MAX_OBJECTS}"))
    scene.target()
    ids = [o.instance_id for o in scene.objects]
    if min(ids) < 1 or max(ids) >= 1 << 31 or len(set(ids)) != len(ids):
        raise SceneError(bad_value("instance ids", ids, "different numbers 1 .. 2^31-1"))
    for obj in scene.objects:
        name = f"object {obj.instance_id}"
        if obj.shape.kind == "mesh":
            _check_mesh_shape(obj.shape.params, assets.get(obj.shape.asset), obj.shape.asset, name)
        else:
            check_shape(obj.shape)
        _check_texture(obj.texture, assets, f"{name}: texture")
        _check_material(obj.material, f"{name}: material")
        pose = np.array(obj.world_T_obj, dtype=np.float64)
        if pose.shape != (16,) or not np.isfinite(pose).all() or not is_rigid(pose.reshape(4, 4)).all():
            raise SceneError(bad_value(f"{name}: world_T_obj", obj.world_T_obj, "16 finite numbers, a rigid pose"))
        if np.abs(pose).max() > 1e4:
            raise SceneError(bad_value(f"{name}: world_T_obj", obj.world_T_obj, "within 10 km of the origin"))
    _check_texture(scene.ground, assets, "ground")
    if not 1e-3 <= scene.ground_size <= 1e4:
        raise SceneError(bad_value("ground_size", scene.ground_size, "0.001 .. 10000 metres"))
    _check_light(scene.light)


def assets_of(scene: SceneSpec) -> set[str]:
    """Content hashes of the meshes and pictures that a scene names."""
    meshes = {o.shape.asset for o in scene.objects if o.shape.kind == "mesh"}
    return meshes | {t.asset for t in (scene.ground, *(o.texture for o in scene.objects)) if t.kind == "image"}


def check_asset(name: str, asset: object) -> None:
    """Check one loaded asset: a mesh, or texels u8 (S, S, 3) with S a power of two.

    Raises:
        SceneError: naming it and what is wrong with it.
    """
    if isinstance(asset, Mesh):
        check_mesh(asset, f"asset {name}")
        return
    shape = asset.shape if isinstance(asset, np.ndarray) else ()
    dtype = asset.dtype if isinstance(asset, np.ndarray) else type(asset).__name__
    side = shape[0] if shape else 0
    if dtype != np.uint8 or shape != (side, side, 3) or side < 1 or side & (side - 1):
        raise SceneError(bad_value(f"asset {name}", f"{dtype} {shape}", "a mesh, or u8 (S, S, 3), S a power of two"))


def is_rigid(pose: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of (..., 4, 4) matrices are rotations and translations, to 1e-3."""
    r = pose[..., :3, :3]
    square = np.abs(r @ np.swapaxes(r, -1, -2) - np.eye(3)).max(axis=(-2, -1)) < 1e-3
    bottom = np.abs(pose[..., 3, :] - np.array([0.0, 0.0, 0.0, 1.0])).max(axis=-1) < 1e-6
    return np.asarray(square & bottom & (np.linalg.det(r) > 0.0))


def _check_mesh_shape(params: tuple[float, ...], mesh: object, asset: str, name: str) -> None:
    if not isinstance(mesh, Mesh):
        raise SceneError(bad_value(f"{name}: shape.asset", asset, "the content hash of a loaded mesh"))
    if len(params) > 1 or not all(np.isfinite(p) and 1e-3 <= p <= 1e3 for p in params):
        raise SceneError(bad_value(f"{name}: shape.params", params, "nothing, or one scale factor 0.001 .. 1000"))


def _check_texture(texture: Texture, assets: Mapping[str, Any], field: str) -> None:
    check_texture(texture, field)
    if texture.kind != "image":
        return
    image = assets.get(texture.asset)
    if image is None or isinstance(image, Mesh):
        raise SceneError(bad_value(f"{field}.asset", texture.asset, "the content hash of a loaded picture"))
    check_asset(texture.asset, image)


def _check_material(material: Material, field: str) -> None:
    for name, low in (("diffuse", 0.0), ("specular", 0.0), ("roughness", 0.05)):
        value = getattr(material, name)
        if not low <= value <= 1.0:
            raise SceneError(bad_value(f"{field}.{name}", value, f"{low:g} .. 1"))


def _check_light(light: Light) -> None:
    for name, top in (("diffuse", 4.0), ("ambient", 4.0), ("shadow", 1.0)):
        value = getattr(light, name)
        if not 0.0 <= value <= top:
            raise SceneError(bad_value(f"light.{name}", value, f"0 .. {top:g}"))
    direction = np.array(light.direction, dtype=np.float64)
    if direction.shape != (3,) or not 0.5 < np.linalg.norm(direction) < 2.0:
        raise SceneError(bad_value("light.direction", light.direction, "a unit vector"))
    color = np.array(light.color, dtype=np.float64)
    if color.shape != (3,) or not ((color >= 0.0) & (color <= 4.0)).all():
        raise SceneError(bad_value("light.color", light.color, "three numbers 0 .. 4"))
    if light.ambient_sh:
        sh = np.array(light.ambient_sh, dtype=np.float64)
        if sh.shape != (9, 3) or not (np.abs(sh) <= 100.0).all():
            raise SceneError(bad_value("light.ambient_sh", light.ambient_sh, "9 RGB triples, or none"))
