import hashlib

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.mesh import check_mesh, is_closed
from actors.mesh_library import mesh_library
from actors.shapes import SEGMENTS, build_mesh, check_shape, symmetry_of
from actors.warp_renderer import WarpRenderer
from common.errors import SceneError
from common.geometry import make_pose, so3_exp
from common.scene import Shape, ShapeKind, Texture
from tests.actors.scenes_for_tests import a_scene, an_object, cameras_around, intrinsics
from tests.actors.shapes_for_tests import PATTERN, PLAIN, SHAPES, any_shape, found_again, surface

FIRST = ("cube", "box", "cylinder", "cone", "sphere", "bottle", "spindle")
SYMMETRIC = Texture("noise", ((0.1, 0.1, 0.1), (0.9, 0.9, 0.9)), 4.0, 3, "", True)
ODD = ("triangle prism", "triangle pyramid", "pyramid")


def solid_of(mesh):
    """Seams split vertices; merged by position the surface must be watertight."""
    solid = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    solid.merge_vertices(merge_tex=True, merge_norm=True)
    return solid


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_meshes_are_closed_centred_and_outward(name, symmetric):
    mesh = build_mesh(SHAPES[name], symmetric)
    solid = solid_of(mesh)
    assert solid.is_watertight and solid.is_winding_consistent
    assert solid.volume > 0.0
    middle = (mesh.vertices.max(axis=0) + mesh.vertices.min(axis=0)) / 2
    np.testing.assert_allclose(middle[2 if name in ODD else slice(None)], 0.0, atol=1e-7)
    np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=1), 1.0, atol=1e-6)
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert (np.linalg.norm(flat, axis=1) > 1e-9).all()
    assert (np.einsum("fk,fck->fc", flat, mesh.normals[mesh.faces]) > 0.0).all()
    assert mesh.uvs.min() >= 0.0 and mesh.uvs.max() <= 1.0
    assert 4 <= len(mesh.faces) <= 2000


@settings(max_examples=60, deadline=None)
@given(any_shape, st.booleans())
def test_every_shape_is_closed_and_says_so(shape, symmetric):
    mesh = build_mesh(shape, symmetric)
    check_mesh(mesh, shape.kind)
    assert mesh.closed and is_closed(mesh.vertices, mesh.faces)
    solid = solid_of(mesh)
    assert solid.is_watertight and solid.is_winding_consistent and solid.volume > 0.0


def test_the_surface_does_not_depend_on_how_the_texture_is_laid():
    for name, shape in SHAPES.items():
        plain, folded = solid_of(build_mesh(shape)), solid_of(build_mesh(shape, True))
        assert folded.volume == pytest.approx(plain.volume, rel=1e-5), name
        assert folded.area == pytest.approx(plain.area, rel=1e-5), name
        points, normals, _ = surface(build_mesh(shape), 40)
        assert found_again(build_mesh(shape, True), points, normals, None, turned=0.15).all(), name


def test_one_recipe_is_one_mesh():
    shape = Shape("torus", (0.1, 0.03))
    assert build_mesh(shape) is build_mesh(shape, False) is build_mesh(Shape("torus", (0.1, 0.03)), symmetric=False)
    assert build_mesh(shape, True) is not build_mesh(shape)
    with pytest.raises(ValueError, match="read-only"):
        build_mesh(shape).vertices[0] = 1.0


def test_meshes_of_the_first_kinds_are_the_recorded_ones():
    """Recorded scenes name shapes by recipe: the recipe must go on giving these bytes, on every machine."""
    digest = hashlib.sha256()
    library = mesh_library(5, 24, ["cube", "box", "cylinder", "cone", "sphere", "revolution"])
    for shape in (*(SHAPES[name] for name in FIRST), *library):
        mesh = build_mesh(shape)
        for array in (mesh.vertices, mesh.normals, mesh.uvs, mesh.faces):
            digest.update(array.tobytes())
    assert digest.hexdigest()[:16] == "bd39a9bd1e75a4ab"


POLYGON = SEGMENTS / (2 * np.pi) * np.sin(2 * np.pi / SEGMENTS)  # area of the regular polygon over its circle's
COARSE = 24 / (2 * np.pi) * np.sin(2 * np.pi / 24)


def test_the_other_meshes_are_the_recorded_ones():
    digest = hashlib.sha256()
    for name, shape in SHAPES.items():
        for mesh in [build_mesh(shape, True)] + [build_mesh(shape)] * (name not in FIRST):
            for array in (mesh.vertices, mesh.normals, mesh.uvs, mesh.faces):
                # A digit less than the meshes have: these are new, and a last bit may yet differ between machines.
                digest.update(np.round(array.astype(np.float64), 6).astype(np.float32).tobytes())
    assert digest.hexdigest()[:16] == "528eb99609495605"


