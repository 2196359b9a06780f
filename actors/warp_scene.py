"""What the renderer keeps of each environment's scene: flat pools of triangles, texels and light, on the device.

A scene is built completely on the host before anything is written, so a scene that cannot be built changes nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import warp as wp
from numpy.typing import NDArray

from actors.shapes import Mesh, build_mesh, check_shape
from actors.textures import build_texture, check_texture
from common.errors import SceneError, bad_value
from common.geometry import transform_points
from common.scene import SceneObject, SceneSpec

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]


@dataclasses.dataclass(frozen=True)
class BuiltScene:
    """One scene's numbers, ready to be copied into an environment's slot; T triangles, X texels.

    Attributes:
        corners: f32 (T, 3, 3) world frame [m].
        uvs: f32 (T, 3, 2) in texels.
        cosines: f32 (T, 3) cosine between light and normal, the normal on the winding's side.
        instance: i32 (T,).
        texture: i32 (T, 2) offset within this scene's texels, side.
        texels: u32 (X,) packed 0x00BBGGRR, the ground first.
        ground_side: texels per side of the ground's texture.
        light: ambient, diffuse, z of the direction to the light, metres per ground repeat.
    """

    corners: F32
    uvs: F32
    cosines: F32
    instance: I32
    texture: I32
    texels: U32
    ground_side: int
    light: tuple[float, float, float, float]


def check_scene(scene: SceneSpec, meshes: Mapping[str, Mesh]) -> None:
    """Check everything about a scene that could keep it from being built.

    Raises:
        SceneError: naming the field, its value and what is allowed.
    """
    scene.target()
    ids = [o.instance_id for o in scene.objects]
    if min(ids) < 1 or len(set(ids)) != len(ids):
        raise SceneError(bad_value("instance ids", ids, "different numbers >= 1"))
    for obj in scene.objects:
        name = f"object {obj.instance_id}"
        if obj.shape.kind == "mesh":
            if obj.shape.asset not in meshes:
                raise SceneError(bad_value(f"{name}: shape.asset", obj.shape.asset, f"one of {sorted(meshes)}"))
        else:
            check_shape(obj.shape)
        check_texture(obj.texture, f"{name}: texture")
        pose = np.array(obj.world_T_obj, dtype=np.float64)
        if pose.shape != (16,) or not np.isfinite(pose).all() or not is_rigid(pose.reshape(4, 4)).all():
            raise SceneError(bad_value(f"{name}: world_T_obj", obj.world_T_obj, "16 finite numbers, a rigid pose"))
    check_texture(scene.ground, "ground")
    if not (np.isfinite(scene.ground_size) and scene.ground_size > 0.0):
        raise SceneError(bad_value("ground_size", scene.ground_size, "metres > 0"))
    light = scene.light
    for field, value in (("diffuse", light.diffuse), ("ambient", light.ambient)):
        if not 0.0 <= value <= 4.0:
            raise SceneError(bad_value(f"light.{field}", value, "0 .. 4"))
    direction = np.array(light.direction, dtype=np.float64)
    if direction.shape != (3,) or not 0.5 < np.linalg.norm(direction) < 2.0:
        raise SceneError(bad_value("light.direction", light.direction, "a unit vector"))


def is_rigid(pose: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of (..., 4, 4) matrices are rotations and translations, to 1e-3."""
    r = pose[..., :3, :3]
    square = np.abs(r @ np.swapaxes(r, -1, -2) - np.eye(3)).max(axis=(-2, -1)) < 1e-3
    bottom = np.abs(pose[..., 3, :] - np.array([0.0, 0.0, 0.0, 1.0])).max(axis=-1) < 1e-6
    return np.asarray(square & bottom & (np.linalg.det(r) > 0.0))


def build_scene(scene: SceneSpec, meshes: Mapping[str, Mesh]) -> BuiltScene:
    """Numbers of a checked scene."""
    direction = np.array(scene.light.direction, dtype=np.float64)
    direction /= np.linalg.norm(direction)
    ground = _packed(build_texture(scene.ground))
    texels = [ground.ravel()]
    offset = ground.size
    parts: list[tuple[Any, ...]] = []
    for obj in scene.objects:
        texture = _packed(build_texture(obj.texture))
        texels.append(texture.ravel())
        parts.append(_triangles(obj, meshes, direction, offset, len(texture)))
        offset += texture.size
    joined = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    light = (scene.light.ambient, scene.light.diffuse, float(direction[2]), scene.ground_size)
    return BuiltScene(joined[0], joined[1], joined[2], joined[3], joined[4], np.concatenate(texels), len(ground), light)


