"""What is seen: any place of the camera, any lens and size; clusters of faces; drawing in steps, also on CUDA."""

import dataclasses

import numpy as np
import pytest
import trimesh
import warp as wp
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.rasteriser import kernels as warp_kernels
from actors.rasteriser.clusters import cluster_faces, normals_side
from actors.rasteriser.launch import Launcher
from actors.rasteriser.layout import CLUSTER
from actors.rasteriser.renderer import WarpRenderer
from actors.scenes.mesh import recorded_mesh
from actors.scenes.shapes import build_mesh
from common.geometry import intrinsics_from_fov, look_at, make_pose, so3_exp
from common.scene import Light, SceneSpec, Shape
from tests.actors.drawing_for_tests import (
    ALL,
    GREY,
    WHITE,
    a_mesh_scene,
    alike,
    ball,
    digest,
    draw,
    draw_many,
    flipped,
    near_cameras,
    oracle_agrees,
)
from tests.actors.scenes_for_tests import (
    GROUND,
    PATTERN,
    a_scene,
    an_object,
    cameras_around,
    intrinsics,
    mixed_scenes,
    standing,
)
from tests.actors.shapes_for_tests import SHAPES, any_shape

LIGHT = Light((0.48, -0.6, 0.64), 0.6, 0.3, shadow=0.8)


@pytest.fixture(scope="module")
def renderer():
    made = WarpRenderer(16)
    yield made
    made.close()


@pytest.fixture(scope="module")
def in_steps():
    """Draws as CUDA does, in many small tasks."""
    made = WarpRenderer(16)
    made._launcher = Launcher(wp.get_device("cpu"), True, True, in_steps=True)
    yield made
    made.close()


def test_triangles_across_the_near_plane_stay_whole(renderer):
    shape = Shape("box", (3.0, 3.0, 0.2))
    scene = a_scene(an_object(shape, standing(shape)))
    # Over the slab and under its far edge's line of sight: most of its top reaches behind the camera.
    ids, _ = oracle_agrees(renderer, scene, look_at([0.0, 0.0, 0.5], [0.9, 0.2, 0.2], 0.3), (64, 64))
    assert (ids == 1).mean() > 0.5


@pytest.mark.parametrize("shape", [Shape("box", (0.6, 0.5, 0.4)), Shape("cylinder", (0.3, 0.5)), "ball"])
def test_from_inside_a_closed_object_its_inside_is_seen(renderer, shape):
    at = make_pose(so3_exp([0.3, 0.2, 1.0]), [0.0, 0.0, 0.6])
    meshes = {"large ball": ball(0.3, 3)}
    renderer.load(meshes)
    thing = a_mesh_scene("large ball", at) if shape == "ball" else a_scene(an_object(shape, at, texture=WHITE))
    thing = dataclasses.replace(thing, light=Light((0.0, 0.0, 1.0), 0.5, 0.3))
    for eye in ([0.0, 0.05, 0.6], [0.1, 0.0, 0.5], [-0.05, 0.1, 0.65]):
        pose = look_at(eye, [0.3, 0.1, 0.7], 0.4)
        ids, _ = oracle_agrees(renderer, thing, pose, (32, 32), meshes=meshes)
        rgb, _, _ = draw(renderer, thing, pose, (32, 32))
        assert (ids == 1).all()
        assert rgb.min() >= 60  # the side that is looked at is lit


@pytest.mark.parametrize("factor", [0.05, 3.0])
def test_a_factor_on_a_mesh_is_a_larger_mesh(renderer, factor):
    mesh = flipped(build_mesh(SHAPES["stepped"]))
    larger = dataclasses.replace(mesh, vertices=(mesh.vertices * np.float32(factor)).astype(np.float32))
    renderer.load({"normal": mesh, f"{factor} times": larger})
    at, target = make_pose(so3_exp([0.4, 0.2, 0.9]), [0.0, 0.0, 0.2 * factor]), (0.0, 0.0, 0.2 * factor)
    eyes = np.array(target) + factor * np.array([[0.3, 0.2, 0.4], [-0.5, 0.3, -0.1]])
    poses = look_at(eyes, target, np.array([0.3, -1.0]))
    scenes = [
        a_mesh_scene("normal", at, PATTERN, LIGHT, params=(factor,)),
        a_mesh_scene(f"{factor} times", at, PATTERN, LIGHT),
    ]
    for pose in poses:
        one, other = draw(renderer, scenes[0], pose, (64, 64)), draw(renderer, scenes[1], pose, (64, 64))
        assert (one[1] == 1).sum() > 200
        assert (one[1] != other[1]).sum() <= 1
        same = alike(one[1]) & alike(other[1])
        np.testing.assert_allclose(one[2][same], other[2][same], rtol=1e-4)
        assert np.mean(np.abs(one[0] - other[0])[same] > 2) < 5e-3


