import numpy as np
import pytest
import trimesh
from hypothesis import given
from hypothesis import strategies as st

from actors.rasteriser.renderer import WarpRenderer
from actors.scenes.mesh import Mesh
from actors.scenes.views import check_camera, in_a_box, outline, scene_intrinsics, visible_share
from common.errors import SceneError
from common.geometry import intrinsics_from_fov, inverse_pose, look_at, make_pose, so3_exp, transform_points
from common.scene import Camera, SceneObject, Shape, Symmetry, Texture
from tests.actors.scenes_for_tests import a_scene, an_object, cameras_around, mixed_scenes, one_cube, standing

SQUARE = intrinsics_from_fov(np.deg2rad(50.0), 1, 1)
AHEAD = look_at([0.0, -0.8, 0.1], [0.0, 0.0, 0.1])


def with_camera(scene, *numbers):
    return a_scene_like(scene, camera=Camera(*numbers))


def a_scene_like(scene, **changed):
    return type(scene)(**{f: getattr(scene, f) for f in scene.__dataclass_fields__} | changed)


def share(scene, pose, intrinsics=SQUARE, meshes=None):
    return visible_share(outline(scene, meshes), pose, intrinsics)


def a_box(size, x, y, instance_id, yaw=0.0):
    shape = Shape("box", size)
    return an_object(shape, standing(shape, x, y, yaw), instance_id)


def a_torus(scale=1.0):
    """A ring of radius 0.2 m and thickness 0.05 m, wound at random: what the faces' order says is to be ignored."""
    ring = trimesh.creation.torus(0.2, 0.05)
    faces = np.array(ring.faces, dtype=np.int32)
    swap = np.random.default_rng(0).random(len(faces)) < 0.5
    faces[swap] = faces[swap][:, ::-1]
    count = len(ring.vertices)
    up = np.tile(np.array([0.0, 0.0, 1.0], np.float32), (count, 1))
    mesh = Mesh(ring.vertices.astype(np.float32), faces, up, np.zeros((count, 2), np.float32))
    params = () if scale == 1.0 else (scale,)
    pose = make_pose(np.eye(3), [0.0, 0.0, 0.3])
    thing = SceneObject(Shape("mesh", params, "ring"), Texture(), Symmetry(), 4, tuple(pose.ravel().tolist()))
    return a_scene(thing), {"ring": mesh}


def test_intrinsics_are_the_scenes_own_or_those_of_the_field_of_view():
    scene = one_cube()
    np.testing.assert_array_equal(scene_intrinsics(scene, 50.0, 96, 64), intrinsics_from_fov(np.deg2rad(50.0), 96, 64))
    own = with_camera(scene, 1.2, 0.9, 0.55, 0.4)
    np.testing.assert_allclose(scene_intrinsics(own, 50.0, 100, 200), [240.0, 90.0, 110.0, 40.0])


@pytest.mark.parametrize(
    ("numbers", "field"),
    [((0.0, 1.0), "fx"), ((1.0, -1.0), "fy"), ((1.0, 1.0, float("nan")), "cx"), ((1.0, 1.0, 0.5, float("inf")), "cy")],
)
def test_a_camera_that_is_none_is_refused_by_name(numbers, field):
    with pytest.raises(SceneError, match=rf"camera\.{field} = "):
        scene_intrinsics(with_camera(one_cube(), *numbers), 50.0, 64, 64)


def test_the_share_is_of_the_surface_in_the_image():
    scene = one_cube(0.2)
    assert share(scene, AHEAD) == 1.0
    assert share(scene, look_at([0.0, -0.8, 0.1], [0.0, -2.0, 0.1])) == 0.0
    # The image's left border runs through the cube's middle plane: x / z = -0.5 / fx there.
    edge = np.arctan(0.5 / SQUARE[0])
    turned = AHEAD @ make_pose(so3_exp([0.0, edge, 0.0]), [0.0, 0.0, 0.0])
    assert share(scene, turned) == pytest.approx(0.5, abs=0.06)
    # A longer focal length shows less, a moved principal point shows something else.
    assert share(scene, AHEAD, np.array([6.0, 6.0, 0.5, 0.5])) < 0.8
    assert share(scene, AHEAD, np.add(SQUARE, [0.0, 0.0, 0.7, 0.0])) == 0.0


