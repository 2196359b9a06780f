import pathlib
import subprocess
import sys

import embreex.mesh_construction
import embreex.rtcore_scene
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.rasteriser.layout import GROUND_DEPTH
from actors.rasteriser.renderer import WarpRenderer
from actors.scenes.mesh_library import mesh_library
from actors.scenes.shapes import Mesh, build_mesh
from common.errors import SceneError
from common.geometry import (
    intrinsics_from_fov,
    inverse_pose,
    look_at,
    make_pose,
    project,
    so3_exp,
    transform_points,
    unproject,
)
from common.scene import Light, Shape
from tests.actors.drawing_for_tests import ALL, alike, digest
from tests.actors.scenes_for_tests import (
    a_scene,
    an_object,
    cameras_around,
    intrinsics,
    mixed_scenes,
    one_cube,
    standing,
)

NAN = float("nan")
ROOT = pathlib.Path(__file__).parents[3]


@pytest.fixture(scope="module")
def renderer():
    made = WarpRenderer(8)
    yield made
    made.close()


def ids(*numbers):
    return np.array(numbers, dtype=np.int64)


# ---------------------------------------------------------------- against ray casting


def ray_cast(scene, pose, intr, size):
    """Instance ids (H, W) and z-depths (H, W) by Embree: the objects' triangles over a large ground quad."""
    triangles, owner = [], []
    for obj in scene.objects:
        mesh = build_mesh(obj.shape)
        triangles.append(transform_points(obj.pose(), mesh.vertices)[mesh.faces])
        owner.append(np.full(len(mesh.faces), obj.instance_id))
    g = 1000.0
    quad = np.array([[-g, -g, 0.0], [g, -g, 0.0], [g, g, 0.0], [-g, g, 0.0]])
    triangles.append(quad[[[0, 1, 2], [0, 2, 3]]])
    owner.append(np.zeros(2, dtype=int))
    world = embreex.rtcore_scene.EmbreeScene(robust=True)
    embreex.mesh_construction.TriangleMesh(world, np.concatenate(triangles).astype(np.float32))
    height, width = size
    v, u = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    rays = unproject(np.stack([u, v], -1).reshape(-1, 2), np.ones(height * width), intr) @ pose[:3, :3].T
    eye = np.tile(pose[:3, 3], (len(rays), 1))
    hit = world.run(eye.astype(np.float32), rays.astype(np.float32), output=True)
    found = hit["primID"] >= 0
    # Embree normalises nothing: tfar is in units of the ray, whose optical component is 1.
    depth = np.where(found, hit["tfar"], np.inf)
    depth[depth > GROUND_DEPTH] = np.inf
    owner = np.concatenate(owner)
    seen = np.where(found, owner[np.maximum(hit["primID"], 0)], 0)
    return seen.reshape(height, width), depth.reshape(height, width)


def test_ids_and_depth_agree_with_ray_casting(renderer):
    count, size = 8, (96, 128)
    scenes = mixed_scenes(count, seed=1)
    poses = cameras_around(count, seed=2)
    intr = intrinsics(count, *size)
    renderer.reset(np.arange(count), scenes)
    frames = renderer.render(np.arange(count), poses, intr, size, ALL)
    wrong = pixels = 0
    for i in range(count):
        seen, depth = ray_cast(scenes[i], poses[i], intr[i], size)
        sure = alike(seen)
        wrong += (seen != frames.instance_id[i])[sure].sum()
        pixels += sure.sum()
        same = (seen == frames.instance_id[i]) & sure
        assert np.isinf(frames.depth[i][same & np.isinf(depth)]).all()
        finite = same & np.isfinite(depth) & (depth < 20.0)
        error = np.abs(frames.depth[i] / np.where(finite, depth, 1.0) - 1.0)[finite]
        # Creases inside one object (an id edge they are not) may pick the other side: a handful of pixels.
        assert np.mean(error > 1e-4) < 1e-3
        assert (seen > 0).mean() > 0.02
    assert wrong / pixels < 1e-3
    assert pixels > 0.7 * count * size[0] * size[1]


# ---------------------------------------------------------------- conventions


