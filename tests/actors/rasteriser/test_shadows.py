"""Shadows: where Embree's rays to the light are stopped, as dark as the light says, and never where nothing is."""

import dataclasses

import embreex.mesh_construction
import embreex.rtcore_scene
import numpy as np
import pytest

from actors.rasteriser.renderer import WarpRenderer
from actors.scenes.shapes import build_mesh
from common.geometry import look_at, make_pose, so3_exp, transform_points
from common.scene import Light, SceneSpec, Shape
from tests.actors.drawing_for_tests import GREY, WHITE, a_mesh_scene, alike, ball, digest, draw, draw_many, seen_points
from tests.actors.scenes_for_tests import an_object, cameras_around, intrinsics, mixed_scenes, standing

SIZE = (96, 128)


@pytest.fixture(scope="module")
def renderer():
    """Without smooth edges: every pixel is one point."""
    made = WarpRenderer(8, antialias=False)
    made.load({"ball": ball()})
    yield made
    made.close()


def lit_from(azimuth, elevation):
    """Unit vector to a light, angles in degrees."""
    a, e = np.deg2rad([azimuth, elevation])
    return (float(np.cos(a) * np.cos(e)), float(np.sin(a) * np.cos(e)), float(np.sin(e)))


def shaded_by_rays(scene, points, towards):
    """Which points (N, 3) something stands between them and the light."""
    corners = []
    for obj in scene.objects:
        mesh = build_mesh(obj.shape)
        corners.append(transform_points(obj.pose(), mesh.vertices)[mesh.faces])
    world = embreex.rtcore_scene.EmbreeScene(robust=True)
    embreex.mesh_construction.TriangleMesh(world, np.concatenate(corners).astype(np.float32))
    # A millimetre off the surface, which does not shade itself.
    start = (points + 1e-3 * np.asarray(towards)).astype(np.float32)
    rays = np.tile(np.asarray(towards, dtype=np.float32), (len(points), 1))
    return world.run(start, rays) >= 0


def shaded_by_renderer(renderer, scene, pose, light):
    """How dark each pixel is, 0 .. 1 (nan where the light does not reach it anyway), ids and depth."""
    bright, ids, depth = draw(renderer, dataclasses.replace(scene, light=light), pose, SIZE)
    dark, _, _ = draw(renderer, dataclasses.replace(scene, light=dataclasses.replace(light, shadow=1.0)), pose, SIZE)
    reached = bright.max(axis=-1)
    return np.where(reached >= 25, 1.0 - dark.max(axis=-1) / np.maximum(reached, 1), np.nan), ids, depth


def white_scene(number):
    """Three tumbled objects and a slab that floats over them and shades some."""
    scene = mixed_scenes(1, seed=number)[0]
    at = make_pose(so3_exp([0.2, 0.1, number]), [0.1 * np.cos(number), 0.1 * np.sin(number), 0.42])
    slab = an_object(Shape("box", (0.2, 0.15, 0.01)), at, 4)
    things = tuple(dataclasses.replace(o, texture=WHITE) for o in (*scene.objects, slab))
    return dataclasses.replace(scene, objects=things, ground=WHITE)


def compared(renderer, numbers):
    """Pixels of the ground and of objects that are judged, how many in shadow, and how many wrong."""
    found = {"ground": np.zeros(3, dtype=int), "objects": np.zeros(3, dtype=int)}
    for number in numbers:
        scene, pose = white_scene(number), cameras_around(1, seed=number)[0]
        towards = lit_from(47.0 * number, 25.0 + 13.0 * (number % 5))
        shade, ids, depth = shaded_by_renderer(renderer, scene, pose, Light(towards, 1.0, 0.0))
        points = seen_points(pose, depth, intrinsics(1, *SIZE)[0])
        true = shaded_by_rays(scene, points.reshape(-1, 3), towards).reshape(SIZE)
        # The edge of a shadow is soft by a texel of its map, some millimetres, and by as much a grazing one moves.
        sure = alike(true, 2) & alike(ids, 1) & np.isfinite(depth) & (depth < 5.0) & ~np.isnan(shade)
        for name, those in (("ground", sure & (ids == 0)), ("objects", sure & (ids > 0))):
            wrong = (shade > 0.5) != true
            found[name] += [those.sum(), (those & true).sum(), (those & wrong).sum()]
    return found


def check_shadows(renderer, numbers):
    found = compared(renderer, numbers)
    print(found)
    pixels, shaded, wrong = found["ground"]
    assert shaded > 0.02 * pixels and wrong <= 1e-4 * pixels
    pixels, shaded, wrong = found["objects"]
    assert shaded > 0.02 * pixels and wrong <= 1e-3 * pixels


def test_shadows_are_where_rays_to_the_light_are_stopped(renderer):
    check_shadows(renderer, range(8))


@pytest.mark.slow
def test_shadows_are_where_rays_to_the_light_are_stopped_in_many_scenes(renderer):
    check_shadows(renderer, range(8, 160))


