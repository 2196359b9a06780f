"""Faces: wound any way, culled or passed over in clusters or not, they show the same; and there is no crack between."""

import dataclasses

import numpy as np
import pytest
import trimesh

from actors.rasteriser.layout import CLUSTER
from actors.rasteriser.renderer import WarpRenderer
from actors.scenes.mesh import recorded_mesh
from actors.scenes.shapes import build_mesh
from common.geometry import intrinsics_from_fov, look_at, make_pose, so3_exp
from common.scene import Light, Shape
from tests.actors.drawing_for_tests import (
    ALL,
    WHITE,
    a_mesh_scene,
    ball,
    draw,
    draw_many,
    flipped,
    near_cameras,
    oracle_agrees,
    sheet,
)
from tests.actors.scenes_for_tests import GROUND, PATTERN, a_scene, an_object, cameras_around, intrinsics
from tests.actors.shapes_for_tests import SHAPES

LIGHT = Light((0.48, -0.6, 0.64), 0.6, 0.3, shadow=0.8)


@pytest.fixture(scope="module")
def renderer():
    made = WarpRenderer(16)
    yield made
    made.close()


CLOSED = [name for name in SHAPES if build_mesh(SHAPES[name]).closed]


def test_most_procedural_shapes_are_closed():
    """So that what is said below of closed meshes is said of them."""
    assert len(CLOSED) > 0.8 * len(SHAPES)


@pytest.mark.parametrize("name", CLOSED)
def test_winding_and_closedness_are_not_to_be_seen(renderer, name):
    """Culled by winding where closed, two-sided where not: the same pictures, also from very near and from inside."""
    mesh = build_mesh(SHAPES[name])
    meshes = {
        f"{name} closed": mesh,
        f"{name} open": dataclasses.replace(mesh, closed=False),
        f"{name} mixed": flipped(mesh),
        f"{name} turned": flipped(mesh, share=1.0),
    }
    renderer.load(meshes)
    at = np.array([0.0, 0.0, 1.2])
    poses = near_cameras(10, seed=len(name), center=at)
    lens, env = intrinsics(10, 48, 64), np.zeros(10, dtype=np.int64)
    seen = {}
    for key in meshes:
        pose = make_pose(so3_exp([0.5, 1.0, -0.4]), at)
        renderer.reset(env[:1], [a_mesh_scene(key, pose, PATTERN, LIGHT, GROUND)])
        seen[key] = renderer.render(env, poses, lens, (48, 64), ALL)
    first, *others = seen.values()
    assert ((first.instance_id == 1).sum(axis=(1, 2)) > 30).all()
    for other in others:
        assert_same_but_for_ties(first, other)


def assert_same_but_for_ties(first, other):
    """Equal, but for the odd pixel where two faces meet within rounding and the order of corners decides."""
    assert np.mean(first.instance_id != other.instance_id) < 1e-4
    same = first.instance_id == other.instance_id
    with np.errstate(invalid="ignore"):
        apart = np.abs(other.depth / first.depth - 1.0) > 1e-4
    assert np.mean(apart & same) < 5e-4
    assert np.mean(np.abs(first.rgb.astype(int) - other.rgb).max(axis=-1) > 2) < 2e-3


def test_without_smoothing_winding_changes_no_id():
    """Of one face per place only the order of its corners is left; near the ball, clusters of faces fill the view."""
    sharp = WarpRenderer(1, antialias=False)
    mesh = ball(0.1, 4)
    sharp.load({"closed": mesh, "mixed": flipped(mesh)})
    at = np.array([0.0, 0.0, 0.4])
    eyes = at + np.random.default_rng(5).normal(size=(12, 3))
    eyes = at + (eyes - at) / np.linalg.norm(eyes - at, axis=1, keepdims=True) * np.geomspace(0.112, 0.4, 12)[:, None]
    poses, lens = look_at(eyes, at, np.arange(12.0)), np.tile(intrinsics_from_fov(np.deg2rad(120.0), 64, 64), (12, 1))
    seen = []
    for name in ("closed", "mixed"):
        sharp.reset(np.array([0]), [a_mesh_scene(name, make_pose(np.eye(3), at), WHITE, LIGHT)])
        seen.append(sharp.render(np.zeros(12, dtype=np.int64), poses, lens, (64, 64), ALL))
    sharp.close()
    assert np.array_equal(seen[0].instance_id, seen[1].instance_id)
    np.testing.assert_allclose(seen[0].depth, seen[1].depth, rtol=1e-5)
    assert np.abs(seen[0].rgb.astype(int) - seen[1].rgb).max() <= 2