@pytest.mark.parametrize(
    ("name", "volume", "extent"),
    [
        ("cube", 0.008, (0.2, 0.2, 0.2)),
        ("box", 0.003, (0.1, 0.2, 0.15)),
        ("cylinder", POLYGON * np.pi * 0.08**2 * 0.2, (0.16, 0.16, 0.2)),
        ("cone", POLYGON * np.pi * 0.01 * 0.2 / 3, (0.2, 0.2, 0.2)),
        ("sphere", POLYGON * np.pi * 0.001 * 4 / 3, (0.2, 0.2, 0.2)),
        ("frustum", POLYGON * np.pi * 0.2 / 3 * (0.1**2 + 0.1 * 0.06 + 0.06**2), (0.2, 0.2, 0.2)),
        ("capsule", POLYGON * np.pi * (0.06**2 * 0.12 + 0.06**3 * 4 / 3), (0.12, 0.12, 0.24)),
        ("torus", 2 * np.pi**2 * 0.1 * 0.03**2, (0.26, 0.26, 0.06)),
        ("triangle prism", 3 / 2 * np.sin(2 * np.pi / 3) * 0.01 * 0.2, (0.15, 0.1 * np.sqrt(3), 0.2)),
        ("prism", 3 * np.sin(np.pi / 3) * 0.01 * 0.2, (0.2, 0.1 * np.sqrt(3), 0.2)),
        ("pyramid", 5 / 2 * np.sin(0.4 * np.pi) * 0.01 * 0.2 / 3, None),
        ("flange", COARSE * np.pi * ((0.01 - 0.0009) * 0.02 + (0.0025 - 0.0009) * 0.06), (0.2, 0.2, 0.08)),
        ("stepped", COARSE * np.pi * (0.0081 * 0.05 + (0.0081 + 0.0036 + 0.0016) * 0.01 / 3 + 0.0016 * 0.14), None),
    ],
)
def test_sizes_are_what_the_parameters_say(name, volume, extent):
    mesh = build_mesh(SHAPES[name])
    coarse = {"sphere": 0.01, "capsule": 0.01, "torus": 0.035}.get(name, 1e-5)
    assert solid_of(mesh).volume == pytest.approx(volume, rel=coarse)
    if extent is not None:
        np.testing.assert_allclose(mesh.extent(), extent, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "area"),
    [
        ("box", 2 * (0.02 + 0.03 + 0.015)),
        ("prism", 6 * 0.1 * 0.2 + 6 * np.sin(np.pi / 3) * 0.01),
        ("capsule", 2 * np.pi * 0.06 * 0.24),
        ("torus", 4 * np.pi**2 * 0.1 * 0.03),
        ("frustum", np.pi * (0.01 + 0.0036 + 0.16 * np.hypot(0.2, 0.04))),
        ("cylinder", 2 * np.pi * 0.08 * 0.28),
    ],
)
def test_areas_are_what_the_parameters_say(name, area):
    assert solid_of(build_mesh(SHAPES[name])).area == pytest.approx(area, rel=0.02)


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
        ("waist", True, 1),
        ("frustum", True, 0),
        ("even frustum", True, 1),
        ("capsule", True, 1),
        ("torus", True, 1),
        ("triangle prism", False, 5),
        ("square prism", False, 7),
        ("prism", False, 11),
        ("triangle pyramid", False, 2),
        ("pyramid", False, 4),
        ("cup", True, 0),
        ("stepped", True, 0),
        ("dumbbell", True, 1),
        ("nut", True, 1),
        ("flange", True, 0),
    ],
)
def test_declared_symmetries(name, continuous, rotations):
    symmetry = symmetry_of(SHAPES[name], PLAIN)
    assert (symmetry.axis_continuous is not None) == continuous
    assert len(symmetry.rotations) == rotations and len(set(symmetry.rotations)) == rotations
    assert not symmetry_of(SHAPES[name], PATTERN).is_symmetric
    laid = symmetry_of(SHAPES[name], SYMMETRIC)
    if name == "sphere":
        assert laid.axis_continuous == (0.0, 0.0, 1.0) and laid.rotations == ((np.pi, 0.0, 0.0),)
    else:
        assert laid == symmetry


def test_imported_meshes_declare_no_symmetry_here():
    for texture in (PLAIN, PATTERN, SYMMETRIC):
        assert not symmetry_of(Shape("mesh", (1.0,), "abc"), texture).is_symmetric


