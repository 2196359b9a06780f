"""Symmetries in pictures: an object that is turned by one, and a world that is moved or turned as a whole, look alike.

Shapes of revolution are drawn with N facets around. Turned by a whole facet they are themselves again; by less, their
surface moves by up to its sagitta, r (1 - cos(pi / N)), and normals turn by up to half a facet near a tip, pi / N.
"""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.rasteriser.renderer import WarpRenderer
from actors.scenes.shapes import PROFILE_SEGMENTS, SEGMENTS, build_mesh, symmetry_of
from common.geometry import make_pose, so3_exp
from common.scene import Light, SceneSpec, Texture
from tests.actors.drawing_for_tests import GREY, alike, draw_many
from tests.actors.scenes_for_tests import GROUND, an_object, cameras_around, mixed_scenes
from tests.actors.shapes_for_tests import PLAIN, SHAPES

SIZE = (96, 96)
LIGHT = Light((0.48, -0.6, 0.64), 0.6, 0.3)
COLORS = ((0.9, 0.1, 0.1), (0.1, 0.9, 0.1), (0.1, 0.1, 0.9))
names = st.sampled_from(sorted(SHAPES))
textures = st.one_of(
    st.just(PLAIN),
    st.builds(
        Texture, st.sampled_from(["noise", "checker", "stripes"]), st.just(COLORS), st.just(4.0), st.integers(0, 99)
    ),
)
angles = st.floats(-np.pi, np.pi)


@pytest.fixture(scope="module")
def renderer():
    made = WarpRenderer(8)
    yield made
    made.close()


def turned(renderer, shape, texture, rotations, seed):
    """Views of an object that floats in the light, turned in its own frame by each of the rotations."""
    base = make_pose(so3_exp(np.random.default_rng(seed).normal(size=3)), [0.0, 0.0, 0.3])
    scenes = []
    for rotation in rotations:
        pose = base @ make_pose(rotation, np.zeros(3))
        scenes.append(SceneSpec((an_object(shape, pose, texture=texture),), 1, GREY, LIGHT))
    cameras = np.repeat(cameras_around(1, seed=seed, target=(0.0, 0.0, 0.3)), len(scenes), axis=0)
    return draw_many(renderer, scenes, cameras, SIZE)


def facets(shape):
    return PROFILE_SEGMENTS if shape.kind in ("revolution", "lathe") else SEGMENTS


def exact_ones(shape, texture, rng, count=4):
    """Some declared symmetries that map facets to facets."""
    symmetry = symmetry_of(shape, texture)
    found = [so3_exp(r) for r in symmetry.rotations]
    if symmetry.axis_continuous is not None:
        axis = np.array(symmetry.axis_continuous)
        # A ball of facets has only a faint idea of its quarter turns: they come with the rest below.
        found = [] if len(found) > 1 else found
        found += [so3_exp(axis * 2.0 * np.pi * k / facets(shape)) for k in rng.integers(1, facets(shape), size=2)]
        found += [found[-1] @ found[0]]
    return [found[k] for k in rng.permutation(len(found))[:count]]


def changes(frames, k):
    """Of view k against the first: the share of ids that differ, whether any do off the outline; levels and metres."""
    first, other = frames.instance_id[0], frames.instance_id[k]
    differ, inside = first != other, alike(first) & alike(other)
    both = (first > 0) & inside
    rgb = np.abs(frames.rgb[k].astype(int) - frames.rgb[0]).max(axis=-1)[both]
    depth = np.abs(frames.depth[k][both].astype(np.float64) - frames.depth[0][both])
    return differ.sum() / (first > 0).sum(), (differ & alike(first)).any(), rgb, depth


def check_exact(renderer, name, texture, seed):
    shape = SHAPES[name]
    texture = dataclasses.replace(texture, symmetric=texture.kind != "plain")
    rotations = exact_ones(shape, texture, np.random.default_rng(seed))
    frames = turned(renderer, shape, texture, [np.eye(3), *rotations], seed)
    for k in range(1, len(rotations) + 1):
        ids, inside, rgb, depth = changes(frames, k)
        assert len(rgb) > 60
        assert ids <= 0.005 and not inside
        # A pixel of another triangle where two meet, and so another corner of the texture: the odd one.
        assert np.mean(rgb > 3) <= 0.01
        assert np.mean(depth > 1e-5) <= 0.005