@settings(max_examples=25, deadline=None)
@given(
    x=st.floats(-0.08, 0.08),
    y=st.floats(-0.08, 0.08),
    yaw=st.floats(-3.0, 3.0),
    roll=st.floats(-3.0, 3.0),
    shift=st.floats(-6.0, 6.0),
)
def test_known_points_land_on_their_pixels(renderer, x, y, yaw, roll, shift):
    """A 6 mm sphere is a dot; its mask's centroid is where `project` puts its centre."""
    shape = Shape("sphere", (0.006,))
    at = np.array([x, y, 0.1])
    scene = a_scene(an_object(shape, make_pose(so3_exp([0.0, 0.0, yaw]), at)))
    pose = look_at([0.4, -0.2, 0.6], [0.0, 0.0, 0.1], roll)[None]
    intr = intrinsics_from_fov(np.deg2rad(40.0), 200, 240)[None] + [[0.0, 7.0, shift, -shift]]
    renderer.reset(ids(0), [scene])
    mask = renderer.render(ids(0), pose, intr, (200, 240), ["instance_id"]).instance_id[0] == 1
    i, j = np.nonzero(mask)
    expected = project(transform_points(inverse_pose(pose[0]), at[None]), intr[0])[0]
    assert len(i) >= 4
    assert np.abs([j.mean() + 0.5 - expected[0], i.mean() + 0.5 - expected[1]]).max() < 0.5


def test_depth_of_the_ground_is_exact_and_planar(renderer):
    renderer.reset(ids(0), [one_cube()])
    pose = look_at([0.0, 0.0, 1.5], [0.0, 0.0, 0.0])
    frames = renderer.render(ids(0), pose[None], intrinsics(1, 40, 60), (40, 60), ["depth", "instance_id"])
    ground = frames.instance_id[0] == 0
    np.testing.assert_allclose(frames.depth[0][ground], 1.5, rtol=1e-6)
    np.testing.assert_allclose(frames.depth[0][~ground], 1.3, rtol=1e-5)


def test_above_the_horizon_is_sky(renderer):
    renderer.reset(ids(0), [one_cube()])
    pose = look_at([0.0, 0.0, 1.0], [0.0, 5.0, 1.0])
    frames = renderer.render(ids(0), pose[None], intrinsics(1, 50), (50, 50), ALL)
    assert np.isinf(frames.depth[0, :25]).all()
    assert np.isfinite(frames.depth[0, 27:]).all()
    assert (frames.rgb[0, 0] == frames.rgb[0, 24]).all() and (frames.rgb[0, 0, 0] != frames.rgb[0, -1, 0]).any()


def test_below_the_ground_only_the_ground_is_seen(renderer):
    renderer.reset(ids(0), [one_cube()])
    pose = look_at([0.3, 0.0, -0.5], [0.0, 0.0, 0.1])
    frames = renderer.render(ids(0), pose[None], intrinsics(1, 32), (32, 32), ALL)
    assert (frames.instance_id == 0).all() and np.isfinite(frames.depth).all()


def test_the_image_follows_camera_and_object_alike(renderer):
    """Moving camera and object together leaves the object's image; the light is overhead, so turning keeps it too."""
    light = Light((0.0, 0.0, 1.0))
    shape = Shape("cone", (0.1, 0.2))
    move = make_pose(so3_exp([0.0, 0.0, 1.1]), [0.3, -0.2, 0.0])
    still, moved = standing(shape), move @ standing(shape)
    pose = cameras_around(1, seed=4)[0]
    scenes = [a_scene(an_object(shape, still), light=light), a_scene(an_object(shape, moved), light=light)]
    renderer.reset(ids(0, 1), scenes)
    frames = renderer.render(ids(0, 1), np.stack([pose, move @ pose]), intrinsics(2, 96), (96, 96), ALL)
    mask = frames.instance_id[0] == 1
    assert (mask != (frames.instance_id[1] == 1)).sum() <= 2
    # The ground did not move along, and shows through the smoothed edges.
    both = mask & (frames.instance_id[1] == 1) & alike(frames.instance_id[0])
    assert np.mean(np.abs(frames.rgb[0].astype(int) - frames.rgb[1])[both] > 2) < 0.005
    np.testing.assert_allclose(frames.depth[0], frames.depth[1], rtol=1e-4)


def test_intrinsics_are_per_camera(renderer):
    renderer.reset(ids(0), [one_cube()])
    pose = np.tile(look_at([0.5, 0.0, 0.5], [0.0, 0.0, 0.1]), (2, 1, 1))
    intr = intrinsics(2, 64)
    intr[1, :2] *= 2.0
    mask = renderer.render(ids(0, 0), pose, intr, (64, 64), ["instance_id"]).instance_id > 0
    assert 3.5 < mask[1].sum() / mask[0].sum() < 4.5


