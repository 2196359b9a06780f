import hashlib

import numpy as np
import pytest
import trimesh

from actors.mesh_library import mesh_library
from actors.shapes import build_mesh, check_shape, symmetry_of
from actors.warp_renderer import WarpRenderer
from common.errors import SceneError
from common.geometry import make_pose, so3_exp
from common.scene import Shape, Texture
from tests.actors.scenes_for_tests import a_scene, an_object, cameras_around, intrinsics

PLAIN = Texture("plain", ((0.9, 0.3, 0.1),))
SHAPES = {
    "cube": Shape("cube", (0.2,)),
    "box": Shape("box", (0.1, 0.2, 0.15)),
    "square box": Shape("box", (0.1, 0.1, 0.2)),
    "cylinder": Shape("cylinder", (0.08, 0.2)),
    "cone": Shape("cone", (0.1, 0.2)),
    "sphere": Shape("sphere", (0.1,)),
    "bottle": Shape("revolution", (0.2, 0.07, 0.08, 0.05, 0.03)),
    "spindle": Shape("revolution", (0.2, 0.0, 0.08, 0.0)),
}

FIRST = ("cube", "box", "cylinder", "cone", "sphere", "bottle", "spindle")


@pytest.mark.parametrize("name", SHAPES)
def test_meshes_are_closed_centred_and_outward(name):
    mesh = build_mesh(SHAPES[name])
    # Seams split vertices; merged by position the surface must be watertight.
    solid = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    solid.merge_vertices(merge_tex=True, merge_norm=True)
    assert solid.is_watertight and solid.is_winding_consistent
    assert solid.volume > 0.0
    middle = (mesh.vertices.max(axis=0) + mesh.vertices.min(axis=0)) / 2
    np.testing.assert_allclose(middle, 0.0, atol=1e-7)
    np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=1), 1.0, atol=1e-6)
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert (np.linalg.norm(flat, axis=1) > 1e-9).all()
    assert (np.einsum("fk,fck->fc", flat, mesh.normals[mesh.faces]) > 0.0).all()
    assert mesh.uvs.min() >= 0.0 and mesh.uvs.max() <= 1.0
    assert 12 <= len(mesh.faces) <= 2000


def test_meshes_of_the_first_kinds_are_the_recorded_ones():
    """Recorded scenes name shapes by recipe: the recipe must go on giving these bytes, on every machine."""
    digest = hashlib.sha256()
    library = mesh_library(5, 24, ["cube", "box", "cylinder", "cone", "sphere", "revolution"])
    for shape in (*(SHAPES[name] for name in FIRST), *library):
        mesh = build_mesh(shape)
        for array in (mesh.vertices, mesh.normals, mesh.uvs, mesh.faces):
            digest.update(array.tobytes())
    assert digest.hexdigest()[:16] == "bd39a9bd1e75a4ab"


@pytest.mark.parametrize(
    ("name", "volume"),
    [("cube", 0.008), ("box", 0.003), ("cylinder", np.pi * 0.08**2 * 0.2), ("cone", np.pi * 0.01 * 0.2 / 3)],
)
def test_sizes_are_what_the_parameters_say(name, volume):
    mesh = build_mesh(SHAPES[name])
    assert trimesh.Trimesh(mesh.vertices, mesh.faces).volume == pytest.approx(volume, rel=0.01)


def test_the_profile_runs_from_the_bottom_up():
    vertices = build_mesh(SHAPES["bottle"]).vertices
    radius = np.linalg.norm(vertices[:, :2], axis=1)
    for z, expected in ((-0.1, 0.07), (-0.1 + 0.2 / 3, 0.08), (0.1, 0.03)):
        np.testing.assert_allclose(radius[np.isclose(vertices[:, 2], z, atol=1e-6)].max(), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "continuous", "rotations"),
    [
        ("cube", False, 23),
        ("box", False, 3),
        ("square box", False, 7),
        ("cylinder", True, 1),
        ("cone", True, 0),
        ("sphere", True, 23),
        ("bottle", True, 0),
        ("spindle", True, 1),
    ],
)
def test_declared_symmetries(name, continuous, rotations):
    symmetry = symmetry_of(SHAPES[name], PLAIN)
    assert (symmetry.axis_continuous is not None) == continuous
    assert len(symmetry.rotations) == rotations and len(set(symmetry.rotations)) == rotations
    assert not symmetry_of(SHAPES[name], Texture("noise", ((0.1, 0.1, 0.1), (0.9, 0.9, 0.9)))).is_symmetric


