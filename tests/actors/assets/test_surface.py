"""Welding, checking, orienting and shading the surface of a model."""

import dataclasses

import numpy as np
import pytest

from actors.assets.formats import Part
from actors.assets.surface import as_mesh, corner_normals, merge_parts
from common.errors import AssetError
from tests.actors.models_for_tests import box_arrays, globe_arrays


def sphere(radius=0.1):
    vertices, faces, uvs = globe_arrays(radius, rings=12, segments=24)
    return Part(vertices, faces, uvs=uvs)


def outward(surface):
    """Share of triangles that are wound counter-clockwise as seen from outside a convex surface about the origin."""
    a, b, c = surface.corners().transpose(1, 0, 2)
    return (np.einsum("ij,ij->i", np.cross(b - a, c - a), a + b + c) > 0).mean()


def test_seams_are_welded_and_their_coordinates_kept():
    surface = merge_parts([sphere()])
    assert len(surface.points) == 11 * 24 + 2 and as_mesh(surface, surface.uvs)[0].closed
    wanted = globe_arrays(0.1, rings=12, segments=24)
    assert np.allclose(surface.corners(), wanted[0][wanted[1]], atol=1e-7)
    assert np.array_equal(surface.uvs, wanted[2][wanted[1]])


def test_parts_that_touch_are_one_surface():
    left, right = box_arrays((0.1, 0.1, 0.1)), box_arrays((0.1, 0.1, 0.1), (0.1, 0, 0))
    surface = merge_parts([Part(*left), Part(*right)])
    assert len(surface.points) == 12 and surface.part.tolist() == [0] * 12 + [1] * 12


def test_degenerate_and_doubled_triangles_are_dropped():
    vertices, faces = box_arrays((0.1, 0.2, 0.3))
    extra = [[0, 0, 1], [0, 1, 1], faces[0][::-1].tolist(), faces[3].tolist()]
    surface = merge_parts([Part(vertices, np.concatenate([faces, extra]))])
    assert len(surface.faces) == 12 and as_mesh(surface, surface.uvs)[0].closed


def test_a_surface_without_area_is_refused():
    line = np.array([[0.0, 0, 0], [0.1, 0, 0], [0.2, 0, 0]])
    with pytest.raises(AssetError, match="no area"):
        merge_parts([Part(line, np.array([[0, 1, 2]]))])


@pytest.mark.parametrize(
    ("size", "hint"), [(200.0, "looks like millimetres: --scale 0.001"), (1e9, "5.0 m$"), (1e-5, "5.0 m$"), (0.0, "m$")]
)
def test_an_implausible_size_is_refused_with_a_hint(size, hint):
    vertices, faces = box_arrays((size, size / 2, size / 2)) if size else (np.zeros((3, 3)), np.array([[0, 1, 2]]))
    with pytest.raises(AssetError, match=f"longest edge of the bounding box.*{hint}"):
        merge_parts([Part(vertices, faces)])


def test_scale_and_up_axis_are_applied():
    surface = merge_parts([Part(*box_arrays((100.0, 200.0, 300.0), (0, 1000, 0)))], scale=0.001, y_up=True)
    assert np.allclose(surface.extent(), [0.1, 0.3, 0.2])
    # What was up in y is up in z; the turn is a rotation, not a mirror image.
    assert np.allclose(surface.points.mean(axis=0), [0, 0, 1.0]) and outward_about_center(surface) == 1.0


def outward_about_center(surface):
    centered = merge_parts([Part(surface.points - surface.points.mean(axis=0), surface.faces)])
    return outward(centered)


@pytest.mark.parametrize("flip", ["none", "all", "some"])
def test_triangles_are_wound_outward_whatever_the_file_has(flip):
    part = sphere()
    faces = part.faces.copy()
    chosen = {"none": slice(0), "all": slice(None), "some": slice(0, None, 3)}[flip]
    faces[chosen] = faces[chosen][:, ::-1]
    surface = merge_parts([Part(part.vertices, faces, uvs=part.uvs)])
    assert outward(surface) == 1.0
    # Coordinates move with the corners.
    pairs = {tuple(np.round(x, 6)) for x in np.concatenate([part.vertices[1:-1], part.uvs[1:-1]], axis=1)}
    now = np.concatenate([surface.corners().reshape(-1, 3), surface.uvs.reshape(-1, 2)], axis=1)
    inner = np.abs(now[:, 2]) < 0.0999
    assert {tuple(x) for x in np.round(now[inner], 6) + 0.0} <= {tuple(np.array(p) + 0.0) for p in pairs}


def test_normals_are_sharp_on_a_box_and_smooth_on_a_sphere():
    box = merge_parts([Part(*box_arrays((0.1, 0.2, 0.3)))])
    assert np.allclose(np.sort(np.abs(corner_normals(box)), axis=2), [0, 0, 1])
    ball = merge_parts([sphere()])
    direction = ball.corners() / 0.1
    assert np.einsum("fcx,fcx->fc", corner_normals(ball), direction).min() > np.cos(np.deg2rad(5.0))


def test_a_normal_goes_by_angles_not_by_how_finely_a_side_is_cut():
    # A ridge of two slopes; one of them is cut into four triangles that meet at the ridge's middle.
    h = 0.01
    fan = [[0.05, 0, 0], [0.05, 0.05, -h], [0.02, 0.05, -h], [-0.02, 0.05, -h], [-0.05, 0.05, -h], [-0.05, 0, 0]]
    points = np.array([[0.0, 0, 0], *fan, [-0.05, -0.05, -h], [0.05, -0.05, -h]])
    faces = [[0, i, i + 1] for i in range(1, 6)] + [[0, 6, 7], [0, 7, 8], [0, 8, 1]]
    surface = merge_parts([Part(points, np.array(faces))])
    ridge = (surface.corners() == 0.0).all(axis=2)
    assert np.allclose(corner_normals(surface)[ridge][:, :2], 0.0, atol=1e-9)


def test_a_triangle_without_area_gets_a_normal_all_the_same():
    points = np.array([[0.0, 0, 0], [0.1, 0, 0], [0.2, 0, 0], [0, 0.1, 0]])
    flat = dataclasses.replace(
        merge_parts([sphere()]),
        points=points,
        faces=np.array([[0, 2, 3], [0, 1, 2]]),
        uvs=np.zeros((2, 3, 2)),
        part=np.zeros(2, dtype=np.int64),
        colors=np.zeros((2, 3, 3)),
    )
    assert np.allclose(np.linalg.norm(corner_normals(flat), axis=2), 1.0)


def test_the_mesh_is_centred_and_split_only_where_it_must_be():
    vertices, faces = box_arrays((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    surface = merge_parts([Part(vertices, faces)])
    mesh, center = as_mesh(surface, surface.uvs)
    assert np.allclose(center, [1, 2, 3]) and np.allclose(mesh.vertices.max(axis=0), [0.05, 0.1, 0.15])
    assert np.allclose(mesh.vertices.min(axis=0), -mesh.vertices.max(axis=0))
    assert mesh.vertices.shape == (24, 3) and mesh.normals.dtype == np.float32 and mesh.faces.dtype == np.int32
    ball = merge_parts([sphere()])
    # One row more at the seam; a pole's vertex for every triangle there.
    assert len(as_mesh(ball, ball.uvs)[0].vertices) == 11 * 25 + 2 * 24