# ---------------------------------------------------------------- batches and determinism


def test_a_batch_equals_single_calls_and_ids_may_repeat(renderer):
    renderer.reset(np.arange(4), mixed_scenes(4, seed=5))
    env = ids(2, 0, 2, 3, 1, 2)
    poses, intr = cameras_around(6, seed=6), intrinsics(6, 48)
    batch = renderer.render(env, poses, intr, (48, 48), ALL)
    for i in range(6):
        one = renderer.render(env[i : i + 1], poses[i : i + 1], intr[i : i + 1], (48, 48), ALL)
        assert np.array_equal(one.rgb[0], batch.rgb[i])
        assert np.array_equal(one.instance_id[0], batch.instance_id[i])
        assert np.array_equal(one.depth[0], batch.depth[i])


def test_batches_too_large_for_the_scratch_are_drawn_in_pieces(renderer, monkeypatch):
    renderer.reset(np.arange(4), mixed_scenes(4, seed=5))
    poses, env = cameras_around(7, seed=6), ids(0, 1, 2, 3, 0, 1, 2)
    whole = renderer.render(env, poses, intrinsics(7, 32), (32, 32), ALL)
    monkeypatch.setattr("actors.rasteriser.launch.MAX_FRAMES", 2)
    assert digest(renderer.render(env, poses, intrinsics(7, 32), (32, 32), ALL)) == digest(whole)


def test_channels_do_not_depend_on_what_else_is_asked_for(renderer):
    renderer.reset(ids(0), mixed_scenes(1, seed=7))
    args = (ids(0), cameras_around(1, seed=8), intrinsics(1, 40, 56), (40, 56))
    every = renderer.render(*args, ALL)
    for channel in ALL:
        one = renderer.render(*args, [channel])
        assert np.array_equal(getattr(one, channel), getattr(every, channel))
        assert [c for c in ALL if getattr(one, c) is not None] == [channel]


def test_frames_that_are_held_are_never_written_again(renderer):
    renderer.reset(np.arange(2), mixed_scenes(2, seed=3))
    shown = []
    for seed in range(6):
        frames = renderer.render(np.arange(2), cameras_around(2, seed=seed), intrinsics(2, 24), (24, 24), ALL)
        kept = {"frames": frames, "row of one": frames.rgb[1, 3], "tensor": torch.from_numpy(frames.depth)}
        shown.append((kept, digest(frames), kept["row of one"].copy(), kept["tensor"].clone()))
    for kept, before, row, depth in shown:
        assert digest(kept["frames"]) == before
        assert np.array_equal(kept["row of one"], row) and torch.equal(kept["tensor"], depth)
    rows = [kept["row of one"] for kept, *_ in shown]
    copies = [row.copy() for row in rows]
    del shown, kept, frames
    # Views keep their image, too.
    for seed in range(9, 15):
        renderer.render(np.arange(2), cameras_around(2, seed=seed), intrinsics(2, 24), (24, 24), ALL)
    assert all(np.array_equal(a, b) for a, b in zip(rows, copies, strict=True))


def test_images_that_nobody_holds_are_used_again(renderer):
    renderer.reset(ids(0), [one_cube()])
    args = (ids(0), cameras_around(1), intrinsics(1, 20), (20, 20), ["depth"])
    at = {renderer.render(*args).depth.ctypes.data for _ in range(5)}
    assert len(at) == 1
    on_device = renderer.render_on_device(*args)
    tensor = on_device.torch()["depth"]
    del on_device
    before = tensor.clone()
    renderer.render(ids(0), cameras_around(1, seed=5), *args[2:])
    assert torch.equal(tensor, before)


def test_frames_carry_pose_and_number(renderer):
    renderer.reset(ids(3, 5), [one_cube(), one_cube()])
    poses = cameras_around(3)
    frames = renderer.render(ids(3, 5, 3), poses, intrinsics(3, 8), (8, 8), ["depth"])
    assert frames.frame_id.tolist() == [0, 0, 1] and np.array_equal(frames.pose_used, poses)
    poses[:] = 0.0
    assert frames.pose_used[0, 3, 3] == 1.0
    again = renderer.render(ids(3, 5), cameras_around(2), intrinsics(2, 8), (8, 8), ["depth"])
    assert again.frame_id.tolist() == [2, 1]
    renderer.reset(ids(3), [one_cube()])
    assert renderer.render(ids(3), cameras_around(1), intrinsics(1, 8), (8, 8), ["depth"]).frame_id.tolist() == [0]