@pytest.mark.parametrize(("rise", "run"), [(3, 4), (5, 12), (8, 15), (7, 24)])
def test_no_crack_between_triangles(renderer, rise, run):
    """A sheet whose edges run through many pixels' centres, where rounding alone decides to which side they belong."""
    cells = 24
    x, y = np.meshgrid(*2 * [np.linspace(-0.5, 0.5, cells + 1)], indexing="ij")
    points = np.stack([x, y, np.zeros_like(x)], axis=-1).reshape(-1, 3)
    i = np.arange((cells + 1) ** 2).reshape(cells + 1, cells + 1)
    a, b, c, d = (part.ravel() for part in (i[:-1, :-1], i[1:, :-1], i[1:, 1:], i[:-1, 1:]))
    faces = np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])
    up = np.tile([0.0, 0.0, 1.0], (len(points), 1))
    renderer.load({"sheet of many": recorded_mesh(points, faces, up, np.zeros((len(points), 2)))})
    scene = a_mesh_scene("sheet of many", make_pose(np.eye(3), [0.0, 0.0, 1.0]))
    for height in (0.3, 0.7):
        pose = look_at([0.0, 0.0, 1.0 + height], [0.0, 0.0, 1.0], np.arctan2(rise, run))
        for pixels in (2, 3, 4):
            focal = pixels * np.hypot(rise, run) * height * cells
            _, ids, _ = draw(renderer, scene, pose, (160, 160), [focal, focal, 80.5, 80.5])
            assert (ids == 1).all()


def test_tops_of_many_heights_are_not_passed_over_together():
    """Faces that look the same way at different heights: an eye half way up sees the lower ones alone."""
    towers = []
    for k in range(CLUSTER // 2):  # their tops are one cluster
        height = 0.05 + 0.02 * k
        box = trimesh.creation.box((0.06, 0.06, height))
        box.apply_translation([0.08 * (k % 4), 0.08 * (k // 4), height / 2.0])
        towers.append(box)
    made = trimesh.util.concatenate(towers)
    made.unmerge_vertices()
    normals = np.repeat(np.asarray(made.face_normals), 3, axis=0)
    town = recorded_mesh(np.asarray(made.vertices), np.asarray(made.faces), normals, np.zeros((len(made.vertices), 2)))
    assert town.closed
    sharp = WarpRenderer(1, antialias=False)
    sharp.load({"town": town})
    scene = a_mesh_scene("town", make_pose(so3_exp([0.0, 0.0, 0.4]), [0.0, 0.0, 0.0]))
    for height in (0.12, 0.18, 0.24):
        for turn in np.arange(4):
            eye = [0.05 + 0.7 * np.cos(1.6 * turn), 0.15 + 0.7 * np.sin(1.6 * turn), height]
            pose = look_at(eye, [0.05, 0.15, 0.1], 0.1 * turn)
            oracle_agrees(sharp, scene, pose, (64, 64), meshes={"town": town})
    sharp.close()


def test_of_a_face_in_the_ground_the_ground_is_seen(renderer):
    """A box that is sunk to its top, and a sheet that lies flat: no speckle of either, from anywhere."""
    top, flat = make_pose(so3_exp([0.0, 0.0, 0.7]), [0.05, -0.02, -0.1]), make_pose(np.eye(3), [-0.1, 0.1, 0.0])
    renderer.load({"flat": sheet(0.3)})
    box = an_object(Shape("box", (0.4, 0.3, 0.2)), top)
    for scene in (a_scene(box), a_mesh_scene("flat", flat)):
        frames = draw_many(renderer, [scene] * 16, cameras_around(16, seed=12), (96, 96))
        assert (frames.instance_id == 0).all()
