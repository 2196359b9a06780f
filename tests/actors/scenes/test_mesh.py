import dataclasses

import numpy as np
import pytest
import trimesh

from actors.scenes.mesh import Mesh, check_mesh, is_closed
from common.errors import SceneError


def a_mesh(closed=True):
    ball = trimesh.creation.icosphere(subdivisions=1, radius=0.1)
    normals = ball.vertices / np.linalg.norm(ball.vertices, axis=1, keepdims=True)
    uvs = np.zeros((len(ball.vertices), 2), np.float32)
    return Mesh(ball.vertices.astype(np.float32), ball.faces.astype(np.int32), normals.astype(np.float32), uvs, closed)


def closed(solid):
    return is_closed(solid.vertices.astype(np.float32), solid.faces.astype(np.int32))


def split(mesh):
    """The same surface with corners of its own for every face."""
    corners = mesh.vertices[mesh.faces].reshape(-1, 3)
    return corners, np.arange(len(corners), dtype=np.int32).reshape(-1, 3)


def test_a_good_mesh_passes_and_has_its_size():
    check_mesh(a_mesh(), "ball")
    np.testing.assert_allclose(a_mesh().extent(), 0.2, rtol=0.2)


def changed(**fields):
    return dataclasses.replace(a_mesh(), **fields)


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (changed(vertices=np.zeros((42, 2), np.float32)), "ball: vertices"),
        (changed(vertices=np.float32(1.0)), "ball: vertices"),
        (changed(vertices=np.full((42, 3), np.nan, np.float32)), "ball: vertices = 'nan or inf'"),
        (changed(vertices=np.zeros((42, 3), np.float32)), "ball: area"),
        (changed(normals=a_mesh().normals[1:]), "ball: normals"),
        (changed(normals=a_mesh().normals * 2), "length of a normal = 2"),
        (changed(normals=np.where(a_mesh().vertices < 0, np.inf, 0.5)), "ball: normals = 'nan or inf'"),
        (changed(uvs=np.zeros((42, 3), np.float32)), "ball: uvs"),
        (changed(faces=a_mesh().faces.astype(np.float32)), "ball: faces"),
        (changed(faces=a_mesh().faces[:, :2]), "ball: faces"),
        (changed(faces=np.zeros((0, 3), np.int32)), "one triangle"),
        (changed(faces=a_mesh().faces - 1), "indices -1 .. 40"),
        (changed(faces=a_mesh().faces + 1), "vertices 0 .. 41"),
        (changed(faces=a_mesh().faces[1:]), "ball: closed"),
        (changed(faces=a_mesh().faces[:, ::-1]), "ball: closed"),
    ],
)
def test_bad_meshes_are_named(mesh, message):
    with pytest.raises(SceneError, match=message):
        check_mesh(mesh, "ball")


def test_what_is_not_closed_may_be_open_or_turned_inside_out():
    for faces in (a_mesh().faces[1:], a_mesh().faces[:, ::-1]):
        check_mesh(changed(faces=faces, closed=False), "ball")


@pytest.mark.parametrize("name", ["icosphere", "box", "cylinder", "torus", "annulus", "capsule"])
def test_solids_are_closed_until_a_face_is_missing_or_turned(name):
    args = {"torus": (0.1, 0.03), "annulus": (0.05, 0.1, 0.1), "cylinder": (0.1,), "capsule": ()}.get(name, ())
    solid = getattr(trimesh.creation, name)(*args, **({"height": 0.2} if name == "cylinder" else {}))
    assert closed(solid)
    vertices, faces = solid.vertices.astype(np.float32), solid.faces.astype(np.int32)
    for row in (0, len(faces) // 2):
        assert not is_closed(vertices, np.delete(faces, row, axis=0))
        assert not is_closed(vertices, np.concatenate([faces, faces[row : row + 1]]))
        turned = faces.copy()
        turned[row] = turned[row, ::-1]
        assert not is_closed(vertices, turned)
    assert not is_closed(vertices, faces[:, ::-1])


def test_split_vertices_are_welded_and_degenerate_faces_ignored():
    vertices, faces = split(a_mesh())
    vertices = np.concatenate([vertices, [[0.0, 0.0, 0.0], [-0.0, 0.0, -0.0]]]).astype(np.float32)
    assert is_closed(vertices, faces)
    needle = np.array([[0, 0, 1], [len(vertices) - 1, len(vertices) - 2, 5]], np.int32)
    assert is_closed(vertices, np.concatenate([faces, needle]))
    vertices[0] += 1e-6
    assert not is_closed(vertices, faces)
    assert not is_closed(vertices, needle) and not is_closed(vertices, faces[:0])


def test_an_edge_belongs_to_two_faces():
    """Two tetrahedra that share an edge: it has four faces, and directions in pairs."""
    points = np.array([[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 1, 1], [-1, 0, 0], [-1, -1, 1]], np.float32)
    one = np.array([[0, 2, 1], [0, 3, 2], [0, 1, 3], [1, 2, 3]], np.int32)
    other = np.where(one > 1, one + 2, one)
    assert is_closed(points[:4], one) and is_closed(points, other)
    assert not is_closed(points, np.concatenate([one, other]))


def test_every_part_must_be_wound_outward():
    ball, far = trimesh.creation.icosphere(radius=0.1), trimesh.creation.icosphere(radius=0.01)
    far.apply_translation([5.0, 5.0, 5.0])
    assert closed(trimesh.util.concatenate([ball, far]))
    far.invert()
    assert not closed(trimesh.util.concatenate([ball, far]))
    shell = trimesh.creation.icosphere(radius=0.05)
    shell.invert()
    assert not closed(trimesh.util.concatenate([ball, shell]))
