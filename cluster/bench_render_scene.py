"""What `servofleet bench render` draws: three textured closed objects on a textured ground, 64 cameras around them.

Every renderer gets the same float32 triangles, poses and intrinsics from here. Light: numpy alone.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.scenes.mesh import Mesh
from common.geometry import intrinsics_from_fov, look_at, make_pose, so3_exp
from common.protocols import F64
from common.rng import Purpose, philox
from common.scene import Light, SceneObject, SceneSpec, Shape, Symmetry, Texture

CAMERAS = 64
FOV = np.deg2rad(50.0)
_SEED = 20  # of the objects, cameras and patterns; any other would do
_PLACES = ((-0.13, -0.09), (0.14, -0.05), (-0.01, 0.15))
_COLORS = (
    ((0.85, 0.15, 0.1), (0.95, 0.8, 0.2), (0.2, 0.1, 0.1)),
    ((0.1, 0.35, 0.8), (0.8, 0.9, 0.95), (0.05, 0.1, 0.3)),
    ((0.1, 0.6, 0.2), (0.9, 0.9, 0.5), (0.3, 0.1, 0.4)),
)
_GROUND = ((0.35, 0.33, 0.3), (0.65, 0.63, 0.6))


@dataclasses.dataclass(frozen=True)
class Workload:
    """One benchmark scene.

    Attributes:
        meshes: of the objects, by asset name, each in its object frame.
        scene: the objects (instance ids 1, 2, 3) and the ground.
        world_T_cam: f64 (64, 4, 4).
    """

    meshes: dict[str, Mesh]
    scene: SceneSpec
    world_T_cam: F64

    @property
    def triangles(self) -> int:
        """Of all objects; the ground is a plane to us and two triangles to others."""
        return sum(len(mesh.faces) for mesh in self.meshes.values())

    def mesh(self, obj: SceneObject) -> Mesh:
        """The mesh of one of the scene's objects."""
        return self.meshes[obj.shape.asset]


