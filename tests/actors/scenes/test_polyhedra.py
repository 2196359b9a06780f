import numpy as np
import pytest

from actors.scenes.polyhedra import box_mesh, folded_box_mesh, prism_mesh, pyramid_mesh


def texels_at(mesh, points):
    """Texture coordinates of the vertices at given places, one row per vertex."""
    return [mesh.uvs[np.abs(mesh.vertices - p).max(axis=1) < 1e-6] for p in points]


def test_the_faces_of_a_cube_all_look_the_same_when_folded():
    mesh = folded_box_mesh(0.2, 0.2, 0.2)
    assert len(mesh.faces) == 48 and len(box_mesh(0.2, 0.2, 0.2).faces) == 12
    middle = np.concatenate(texels_at(mesh, np.concatenate([np.eye(3), -np.eye(3)]) * 0.1))
    corner = texels_at(mesh, [[0.1, 0.1, 0.1], [-0.1, 0.1, -0.1]])
    assert len(middle) == 6 and np.ptp(middle, axis=0).max() == 0.0
    assert [len(c) for c in corner] == [3, 3] and np.ptp(np.concatenate(corner), axis=0).max() == 0.0
    assert not np.allclose(middle[0], corner[0][0])


def test_faces_of_different_sizes_show_different_columns():
    mesh = folded_box_mesh(0.1, 0.2, 0.3)
    column = np.floor(mesh.uvs[:, 0] * 3.0)
    assert [np.unique(column[mesh.normals[:, k] == 1.0]).size for k in range(3)] == [1, 1, 1]
    assert len({float(column[mesh.normals[:, k] == 1.0][0]) for k in range(3)}) == 3
    square = folded_box_mesh(0.1, 0.1, 0.3)
    assert len(np.unique(np.floor(square.uvs[:, 0] * 2.0))) == 2


@pytest.mark.parametrize("count", [3, 4, 7, 12])
def test_prisms_and_pyramids_have_flat_faces_of_their_own(count):
    prism, pyramid = prism_mesh(count, 0.1, 0.2, False), pyramid_mesh(count, 0.1, 0.2, False)
    for mesh, sides, bases in ((prism, count, 2), (pyramid, count, 1)):
        assert mesh.closed
        assert len(np.unique(np.round(mesh.normals, 6), axis=0)) == sides + bases
        corners = mesh.vertices[mesh.faces].astype(np.float64)
        flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        flat /= np.linalg.norm(flat, axis=1, keepdims=True)
        np.testing.assert_allclose(mesh.normals[mesh.faces[:, 0]], flat, atol=1e-5)
    on_x = np.abs(prism.vertices - [0.1, 0.0, 0.1]).max(axis=1) < 1e-7
    assert on_x.any()
    np.testing.assert_allclose(pyramid.vertices[pyramid.vertices[:, 2] > 0.0], [[0.0, 0.0, 0.1]] * count, atol=1e-7)