def _triangles(
    obj: SceneObject, meshes: Mapping[str, Mesh], direction: NDArray[np.float64], offset: int, side: int
) -> tuple[Any, ...]:
    mesh = meshes[obj.shape.asset] if obj.shape.kind == "mesh" else build_mesh(obj.shape)
    pose = obj.pose()
    corners = transform_points(pose, mesh.vertices)[mesh.faces]
    normals = (mesh.normals.astype(np.float64) @ pose[:3, :3].T)[mesh.faces]
    winding = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    side_of = np.where(np.sum(normals.sum(axis=1) * winding, axis=-1) < 0.0, -1.0, 1.0)
    cosines = (normals @ direction) * side_of[:, None]
    count = len(mesh.faces)
    texture = np.broadcast_to(np.array([offset, side], dtype=np.int32), (count, 2))
    uvs = mesh.uvs[mesh.faces] * np.float32(side)
    return (
        corners.astype(np.float32),
        uvs,
        cosines.astype(np.float32),
        np.full(count, obj.instance_id, np.int32),
        texture,
    )


def _packed(texels: NDArray[np.uint8]) -> U32:
    wide = texels.astype(np.uint32)
    return np.asarray(wide[..., 0] | wide[..., 1] << np.uint32(8) | wide[..., 2] << np.uint32(16))


class ScenePool:
    """Slots for `max_envs` scenes. Arrays grow to the largest scene seen; on the CPU host and device share memory."""

    def __init__(self, max_envs: int, device: Any) -> None:
        self.max_envs = max_envs
        self.capacity = 0
        self.texel_capacity = 0
        self.ready: NDArray[np.bool_] = np.zeros(max_envs, dtype=bool)
        self.light: NDArray[np.float64] = np.zeros((max_envs, 4))
        self.ground_side: I64 = np.ones(max_envs, dtype=np.int64)
        self.host: dict[str, NDArray[Any]] = {}
        self.device_arrays: dict[str, Any] = {}
        self._device = device
        self._allocate(1, 1)

    def write(self, env_ids: I64, scenes: Sequence[BuiltScene]) -> None:
        """Put scenes into slots."""
        triangles = max((len(s.instance) for s in scenes), default=0)
        texels = max((len(s.texels) for s in scenes), default=0)
        if triangles > self.capacity or texels > self.texel_capacity:
            self._allocate(max(triangles, self.capacity), max(texels, self.texel_capacity))
        for env, scene in zip(env_ids.tolist(), scenes, strict=True):
            count = len(scene.instance)
            base = env * self.texel_capacity
            self.host["counts"][env] = count
            for name in ("corners", "uvs", "cosines", "instance", "texture"):
                self.host[name][env, :count] = getattr(scene, name)
            self.host["texture"][env, :count, 0] += base
            self.host["texels"][env, : len(scene.texels)] = scene.texels
            self.host["ground_texture"][env] = base, scene.ground_side
            self.host["lights"][env] = scene.light[:2]
            self.light[env] = scene.light
            self.ground_side[env] = scene.ground_side
            self.ready[env] = True
        self._upload(env_ids)

    def nbytes(self) -> int:
        """Bytes of the pools on one side."""
        return sum(a.nbytes for a in self.host.values())

    def _allocate(self, capacity: int, texel_capacity: int) -> None:
        old, n = self.host, self.max_envs
        self.host = {
            "counts": np.zeros(n, np.int32),
            "corners": np.zeros((n, capacity, 3, 3), np.float32),
            "uvs": np.zeros((n, capacity, 3, 2), np.float32),
            "cosines": np.zeros((n, capacity, 3), np.float32),
            "instance": np.zeros((n, capacity), np.int32),
            "texture": np.zeros((n, capacity, 2), np.int32),
            "texels": np.zeros((n, texel_capacity), np.uint32),
            "ground_texture": np.zeros((n, 2), np.int32),
            "lights": np.zeros((n, 2), np.float32),
        }
        for name, array in old.items():
            self.host[name][tuple(slice(0, length) for length in array.shape)] = array
        if old:
            # Texel offsets count from the pool's start, and every slot's texels have moved.
            shift = np.arange(n, dtype=np.int32) * (texel_capacity - self.texel_capacity)
            self.host["texture"][:, : self.capacity, 0] += shift[:, None]
            self.host["ground_texture"][:, 0] += shift
        self.capacity, self.texel_capacity = capacity, texel_capacity
        self.device_arrays = {
            name: wp.array(array.reshape(-1), device=self._device, copy=False) for name, array in self.host.items()
        }

    def _upload(self, env_ids: I64) -> None:
        if not self._device.is_cuda:
            return
        for name, array in self.host.items():
            step = array[0].size
            for env in env_ids.tolist():
                part = wp.array(array[env].reshape(-1), device="cpu", copy=False)
                wp.copy(self.device_arrays[name], part, dest_offset=env * step, count=step)
