"""Colours: textures and their levels, smooth edges, light, materials and shadows' strength."""

import dataclasses

import numpy as np
import pytest

from actors.rasteriser.edges import FOLD
from actors.rasteriser.renderer import WarpRenderer
from actors.scenes.shapes import symmetry_of
from actors.scenes.sky import sample_sky, sh_basis
from common.geometry import intrinsics_from_fov, look_at, make_pose, so3_exp
from common.rng import Purpose, philox
from common.scene import Light, Material, SceneSpec, Shape, Texture
from tests.actors.drawing_for_tests import (
    FLAT,
    GREY,
    WHITE,
    a_mesh_scene,
    alike,
    ball,
    draw,
    draw_many,
    seen_points,
    sheet,
)
from tests.actors.scenes_for_tests import GROUND, a_scene, an_object, cameras_around, intrinsics, mixed_scenes, standing

BLACK = Texture("plain", ((0.0, 0.0, 0.0),))
CHESS = Texture("checker", ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0)), 32.0)
CUBE = Shape("cube", (0.01,))
SIDE = 64
MATT = Material()


def picture(side=SIDE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3)).astype(np.uint8)


def halved(texels):
    """Means of 2 x 2 texels, rounded half up."""
    wide = texels.astype(int)
    return ((wide[::2, ::2] + wide[1::2, ::2] + wide[::2, 1::2] + wide[1::2, 1::2] + 2) // 4).astype(np.uint8)


@pytest.fixture(scope="module")
def renderer():
    made = WarpRenderer(8)
    full = picture()
    made.load(
        {"ball": ball(), "sheet": sheet(1.0), "full": full, "half": halved(full), "quarter": halved(halved(full))}
    )
    yield made
    made.close()


@pytest.fixture(scope="module")
def rough():
    """Without smooth edges; mip maps as usual."""
    made = WarpRenderer(8, antialias=False)
    yield made
    made.close()


@pytest.fixture(scope="module")
def plain():
    """Without smooth edges and without mip maps."""
    made = WarpRenderer(8, antialias=False, mipmaps=False)
    yield made
    made.close()


def ground_scene(ground, size=1.0, light=FLAT):
    """A ground with nothing to see on it."""
    far = an_object(CUBE, make_pose(np.eye(3), [40.0, 40.0, 0.005]), texture=WHITE)
    return SceneSpec((far,), 1, ground, light, size)


# ---------------------------------------------------------------- textures


def test_ground_texels_are_where_the_world_says(renderer):
    """A checker of 2 cells over 1 m: the cell of world (x, y) decides the colour, whichever way the camera turns."""
    scene = ground_scene(Texture("checker", ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0)), 2.0))
    points = np.array([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75], [-0.25, 0.25], [1.25, 0.25]])
    eyes = np.concatenate([points + 0.2, np.full((6, 1), 0.4)], axis=1)
    poses = look_at(eyes, np.concatenate([points, np.zeros((6, 1))], axis=1), np.arange(6.0))
    rgb = draw_many(renderer, [scene] * 6, poses, (9, 9)).rgb[:, 4, 4]
    assert (rgb == 255).all(axis=1).tolist() == [True, False, False, True, False, True]
    assert (rgb[[1, 2, 4]] == 0).all()


def test_a_fine_ground_far_away_is_its_mean(renderer, plain):
    """Two texels per cell, 6 mm: from 4 m on, a pixel covers many cells."""
    scene, pose = ground_scene(CHESS, 0.2), look_at([0.0, 0.0, 1.0], [0.0, 4.0, 0.9])
    smooth, _, depth = draw(renderer, scene, pose, (64, 64))
    speckled, _, _ = draw(plain, scene, pose, (64, 64))
    far = (depth > 4.0) & (depth < 30.0)
    assert far.sum() > 300
    assert np.abs(smooth[far] - 127.5).max() <= 2.0
    assert speckled[far].std() > 60.0


