"""One texture for pictures, plain colours and the colours of vertices."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from actors.assets.atlas import make_texture
from actors.assets.finder import Finder
from actors.assets.formats import Part
from actors.assets.quality import sample_texture
from actors.assets.surface import merge_parts
from common.errors import AssetError
from tests.actors.models_for_tests import box_arrays, color_of, colored, globe_arrays, globe_picture

RED, BLUE = (200, 10, 10), (10, 20, 220)


def globe_part(center=(0.0, 0.0, 0.0), image=None):
    vertices, faces, uvs = globe_arrays()
    return Part(vertices + np.array(center), faces, uvs=uvs, image=image or globe_picture())


def colored_part(center=(0.0, 0.0, 0.0), subdivisions=3):
    mesh = colored(subdivisions=subdivisions)
    colors = np.asarray(mesh.visual.vertex_colors)[:, :3]
    return Part(np.asarray(mesh.vertices) + np.array(center), np.asarray(mesh.faces, dtype=np.int64), colors=colors)


def dressed(parts, side=256):
    original = Finder(merge_parts(parts))
    uvs, texels = make_texture(original, original.surface, parts, side)
    assert texels.shape[0] == texels.shape[1] <= side and not texels.shape[0] & (texels.shape[0] - 1)
    return original.surface, uvs, texels


def shown(surface, uvs, texels, part, seed=0):
    """Points (N, 3) inside the triangles of a part, and the colours (N, 3) that they show."""
    faces = surface.part == part
    weights = np.random.default_rng(seed).dirichlet(np.ones(3), size=(faces.sum(), 6))
    points = np.einsum("fkc,fcx->fkx", weights, surface.corners()[faces]).reshape(-1, 3)
    return points, sample_texture(texels, np.einsum("fkc,fcx->fkx", weights, uvs[faces]).reshape(-1, 2))


def is_globe(points, colors, tolerance):
    direction = points / np.linalg.norm(points, axis=1, keepdims=True)
    away = np.abs(direction[:, 2]) < 0.9  # a pole's triangles span many meridians
    return np.abs(colors - color_of(direction))[away].mean(axis=1).max() < tolerance


def test_a_picture_alone_keeps_its_coordinates_and_loses_its_background():
    surface, uvs, texels = dressed([globe_part()])
    assert uvs is surface.uvs and texels.shape == (256, 256, 3)
    magenta = np.abs(texels.astype(int) - [255, 0, 255]).sum(axis=2) < 60
    assert not magenta.any()
    assert is_globe(*shown(surface, uvs, texels, 0), 2.0)


@pytest.mark.parametrize(
    ("size", "side", "wanted"), [((100, 60), 512, 128), ((300, 300), 128, 128), ((16, 16), 512, 16)]
)
def test_a_texture_is_not_larger_than_its_picture_asks_for(size, side, wanted):
    part = globe_part(image=globe_picture().resize(size))
    assert dressed([part], side)[2].shape[0] == wanted


def test_a_picture_that_repeats_alone_goes_on_repeating():
    part = globe_part()
    twice = dataclasses.replace(part, uvs=part.uvs * 2.0)
    _, uvs, texels = dressed([twice])
    assert uvs.max() > 1.5 and np.array_equal(texels, np.asarray(globe_picture()))


def test_several_looks_share_one_texture():
    parts = [
        globe_part(),
        globe_part((0.3, 0, 0), globe_picture().rotate(180)),
        Part(*box_arrays((0.1, 0.1, 0.1), (0, 0.3, 0)), color=RED),
        Part(*box_arrays((0.1, 0.1, 0.1), (0, 0.6, 0)), color=BLUE),
        colored_part((0.6, 0, 0), 1),
    ]
    surface, uvs, texels = dressed(parts, 512)
    assert is_globe(*shown(surface, uvs, texels, 0), 3.0)
    points, colors = shown(surface, uvs, texels, 1)
    # Upside down and mirrored: the picture was turned half around.
    assert is_globe((points - [0.3, 0, 0]) * [1, -1, -1], colors, 3.0)
    assert np.unique(shown(surface, uvs, texels, 2)[1], axis=0).tolist() == [list(RED)]
    assert np.unique(shown(surface, uvs, texels, 3)[1], axis=0).tolist() == [list(BLUE)]
    points, colors = shown(surface, uvs, texels, 4)
    assert is_globe(points - [0.6, 0, 0], colors, 25.0)  # linear between few vertices


def test_pictures_do_not_bleed_into_each_other():
    flat = np.array([[0.0, 0, 0], [0.1, 0, 0], [0.1, 0.1, 0], [0, 0.1, 0]])
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    pictures = [Image.new("RGB", (32, 32), color) for color in (RED, BLUE)]
    parts = [Part(flat + k * np.array([0.2, 0, 0]), faces, uvs=flat[:, :2] * 10.0, image=pictures[k]) for k in (0, 1)]
    surface, uvs, texels = dressed(parts, 64)
    for i, color in enumerate((RED, BLUE)):
        corners = sample_texture(texels, uvs[surface.part == i].reshape(-1, 2))
        assert np.abs(corners - color).max() < 1e-9


def test_parts_of_one_picture_share_its_cell():
    _, uvs, _ = dressed([globe_part(), globe_part((0.3, 0, 0)), Part(*box_arrays((0.1,) * 3, (0, 0.3, 0)))], 512)
    half = len(globe_arrays()[1])
    assert np.array_equal(uvs[:half], uvs[half : 2 * half])


def test_vertex_colours_become_texels_without_bleeding_into_each_other():
    surface, uvs, texels = dressed([colored_part()], 256)
    assert is_globe(*shown(surface, uvs, texels, 0), 3.0)
    # Two colours, triangle by triangle: any look-up over a border would mix them.
    box = box_arrays((0.1, 0.1, 0.1))
    corners = Part(
        box[0][box[1].ravel()],
        np.arange(36).reshape(12, 3),
        colors=np.repeat([[0] * 3, [255] * 3] * 6, 3, axis=0).astype(np.uint8),
    )
    surface, uvs, texels = dressed([corners], 64)
    mixed = shown(surface, uvs, texels, 0)[1]
    assert ((mixed < 1e-3) | (mixed > 254.9)).all()


def test_one_plain_colour_is_a_small_texture():
    _, uvs, texels = dressed([Part(*box_arrays((0.1, 0.1, 0.1)), color=RED)])
    assert texels.shape == (8, 8, 3) and (texels == RED).all() and (uvs > 0.2).all() and (uvs < 0.8).all()


def test_a_repeating_picture_beside_another_look_is_repeated_in_its_cell():
    flat = np.array([[0.0, 0, 0], [0.1, 0, 0], [0.1, 0.1, 0], [0, 0.1, 0]])
    picture = Image.fromarray(np.kron([[0, 255], [255, 0]], np.ones((32, 32))).astype(np.uint8)).convert("RGB")
    tiled = Part(flat, np.array([[0, 1, 2], [0, 2, 3]]), uvs=flat[:, :2] * 30.0 - 7.0, image=picture)
    surface, uvs, texels = dressed([tiled, Part(*box_arrays((0.1,) * 3, (0.5, 0, 0)), color=RED)], 256)
    points, colors = shown(surface, uvs, texels, 0)
    where = points[:, :2] * 30.0 - 7.0
    clear = (np.abs((where * 2) % 1.0 - 0.5) < 0.35).all(axis=1)  # away from the edges of the squares
    wanted = (np.floor(where * 2).sum(axis=1) % 2 == 1) * 255.0
    assert np.abs(colors[clear, 0] - wanted[clear]).max() < 20.0


def test_too_many_repeats_are_refused():
    part = globe_part()
    tiled = dataclasses.replace(part, uvs=part.uvs * 5000.0)
    with pytest.raises(AssetError, match="repeats of a picture across one triangle"):
        dressed([tiled, Part(*box_arrays((0.1,) * 3, (0.5, 0, 0)))])


@pytest.mark.parametrize("case", ["vertices", "colours"])
def test_a_texture_that_cannot_hold_the_looks_is_refused(case):
    if case == "vertices":
        parts = [colored_part(subdivisions=4)]
    else:
        parts = [Part(*box_arrays((0.01,) * 3, (0.02 * i, 0, 0)), color=(i, 0, 0)) for i in range(100)]
    with pytest.raises(AssetError, match="texture_side = 64: allowed is more"):
        dressed(parts, 64)
