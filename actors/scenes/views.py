"""What a camera sees of a scene, worked out without rendering: its intrinsics, the target's visible share, bad places.

An object counts as its box: the bounding box of its mesh in the object frame. A line of sight that misses a box misses
the object, so what is called visible here is visible; what is called hidden may still be.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from actors.scenes.mesh import Mesh
from actors.scenes.shapes import build_mesh
from common.errors import SceneError, bad_value
from common.geometry import intrinsics_from_fov, inverse_pose, transform_points
from common.protocols import F64
from common.scene import SceneSpec, Shape

POINTS = 128  # of the target's surface that are looked for in an image
_BURIED = 1e-6  # metres below the ground from which on a point is hidden
_RAYS = 15  # odd: the vote on whether a point is inside a mesh cannot tie
_GOLDEN = np.pi * (3.0 - np.sqrt(5.0))


@dataclasses.dataclass(frozen=True)
class Outline:
    """A scene as far as lines of sight need it.

    Attributes:
        points: f64 (P, 3) [m], world: evenly spread over the target's surface.
        obj_T_world: f64 (K, 4, 4), one per object.
        low: f64 (K, 3) [m]: smallest coordinates of each object's mesh in its own frame.
        high: f64 (K, 3) [m]: largest ones.
        others: bool (K,): which objects are not the target.
    """

    points: F64
    obj_T_world: F64
    low: F64
    high: F64
    others: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


def scene_intrinsics(scene: SceneSpec, fov_deg: float, height: int, width: int) -> F64:
    """``[fx, fy, cx, cy]`` (4,) in pixels: those of the scene's camera, else of a centred one.

    Args:
        scene: whose camera it is.
        fov_deg: vertical field of view [deg] where the scene says nothing.
        height: of the image [px].
        width: of the image [px].

    Raises:
        SceneError: if the scene's camera is no camera.
    """
    camera = scene.camera
    if camera is None:
        return intrinsics_from_fov(np.deg2rad(fov_deg), height, width)
    for name, value, positive in (
        ("fx", camera.fx, True),
        ("fy", camera.fy, True),
        ("cx", camera.cx, False),
        ("cy", camera.cy, False),
    ):
        if not np.isfinite(value) or (positive and value <= 0.0):
            raise SceneError(bad_value(f"camera.{name}", value, "a finite number" + (" > 0" if positive else "")))
    return np.array([camera.fx * width, camera.fy * height, camera.cx * width, camera.cy * height])


def outline(scene: SceneSpec, meshes: Mapping[str, Mesh] | None = None) -> Outline:
    """The scene's boxes and the target's surface points.

    Args:
        scene: with a target.
        meshes: imported meshes by content hash.

    Raises:
        SceneError: if there is no target, a shape cannot be built, or its mesh is not among `meshes`.
    """
    target = scene.target()
    parts = [_extremes(o.shape, meshes) for o in scene.objects]
    return Outline(
        transform_points(target.pose(), _points(target.shape, meshes)),
        inverse_pose(np.stack([o.pose() for o in scene.objects])),
        np.stack([low for low, _ in parts]),
        np.stack([high for _, high in parts]),
        np.array([o is not target for o in scene.objects]),
    )


def visible_share(scene: Outline, world_T_cam: F64, intrinsics: F64) -> float:
    """Share of the target's surface points whose line of sight is inside the image and meets no other object first.

    Points on the target's far side count: where the line of sight to one is free, the target's near side is what the
    picture shows there. So a share above 0 means that the target is the front object on that many lines of sight.
    What is too small for one pixel may still fall between pixel centres.

    Args:
        scene: outline of the scene.
        world_T_cam: (4, 4), above the ground.
        intrinsics: (4,) ``[fx, fy, cx, cy]`` in image widths (fx, cx) and heights (fy, cy).
    """
    seen = (scene.points - world_T_cam[:3, 3]) @ world_T_cam[:3, :3]
    in_front = seen[:, 2] > 0.0
    depth = np.where(in_front, seen[:, 2], 1.0)
    at = seen[:, :2] / depth[:, None] * intrinsics[:2] + intrinsics[2:]
    free = in_front & ((at >= 0.0) & (at <= 1.0)).all(axis=1) & (scene.points[:, 2] >= -_BURIED)
    if scene.others.any() and free.any():
        free[free] = ~_blocked(scene, world_T_cam[:3, 3], scene.points[free])
    return float(free.mean())


def in_a_box(scene: Outline, eye: F64) -> bool:
    """True if the point (3,) [m] lies in the box of any object, the target's included."""
    local = scene.obj_T_world[:, :3, :3] @ eye + scene.obj_T_world[:, :3, 3]
    return bool(((local >= scene.low) & (local <= scene.high)).all(axis=1).any())


def check_camera(scene: SceneSpec, world_T_cam: F64, meshes: Mapping[str, Mesh] | None = None) -> None:
    """Check that a camera is where a camera can be: above the ground and outside of every object.

    A point is inside a mesh if most rays from it cross the surface an odd number of times: exact for closed surfaces
    whatever way their faces wind, and a fair reading of those with holes. Where closed parts of one mesh overlap, the
    overlap reads as outside.

    Args:
        scene: what stands around the camera.
        world_T_cam: (4, 4) camera pose; only its position matters.
        meshes: imported meshes by content hash.

    Raises:
        SceneError: naming the object that the camera is in, or its height; or a mesh that is not among `meshes`.
    """
    eye = np.asarray(world_T_cam, dtype=np.float64)[:3, 3]
    if not eye[2] > 0.0:
        raise SceneError(bad_value("camera height", float(eye[2]), "above the ground, > 0"))
    for obj in scene.objects:
        mesh, scale = _mesh(obj.shape, meshes)
        low, high = _extremes(obj.shape, meshes)
        local = transform_points(inverse_pose(obj.pose()), eye[None])[0]
        if (local >= low).all() and (local <= high).all() and _inside(mesh, local / scale):
            raise SceneError(
                bad_value("camera position", eye.round(6).tolist(), f"outside of object {obj.instance_id}")
                + f", a {obj.shape.kind}"
            )


