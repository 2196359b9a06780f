"""Closest points and evenly spread samples."""

import numpy as np
import trimesh

from actors.assets.finder import Finder, surface_samples
from actors.assets.formats import Part
from actors.assets.surface import merge_parts
from tests.actors.models_for_tests import box_arrays


def test_closest_points_are_those_of_every_triangle_tried():
    mesh = trimesh.creation.icosphere(subdivisions=1, radius=0.1)
    mesh.vertices[0] *= 3.0  # long, thin triangles beside small ones
    surface = merge_parts([Part(np.asarray(mesh.vertices), np.asarray(mesh.faces))])
    points = np.random.default_rng(0).normal(scale=0.15, size=(300, 3))
    face, weights, distance = Finder(surface).closest(points)
    corners = surface.corners()
    every = [
        np.linalg.norm(trimesh.triangles.closest_point(corners, np.tile(p, (len(corners), 1))) - p, axis=1)
        for p in points
    ]
    assert np.allclose(distance, np.min(every, axis=1), atol=1e-9)
    at = np.einsum("nc,ncx->nx", weights, corners[face])
    assert np.allclose(np.linalg.norm(at - points, axis=1), distance, atol=1e-7)
    assert weights.min() >= 0.0 and np.allclose(weights.sum(axis=1), 1.0)


def test_samples_are_spread_by_area_and_lie_on_their_triangles():
    surface = merge_parts([Part(*box_arrays((0.1, 0.2, 0.4)))])
    points, face = surface_samples(surface.corners(), 10_000)
    again, _ = surface_samples(surface.corners(), 10_000)
    assert np.array_equal(points, again)
    half = np.array([0.05, 0.1, 0.2])
    on = np.abs(np.abs(points) - half) < 1e-9
    assert on.any(axis=1).all() and (np.abs(points) <= half + 1e-9).all()
    share = [on[:, axis].mean() for axis in range(3)]
    assert np.allclose(share, np.array([0.08, 0.04, 0.02]) / 0.14, atol=0.01)
    # No corner of a side is left out.
    top = points[points[:, 2] > 0.2 - 1e-9][:, :2] / half[:2]
    counts = np.histogram2d(top[:, 0], top[:, 1], bins=4, range=[[-1, 1]] * 2)[0]
    assert counts.min() > 0.7 * counts.mean()
    assert np.bincount(face, minlength=12).min() > 0