def test_points_in_the_ground_are_not_seen():
    shape = Shape("cube", (0.2,))
    sunk = a_scene(an_object(shape, make_pose(np.eye(3), [0.0, 0.0, 0.0])))
    assert share(sunk, look_at([0.0, -0.8, 0.4], [0.0, 0.0, 0.0])) == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize(
    ("wall", "seen"),
    [
        ((0.6, 0.02, 0.6), 0.0),  # a wall before the target
        ((0.6, 0.02, 0.1), 0.5),  # half as high
        ((0.02, 0.6, 0.6), 0.9),  # seen from its narrow side, a tenth as wide as the target
    ],
)
def test_what_stands_before_the_target_hides_it(wall, seen):
    target = a_box((0.2, 0.2, 0.2), 0.0, 0.0, 1)
    # Far away and level: lines of sight are nearly parallel.
    pose, narrow = look_at([0.0, -20.0, 0.1], [0.0, 0.0, 0.1]), np.array([20.0, 20.0, 0.5, 0.5])
    assert share(a_scene(target, a_box(wall, 0.0, -0.5, 2)), pose, narrow) == pytest.approx(seen, abs=0.08)
    assert share(a_scene(target, a_box(wall, 0.0, 0.5, 2)), pose, narrow) == 1.0, "it stands behind"
    assert share(a_scene(target, a_box(wall, 0.5, -0.5, 2)), pose, narrow) == 1.0, "it stands beside"


def test_a_box_is_turned_as_its_object_is():
    target = a_box((0.2, 0.2, 0.2), 0.0, 0.0, 1)
    pose, narrow = look_at([0.0, -20.0, 0.1], [0.0, 0.0, 0.1]), np.array([20.0, 20.0, 0.5, 0.5])
    wall = (0.5, 0.02, 0.6)
    assert share(a_scene(target, a_box(wall, 0.0, -0.5, 2)), pose, narrow) == 0.0
    assert share(a_scene(target, a_box(wall, 0.0, -0.5, 2, yaw=np.pi / 2)), pose, narrow) > 0.85


def test_a_target_with_a_visible_share_is_in_the_rendered_picture():
    """Three objects of all shapes, tumbled, sunk, overlapping: what is promised visible is in the picture."""
    scenes = mixed_scenes(24, seed=3)
    poses = cameras_around(8 * 24, seed=4, distance=(0.4, 0.9)).reshape(8, 24, 4, 4)
    renderer, ids = WarpRenderer(24), np.arange(24)
    renderer.reset(ids, scenes)
    view = np.tile(intrinsics_from_fov(np.deg2rad(50.0), 128, 128), (24, 1)), (128, 128), ["instance_id"]
    shares, pixels = [], []
    for batch in poses:
        shown = renderer.render(ids, batch, *view).instance_id
        pixels += (shown == 1).sum(axis=(1, 2)).tolist()
        shares += [share(s, p) for s, p in zip(scenes, batch, strict=True)]
    shares, pixels = np.array(shares), np.array(pixels)
    assert (pixels[shares > 0.02] > 0).all()
    # Both outcomes occur, and a box is not so much more than its object that nothing is ever called visible.
    assert (shares == 0.0).sum() > 5 and (shares > 0.5).mean() > 0.3
    renderer.close()