def test_a_fine_object_far_away_is_its_mean(renderer, plain):
    shape = Shape("box", (0.3, 0.3, 0.3))
    scene = SceneSpec((an_object(shape, standing(shape), texture=CHESS),), 1, GREY, FLAT)
    pose = look_at([2.0, 1.0, 1.5], [0.0, 0.0, 0.15])
    smooth, ids, _ = draw(renderer, scene, pose, (64, 64))
    speckled, _, _ = draw(plain, scene, pose, (64, 64))
    inner = (ids == 1) & alike(ids)
    assert inner.sum() > 30
    assert np.abs(smooth[inner] - 127.5).mean() < 12.0 < 40.0 < np.abs(speckled[inner] - 127.5).mean()


def from_above(on_sheet, name, texels, size):
    """A picture that fills 1 m of ground or sheet, seen straight from above at so many texels per pixel."""
    texture = Texture("image", (), asset=name)
    raised = make_pose(np.eye(3), [0.0, 0.0, 0.2])
    scene = a_mesh_scene("sheet", raised, texture) if on_sheet else ground_scene(texture)
    height = 0.8
    focal = height / (texels / SIDE)
    # Image right is x and image down is -y: the first row looks at the last texels.
    pose = look_at([0.0, 1.0, 0.2 * on_sheet + height], [0.0, 1.0, 0.0])
    return scene, pose, np.array([focal, focal, 0.0, 0.0]), size


@pytest.mark.parametrize("on_sheet", [False, True])
@pytest.mark.parametrize(("texels", "name"), [(1.0, "full"), (2.0, "half"), (4.0, "quarter")])
def test_a_pixel_over_n_times_n_texels_shows_their_mean(renderer, rough, on_sheet, texels, name):
    scene, pose, lens, size = from_above(on_sheet, "full", texels, (int(SIDE / texels),) * 2)
    full = picture()
    expected = {"full": full, "half": halved(full), "quarter": halved(halved(full))}[name]
    rgb, _, _ = draw(renderer, scene, pose, size, lens)
    inner = (slice(1, -1), slice(1, -1))  # the sheet's outline is smoothed
    # 1/256 of a texel beside a centre moves a colour by up to 255 / 128.
    assert np.abs(rgb[::-1] - expected)[inner].max() <= 4


@pytest.mark.parametrize("on_sheet", [False, True])
def test_twice_as_fine_a_texture_looks_like_the_same_at_half_its_resolution(renderer, on_sheet):
    pose = look_at([-0.1, -0.3, 0.7], [0.5, 0.6, 0.1], 0.4)
    views = {}
    for name in ("full", "half"):
        scene = from_above(on_sheet, name, 1.0, (1, 1))[0]
        views[name] = draw(renderer, scene, pose, (32, 32))
    # Only where four texels of the finer one and more are under a pixel, so that it looks at its second level.
    rgb, ids, depth = views["full"]
    focal = intrinsics(1, 32)[0, 0]
    points = seen_points(pose, depth, intrinsics(1, 32)[0])
    area = (depth * SIDE / focal) ** 2 * depth / (pose[2, 3] - points[..., 2])
    shown = (ids == int(on_sheet)) & alike(ids) & (area > 4.4)
    assert shown.sum() > 100
    assert np.abs(rgb - views["half"][0])[shown].max() <= 1


@pytest.mark.parametrize("on_sheet", [False, True])
def test_levels_blend_without_a_jump(renderer, on_sheet):
    """Zooming out on one point: no step of the way changes its colour by much, the whole way by a lot."""
    scene, pose, lens, _ = from_above(on_sheet, "full", 1.0, (1, 1))
    pose = pose @ make_pose(np.eye(3), [37.0 / SIDE, 29.0 / SIDE, 0.0])
    scales = np.geomspace(0.8, 70.0, 900)
    lenses = np.stack([[lens[0] / s, lens[1] / s, 0.5, 0.5] for s in scales])
    env = np.zeros(len(scales), dtype=np.int64)
    renderer.reset(env[:1], [scene])
    colors = renderer.render(env, np.tile(pose, (len(scales), 1, 1)), lenses, (1, 1), ["rgb"]).rgb[:, 0, 0].astype(int)
    assert np.abs(np.diff(colors, axis=0)).max() <= 5
    assert np.abs(colors[-1] - picture().reshape(-1, 3).mean(axis=0)).max() <= 2.0
    assert np.ptp(colors, axis=0).max() > 20