def declared(shape, texture):
    """The finite set, and of a continuous axis turns by whole facets, alone and after a flip; (R, 3, 3)."""
    symmetry = symmetry_of(shape, texture)
    out = [so3_exp(r) for r in symmetry.rotations]
    if symmetry.axis_continuous is not None:
        facets = 24 if shape.kind in ("revolution", "lathe") else SEGMENTS
        turns = [so3_exp(np.array(symmetry.axis_continuous) * 2 * np.pi * k / facets) for k in (1, 7, facets // 2)]
        out += turns + [turn @ flip for turn in turns[:2] for flip in out[:1]]
    return out


def is_symmetry(mesh, rotation, with_uvs, count=25, **tolerance):
    points, normals, uvs = surface(mesh, count)
    return found_again(mesh, points @ rotation.T, normals @ rotation.T, uvs if with_uvs else None, **tolerance)


@pytest.mark.parametrize("name", SHAPES)
def test_symmetries_map_points_to_points_of_equal_normal_and_texel(name):
    shape = SHAPES[name]
    # A ball of facets has only a faint idea of its quarter turns.
    tolerance = {"near": 2e-3, "turned": 0.2} if name == "sphere" else {}
    for rotation in declared(shape, PLAIN):
        assert is_symmetry(build_mesh(shape), rotation, with_uvs=False, **tolerance).all()
    for rotation in declared(shape, SYMMETRIC):
        assert is_symmetry(build_mesh(shape, True), rotation, with_uvs=True).all()
        # The ordinary layout shows most points another texel, however it is turned.
        assert is_symmetry(build_mesh(shape), rotation, with_uvs=True, count=60).mean() < 0.1


@pytest.mark.parametrize("name", [n for n in SHAPES if n not in ("sphere", "square prism")])
def test_no_symmetry_is_left_out(name):
    """Of turns about z, flips across it and the turns of a cube, exactly the declared ones fit the shape."""
    shape = SHAPES[name]
    symmetry = symmetry_of(shape, PLAIN)
    pool = [so3_exp([0.0, 0.0, 2 * np.pi * k / n]) for n in (2, 3, 4, 5, 6, 7) for k in range(1, n)]
    pool += [so3_exp(np.pi * np.array([np.cos(a), np.sin(a), 0.0])) for a in np.arange(12) * np.pi / 12]
    pool += [so3_exp(r) for r in symmetry_of(SHAPES["cube"], PLAIN).rotations]
    if symmetry.axis_continuous is not None:
        # Turns that are no whole number of facets are left to the pictures.
        pool = [so3_exp([np.pi, 0.0, 0.0]), so3_exp([np.pi / 2, 0.0, 0.0]), so3_exp([0.0, np.pi, 0.0])]
    known = [np.eye(3), *declared(shape, PLAIN)]
    known += [so3_exp([0.0, np.pi, 0.0])] if symmetry.axis_continuous and symmetry.rotations else []
    for rotation in pool:
        fits = is_symmetry(build_mesh(shape), rotation, with_uvs=False, count=20).all()
        assert fits == any(np.abs(rotation - k).max() < 1e-6 for k in known), rotation


@pytest.mark.parametrize("name", SHAPES)
def test_the_ordinary_layout_shows_each_texel_once(name):
    """Texture coordinates of the faces cover no more than the texture, and no point of it twice."""
    mesh = build_mesh(SHAPES[name])
    a, b, c = (mesh.uvs[mesh.faces[:, k]].astype(np.float64) for k in range(3))
    hits = 0
    for at in np.random.default_rng(0).random((300, 2)):
        sides = [(q - p)[:, 0] * (at - p)[:, 1] - (q - p)[:, 1] * (at - p)[:, 0] for p, q in ((a, b), (b, c), (c, a))]
        inside = np.all(np.array(sides) > 1e-9, axis=0) | np.all(np.array(sides) < -1e-9, axis=0)
        assert inside.sum() <= 1
        hits += inside.sum()
    assert hits > 80


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
        (Shape("revolution", (1.0, 0.0, 0.0)), "a radius over 0"),
        (Shape("mesh", (), "abc"), "shape.kind"),
        (Shape("teapot", (0.1,)), "shape.kind"),
        (Shape("torus", (0.1,)), "2 number"),
        (Shape("torus", (0.1, 0.1)), "tube radius"),
        (Shape("capsule", (0.1, 0.2)), "2 radii"),
        (Shape("prism", (2.0, 0.1, 0.1)), "whole number 3 .. 12"),
        (Shape("prism", (13.0, 0.1, 0.1)), "whole number 3 .. 12"),
        (Shape("pyramid", (3.5, 0.1, 0.1)), "whole number 3 .. 12"),
        (Shape("pyramid", (3.0, 0.1, 0.0)), r"params\[2\]"),
        (Shape("frustum", (0.1, 0.0, 0.1)), r"params\[1\]"),
        (Shape("cube", (1e-9,)), "lengths >= 1e-06"),
        (Shape("box", (1e-5, 1.0, 1.0)), "0.0001 of the largest"),
        (Shape("cube", ("a",)), r"params\[0\]"),
        (Shape("cube", (10**400,)), r"params\[0\]"),
        (Shape("lathe", (0.1, float("inf"), 0.1, 0.2)), r"params\[1\]"),
    ],
)
def test_bad_shapes_are_named(shape, message):
    with pytest.raises(SceneError, match=message):
        check_shape(shape)


_numbers = st.one_of(
    st.floats(), st.floats(0.0, 1.0), st.integers(-3, 14), st.sampled_from([0.0, 0.1, 0.2, 1e-7, 100.0])
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(ShapeKind.__args__), st.lists(_numbers, max_size=12))
def test_any_parameters_are_built_or_refused(kind, params):
    shape = Shape(kind, tuple(params))
    try:
        mesh = build_mesh(shape, len(params) % 2 == 0)
    except SceneError:
        return
    check_mesh(mesh, kind)
    assert mesh.closed