@given(st.integers(0, 2**32 - 1))
def test_each_point_that_counts_has_a_free_line_of_sight(seed):
    """By another way: many points along each segment, none in another object's box."""
    (scene,) = mixed_scenes(1, seed=seed)
    pose = cameras_around(1, seed=seed)[0]
    lines = outline(scene)
    at = pose[:3, 3] + np.linspace(0.0, 1.0, 400)[:, None, None] * (lines.points - pose[:3, 3])
    free = np.ones(len(lines.points), dtype=bool)
    for k in np.flatnonzero(lines.others):
        local = transform_points(lines.obj_T_world[k], at)
        free &= ~((local >= lines.low[k]) & (local <= lines.high[k])).all(axis=-1).any(axis=0)
    seen = transform_points(inverse_pose(pose), lines.points)
    uv = seen[:, :2] / seen[:, 2:] * SQUARE[:2] + SQUARE[2:]
    free &= (seen[:, 2] > 0) & (uv >= 0).all(axis=1) & (uv <= 1).all(axis=1) & (lines.points[:, 2] > -1e-6)
    # Segments that only graze a box may slip between the points tried here; none the other way round.
    assert 0.0 <= free.mean() - visible_share(lines, pose, SQUARE) < 0.08


@given(
    st.sampled_from([Shape("cube", (0.2,)), Shape("cylinder", (0.1, 0.3)), Shape("sphere", (0.15,))]),
    st.lists(st.floats(-0.25, 0.25), min_size=3, max_size=3),
)
def test_a_camera_in_an_object_is_refused(shape, position):
    turn = so3_exp([0.4, -0.3, 0.9])
    scene = a_scene(an_object(shape, make_pose(turn, [0.05, 0.02, 0.4]), instance_id=3))
    x, y, z = position
    eye = turn @ np.array(position) + [0.05, 0.02, 0.4]
    size = shape.params[0]
    if shape.kind == "cube":
        inside = max(abs(x), abs(y), abs(z)) / (size / 2)
    elif shape.kind == "cylinder":
        inside = max(np.hypot(x, y) / size, abs(z) / 0.15)
    else:
        inside = np.linalg.norm(position) / size
    pose = make_pose(np.eye(3), eye)
    if inside < 0.97:  # the meshes are a little smaller than the round bodies
        with pytest.raises(SceneError, match=f"camera position = .*: allowed is outside of object 3, a {shape.kind}"):
            check_camera(scene, pose)
    elif inside > 1.001:
        check_camera(scene, pose)
    if inside < 0.99:
        assert in_a_box(outline(scene), eye)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_the_hole_of_a_ring_is_outside(scale):
    scene, meshes = a_torus(scale)
    hole, tube = [0.0, 0.0, 0.3], [0.2 * scale, 0.0, 0.3]
    check_camera(scene, make_pose(np.eye(3), hole), meshes)
    with pytest.raises(SceneError, match="outside of object 4, a mesh"):
        check_camera(scene, make_pose(np.eye(3), tube), meshes)
    assert share(scene, look_at([0.0, -1.5, 0.9], [0.0, 0.0, 0.3]), meshes=meshes) == 1.0
    reach = outline(scene, meshes)
    np.testing.assert_allclose(reach.high[0], np.array([0.25, 0.25, 0.05]) * scale, atol=1e-6)
    assert np.abs(reach.points[:, :2]).max() == pytest.approx(0.25 * scale, rel=0.05)


def test_a_mesh_that_was_not_loaded_is_named():
    scene, _ = a_torus()
    for meshes in (None, {}, {"ring": np.zeros((4, 4, 3), np.uint8)}):
        with pytest.raises(SceneError, match=r"shape\.asset = 'ring': allowed is the hash of a loaded mesh"):
            check_camera(scene, AHEAD, meshes)


@pytest.mark.parametrize("height", [0.0, -0.1, float("nan")])
def test_a_camera_in_the_ground_is_refused(height):
    with pytest.raises(SceneError, match="camera height = "):
        check_camera(one_cube(), make_pose(np.eye(3), [1.0, 0.0, height]))
    check_camera(one_cube(), make_pose(np.eye(3), [1.0, 0.0, 1e-3]))