# ---------------------------------------------------------------- smooth edges


def plain_scenes(count, seed):
    """Mixed scenes in single colours, so that edges are all there is to see."""
    rng = np.random.default_rng(seed)
    scenes = []
    for scene in mixed_scenes(count, seed):
        things = []
        for thing in scene.objects:
            texture = Texture("plain", (tuple(rng.uniform(0.1, 1.0, 3).round(2).tolist()),))
            things.append(dataclasses.replace(thing, texture=texture, symmetry=symmetry_of(thing.shape, texture)))
        scenes.append(dataclasses.replace(scene, objects=tuple(things), ground=GREY))
    return scenes


def enlarged(renderer, scenes, poses, size, factor=8):
    """The same views with factor x factor centres per pixel, averaged."""
    height, width = size
    large = (height * factor, width * factor)
    lenses = intrinsics(len(scenes), height, width) * factor
    rgb = draw_many(renderer, scenes, poses, large, lenses).rgb.astype(float)
    return rgb.reshape(len(scenes), height, factor, width, factor, 3).mean(axis=(2, 4))


def test_smoothing_touches_neither_ids_nor_depths(renderer, rough):
    scenes = [dataclasses.replace(s, light=Light(shadow=0.7)) for s in mixed_scenes(8, seed=3)]
    poses = cameras_around(8, seed=3)
    on, off = draw_many(renderer, scenes, poses, (61, 83)), draw_many(rough, scenes, poses, (61, 83))
    assert on.instance_id.tobytes() == off.instance_id.tobytes()
    assert on.depth.tobytes() == off.depth.tobytes()
    assert on.rgb.tobytes() != off.rgb.tobytes()


def errors_of_edges(renderer, rough, scenes, poses, size):
    """Mean squared errors of the pixels that smoothing changes, with it and without, and those pixels' share."""
    true = enlarged(rough, scenes, poses, size)
    on, off = draw_many(renderer, scenes, poses, size).rgb.astype(float), draw_many(rough, scenes, poses, size).rgb
    changed = (on != off).any(axis=-1)
    return np.mean((on - true)[changed] ** 2), np.mean((off - true)[changed] ** 2), changed.mean()


def test_smooth_edges_are_nearer_to_the_truth(renderer, rough):
    poses = cameras_around(8, seed=4)
    with_it, without, share = errors_of_edges(renderer, rough, plain_scenes(8, seed=4), poses, (48, 64))
    assert 0.02 < share < 0.4
    assert with_it < 0.2 * without


def test_smooth_edges_of_thin_things_and_the_horizon(renderer, rough):
    bars = [Shape("box", (0.6, 0.006, 0.006)), Shape("box", (0.006, 0.6, 0.006)), Shape("cylinder", (0.004, 0.5))]
    rng = np.random.default_rng(5)
    things = [
        an_object(s, make_pose(so3_exp(rng.normal(size=3)), [0.0, 0.0, 0.3]), k + 1, WHITE) for k, s in enumerate(bars)
    ]
    thin = dataclasses.replace(a_scene(*things), ground=BLACK)
    thin_poses = cameras_around(4, seed=5, target=(0.0, 0.0, 0.3))
    with_it, without, share = errors_of_edges(renderer, rough, [thin] * 4, thin_poses, (48, 64))
    assert share > 0.01
    assert with_it < 0.2 * without
    eyes = np.tile([0.0, 0.0, 1.0], (4, 1))
    rolled = look_at(eyes, [0.0, 3.0, 1.1], np.array([0.1, 0.7, 1.5, 2.4]))
    with_it, without, share = errors_of_edges(renderer, rough, [ground_scene(BLACK)] * 4, rolled, (48, 64))
    assert share > 0.005
    assert with_it < 0.15 * without


