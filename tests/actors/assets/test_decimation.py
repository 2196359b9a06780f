"""Fewer triangles with the same shape and look; seams of the texture stay seams."""

import numpy as np
import pytest

from actors.assets.decimation import _unfolded, charts, decimate
from actors.assets.finder import Finder
from actors.assets.formats import Part
from actors.assets.quality import deviation, sample_texture
from actors.assets.surface import as_mesh, merge_parts
from common.errors import AssetError
from tests.actors.models_for_tests import MARGIN, box_arrays, color_of, globe_arrays, globe_picture


@pytest.fixture(scope="module")
def ball():
    vertices, faces, uvs = globe_arrays(rings=48, segments=96)
    return Finder(merge_parts([Part(vertices, faces, uvs=uvs, image=globe_picture())]))


@pytest.fixture(scope="module")
def reduced(ball):
    return decimate(ball, 1000)


def box_of_charts():
    """A box of many triangles whose six sides have charts of their own, far apart in the texture."""
    grid = np.linspace(-0.5, 0.5, 17)
    a, b = (x.ravel() for x in np.meshgrid(grid, grid))
    index = np.arange(17 * 17).reshape(17, 17)
    corners = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    square = np.concatenate([np.stack([corners[0], corners[i], corners[i + 1]], -1).reshape(-1, 3) for i in (1, 2)])
    vertices, uvs, faces = [], [], []
    for side in range(6):
        axis, sign = side // 2, 1.0 - 2.0 * (side % 2)
        points = np.zeros((len(a), 3))
        points[:, axis], points[:, (axis + 1) % 3], points[:, (axis + 2) % 3] = 0.5 * sign, a * sign, b
        vertices.append(points * 0.2)
        uvs.append((np.stack([a, b], axis=1) * 0.8 + 0.5 + [side % 3, side // 3]) / [3, 2])
        faces.append(square + side * len(a))
    return Part(np.concatenate(vertices), np.concatenate(faces), uvs=np.concatenate(uvs))


def test_a_decimated_ball_stays_closed_and_close(ball, reduced):
    assert len(reduced.faces) <= 1000 < len(ball.surface.faces) and as_mesh(reduced, reduced.uvs)[0].closed
    largest, mean = deviation(ball, reduced)
    assert largest < 0.01 * 0.2 and mean < 0.003 * 0.2


def test_a_decimated_ball_shows_the_same_colours(reduced):
    weights = np.random.default_rng(0).dirichlet(np.ones(3), size=(len(reduced.faces), 8))
    points = np.einsum("fkc,fcx->fkx", weights, reduced.corners())
    shown = sample_texture(np.asarray(globe_picture()), np.einsum("fkc,fcx->fkx", weights, reduced.uvs).reshape(-1, 2))
    wanted = color_of(points / np.linalg.norm(points, axis=2, keepdims=True)).reshape(-1, 3)
    error = np.abs(shown - wanted).mean(axis=1)
    # The pole's triangles span many meridians already in the model.
    away = np.abs(points[..., 2].ravel()) < 0.09
    assert error[away].max() < 30.0 and error[away].mean() < 3.0


def test_no_triangle_is_smeared_across_the_seam_of_its_chart(reduced):
    assert len(np.unique(charts(reduced))) >= 1
    across = np.ptp(reduced.uvs[..., 0], axis=1)
    off_pole = np.abs(reduced.corners()[..., 2]).max(axis=1) < 0.09
    assert across[off_pole].max() < 0.2
    assert reduced.uvs.min() >= MARGIN - 1e-6 and reduced.uvs.max() <= 1 - MARGIN + 1e-6


def test_no_triangle_spans_two_charts():
    part = box_of_charts()
    original = Finder(merge_parts([part]))
    assert len(np.unique(charts(original.surface))) == 6
    small = decimate(original, 60)
    assert len(small.faces) <= 60 and as_mesh(small, small.uvs)[0].closed
    cell = np.floor(small.uvs * [3, 2]).astype(int)
    assert (np.ptp(cell, axis=1) == 0).all()
    # The whole of each side is still shown, up to its edges.
    for x in range(3):
        for y in range(2):
            uv = small.uvs[(cell[:, 0] == [x, y]).all(axis=1)].reshape(-1, 2)
            assert np.allclose(np.ptp(uv, axis=0), [0.8 / 3, 0.8 / 2], atol=1e-3)


def test_a_triangle_takes_the_part_that_it_lies_on():
    low, high = box_of_charts(), box_of_charts()
    parts = [low, Part(high.vertices + np.array([0, 0, 0.5]), high.faces, uvs=high.uvs)]
    small = decimate(Finder(merge_parts(parts)), 200)
    assert np.array_equal(small.part, (small.corners().mean(axis=1)[:, 2] > 0.25).astype(int))


def test_what_has_few_triangles_is_left_as_it_is(ball):
    assert decimate(ball, len(ball.surface.faces)) is ball.surface


def test_a_fold_is_cancelled_and_the_surface_stays_closed():
    # A fin: two triangles back to back on an edge of a tetrahedron.
    tetrahedron = [[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]]
    assert _unfolded(np.array([*tetrahedron, [0, 1, 4], [1, 0, 4], [2, 2, 3]])).tolist() == tetrahedron


def test_a_surface_that_cannot_be_so_small_is_refused():
    boxes = [Part(*box_arrays((0.1, 0.1, 0.1), (0.3 * i, 0, 0))) for i in range(5)]
    with pytest.raises(AssetError, match="max_triangles = 4: allowed is more"):
        decimate(Finder(merge_parts(boxes)), 4)
