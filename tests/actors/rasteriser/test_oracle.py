"""The renderer against ray casting, over random scenes, cameras and image sizes; and that this judge is not blind."""

import dataclasses
import functools
from typing import get_args

import numpy as np
import pytest
import trimesh

from actors.rasteriser.renderer import WarpRenderer
from actors.scenes.mesh import Mesh
from actors.scenes.mesh_library import mesh_library
from actors.scenes.shapes import build_mesh
from common.geometry import intrinsics_from_fov, inverse_pose, look_at, make_pose, so3_exp, transform_points
from common.scene import SceneSpec, Shape, ShapeKind, Texture
from tests.actors.oracle import NEAR, Oracle, assert_agrees, judge, pooled
from tests.actors.scenes_for_tests import GROUND, LIGHT, an_object

BATCH = 8
SIZES = ((96, 128), (64, 64), (110, 72))  # turn by turn; neither square nor a multiple of anything
KINDS = tuple(kind for kind in get_args(ShapeKind) if kind != "mesh")
GEOMETRY = ("instance_id", "depth")
NEAR_ID = 9


@pytest.fixture(scope="module")
def renderer():
    made = WarpRenderer(BATCH)
    made.load({"irregular": irregular(3), "dense": irregular(5)})
    yield made
    made.close()


def from_trimesh(mesh):
    count = len(mesh.vertices)
    arrays = (np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.int32))
    return Mesh(*arrays, np.asarray(mesh.vertex_normals, np.float32), np.zeros((count, 2), np.float32))


@functools.lru_cache(maxsize=4)
def irregular(subdivisions):
    """What an imported file may hold: a dented shell of uneven triangles, any winding, some of them missing."""
    rng = np.random.default_rng(subdivisions)
    sphere = trimesh.creation.icosphere(subdivisions, radius=0.12)
    axes = rng.normal(size=(6, 3))
    sphere.vertices *= 1.0 + 0.12 * np.sin(sphere.vertices @ axes.T * 15.0).mean(axis=1, keepdims=True)
    sphere.vertices += rng.normal(scale=0.02 * 0.12 / 2**subdivisions, size=sphere.vertices.shape)
    mesh = from_trimesh(sphere)
    faces = np.where(rng.random((len(mesh.faces), 1)) < 0.5, mesh.faces, mesh.faces[:, ::-1])
    return dataclasses.replace(mesh, faces=np.ascontiguousarray(faces[rng.random(len(faces)) < 0.99]))


MESHES = {"irregular": irregular(3), "dense": irregular(5)}