def test_smoothing_changes_only_pixels_on_edges(renderer, rough):
    """Where ids differ from a neighbour's or the slope dz / dx changes; and about half of the former look different."""
    scenes, poses, size = plain_scenes(8, seed=6), cameras_around(8, seed=6), (48, 64)
    on, off = draw_many(renderer, scenes, poses, size), draw_many(rough, scenes, poses, size)
    near = np.where(np.isfinite(on.depth), 1.0 / on.depth, 0.0).astype(np.float64)
    ids = np.pad(on.instance_id, ((0, 0), (1, 1), (1, 1)), mode="edge")
    around = (ids[:, :-2, 1:-1], ids[:, 2:, 1:-1], ids[:, 1:-1, :-2], ids[:, 1:-1, 2:])
    meet = np.any([on.instance_id != other for other in around], axis=0)
    horizon = on.depth > 10.0  # smoothed by its own rule, which knows what is above the image
    # The second difference of 1/z, relative, is the change of slope over the focal length.
    limit = 0.99 * FOLD / intrinsics(1, *size)[0, 0] * near
    bent = np.zeros_like(meet)
    bent[:, 1:-1] |= np.abs(near[:, 2:] + near[:, :-2] - 2 * near[:, 1:-1]) > limit[:, 1:-1]
    bent[:, :, 1:-1] |= np.abs(near[:, :, 2:] + near[:, :, :-2] - 2 * near[:, :, 1:-1]) > limit[:, :, 1:-1]
    changed = (on.rgb != off.rgb).any(axis=-1)
    assert not (changed & ~meet & ~bent & ~horizon).any()
    assert changed[meet].mean() > 0.4
    # Folds inside one object as well.
    assert (changed & ~meet & ~horizon).sum() > 50


# ---------------------------------------------------------------- light


def test_light_is_lambert_plus_ambient(renderer):
    light = Light((0.0, 0.6, 0.8), diffuse=0.5, ambient=0.3)
    texture = Texture("plain", ((1.0, 0.5, 0.25),))
    shape = Shape("box", (0.4, 0.4, 0.2))
    scene = SceneSpec((an_object(shape, standing(shape), texture=texture),), 1, GROUND, light)
    eyes = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.1], [0.0, -1.0, 0.1]])
    poses = look_at(eyes, np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.1], [0.0, 0.0, 0.1]]))
    rgb = draw_many(renderer, [scene] * 3, poses, (33, 33)).rgb[:, 16, 16]
    for seen, cosine in zip(rgb, (0.8, 0.6, 0.0), strict=True):
        expected = 255.0 * np.array([1.0, 0.5, 0.25]) * (0.3 + 0.5 * cosine)
        assert np.abs(seen - expected).max() <= 2.0


BALL_AT = make_pose(so3_exp([0.4, -1.1, 0.8]), [0.05, -0.03, 0.25])  # turned: light comes in the object's frame
BALL_VIEWS = look_at(np.array([[0.5, 0.1, 0.6], [-0.4, 0.3, 0.05], [0.1, -0.6, 0.5]]), [0.05, -0.03, 0.25])


def ball_view(renderer, pose, material=MATT, **scene):
    """Colours of a ball's inner pixels, their true normals, and unit vectors from there to the eye."""
    lens = intrinsics_from_fov(np.deg2rad(30.0), 96, 96)
    drawn = a_mesh_scene("ball", BALL_AT, material=material, **scene)
    rgb, ids, depth = draw(renderer, drawn, pose, (96, 96), lens)
    inner = (ids == 1) & alike(ids, 2)
    points = seen_points(pose, depth, lens)[inner]
    normals = points - BALL_AT[:3, 3]
    eye = pose[:3, 3] - points
    assert len(points) > 500
    units = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (normals, eye)]
    return rgb, inner, *units


