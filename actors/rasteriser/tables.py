"""What the renderer keeps of each environment's scene: rows of numbers that name meshes and textures of shared pools.

A scene is checked and its meshes and pictures are found before anything is written, so a scene that cannot be built
changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.rasteriser.layout import (
    ENV_FLOATS,
    ENV_INTS,
    OBJECT_FLOATS,
    OBJECT_INTS,
    SHADOW_SIDE,
)
from actors.rasteriser.lighting import ambient_form, ground_light, object_light, shadow_frame
from actors.rasteriser.pools import DeviceArray, MeshPool, TexturePool
from actors.scenes.shapes import build_mesh
from actors.scenes.textures import build_texture
from common.scene import SceneObject, SceneSpec, Texture

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]


class SceneTables:
    """Rows for `max_envs` scenes. Object slots grow to the fullest scene seen; shadow maps exist once one is asked for.

    An object's floats (OBJECT_FLOATS) are rows of four: 0 ambient RGB (256 is 1) that does not depend on the normal n;
    4-36 ambient RGB per nx nx, ny ny, nz nz, nx ny, nx nz, ny nz, nx, ny, nz, object frame; 40 direction to the light,
    object frame, and whether rows 4-36 count; 44 direct RGB; 48 highlight RGB (0..255) and its exponent, 0 for none;
    52 lowest corner of the bounding box, and the scale; 56 its highest corner, and the room [m] before a surface counts
    as its own shadow; 60 the share of direct light that a shadow takes.
    """

    def __init__(self, max_envs: int, device: Any, mesh_budget: int, texture_budget: int) -> None:
        """Empty rows and pools on a Warp device; budgets in bytes, see `actors.rasteriser.pools`."""
        self.max_envs, self.objects = max_envs, 0
        self.ready = np.zeros(max_envs, dtype=bool)
        self.meshes = MeshPool(device, mesh_budget)
        self.textures = TexturePool(device, texture_budget)
        self._device = device
        self._held: list[tuple[list[int], list[int]]] = [([], []) for _ in range(max_envs)]
        self._env_i = DeviceArray(np.int32, device, max_envs * ENV_INTS)
        self._env_f = DeviceArray(np.float32, device, max_envs * ENV_FLOATS)
        self._shadow_pose = DeviceArray(np.float64, device, max_envs * 12)
        self._shadow = DeviceArray(np.float32, device, 1)
        self._ground_shadow = DeviceArray(np.uint8, device, 1)
        self._object_i: DeviceArray
        self._object_f: DeviceArray
        self._object_pose: DeviceArray
        self._set_slots(1)

    def write(self, env: int, scene: SceneSpec, assets: Mapping[str, Any]) -> None:
        """Put a checked scene into an environment's rows; its shadow map is still the old one."""
        if len(scene.objects) > self.objects:
            self._set_slots(len(scene.objects))
        # Each counts as used before the next is stored, which may drop what is not.
        mesh_slots, texture_slots = [], []
        for obj in scene.objects:
            mesh_slots.append(self._mesh_slot(obj, assets))
            self.meshes.use(mesh_slots[-1], 1)
        for texture in [scene.ground, *(obj.texture for obj in scene.objects)]:
            texture_slots.append(self._texture_slot(texture, assets))
            self.textures.use(texture_slots[-1], 1)
        for slot in self._held[env][0]:
            self.meshes.use(slot, -1)
        for slot in self._held[env][1]:
            self.textures.use(slot, -1)
        self._held[env] = mesh_slots, texture_slots
        self._write_rows(env, scene, mesh_slots, texture_slots)
        self.ready[env] = True

    def fill(self, tables: Any) -> Any:
        """Point the fields of an `actors.rasteriser.layout.Tables` at what is here now."""
        tables.objects = self.objects
        tables.meshes, tables.positions = self.meshes.table.device, self.meshes.positions.device
        tables.attributes, tables.faces = self.meshes.attributes.device, self.meshes.faces.device
        tables.clusters = self.meshes.clusters.device
        tables.textures, tables.texels = self.textures.table.device, self.textures.texels.device
        tables.env_i, tables.env_f = self._env_i.device, self._env_f.device
        tables.object_i, tables.object_f = self._object_i.device, self._object_f.device
        tables.object_pose, tables.shadow_pose = self._object_pose.device, self._shadow_pose.device
        tables.shadow, tables.ground_shadow = self._shadow.device, self._ground_shadow.device
        return tables

    def need_shadows(self) -> None:
        """Make room for the shadow maps."""
        self._shadow.reserve(self.max_envs * SHADOW_SIDE * SHADOW_SIDE)
        self._ground_shadow.reserve(self.max_envs * SHADOW_SIDE * SHADOW_SIDE)

    def largest(self, env_ids: I64) -> tuple[int, int, int, int]:
        """Objects, vertices of a scene, and vertices and triangles of a mesh: the most in these environments."""
        objects = vertices = mesh_vertices = triangles = 0
        for env in set(env_ids.tolist()):
            rows = [self.meshes.row(slot) for slot in self._held[env][0]]
            objects = max(objects, len(rows))
            vertices = max(vertices, sum(int(r[1]) for r in rows))
            mesh_vertices = max([mesh_vertices, *(int(r[1]) for r in rows)])
            triangles = max([triangles, *(int(r[3]) for r in rows)])
        return objects, vertices, mesh_vertices, triangles

    def nbytes(self) -> int:
        """Bytes of rows, pools and shadow maps on one side."""
        rows = (self._env_i, self._env_f, self._shadow_pose, self._object_i, self._object_f, self._object_pose)
        return (
            sum(a.host.nbytes for a in (*rows, self._shadow, self._ground_shadow))
            + self.meshes.nbytes()
            + self.textures.nbytes()
        )

    def _mesh_slot(self, obj: SceneObject, assets: Mapping[str, Any]) -> int:
        shape = obj.shape
        if shape.kind == "mesh":
            return self.meshes.slot(shape.asset, lambda: assets[shape.asset])
        symmetric = obj.texture.symmetric and obj.texture.kind != "plain"
        return self.meshes.slot((shape, symmetric), lambda: build_mesh(shape, symmetric))

    def _texture_slot(self, texture: Texture, assets: Mapping[str, Any]) -> int:
        if texture.kind == "image":
            return self.textures.slot(texture.asset, lambda: assets[texture.asset])
        return self.textures.slot(texture, lambda: build_texture(texture))

    def _set_slots(self, objects: int) -> None:
        """Room for `objects` objects per environment, keeping what is there."""
        old = (self._object_i, self._object_f, self._object_pose) if self.objects else ()
        n, kept = self.max_envs, self.objects
        sizes = (OBJECT_INTS, OBJECT_FLOATS, 12)
        arrays = [
            DeviceArray(dtype, self._device, n * objects * size)
            for dtype, size in zip((np.int32, np.float32, np.float64), sizes, strict=True)
        ]
        for before, after, size in zip(old, arrays, sizes, strict=bool(old)):
            after.host.reshape(n, objects, size)[:, :kept] = before.host.reshape(n, kept, size)
            after.upload(0, len(after.host))
        self._object_i, self._object_f, self._object_pose = arrays
        self.objects = objects

    def _write_rows(self, env: int, scene: SceneSpec, mesh_slots: list[int], texture_slots: list[int]) -> None:
        form = ambient_form(scene.light)
        poses = np.array([obj.world_T_obj for obj in scene.objects], dtype=np.float64).reshape(-1, 4, 4)
        scales = [
            obj.shape.params[0] if obj.shape.kind == "mesh" and obj.shape.params else 1.0 for obj in scene.objects
        ]
        bounds = np.array([self.meshes.bounds(slot) for slot in mesh_slots])
        shadow_pose, texel = shadow_frame(scene.light, poses, scales, bounds)
        n, o = len(scene.objects), self.objects
        ints = self._object_i.host.reshape(-1, o, OBJECT_INTS)[env]
        floats = self._object_f.host.reshape(-1, o, OBJECT_FLOATS)[env]
        for i, obj in enumerate(scene.objects):
            ints[i] = mesh_slots[i], texture_slots[i + 1], obj.instance_id
            floats[i, :52] = object_light(scene.light, form, poses[i], obj.material)
            floats[i, 52:55], floats[i, 55] = bounds[i, :3], scales[i]
            floats[i, 56:59], floats[i, 59] = bounds[i, 3:], 1.5 * texel
            floats[i, 60] = scene.light.shadow
        self._object_pose.host.reshape(-1, o, 12)[env, :n] = poses[:, :3].reshape(n, 12)
        self._shadow_pose.host.reshape(-1, 12)[env] = shadow_pose.ravel()
        side = 1 << int(self.textures.row(texture_slots[0])[1])
        self._env_f.host.reshape(-1, ENV_FLOATS)[env] = [*ground_light(scene.light, form), side / scene.ground_size]
        self._env_i.host.reshape(-1, ENV_INTS)[env] = n, texture_slots[0], int(scene.light.shadow > 0.0)
        for array, size in ((self._env_i, ENV_INTS), (self._env_f, ENV_FLOATS), (self._shadow_pose, 12)):
            array.upload(env * size, (env + 1) * size)
        for array, size in ((self._object_i, OBJECT_INTS), (self._object_f, OBJECT_FLOATS), (self._object_pose, 12)):
            array.upload(env * o * size, (env + 1) * o * size)