def a_random_scene(number):
    """Three tumbled objects, sunk into the ground or each other; a camera with its own lens; world_T_cam, intrinsics.

    Every fifth scene has a slab that reaches behind the camera, every twelfth 60,000 triangles.
    """
    rng = np.random.default_rng([7, number])
    shapes = list(mesh_library(number, 3, [KINDS[(3 * number + number // 4 + k) % len(KINDS)] for k in range(3)]))
    if number % 4 == 1:
        shapes[0] = Shape("mesh", (), "irregular")
    if number % 12 == 6:
        shapes = [Shape("mesh", (), "dense")] * 3
    objects = []
    for k, shape in enumerate(shapes):
        at = [*rng.uniform(-0.15, 0.15, size=2), rng.uniform(0.0, 0.2)]
        objects.append(an_object(shape, make_pose(so3_exp(rng.normal(size=3)), at), instance_id=k + 1, texture=PLAIN))
    direction = rng.normal(size=3) * [1.0, 1.0, 0.5]
    direction[2] = abs(direction[2]) + 0.1
    eye = np.array([0.0, 0.0, 0.1]) + direction / np.linalg.norm(direction) * rng.uniform(0.45, 0.9)
    pose = look_at(eye, [*rng.normal(scale=0.05, size=2), 0.1], rng.uniform(-np.pi, np.pi))
    if number % 5 == 2:
        # On any side of the camera, which stays outside.
        side = make_pose(so3_exp([0.0, 0.0, np.pi / 2 * rng.integers(4)]), np.zeros(3))
        tilt = make_pose(so3_exp([rng.uniform(-0.2, 0.2), 0.0, rng.uniform(-0.5, 0.5)]), [0.0, 0.09, 0.1])
        slab = pose @ side @ tilt
        objects.append(an_object(Shape("box", (0.5, 0.04, 0.5)), slab, instance_id=NEAR_ID, texture=PLAIN))
    return SceneSpec(tuple(objects), 1, GROUND, LIGHT), pose, rng


PLAIN = Texture("plain", ((0.6, 0.5, 0.4),))


def a_lens(rng, size):
    """Intrinsics in pixels: 35 to 75 degrees, pixels not quite square, the principal point off the centre."""
    fx, fy, cx, cy = intrinsics_from_fov(np.deg2rad(rng.uniform(35.0, 75.0)), *size)
    return np.array([fx * rng.uniform(0.9, 1.1), fy, cx + size[1] * rng.uniform(-0.2, 0.2), cy + size[0] * 0.15])


def batches(count):
    """Scenes by number, as many as the renderer has environments; a batch has one image size and many lenses."""
    for start in range(0, count, BATCH):
        size = SIZES[start // BATCH % len(SIZES)]
        drawn = [a_random_scene(n) for n in range(start, min(start + BATCH, count))]
        lenses = np.stack([a_lens(rng, size) for _, _, rng in drawn])
        yield size, [scene for scene, _, _ in drawn], np.stack([pose for _, pose, _ in drawn]), lenses


def agreements(renderer, count):
    found = []
    for size, scenes, poses, lenses in batches(count):
        ids = np.arange(len(scenes))
        renderer.reset(ids, scenes)
        frames = renderer.render(ids, poses, lenses, size, GEOMETRY)
        for i, scene in enumerate(scenes):
            cast = Oracle(scene, MESHES).cast(poses[i], lenses[i], size)
            found.append(judge(cast, frames.instance_id[i], frames.depth[i]))
    return found


def check_all(renderer, count):
    found = agreements(renderer, count)
    for number, one in enumerate(found):
        assert one.id_mismatch < 2e-3, f"scene {number}: {one.wrong_ids} of {one.pixels} ids differ"
    together = pooled(found)
    assert_agrees(together)
    # What was judged is worth judging: most pixels, many of them objects.
    total = sum(SIZES[n // BATCH % len(SIZES)][0] * SIZES[n // BATCH % len(SIZES)][1] for n in range(count))
    assert together.pixels > 0.8 * total and together.object_pixels > 0.15 * total
    assert len(together.depth_errors) > 0.7 * total
    print(f"{count} scenes, {together.pixels} pixels, {together.wrong_ids} ids differ, depth", together.percentiles())


def test_what_a_ray_meets_is_what_is_drawn(renderer):
    check_all(renderer, 26)


@pytest.mark.slow
def test_what_a_ray_meets_is_what_is_drawn_in_many_scenes(renderer):
    check_all(renderer, 240)


def test_every_kind_of_shape_and_a_large_mesh_is_among_the_scenes():
    scenes = [a_random_scene(n)[0] for n in range(26)]
    shapes = [o.shape for scene in scenes for o in scene.objects]
    assert {s.kind for s in shapes} == set(get_args(ShapeKind))
    assert {s.asset for s in shapes} == {"", "irregular", "dense"}
    assert 3 * len(MESHES["dense"].faces) > 60_000
    slabs = [(scene, pose) for scene, pose, _ in map(a_random_scene, range(26)) if len(scene.objects) == 4]
    assert len(slabs) >= 5
    for scene, pose in slabs:
        corners = np.array(np.meshgrid([-0.25, 0.25], [-0.02, 0.02], [-0.25, 0.25])).reshape(3, -1).T
        z = transform_points(inverse_pose(pose) @ scene.objects[-1].pose(), corners)[:, 2]
        assert z.min() < 0.0 < z.max()


def test_no_camera_stands_in_an_object():
    for number in range(240):
        scene, pose, _ = a_random_scene(number)
        for obj in scene.objects:
            mesh = MESHES[obj.shape.asset] if obj.shape.kind == "mesh" else build_mesh(obj.shape)
            at = transform_points(inverse_pose(obj.pose()), pose[None, :3, 3])[0]
            low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
            assert np.linalg.norm(np.maximum(np.maximum(low - at, at - high), 0.0)) > 2.0 * NEAR, number


@pytest.mark.reference
def test_scanned_meshes_are_drawn_as_rays_meet_them(renderer, reference_data):
    paths = sorted((reference_data / "data" / "ycb").glob("*/model.obj"))
    if not paths:
        pytest.skip("no reference data: ../shared/data/ycb holds no meshes")
    meshes = {p.parent.name: from_trimesh(trimesh.load(p, force="mesh", process=False)) for p in paths}
    renderer.load(meshes)
    found, size = [], (96, 128)
    for number, (name, mesh) in enumerate(meshes.items()):
        rng = np.random.default_rng(number)
        middle = (mesh.vertices.min(axis=0) + mesh.vertices.max(axis=0)) / 2
        pose = make_pose(so3_exp(rng.normal(size=3)), [0.0, 0.0, 0.12])
        scene = SceneSpec((an_object(Shape("mesh", (), name), pose, texture=PLAIN),), 1, GROUND, LIGHT)
        target = transform_points(pose, middle[None])[0]
        eyes = target + np.array([[0.2, 0.1, 0.25], [-0.25, 0.05, 0.15], [0.0, -0.3, 0.2]])
        poses = look_at(eyes, target, rng.uniform(-3, 3, size=3))
        lenses = np.stack([a_lens(rng, size) for _ in eyes])
        renderer.reset(np.array([0]), [scene])
        frames = renderer.render(np.zeros(3, dtype=np.int64), poses, lenses, size, GEOMETRY)
        oracle = Oracle(scene, meshes)
        for i in range(3):
            found.append(judge(oracle.cast(poses[i], lenses[i], size), frames.instance_id[i], frames.depth[i]))
    assert_agrees(pooled(found))
    assert pooled(found).object_pixels > 0.05 * len(found) * size[0] * size[1]


# ---------------------------------------------------------------- the judge sees what it should


def a_view(number=1, size=(96, 128)):
    """A scene with a mesh of mixed winding, its camera and lens, and what the oracle says."""
    scene, pose, rng = a_random_scene(number)
    assert scene.objects[0].shape.asset == "irregular"
    lens = a_lens(rng, size)
    return scene, pose, lens, size, Oracle(scene, MESHES).cast(pose, lens, size)


def drawn(renderer, scene, pose, lens, size):
    renderer.reset(np.array([0]), [scene])
    frames = renderer.render(np.array([0]), pose[None], lens[None], size, GEOMETRY)
    return frames.instance_id[0], frames.depth[0]


def with_mesh(scene, name):
    """The same scene with another mesh for its first object."""
    first = dataclasses.replace(scene.objects[0], shape=Shape("mesh", (), name))
    return dataclasses.replace(scene, objects=(first, *scene.objects[1:]))


def test_the_judge_passes_what_is_right(renderer):
    scene, pose, lens, size, cast = a_view()
    assert_agrees(judge(cast, *drawn(renderer, scene, pose, lens, size)))


@pytest.mark.parametrize("shift", [(0.5, 0.0), (0.0, -0.5), (0.05, 0.0)])
def test_the_judge_sees_pixels_in_the_wrong_place(renderer, shift):
    scene, pose, lens, size, cast = a_view()
    moved = lens + np.array([0.0, 0.0, *shift])
    with pytest.raises(AssertionError, match=r"ids differ|depths are off"):
        assert_agrees(judge(cast, *drawn(renderer, scene, pose, moved, size)))


def test_the_judge_sees_triangles_dropped_for_their_winding(renderer):
    scene, pose, lens, size, cast = a_view()
    mesh = MESHES["irregular"]
    corners = transform_points(inverse_pose(pose) @ scene.objects[0].pose(), mesh.vertices)[mesh.faces]
    facing = (
        np.sum(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) * corners[:, 0], axis=1) < 0.0
    )
    renderer.load({"culled": dataclasses.replace(mesh, faces=mesh.faces[facing])})
    assert 0.3 < facing.mean() < 0.7
    with pytest.raises(AssertionError, match=r"ids differ|depths are off"):
        assert_agrees(judge(cast, *drawn(renderer, with_mesh(scene, "culled"), pose, lens, size)))


def test_the_judge_sees_one_wrong_triangle(renderer):
    scene, pose, lens, size, cast = a_view()
    mesh = MESHES["irregular"]
    corners = transform_points(inverse_pose(pose) @ scene.objects[0].pose(), mesh.vertices)[mesh.faces]
    nearest = np.argmin(corners[:, :, 2].mean(axis=1))
    faces = mesh.faces.copy()
    faces[nearest, 0] = faces[(nearest + len(faces) // 2) % len(faces), 0]
    renderer.load({"swapped": dataclasses.replace(mesh, faces=faces)})
    with pytest.raises(AssertionError, match=r"ids differ|depths are off"):
        assert_agrees(judge(cast, *drawn(renderer, with_mesh(scene, "swapped"), pose, lens, size)))


def test_the_judge_sees_two_objects_with_each_others_ids(renderer):
    scene, pose, lens, size, cast = a_view()
    instance_id, depth = drawn(renderer, scene, pose, lens, size)
    swapped = np.array([0, 2, 1, 3, *range(4, NEAR_ID + 1)])[instance_id]
    with pytest.raises(AssertionError, match="ids differ"):
        assert_agrees(judge(cast, swapped, depth))


def test_the_judge_sees_depths_that_are_a_little_off(renderer):
    scene, pose, lens, size, cast = a_view()
    instance_id, depth = drawn(renderer, scene, pose, lens, size)
    with pytest.raises(AssertionError, match="depths are off"):
        assert_agrees(judge(cast, instance_id, depth * np.float32(1.0003)))
    with pytest.raises(AssertionError, match="depths are off"):
        assert_agrees(judge(cast, instance_id, np.where(instance_id == 0, np.inf, depth)))