def _mesh(shape: Shape, meshes: Mapping[str, Mesh] | None) -> tuple[Mesh, float]:
    """The mesh of a shape, and the factor that its vertices are scaled by."""
    if shape.kind != "mesh":
        return build_mesh(shape), 1.0
    mesh = None if meshes is None else meshes.get(shape.asset)
    if not isinstance(mesh, Mesh):
        raise SceneError(bad_value("shape.asset", shape.asset, "the hash of a loaded mesh"))
    return mesh, shape.params[0] if shape.params else 1.0


def _extremes(shape: Shape, meshes: Mapping[str, Mesh] | None) -> tuple[F64, F64]:
    if shape.kind != "mesh":
        return _built_extremes(shape)
    mesh, scale = _mesh(shape, meshes)
    return _mesh_extremes(mesh, scale)


@functools.lru_cache(maxsize=1024)
def _built_extremes(shape: Shape) -> tuple[F64, F64]:
    return _mesh_extremes(build_mesh(shape), 1.0)


def _mesh_extremes(mesh: Mesh, scale: float) -> tuple[F64, F64]:
    return mesh.vertices.min(axis=0) * np.float64(scale), mesh.vertices.max(axis=0) * np.float64(scale)


def _points(shape: Shape, meshes: Mapping[str, Mesh] | None) -> F64:
    if shape.kind != "mesh":
        return _built_points(shape)
    mesh, scale = _mesh(shape, meshes)
    return _surface_points(mesh) * scale


@functools.lru_cache(maxsize=1024)
def _built_points(shape: Shape) -> F64:
    return _surface_points(build_mesh(shape))


def _surface_points(mesh: Mesh) -> F64:
    """Points (POINTS, 3) [m] spread evenly over the surface, the same ones for the same mesh."""
    corners = mesh.vertices.astype(np.float64)[mesh.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    total = np.cumsum(area)
    steps = (np.arange(POINTS) + 0.5) / POINTS
    face = np.minimum(np.searchsorted(total, steps * total[-1]), len(area) - 1)
    # Folding the unit square at its diagonal makes even points in it even in the triangle.
    uv = np.stack([np.arange(POINTS) * 0.7548776662466927 % 1.0, np.arange(POINTS) * 0.5698402909980532 % 1.0], axis=1)
    uv = np.where(uv.sum(axis=1, keepdims=True) > 1.0, 1.0 - uv, uv)
    first, second, third = corners[face, 0], corners[face, 1], corners[face, 2]
    return np.asarray(first + uv[:, :1] * (second - first) + uv[:, 1:] * (third - first))


def _blocked(scene: Outline, eye: F64, points: F64) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Which segments from the eye to the points (P, 3) meet the box of an object that is not the target: bool (P,)."""
    to_obj, low, high = (a[scene.others] for a in (scene.obj_T_world, scene.low, scene.high))
    origin = (to_obj[:, :3, :3] @ eye + to_obj[:, :3, 3])[:, None]
    way = np.einsum("kij,pj->kpi", to_obj[:, :3, :3], points - eye)
    # Slab test; a segment along a face has no slope there, and the tiny one it gets instead keeps the signs right.
    way = np.where(np.abs(way) < 1e-12, 1e-12, way)
    ends = np.stack([(low[:, None] - origin) / way, (high[:, None] - origin) / way])
    enter, leave = ends.min(axis=0).max(axis=-1), ends.max(axis=0).min(axis=-1)
    return np.asarray(((enter <= leave) & (leave >= 0.0) & (enter <= 1.0)).any(axis=0))


def _inside(mesh: Mesh, point: F64) -> bool:
    corners = mesh.vertices.astype(np.float64)[mesh.faces] - point
    # Directions of a spiral over the sphere: none along an axis, where meshes have their edges.
    height = 1.0 - (2.0 * np.arange(_RAYS) + 1.0) / _RAYS
    turn, side = 0.7 + _GOLDEN * np.arange(_RAYS), np.sqrt(1.0 - height * height)
    odd = sum(_crossings(corners, np.array([s * np.cos(t), s * np.sin(t), h])) % 2
              for s, t, h in zip(side, turn, height, strict=True))  # fmt: skip
    return bool(2 * odd > _RAYS)


def _crossings(corners: F64, direction: F64) -> int:
    """How many triangles (F, 3, 3) a ray from the origin crosses (Moeller and Trumbore 1997)."""
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    normal = np.cross(direction, second)
    det = np.einsum("fi,fi->f", first, normal)
    hit = np.abs(det) > 1e-18
    scale = 1.0 / np.where(hit, det, 1.0)
    u = -np.einsum("fi,fi->f", corners[:, 0], normal) * scale
    across = np.cross(-corners[:, 0], first)
    v = across @ direction * scale
    t = np.einsum("fi,fi->f", second, across) * scale
    return int((hit & (u >= 0.0) & (v >= 0.0) & (u + v <= 1.0) & (t > 0.0)).sum())