def workload(triangles: int, *, shadows: bool = False, variant: int = 0) -> Workload:
    """The scene with about as many triangles.

    Args:
        triangles: of the three objects together.
        shadows: objects cast shadows.
        variant: another look, other poses and, through `fresh_meshes`, other meshes; cameras stay.
    """
    rng = philox(_SEED, Purpose.EVALUATION, round=variant)
    meshes = {f"bench-{k}": blob(triangles // 3, k) for k in range(3)}
    objects = []
    for k, name in enumerate(meshes):
        turn = so3_exp([0.0, 0.0, rng.uniform(-np.pi, np.pi)])
        low = (meshes[name].vertices.astype(np.float64) @ turn[2]).min()
        # A hair above the ground: two surfaces in one plane have no right answer to compare.
        pose = np.round(make_pose(turn, [*_PLACES[k], 0.001 - low]), 9)
        texture = Texture("noise", _COLORS[k], 6.0, _SEED + 10 * variant + k)
        objects.append(SceneObject(Shape("mesh", (), name), texture, Symmetry(), k + 1, tuple(pose.ravel().tolist())))
    ground = Texture("checker", _GROUND, 8.0, _SEED + variant)
    light = Light(direction=(0.4, 0.3, 0.866), shadow=0.8 if shadows else 0.0)
    return Workload(meshes, SceneSpec(tuple(objects), 1, ground, light, seed=variant), _cameras())


def fresh_meshes(work: Workload, suffix: str, offset: int) -> Workload:
    """The same scene with meshes that no renderer has seen: other dents, other names."""
    count = work.triangles // 3
    meshes = {f"{name}-{suffix}": blob(count, offset + k) for k, name in enumerate(work.meshes)}
    objects = tuple(
        dataclasses.replace(obj, shape=Shape("mesh", (), name))
        for obj, name in zip(work.scene.objects, meshes, strict=True)
    )
    return dataclasses.replace(work, meshes=meshes, scene=dataclasses.replace(work.scene, objects=objects))


def intrinsics(size: int) -> F64:
    """f64 (64, 4) in pixels of a square image of `size`."""
    return np.tile(intrinsics_from_fov(float(FOV), size, size), (CAMERAS, 1))


def blob(triangles: int, seed: int) -> Mesh:
    """A closed, dented sphere about 20 cm across, of about as many triangles, wound outwards; uvs once around.

    The number of rings and segments is chosen, so the count is met to a few per cent.
    """
    segments = max(6, round(np.sqrt(triangles)))
    rings = max(3, round(triangles / (2 * segments)) + 1)
    rng = philox(_SEED, Purpose.MESH_LIBRARY, env=seed)
    polar = np.linspace(0.0, np.pi, rings + 1)[:, None]
    turn = np.linspace(0.0, 2.0 * np.pi, segments + 1)[None, :]
    radius = np.ones((rings + 1, segments + 1))
    for waves in range(1, 5):
        phase, size = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(0.03, 0.09)
        radius += size * np.sin(polar) ** waves * np.cos(waves * turn + phase) * np.cos(waves * polar + phase)
    radius *= rng.uniform(0.085, 0.105)
    point = np.stack(
        [radius * np.sin(polar) * np.cos(turn), radius * np.sin(polar) * np.sin(turn), radius * np.cos(polar)], axis=-1
    )
    point[[0, -1]] = point[[0, -1]].mean(axis=1, keepdims=True)
    point[:, -1] = point[:, 0]
    index = np.arange(point[..., 0].size).reshape(rings + 1, segments + 1)
    low, high = index[:-1], index[1:]
    upper = np.stack([low[1:, :-1], high[1:, 1:], low[1:, 1:]], axis=-1)  # at the first ring this one has no area
    lower = np.stack([low[:-1, :-1], high[:-1, :-1], high[:-1, 1:]], axis=-1)  # and this one at the last
    faces = np.concatenate([lower.reshape(-1, 3), upper.reshape(-1, 3)])
    vertices = np.round(point.reshape(-1, 3), 9)
    uvs = np.stack(np.broadcast_arrays(turn / (2.0 * np.pi), polar / np.pi), axis=-1).reshape(-1, 2)
    return Mesh(
        vertices.astype(np.float32),
        faces.astype(np.int32),
        _smooth_normals(vertices, faces, index).astype(np.float32),
        uvs.astype(np.float32),
        closed=True,
    )


def _smooth_normals(vertices: F64, faces: NDArray[Any], index: NDArray[Any]) -> F64:
    """Unit normals (V, 3), the mean of the faces around each point of the surface, whatever vertices stand there."""
    same = index.copy()
    same[:, -1] = same[:, 0]
    same[0], same[-1] = same[0, 0], same[-1, 0]
    at = same.ravel()
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    total = np.zeros_like(vertices)
    for k in range(3):
        np.add.at(total, at[faces[:, k]], np.cross(b - a, c - a))
    normals = total[at]
    return np.asarray(normals / np.linalg.norm(normals, axis=1, keepdims=True))


def _cameras() -> F64:
    """64 poses on the belt of the upper hemisphere and the distances that scenes are drawn with."""
    rng = philox(_SEED, Purpose.CAMERA)
    azimuth = rng.uniform(-np.pi, np.pi, CAMERAS)
    up = rng.uniform(np.sin(np.deg2rad(25.0)), np.sin(np.deg2rad(75.0)), CAMERAS)
    side = np.sqrt(1.0 - up * up)
    direction = np.stack([side * np.cos(azimuth), side * np.sin(azimuth), up], axis=1)
    center = np.array([0.0, 0.0, 0.08])
    eyes = center + direction * rng.uniform(0.55, 0.85, (CAMERAS, 1))
    aim = center + rng.normal(0.0, 0.02, (CAMERAS, 3))
    return look_at(eyes, aim, rng.uniform(-np.pi / 6, np.pi / 6, CAMERAS))