def test_a_larger_scene_in_one_environment_leaves_the_others():
    fresh = WarpRenderer(3)
    fresh.reset(ids(0, 1), [one_cube(0.15), one_cube(0.2)])
    args = (ids(0, 1), cameras_around(2), intrinsics(2, 48), (48, 48), ALL)
    before = digest(fresh.render(*args))
    fresh.reset(ids(2), mixed_scenes(1))
    assert digest(fresh.render(*args)) == before
    fresh.close()


SCRIPT = """
import numpy as np
from tests.actors.rasteriser.test_renderer import *
r = WarpRenderer(2)
r.reset(np.arange(2), mixed_scenes(2, seed=9))
print(digest(r.render(np.arange(2), cameras_around(2, seed=9), intrinsics(2, 64), (64, 64), ALL)))
"""


def test_two_processes_render_the_same_bytes(renderer):
    renderer.reset(np.arange(2), mixed_scenes(2, seed=9))
    here = digest(renderer.render(np.arange(2), cameras_around(2, seed=9), intrinsics(2, 64), (64, 64), ALL))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    # Nothing else on stdout: commands print their JSON there.
    assert done.stdout.strip() == here


def test_a_large_renderer_stays_small():
    """256 environments of the largest library shapes, all textured."""
    library = mesh_library(0, 4, ["cube", "cylinder", "cone", "revolution"])
    big = WarpRenderer(256)
    big.reset(np.arange(256), [a_scene(an_object(library[i % 4], standing(library[i % 4]))) for i in range(256)])
    assert big.nbytes() < 30_000_000
    assert (big.render(np.arange(256), cameras_around(256), intrinsics(256, 8), (8, 8), ["depth"]).depth > 0.1).all()
    assert big.nbytes() < 60_000_000
    big.close()


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env": ids(7)}, "environment 7 has no scene"),
        ({"env": ids(8)}, r"env_ids = \[8\]: allowed is 0 .. 7"),
        ({"env": ids(-1)}, "env_ids"),
        ({"env": ids(0, 0)}, "world_T_cam"),
        ({"pose": np.full((1, 4, 4), NAN)}, "world_T_cam = 'row 0"),
        ({"pose": np.diag([1.0, 1.0, -1.0, 1.0])[None]}, "rigid"),
        ({"intr": np.array([[NAN, 1.0, 1.0, 1.0]])}, "intrinsics"),
        ({"intr": np.array([[0.0, 1.0, 1.0, 1.0]])}, "focal lengths > 0"),
        ({"size": (0, 8)}, "size"),
        ({"size": (8, 100000)}, "size"),
        ({"channels": ["normals"]}, "channels"),
        ({"channels": []}, "channels"),
    ],
)
def test_bad_views_are_refused_by_name(changes, message):
    fresh = WarpRenderer(8)
    fresh.reset(ids(0), [one_cube()])
    call = {"env": ids(0), "pose": cameras_around(1), "intr": intrinsics(1, 8), "size": (8, 8), "channels": ["depth"]}
    fresh.render(*call.values())
    with pytest.raises(SceneError, match=message):
        fresh.render(*(call | changes).values())


def test_bad_resets_meshes_and_uses_are_refused():
    fresh = WarpRenderer(2)
    with pytest.raises(SceneError, match="each environment once"):
        fresh.reset(ids(0, 0), [one_cube(), one_cube()])
    with pytest.raises(SceneError, match=r"len\(scenes\)"):
        fresh.reset(ids(0, 1), [one_cube()])
    with pytest.raises(SceneError, match="asset x"):
        fresh.load({"x": np.zeros(3)})
    mesh = build_mesh(Shape("cube", (0.1,)))
    with pytest.raises(SceneError, match="asset x"):
        fresh.load({"x": Mesh(mesh.vertices, mesh.faces + 100, mesh.normals, mesh.uvs)})
    fresh.close()
    with pytest.raises(SceneError, match="closed"):
        fresh.reset(ids(0), [one_cube()])
    with pytest.raises(SceneError, match="max_envs"):
        WarpRenderer(0)
