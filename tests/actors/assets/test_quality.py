"""The measures that the manifest keeps, and the check of annotated symmetries."""

import numpy as np
import pytest
import trimesh

from actors.assets.finder import Finder
from actors.assets.formats import Part
from actors.assets.quality import asymmetry, color_error, deviation, sample_texture
from actors.assets.surface import merge_parts
from common.scene import Symmetry
from tests.actors.models_for_tests import box_arrays, globe_arrays, globe_picture

UP = (0.0, 0.0, 1.0)


def surface_of(mesh):
    return merge_parts([Part(np.asarray(mesh.vertices, dtype=float), np.asarray(mesh.faces))])


def test_the_deviation_of_a_larger_ball_is_the_difference_of_the_radii():
    small, large = (trimesh.creation.icosphere(subdivisions=3, radius=r) for r in (0.1, 0.11))
    largest, mean = deviation(Finder(surface_of(small)), surface_of(large))
    assert mean == pytest.approx(0.01, rel=0.02) and 0.0099 < largest < 0.0105


def test_a_hole_counts_although_what_is_left_lies_on_the_model():
    mesh = trimesh.creation.icosphere(subdivisions=3, radius=0.1)
    rest = trimesh.Trimesh(mesh.vertices, mesh.faces[mesh.triangles_center[:, 2] < 0.05], process=True)
    assert deviation(Finder(surface_of(mesh)), surface_of(rest))[0] > 0.04


def test_the_colour_error_is_that_of_the_texture():
    vertices, faces, uvs = globe_arrays()
    parts = [Part(vertices, faces, uvs=uvs, image=globe_picture())]
    original = Finder(merge_parts(parts))
    texels = np.asarray(globe_picture())
    assert color_error(original, parts, original.surface, original.surface.uvs, texels)[0] < 1e-3
    brighter = np.clip(texels.astype(int) + 51, 0, 255).astype(np.uint8)
    assert 0.1 < color_error(original, parts, original.surface, original.surface.uvs, brighter)[0] <= 0.2
    turned = original.surface.uvs + np.array([0.25, 0.0])
    assert color_error(original, parts, original.surface, turned, texels)[1] > 0.3


def test_texels_are_looked_up_between_their_centres_and_repeat():
    texels = np.zeros((2, 2, 3), np.uint8)
    texels[0, 1] = 100
    assert sample_texture(texels, np.array([[0.75, 0.25], [0.5, 0.25], [1.75, -0.75]]))[:, 0].tolist() == [100, 50, 100]


@pytest.mark.parametrize(
    ("mesh", "symmetry", "fits"),
    [
        (trimesh.creation.cylinder(0.05, 0.2, sections=48), Symmetry(UP, ((np.pi, 0.0, 0.0),)), True),
        (trimesh.creation.cylinder(0.05, 0.2, sections=48), Symmetry((1.0, 0.0, 0.0)), False),
        (trimesh.creation.cone(0.1, 0.2, sections=48), Symmetry(UP), True),
        (trimesh.creation.cone(0.1, 0.2, sections=48), Symmetry(rotations=((np.pi, 0.0, 0.0),)), False),
        (trimesh.creation.box((0.1, 0.1, 0.2)), Symmetry(rotations=((0.0, 0.0, np.pi / 2),)), True),
        (trimesh.creation.box((0.1, 0.1, 0.2)), Symmetry(UP), False),
        (trimesh.creation.box((0.1, 0.12, 0.2)), Symmetry(rotations=((0.0, 0.0, np.pi / 2),)), False),
    ],
)
def test_a_symmetry_is_told_from_none(mesh, symmetry, fits):
    # Away from the origin: the turn is about the centre of the bounding box.
    mesh = mesh.copy()
    mesh.apply_translation([0.3, -0.2, 0.1])
    assert (asymmetry(surface_of(mesh), symmetry) <= 0.02) == fits


def test_a_handle_breaks_a_continuous_symmetry():
    cup = trimesh.creation.cylinder(0.05, 0.1, sections=48)
    handle = trimesh.creation.box((0.02, 0.01, 0.05))
    handle.apply_translation([0.055, 0, 0])
    assert asymmetry(surface_of(trimesh.util.concatenate([cup, handle])), Symmetry(UP)) > 0.05


def test_no_symmetry_is_no_claim():
    assert asymmetry(merge_parts([Part(*box_arrays((0.1, 0.2, 0.3)))]), Symmetry()) == 0.0