# ---------------------------------------------------------------- clusters


@settings(max_examples=40)
@given(shape=any_shape, seed=st.integers(0, 99), share=st.sampled_from([0.0, 0.3]))
def test_clusters_hold_their_faces(shape, seed, share):
    mesh = build_mesh(shape)
    order, clusters = cluster_faces(flipped(mesh, seed, share))
    mesh = flipped(mesh, seed, share)
    assert sorted(order.tolist()) == list(range(len(mesh.faces)))
    assert len(clusters) == -(-len(order) // CLUSTER) and np.isfinite(clusters).all()
    corners = mesh.vertices.astype(np.float64)[mesh.faces[order]]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normals, axis=1)
    rng = np.random.default_rng(seed)
    eyes = rng.normal(size=(60, 3)) * 2.0 * np.abs(mesh.vertices).max()
    for c, (center, radius, axis, sine) in enumerate((r[:3], r[3], r[4:7], r[7]) for r in clusters.astype(np.float64)):
        part = slice(c * CLUSTER, (c + 1) * CLUSTER)
        assert np.linalg.norm(corners[part] - center, axis=2).max() <= radius
        assert 0.0 < sine <= 1.0
        if sine == 1.0:
            continue
        # Wherever the cone says that all look away, each does: the test of the kernels, from random places.
        way = center - eyes
        along = way @ axis - radius
        passed_over = (along > 0.0) & (along**2 >= sine**2 * np.sum(way * way, axis=1))
        real = length[part] > 1e-300
        away = np.einsum("fd,efd->ef", normals[part][real], corners[None, part, 0][:, real] - eyes[:, None])
        assert (away[passed_over] >= 0.0).all()


def test_clusters_are_small_and_look_one_way():
    """Otherwise they would be of no use: of a fine ball, most of the far side can be passed over."""
    _, clusters = cluster_faces(ball())
    assert np.mean(clusters[:, 7] < 0.8) > 0.9
    assert np.median(clusters[:, 3]) < 0.04


def test_the_side_of_the_normals_is_told_per_face():
    mesh = ball(0.1, 2)
    turned = np.arange(len(mesh.faces)) % 3 == 0
    faces = np.where(turned[:, None], mesh.faces[:, ::-1], mesh.faces)
    assert np.array_equal(normals_side(dataclasses.replace(mesh, faces=faces, closed=False)), np.where(turned, -1, 1))


# ---------------------------------------------------------------- steps, sizes and places


@pytest.mark.parametrize("size", [(1, 1), (17, 63), (61, 96), (70, 129)])
def test_steps_draw_what_whole_frames_draw(renderer, in_steps, size):
    """CUDA draws in steps; on the CPU the same steps give the same bytes."""
    scenes = [dataclasses.replace(s, light=LIGHT) if i % 2 else s for i, s in enumerate(mixed_scenes(6, seed=size[0]))]
    poses = np.concatenate([cameras_around(3, seed=8), near_cameras(3, 8, np.array([0.0, 0.0, 0.2]))])
    whole, steps = (draw_many(one, scenes, poses, size) for one in (renderer, in_steps))
    assert np.array_equal(whole.instance_id, steps.instance_id)
    assert np.array_equal(whole.depth, steps.depth)
    assert np.array_equal(whole.rgb, steps.rgb)
    for channel in ALL:
        alone = in_steps.render(np.arange(6), poses, intrinsics(6, *size), size, [channel])
        assert np.array_equal(getattr(alone, channel), getattr(whole, channel))


