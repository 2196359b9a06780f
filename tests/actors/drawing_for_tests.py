"""Short ways to draw one view, meshes whose normals are those of the true surface, and where a view's edges are."""

import dataclasses
import functools
import hashlib

import numpy as np
import trimesh

from actors.scenes.mesh import recorded_mesh
from common.geometry import look_at, transform_points, unproject
from common.scene import Light, Material, SceneObject, SceneSpec, Shape, Symmetry, Texture
from tests.actors.oracle import Oracle, assert_agrees, judge
from tests.actors.scenes_for_tests import intrinsics

ALL = ("rgb", "instance_id", "depth")
WHITE = Texture("plain", ((1.0, 1.0, 1.0),))
GREY = Texture("plain", ((0.6, 0.5, 0.4),))
MATT = Material()
FLAT = Light((0.0, 0.0, 1.0), 0.0, 1.0)  # every texel shows as it is


def draw(renderer, scene, pose, size, intr=None, env=0):
    """One view: rgb as int (H, W, 3), ids (H, W), depth (H, W); intrinsics (4,)."""
    env_ids = np.array([env], dtype=np.int64)
    renderer.reset(env_ids, [scene])
    lens = intrinsics(1, *size) if intr is None else np.asarray(intr, dtype=np.float64)[None]
    frames = renderer.render(env_ids, pose[None], lens, size, ALL)
    return frames.rgb[0].astype(int), frames.instance_id[0], frames.depth[0]


def draw_many(renderer, scenes, poses, size, lenses=None):
    """Frames of many scenes, each from its pose."""
    env_ids = np.arange(len(scenes))
    renderer.reset(env_ids, scenes)
    lenses = intrinsics(len(scenes), *size) if lenses is None else lenses
    return renderer.render(env_ids, np.asarray(poses), lenses, size, ALL)


def digest(frames):
    """One number of all channels' bytes."""
    return hashlib.sha256(frames.rgb.tobytes() + frames.instance_id.tobytes() + frames.depth.tobytes()).hexdigest()


def seen_points(pose, depth, intr):
    """World points (H, W, 3) of the pixels' centres; where the depth is inf, of 1 m."""
    height, width = depth.shape
    v, u = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    finite = np.where(np.isfinite(depth), depth, 1.0).ravel()
    points = unproject(np.stack([u, v], -1).reshape(-1, 2), finite, intr)
    return transform_points(pose, points).reshape(height, width, 3)


def alike(labels, reach=1):
    """Pixels whose neighbours up to `reach` away (columns, rows and diagonals) have the same label."""
    padded = np.pad(labels, reach, mode="edge")
    h, w = labels.shape
    span = range(2 * reach + 1)
    return np.all([padded[i : i + h, j : j + w] == labels for i in span for j in span], axis=0)


def a_mesh_scene(name, world_T_obj, texture=WHITE, light=FLAT, ground=GREY, params=(), material=MATT):
    """One loaded mesh over a plain ground."""
    shape = Shape("mesh", params, name)
    pose = tuple(np.ravel(world_T_obj).tolist())
    return SceneSpec((SceneObject(shape, texture, Symmetry(), 1, pose, material),), 1, ground, light)


@functools.cache
def ball(radius=0.1, subdivisions=4):
    """A closed sphere so fine that its normals are the true sphere's to about 1e-3."""
    made = trimesh.creation.icosphere(subdivisions, radius)
    points = np.asarray(made.vertices)
    normals = points / np.linalg.norm(points, axis=1, keepdims=True)
    return recorded_mesh(points, np.asarray(made.faces), normals, np.zeros((len(points), 2)))


def sheet(side):
    """A square in the plane z = 0 that looks up: u along x, v along y, one texture from corner to corner."""
    corners = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    up = np.tile([0.0, 0.0, 1.0], (4, 1))
    return recorded_mesh(corners * side, np.array([[0, 1, 2], [0, 2, 3]]), up, corners[:, :2])


def flipped(mesh, seed=0, share=0.5):
    """The same surface with faces wound the other way at random, as a file without any order would have it."""
    turn = np.random.default_rng(seed).random(len(mesh.faces)) < share
    faces = np.where(turn[:, None], mesh.faces[:, ::-1], mesh.faces)
    return dataclasses.replace(mesh, faces=np.ascontiguousarray(faces), closed=False)


def near_cameras(count, seed, center):
    """Cameras from a hand's breadth to a metre away, many of them closer to a surface than the near plane."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    eyes = center + direction * np.geomspace(0.06, 1.0, count)[:, None]
    return look_at(eyes, center + rng.normal(scale=0.03, size=(count, 3)), rng.uniform(-3.0, 3.0, count))


def oracle_agrees(renderer, scene, pose, size, lens=None, meshes=None):
    _, ids, depth = draw(renderer, scene, pose, size, lens)
    lens = intrinsics(1, *size)[0] if lens is None else lens
    agreement = judge(Oracle(scene, meshes).cast(pose, lens, size), ids, depth)
    assert_agrees(agreement)
    return ids, depth