@settings(max_examples=60)
@given(name=names, texture=textures, seed=st.integers(0, 9999))
def test_an_exact_symmetry_is_not_to_be_seen(renderer, name, texture, seed):
    check_exact(renderer, name, texture, seed)


@pytest.mark.slow
@settings(max_examples=1500)
@given(name=names, texture=textures, seed=st.integers(0, 9999))
def test_an_exact_symmetry_is_not_to_be_seen_in_many_views(renderer, name, texture, seed):
    check_exact(renderer, name, texture, seed)


ROUND = sorted(name for name in SHAPES if symmetry_of(SHAPES[name], PLAIN).axis_continuous is not None)


def check_turned(renderer, name, texture, seed, angle, flip):
    shape = SHAPES[name]
    texture = dataclasses.replace(texture, symmetric=texture.kind != "plain")
    symmetry = symmetry_of(shape, texture)
    turn = so3_exp(np.array(symmetry.axis_continuous) * angle)
    if symmetry.rotations:
        turn = turn @ so3_exp(symmetry.rotations[flip % len(symmetry.rotations)])
    frames = turned(renderer, shape, texture, [np.eye(3), turn], seed)
    ids, inside, rgb, depth = changes(frames, 1)
    # An outline of 2 pi r pixels by the sagitta's 0.5 % (0.9 % of 24 facets) of r, and as much again at a hole.
    assert ids <= 0.025 and not inside
    vertices = build_mesh(shape).vertices
    sagitta = np.linalg.norm(vertices[:, :2], axis=1).max() * (1.0 - np.cos(np.pi / facets(shape)))
    # Seen at a slant, a surface that moves by its sagitta is nearer by more than it.
    assert np.median(depth) <= 1.5 * sagitta and np.percentile(depth, 90) <= 4.0 * sagitta
    half_a_facet = 255.0 * 0.9 * LIGHT.diffuse * np.pi / facets(shape)
    if texture.kind == "plain":
        assert np.median(rgb) <= 3 and np.percentile(rgb, 95) <= half_a_facet
    else:
        # Pattern moves along with the surface; only where colours meet is that to be seen.
        assert np.median(rgb) <= 6 and np.mean(rgb > 30) <= 0.08


@settings(max_examples=60)
@given(name=st.sampled_from(ROUND), texture=textures, seed=st.integers(0, 9999), angle=angles, flip=st.integers(0, 99))
def test_any_angle_about_a_continuous_axis_changes_no_more_than_facets_do(renderer, name, texture, seed, angle, flip):
    check_turned(renderer, name, texture, seed, angle, flip)


@pytest.mark.slow
@settings(max_examples=1500)
@given(name=st.sampled_from(ROUND), texture=textures, seed=st.integers(0, 9999), angle=angles, flip=st.integers(0, 99))
def test_any_angle_about_a_continuous_axis_in_many_views(renderer, name, texture, seed, angle, flip):
    check_turned(renderer, name, texture, seed, angle, flip)


@settings(max_examples=40)
@given(name=names, seed=st.integers(0, 9999), number=st.integers(0, 99))
def test_a_pattern_laid_the_ordinary_way_shows_every_turn(renderer, name, seed, number):
    """What would be a symmetry of the plain shape, a turn of more than a few degrees, changes what is seen."""
    shape, texture = SHAPES[name], Texture("noise", COLORS, 4.0, number)
    assert not symmetry_of(shape, texture).is_symmetric
    rng = np.random.default_rng(seed)
    rotations = [r for r in exact_ones(shape, PLAIN, rng, 8) if np.trace(r) < 1.0 + 2.0 * np.cos(0.6)]
    frames = turned(renderer, shape, texture, [np.eye(3), *rotations[:4]], seed)
    for k in range(1, len(rotations[:4]) + 1):
        _, _, rgb, _ = changes(frames, k)
        assert np.mean(rgb > 30) > 0.05