@pytest.fixture(scope="module")
def renderer():
    made = WarpRenderer(32)
    yield made
    made.close()


def looks(renderer, shape, texture, rotations):
    """Views of a shape turned by each of (R, 3, 3) rotations, from one camera."""
    base = make_pose(so3_exp([0.2, 0.5, 0.3]), [0.0, 0.0, 0.3])
    scenes = [a_scene(an_object(shape, base @ make_pose(r, np.zeros(3)), texture=texture)) for r in rotations]
    env = np.arange(len(scenes))
    renderer.reset(env, scenes)
    pose = cameras_around(1, seed=11, target=(0.0, 0.0, 0.3))
    args = np.repeat(pose, len(env), axis=0), intrinsics(len(env), 96), (96, 96), ("rgb", "instance_id", "depth")
    return renderer.render(env, *args)


def rotations_of(shape):
    symmetry = symmetry_of(shape, PLAIN)
    out = [np.eye(3), *(so3_exp(r) for r in symmetry.rotations)]
    if symmetry.axis_continuous is not None:
        axis = np.array(symmetry.axis_continuous)
        out += [so3_exp(axis * angle) @ r for angle in (0.3, 1.9, 4.0) for r in out[:2]]
    return np.stack(out)


@pytest.mark.parametrize("name", SHAPES)
def test_declared_symmetries_leave_the_look(renderer, name):
    """Continuous symmetries hold up to the facets: a silhouette pixel or two, a level or two of light."""
    frames = looks(renderer, SHAPES[name], PLAIN, rotations_of(SHAPES[name]))
    mask = frames.instance_id > 0
    assert mask[0].sum() > 300
    for i in range(1, len(mask)):
        assert (mask[i] != mask[0]).sum() <= 0.03 * mask[0].sum()
        both = mask[i] & mask[0]
        difference = np.abs(frames.rgb[i].astype(int) - frames.rgb[0]).max(axis=-1)[both]
        assert np.mean(difference > 4) < 0.04
        assert np.mean(np.abs(frames.depth[i] / frames.depth[0] - 1.0)[both] > 0.01) < 0.03


def test_other_rotations_and_patterns_change_the_look(renderer):
    """The check above can fail: a third of a quarter turn shows on a cube, any turn shows on a patterned cylinder."""
    turn = np.stack([np.eye(3), so3_exp([0.0, 0.0, np.pi / 6])])
    mask = looks(renderer, SHAPES["cube"], PLAIN, turn).instance_id > 0
    assert (mask[1] != mask[0]).sum() > 0.05 * mask[0].sum()
    colors = ((0.9, 0.1, 0.1), (0.1, 0.9, 0.1), (0.1, 0.1, 0.9))
    for name in SHAPES:
        for texture in (Texture("noise", colors, 4.0, 1), Texture("checker", colors, 6.0, 1)):
            shape = SHAPES[name]
            frames = looks(renderer, shape, texture, rotations_of(shape))
            both = (frames.instance_id > 0).all(axis=0)
            change = np.abs(frames.rgb[1:].astype(int) - frames.rgb[0]).max(axis=-1)[:, both]
            assert (np.mean(change > 30, axis=1) > 0.1).all(), (name, texture.kind)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (Shape("cube", ()), "1 number"),
        (Shape("box", (0.1, 0.1)), "3 number"),
        (Shape("cylinder", (0.1, 0.0)), r"params\[1\]"),
        (Shape("sphere", (float("nan"),)), r"params\[0\]"),
        (Shape("revolution", (0.1, 0.1)), "two or more radii"),
        (Shape("revolution", (0.1, 0.1, 0.0, 0.1)), r"params\[2\]"),
        (Shape("cone", (-1.0, 1.0)), r"params\[0\]"),
        (Shape("mesh", (), "abc"), "shape.kind"),
        (Shape("torus", (0.1,)), "shape.kind"),
    ],
)
def test_bad_shapes_are_named(shape, message):
    with pytest.raises(SceneError, match=message):
        check_shape(shape)