@pytest.mark.parametrize("shadow", [0.0, 0.3, 1.0])
def test_a_shadow_takes_its_share_of_the_direct_light(renderer, shadow):
    """Straight down on the shadow of a slab that floats: its middle, and the ground far from it."""
    shape = Shape("box", (0.3, 0.3, 0.02))
    towards = (0.6, 0.0, 0.8)
    light = Light(towards, 0.5, 0.3, (1.0, 0.8, 0.6), shadow=shadow)
    scene = SceneSpec((an_object(shape, make_pose(np.eye(3), [0.0, 0.0, 0.4]), texture=GREY),), 1, WHITE, light)
    # From beside and under the slab, onto the middle of its shadow at x = -0.3.
    rgb, ids, _ = draw(renderer, scene, look_at([-0.7, 0.0, 0.3], [-0.3, 0.0, 0.0]), (65, 65))
    lit = 255.0 * (0.3 + 0.5 * 0.8 * np.array(light.color))
    dark = 255.0 * (0.3 + (1.0 - shadow) * 0.5 * 0.8 * np.array(light.color))
    assert ids[32, 32] == 0 and ids[64, 0] == 0
    assert np.abs(rgb[32, 32] - dark).max() <= 1.0
    assert np.abs(rgb[64, 32] - lit).max() <= 1.0


def test_a_lit_face_in_a_shadow_keeps_its_share_as_well(renderer):
    """A slab above a box: the box's top gets ambient light and what the shadow leaves, and no highlight but that."""
    under, over = Shape("box", (0.2, 0.2, 0.1)), Shape("box", (0.4, 0.4, 0.02))
    slab = an_object(over, make_pose(np.eye(3), [0.0, 0.0, 0.5]), 2, GREY)
    light = Light((0.0, 0.0, 1.0), 0.6, 0.3, shadow=0.75)
    scene = SceneSpec((an_object(under, standing(under), texture=WHITE), slab), 1, WHITE, light)
    rgb, ids, _ = draw(renderer, scene, look_at([0.5, 0.0, 0.3], [0.0, 0.0, 0.1]), (65, 65))
    assert ids[32, 32] == 1
    assert np.abs(rgb[32, 32] - 255.0 * (0.3 + 0.25 * 0.6)).max() <= 1.5


@pytest.mark.parametrize("elevation", [25.0, 45.0, 70.0, 90.0])
@pytest.mark.parametrize("shape", [Shape("box", (0.2, 0.3, 0.15)), Shape("prism", (6.0, 0.1, 0.2)), "ball"])
def test_faces_in_the_light_do_not_shade_themselves(renderer, shape, elevation):
    """A lone convex body looks the same with shadows and without, wherever the light is not all but along it."""
    for turn in (0.0, 0.9, 2.2):
        pose = make_pose(so3_exp([0.3 * turn, 0.0, turn]), [0.0, 0.0, 0.2])
        if shape == "ball":
            scene = a_mesh_scene("ball", pose, ground=WHITE)
        else:
            scene = SceneSpec((an_object(shape, pose, texture=WHITE),), 1, WHITE, Light())
        towards = lit_from(30.0 + 50.0 * turn, elevation)
        eye = np.array([0.0, 0.0, 0.2]) + 0.6 * np.add(towards, [0.3, -0.2, 0.25])
        light = Light(towards, 0.8, 0.1)
        rgb, ids, _ = draw(renderer, dataclasses.replace(scene, light=light), look_at(eye, [0.0, 0.0, 0.2]), SIZE)
        with_shadow = dataclasses.replace(scene, light=dataclasses.replace(light, shadow=1.0))
        shaded, _, _ = draw(renderer, with_shadow, look_at(eye, [0.0, 0.0, 0.2]), SIZE)
        # 0.1 of the white is ambient; a cosine of 0.1 and more.
        lit = (ids == 1) & (rgb[..., 0] > 255 * (0.1 + 0.8 * 0.1))
        assert lit.sum() > 400
        assert np.array_equal(shaded[lit], rgb[lit])


def test_no_shadow_is_no_shadow_byte_for_byte(renderer):
    """Also where shadow maps were drawn before; and another environment's shadow stays where it is."""
    scenes, poses = [white_scene(n) for n in range(4)], cameras_around(4, seed=2)
    fresh = WarpRenderer(4, antialias=False)
    never = draw_many(fresh, scenes, poses, SIZE)
    fresh.close()
    shaded = [dataclasses.replace(s, light=Light(shadow=0.8)) for s in scenes]
    with_shadows = draw_many(renderer, shaded, poses, SIZE)
    assert digest(with_shadows) != digest(never)
    assert digest(draw_many(renderer, scenes, poses, SIZE)) == digest(never)
    draw_many(renderer, shaded, poses, SIZE)
    renderer.reset(np.array([2]), [scenes[2]])
    mixed = renderer.render(np.arange(4), poses, intrinsics(4, *SIZE), SIZE, ["rgb"]).rgb
    expected = np.where(np.arange(4)[:, None, None, None] == 2, never.rgb, with_shadows.rgb)
    assert np.array_equal(mixed, expected)


def test_objects_do_not_shade_what_is_nearer_to_the_light(renderer):
    """A slab shades the ground under it, not the slab over it."""
    low, high = Shape("box", (0.3, 0.3, 0.02)), Shape("box", (0.1, 0.1, 0.02))
    things = (
        an_object(low, make_pose(np.eye(3), [0.0, 0.0, 0.1]), 1, WHITE),
        an_object(high, make_pose(np.eye(3), [0.0, 0.0, 0.4]), 2, WHITE),
    )
    scene = SceneSpec(things, 1, WHITE, Light((0.0, 0.0, 1.0), 0.8, 0.1, shadow=1.0))
    rgb, ids, _ = draw(renderer, scene, look_at([0.0, -0.3, 1.0], [0.0, 0.0, 0.1]), SIZE)
    top, under = rgb[(ids == 2) & alike(ids, 2)], rgb[(ids == 1) & alike(ids, 2)]
    assert np.abs(top - 255.0 * 0.9).max() <= 1.5
    assert under.min() < 30 and under.max() > 225