@pytest.mark.parametrize("number", range(3))
def test_a_sky_lights_a_ball_by_its_harmonics(renderer, number):
    rng = philox(number, Purpose.LOOK)
    color = np.array([0.9, 0.6, 0.3])
    light = Light((0.48, -0.6, 0.64), 0.35, 0.8, (1.0, 0.7, 0.4), sample_sky(rng))
    material = Material(diffuse=0.75)
    texture = Texture("plain", (tuple(color.tolist()),))
    rgb, inner, normals, _ = ball_view(renderer, BALL_VIEWS[number], material, texture=texture, light=light)
    ambient = 0.8 * sh_basis(normals) @ np.array(light.ambient_sh)
    direct = 0.35 * np.array(light.color) * np.maximum(normals @ np.array(light.direction), 0.0)[:, None]
    expected = np.round(color * 255) * 0.75 * (ambient + direct)
    assert np.ptp(ambient, axis=0).min() > 0.05
    assert np.abs(rgb[inner] - np.minimum(expected, 255.0)).max() <= 2.0


def test_a_sky_and_coloured_light_light_the_ground(renderer):
    light = Light((0.0, 0.6, 0.8), 0.3, 0.7, (1.0, 0.5, 0.2), sample_sky(philox(5, Purpose.LOOK)))
    rgb, _, _ = draw(renderer, ground_scene(WHITE, light=light), look_at([0.0, 0.0, 1.0], [0.1, 0.2, 0.0]), (8, 8))
    up = sh_basis([0.0, 0.0, 1.0]) @ np.array(light.ambient_sh)
    expected = 255.0 * (0.7 * up + 0.3 * 0.8 * np.array(light.color))
    assert np.abs(rgb - np.minimum(expected, 255.0)).max() <= 2.0


@pytest.mark.parametrize("roughness", [0.15, 0.4, 1.0])
def test_the_highlight_is_where_the_half_vector_is_the_normal(renderer, roughness):
    light = Light((0.48, -0.6, 0.64), 0.7, 0.5, (1.0, 0.8, 0.6))
    material = Material(0.9, 0.8, roughness)
    # On black there is nothing but the highlight.
    rgb, inner, normals, eye = ball_view(renderer, BALL_VIEWS[0], material, texture=BLACK, light=light)
    half = eye + np.array(light.direction)
    cosine = np.maximum(np.sum(normals * half, axis=1) / np.linalg.norm(half, axis=1), 0.0)
    exponent = max(2.0 / roughness**2 - 2.0, 1.0)
    expected = 255.0 * 0.8 * 0.7 * np.array(light.color) * (cosine**exponent)[:, None]
    expected[normals @ np.array(light.direction) <= 0.0] = 0.0
    assert expected.max() > 130.0
    error = np.abs(rgb[inner] - expected)
    assert error.max() <= 6.0 and error.mean() <= 1.0
    seen, true = rgb[inner][:, 0], expected[:, 0]
    assert np.sum(normals[seen.argmax()] * normals[true.argmax()]) > np.cos(np.deg2rad(3.0))
    assert 0.93 < (seen > 0.5 * seen.max()).sum() / (true > 0.5 * true.max()).sum() < 1.07


def test_no_highlight_without_a_share_of_it(renderer):
    light = Light((0.48, -0.6, 0.64), 0.7, 0.5)
    rgb, inner, _, _ = ball_view(renderer, BALL_VIEWS[0], Material(0.9, 0.0, 0.05), texture=BLACK, light=light)
    assert rgb[inner].max() == 0


def test_the_diffuse_factor_scales_all_light_on_an_object(renderer):
    shape, light = Shape("box", (0.4, 0.4, 0.2)), Light((0.0, 0.6, 0.8), 0.5, 0.4)
    for factor in (1.0, 0.5, 0.0):
        thing = an_object(shape, standing(shape), texture=WHITE)
        scene = SceneSpec((dataclasses.replace(thing, material=Material(factor)),), 1, WHITE, light)
        rgb, ids, _ = draw(renderer, scene, look_at([0.0, 0.0, 1.0], [0.0, 0.0, 0.0]), (33, 33))
        assert ids[16, 16] == 1 and ids[0, 0] == 0
        assert np.abs(rgb[16, 16] - 255.0 * factor * 0.8).max() <= 1.0
        assert np.abs(rgb[0, 0] - 255.0 * 0.8).max() <= 1.0