# ---------------------------------------------------------------- the world as a whole


def moved(scene, move, light=None):
    """The scene with its objects moved by a pose."""
    things = tuple(dataclasses.replace(o, world_T_obj=tuple((move @ o.pose()).ravel().tolist())) for o in scene.objects)
    return dataclasses.replace(scene, objects=things, light=light or scene.light)


def worlds(renderer, scene, pose, move, light=None):
    frames = draw_many(renderer, [scene, moved(scene, move, light)], np.stack([pose, move @ pose]), SIZE)
    rgb = np.abs(frames.rgb[1].astype(int) - frames.rgb[0]).max(axis=-1)
    sure = alike(frames.instance_id[0]) & alike(frames.instance_id[1])
    assert (frames.instance_id[0] != frames.instance_id[1]).mean() < 1e-3
    near = sure & np.isfinite(frames.depth[0]) & (frames.depth[0] < 5.0)
    np.testing.assert_allclose(frames.depth[1][near], frames.depth[0][near], rtol=2e-3)
    error = np.abs(frames.depth[1][near] / frames.depth[0][near] - 1.0)
    assert np.mean(error > 1e-5) < 2e-3
    return rgb, frames.instance_id[0], near


@settings(max_examples=20)
@given(seed=st.integers(0, 9999), size=st.sampled_from([0.25, 1.0, 1.7]), x=st.integers(-3, 3), y=st.integers(-3, 3))
def test_the_ground_repeats(renderer, seed, size, x, y):
    """Camera and objects moved by whole textures of the ground see the same ground, and shadows and all."""
    scene = dataclasses.replace(mixed_scenes(1, seed)[0], ground_size=size, light=Light(shadow=0.6))
    pose = cameras_around(1, seed=seed)[0]
    rgb, _, near = worlds(renderer, scene, pose, make_pose(np.eye(3), [size * x, size * y, 0.0]))
    assert np.mean(rgb[near] > 3) < 5e-3


@settings(max_examples=20)
@given(seed=st.integers(0, 9999), quarter=st.integers(1, 3), turn=st.floats(-3.0, 3.0))
def test_the_world_turns_with_its_light(renderer, seed, quarter, turn):
    """All but the ground's texture: with a plain ground nothing changes, with another one the ground alone."""
    light = Light((0.48, -0.6, 0.64), 0.6, 0.3, shadow=0.6)
    scene = dataclasses.replace(mixed_scenes(1, seed)[0], light=light, ground=GREY)
    pose = cameras_around(1, seed=seed)[0]
    for angle in (quarter * np.pi / 2.0, turn):
        rotation = so3_exp([0.0, 0.0, angle])
        other = dataclasses.replace(light, direction=tuple((rotation @ light.direction).tolist()))
        rgb, _, near = worlds(renderer, scene, pose, make_pose(rotation, np.zeros(3)), other)
        assert np.mean(rgb[near] > 3) < 0.01
    rotation = so3_exp([0.0, 0.0, quarter * np.pi / 2.0])
    other = dataclasses.replace(light, direction=tuple((rotation @ light.direction).tolist()))
    patterned = dataclasses.replace(scene, ground=GROUND)
    rgb, ids, near = worlds(renderer, patterned, pose, make_pose(rotation, np.zeros(3)), other)
    assert np.mean(rgb[near & (ids > 0)] > 3) < 0.01
    assert np.mean(rgb[near & (ids == 0)] > 3) > 0.5


@pytest.mark.parametrize("seed", range(4))
def test_a_light_that_stays_behind_is_seen(renderer, seed):
    """The check above can fail."""
    light = Light((0.48, -0.6, 0.64), 0.6, 0.3)
    scene = dataclasses.replace(mixed_scenes(1, seed)[0], light=light, ground=GREY)
    pose = cameras_around(1, seed=seed)[0]
    rgb, ids, near = worlds(renderer, scene, pose, make_pose(so3_exp([0.0, 0.0, 1.5]), np.zeros(3)))
    assert np.mean(rgb[near & (ids > 0)] > 3) > 0.2
