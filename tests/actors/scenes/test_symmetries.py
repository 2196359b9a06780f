import numpy as np
import pytest

from actors.rasteriser.renderer import WarpRenderer
from actors.scenes.shapes import SEGMENTS, build_mesh, symmetry_of
from common.geometry import make_pose, so3_exp
from common.scene import Shape, Texture
from tests.actors.scenes_for_tests import a_scene, an_object, cameras_around, intrinsics
from tests.actors.shapes_for_tests import PATTERN, PLAIN, SHAPES, found_again, surface

SYMMETRIC = Texture("noise", ((0.1, 0.1, 0.1), (0.9, 0.9, 0.9)), 4.0, 3, "", True)


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