@st.composite
def views(draw):
    """A scene of 1 to 12 objects, a camera above the ground, often in or at an object, any lens and size."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    count = draw(st.integers(1, 12))
    things = []
    for k in range(count):
        shape = list(SHAPES.values())[rng.integers(len(SHAPES))]
        pose = make_pose(so3_exp(rng.normal(size=3)), [*rng.uniform(-0.3, 0.3, 2), rng.uniform(-0.05, 0.3)])
        things.append(an_object(shape, pose, 10 * k + 1, GREY if k % 2 else PATTERN))
    light = Light((0.48, -0.6, 0.64), 0.6, 0.3, shadow=draw(st.sampled_from([0.0, 0.7])))
    scene = SceneSpec(tuple(things), 1, GROUND, light)
    height, width = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    eye = np.array([*rng.uniform(-0.4, 0.4, 2), rng.uniform(0.001, 0.5)])
    if draw(st.booleans()):
        eye = things[0].pose()[:3, 3] + rng.normal(scale=0.08, size=3)
        eye[2] = max(eye[2], 1e-3)
    pose = look_at(eye, np.add(rng.uniform(-0.3, 0.3, 3), [0.0, 0.0, 0.15]), rng.uniform(-3, 3))
    lens = intrinsics_from_fov(np.deg2rad(draw(st.floats(0.5, 150.0))), height, width)
    lens *= [rng.uniform(0.5, 2.0), 1.0, rng.uniform(-0.5, 2.5), rng.uniform(-0.5, 2.5)]
    return scene, pose, lens, (height, width)


def check_any_view(renderer, in_steps, view):
    scene, pose, lens, size = view
    rgb, ids, depth = draw(renderer, scene, pose, size, lens)
    assert rgb.shape == (*size, 3) and ids.shape == depth.shape == size
    assert set(np.unique(ids)) <= {0, *(o.instance_id for o in scene.objects)}
    # An object's surface is nowhere nearer than the near plane; what is infinitely far is no object.
    assert (depth >= 0.0099).all() and not np.isnan(depth).any()
    assert np.isfinite(depth[ids > 0]).all()
    again = draw(in_steps, scene, pose, size, lens)
    assert all(np.array_equal(a, b) for a, b in zip((rgb, ids, depth), again, strict=True))


@settings(max_examples=40)
@given(view=views())
def test_any_view_is_drawn(renderer, in_steps, view):
    check_any_view(renderer, in_steps, view)


@pytest.mark.slow
@settings(max_examples=1500)
@given(view=views())
def test_any_view_is_drawn_of_very_many(renderer, in_steps, view):
    check_any_view(renderer, in_steps, view)


def test_a_lens_of_any_length(renderer):
    """From 140 degrees of view to a hundredth of one: what rays meet is what is drawn."""
    shape = SHAPES["stepped"]
    scene = a_scene(an_object(shape, standing(shape)))
    pose = look_at([0.4, 0.3, 0.4], [0.0, 0.0, 0.1], 0.2)
    for degrees in (140.0, 60.0, 5.0, 0.2, 0.01):
        lens = intrinsics_from_fov(np.deg2rad(degrees), 40, 50)
        ids, _ = oracle_agrees(renderer, scene, pose, (40, 50), lens)
        assert (ids == 1).any()


def test_a_mesh_of_many_triangles(renderer):
    made = trimesh.creation.icosphere(6, 0.1)
    points = np.asarray(made.vertices) * (1.0 + 0.1 * np.sin(np.asarray(made.vertices) @ [[90.0], [70.0], [50.0]]))
    normals = points / np.linalg.norm(points, axis=1, keepdims=True)
    mesh = recorded_mesh(points, np.asarray(made.faces), normals, np.zeros((len(points), 2)))
    assert len(mesh.faces) > 60_000
    renderer.load({"many": mesh})
    scene = a_mesh_scene("many", make_pose(np.eye(3), [0.0, 0.0, 0.15]))
    ids, _ = oracle_agrees(renderer, scene, cameras_around(1, seed=3)[0], (96, 96), meshes={"many": mesh})
    assert (ids == 1).sum() > 400


# ---------------------------------------------------------------- CUDA


@pytest.mark.slow
@pytest.mark.parametrize("use_ptx", [True, False])
def test_the_kernels_compile_for_cuda_without_a_device(tmp_path, use_ptx):
    wp.compile_aot_module(warp_kernels, device=None, arch=90, module_dir=tmp_path, use_ptx=use_ptx)
    (built,) = tmp_path.glob("*.ptx" if use_ptx else "*.cubin")
    assert built.stat().st_size > 50_000
    if use_ptx:
        text = built.read_text()
        assert ".target sm_90" in text and "shade" in text and "raster_triangles" in text


@pytest.mark.gpu
def test_cuda_draws_what_the_cpu_draws(renderer):
    if wp.get_cuda_device_count() == 0:
        pytest.skip("no CUDA device")
    cuda = WarpRenderer(16, "cuda:0")
    scenes = [dataclasses.replace(s, light=LIGHT) if i % 2 else s for i, s in enumerate(mixed_scenes(16, seed=11))]
    poses = np.concatenate([cameras_around(10, seed=9), near_cameras(6, 9, np.array([0.0, 0.0, 0.2]))])
    ours, theirs = draw_many(renderer, scenes, poses, (120, 160)), draw_many(cuda, scenes, poses, (120, 160))
    assert digest(draw_many(cuda, scenes, poses, (120, 160))) == digest(theirs)
    cuda.close()
    same = ours.instance_id == theirs.instance_id
    assert np.mean(~same) < 1e-4
    with np.errstate(invalid="ignore"):
        apart = np.abs(theirs.depth / ours.depth - 1.0) > 1e-4
    assert np.mean(apart & same) < 1e-4
    assert np.mean(np.abs(ours.rgb.astype(int) - theirs.rgb).max(axis=-1) > 2) < 1e-3
