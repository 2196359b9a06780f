"""Every way a scene can be wrong is named, and a scene that is refused changes nothing."""

import dataclasses
import re
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.rasteriser.renderer import WarpRenderer
from actors.scenes.checks import MAX_OBJECTS, check_asset, check_scene, is_rigid
from actors.scenes.shapes import build_mesh
from common.errors import AssetError, SceneError
from common.geometry import look_at, make_pose, so3_exp
from common.scene import Light, Material, SceneObject, SceneSpec, Shape, Symmetry, Texture
from tests.actors.drawing_for_tests import ALL, ball, digest
from tests.actors.scenes_for_tests import GROUND, a_scene, an_object, cameras_around, intrinsics, one_cube, standing

NAN, INF = float("nan"), float("inf")
PICTURE = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
ASSETS = {"ball": ball(0.1, 1), "picture": PICTURE}
CUBE = one_cube()
POSE = CUBE.objects[0].world_T_obj
TILTED = (*POSE[:5], 1.5, *POSE[6:])
MIRRORED = (-1.0, *POSE[1:])
CHECKER = Texture("checker", ((0.0, 1.0, 0.0), (1.0, 0.0, 0.0)))


def thing(**changes):
    """A scene of one object, changed."""
    return dataclasses.replace(CUBE, objects=(dataclasses.replace(CUBE.objects[0], **changes),))


def lit(**changes):
    return dataclasses.replace(CUBE, light=Light(**changes))


def grounded(**changes):
    return dataclasses.replace(CUBE, ground=dataclasses.replace(CHECKER, **changes))


def of_mesh(asset="ball", params=()):
    return thing(shape=Shape("mesh", params, asset))


def many(count):
    objects = tuple(dataclasses.replace(CUBE.objects[0], instance_id=k + 1) for k in range(count))
    return dataclasses.replace(CUBE, objects=objects)


SKY = ((1.0, 1.0, 1.0),) + 8 * ((0.0, 0.0, 0.0),)
WRONG = {
    "no object": (dataclasses.replace(CUBE, objects=()), "len(scene.objects) = 0"),
    "too many": (many(MAX_OBJECTS + 1), f"len(scene.objects) = {MAX_OBJECTS + 1}"),
    "target": (dataclasses.replace(CUBE, target_id=7), "scene.target_id = 7"),
    "equal ids": (a_scene(CUBE.objects[0], CUBE.objects[0]), "instance ids = [1, 1]"),
    "id 0": (dataclasses.replace(thing(instance_id=0), target_id=0), "instance ids = [0]"),
    "large id": (dataclasses.replace(thing(instance_id=2**31), target_id=2**31), "instance ids = [2147483648]"),
    "kind": (thing(shape=Shape("teapot", (0.1,))), "shape.kind = 'teapot'"),
    "params": (thing(shape=Shape("cube", (-0.1,))), "shape.params[0] of a cube = -0.1"),
    "too few params": (thing(shape=Shape("box", (0.1,))), "shape.params of a box = (0.1,)"),
    "unknown mesh": (of_mesh("nowhere"), "object 1: shape.asset = 'nowhere'"),
    "a picture for a mesh": (of_mesh("picture"), "object 1: shape.asset = 'picture'"),
    "scale 0": (of_mesh(params=(0.0,)), "object 1: shape.params = (0.0,)"),
    "scale nan": (of_mesh(params=(NAN,)), "object 1: shape.params = (nan,)"),
    "scale too large": (of_mesh(params=(1001.0,)), "object 1: shape.params = (1001.0,)"),
    "two scales": (of_mesh(params=(1.0, 1.0)), "object 1: shape.params = (1.0, 1.0)"),
    "texture kind": (thing(texture=Texture("wood")), "object 1: texture.kind = 'wood'"),
    "unknown picture": (thing(texture=Texture("image", asset="nowhere")), "object 1: texture.asset = 'nowhere'"),
    "no picture": (thing(texture=Texture("image")), "object 1: texture.asset = ''"),
    "a mesh for a picture": (thing(texture=Texture("image", asset="ball")), "object 1: texture.asset = 'ball'"),
    "picture not asked": (thing(texture=Texture("plain", asset="picture")), "object 1: texture.asset = 'picture'"),
    "ground picture": (dataclasses.replace(CUBE, ground=Texture("image", asset="x")), "ground.asset = 'x'"),
    "colors": (grounded(colors=((0.0, 2.0, 0.0),)), "ground.colors = ((0.0, 2.0, 0.0),)"),
    "no colors": (grounded(colors=()), "ground.colors = ()"),
    "nan colors": (grounded(colors=((NAN, 0.0, 0.0),)), "ground.colors = ((nan"),
    "texture scale": (grounded(scale=NAN), "ground.scale = nan"),
    "texture scale 0": (grounded(scale=0.0), "ground.scale = 0.0"),
    "texture scale 33": (grounded(scale=33.0), "ground.scale = 33.0"),
    "texture seed": (grounded(seed=-1), "ground.seed = -1"),
    "large texture seed": (grounded(seed=2**64), f"ground.seed = {2**64}"),
    "diffuse": (thing(material=Material(diffuse=1.1)), "object 1: material.diffuse = 1.1"),
    "specular": (thing(material=Material(specular=-0.1)), "object 1: material.specular = -0.1"),
    "roughness": (thing(material=Material(roughness=0.04)), "object 1: material.roughness = 0.04"),
    "nan material": (thing(material=Material(specular=NAN)), "object 1: material.specular = nan"),
    "nan pose": (thing(world_T_obj=(NAN, *POSE[1:])), "object 1: world_T_obj = (nan"),
    "endless pose": (thing(world_T_obj=(*POSE[:3], INF, *POSE[4:])), "object 1: world_T_obj = ("),
    "stretched pose": (thing(world_T_obj=TILTED), "object 1: world_T_obj = ("),
    "mirrored pose": (thing(world_T_obj=MIRRORED), "object 1: world_T_obj = ("),
    "short pose": (thing(world_T_obj=POSE[:12]), "object 1: world_T_obj = ("),
    "ground size 0": (dataclasses.replace(CUBE, ground_size=0.0), "ground_size = 0.0"),
    "ground size nan": (dataclasses.replace(CUBE, ground_size=NAN), "ground_size = nan"),
    "ground size inf": (dataclasses.replace(CUBE, ground_size=INF), "ground_size = inf"),
    "light diffuse": (lit(diffuse=NAN), "light.diffuse = nan"),
    "light ambient": (lit(ambient=-0.1), "light.ambient = -0.1"),
    "light shadow": (lit(shadow=1.01), "light.shadow = 1.01"),
    "light direction": (lit(direction=(0.0, 0.0, 0.0)), "light.direction = (0.0, 0.0, 0.0)"),
    "light direction nan": (lit(direction=(NAN, 0.0, 1.0)), "light.direction = (nan"),
    "light color": (lit(color=(1.0, -0.1, 1.0)), "light.color = (1.0, -0.1, 1.0)"),
    "light color nan": (lit(color=(1.0, NAN, 1.0)), "light.color = (1.0, nan"),
    "sky of 8": (lit(ambient_sh=SKY[:8]), "light.ambient_sh = (("),
    "sky nan": (lit(ambient_sh=((NAN, 1.0, 1.0), *SKY[1:])), "light.ambient_sh = ((nan"),
}
RIGHT = {
    "most objects": many(MAX_OBJECTS),
    "mesh": of_mesh(),
    "scaled mesh": of_mesh(params=(1000.0,)),
    "picture": thing(texture=Texture("image", asset="picture")),
    "glossy": thing(material=Material(0.0, 1.0, 0.05)),
    "sky": lit(ambient_sh=SKY, shadow=1.0, color=(4.0, 0.0, 1.0)),
    "large id": dataclasses.replace(thing(instance_id=2**31 - 1), target_id=2**31 - 1),
}


@pytest.fixture(scope="module")
def renderer():
    made = WarpRenderer(4)
    made.load(ASSETS)
    yield made
    made.close()


def picture_of(renderer, count=2):
    args = cameras_around(count), intrinsics(count, 32), (32, 32), ALL
    return digest(renderer.render(np.arange(count), *args))


def used(renderer):
    """Who uses which mesh and texture, and how much there is of both."""
    tables = renderer._scenes
    return [(list(p._uses), len(p), p.nbytes()) for p in (tables.meshes, tables.textures)]


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named_and_changes_nothing(renderer, name):
    scene, message = WRONG[name]
    with pytest.raises(SceneError, match="^" + re.escape(message)) as seen:
        check_scene(scene, ASSETS)
    assert "\n" not in str(seen.value) and ": allowed is " in str(seen.value)
    renderer.reset(np.arange(2), [one_cube(0.15), one_cube(0.2)])
    before = picture_of(renderer), used(renderer)
    with pytest.raises(SceneError, match="^environment 1: " + re.escape(message)):
        renderer.reset(np.arange(2), [one_cube(0.3), scene])
    assert (picture_of(renderer), used(renderer)) == before


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_allowed_is_built(renderer, name):
    check_scene(RIGHT[name], ASSETS)
    renderer.reset(np.array([3]), [RIGHT[name]])
    frames = renderer.render(np.array([3]), cameras_around(1), intrinsics(1, 16), (16, 16), ALL)
    assert set(np.unique(frames.instance_id)) <= {0, *(o.instance_id for o in RIGHT[name].objects)}


def test_every_field_of_a_scene_is_among_the_wrong_ones():
    """A field that is added to the record needs a check, or a reason why anything goes."""
    free = {"symmetry", "symmetric", "seed", "camera", "sensor", "version"}  # no renderer reads these, or all is right
    checked = " ".join(message for _, message in WRONG.values())
    renamed = {"objects": "len(scene.objects)", "instance_id": "instance ids", "texture": "texture.kind"}
    renamed |= {"ground": "ground.", "light": "light.", "material": "material.", "shape": "shape."}
    for record in (SceneSpec, SceneObject, Shape, Texture, Material, Light):
        for field in dataclasses.fields(record):
            if field.name not in free:
                assert renamed.get(field.name, field.name) in checked, (record.__name__, field.name)


# ---------------------------------------------------------------- garbage

huge_numbers = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
numbers = st.one_of(
    st.floats(), st.sampled_from([0.0, -0.0, 1.0, 1e-300, 1e300, 1e-3, 1e3, -1.0]), st.floats(-2.0, 2.0)
)
triples = st.tuples(numbers, numbers, numbers)
whole = st.one_of(st.integers(-3, 100), st.integers())
texts = st.sampled_from(["", "ball", "picture", "x", "0" * 64])
FIELDS = {
    Light: {
        "direction": triples,
        "diffuse": numbers,
        "ambient": numbers,
        "color": triples,
        "ambient_sh": st.lists(triples, min_size=8, max_size=10).map(tuple),
        "shadow": numbers,
    },
    Material: {"diffuse": numbers, "specular": numbers, "roughness": numbers},
    Texture: {
        "kind": st.sampled_from(["plain", "checker", "noise", "stripes", "image", "none"]),
        "colors": st.lists(triples, max_size=3).map(tuple),
        "scale": numbers,
        "seed": whole,
        "asset": texts,
        "symmetric": st.booleans(),
    },
    Shape: {
        "kind": st.sampled_from(["cube", "box", "sphere", "revolution", "lathe", "prism", "mesh", "torus", "none"]),
        "params": st.lists(numbers, max_size=6).map(tuple),
        "asset": texts,
    },
    SceneObject: {
        "instance_id": whole,
        "world_T_obj": st.one_of(
            st.lists(numbers, min_size=15, max_size=17).map(tuple),
            st.tuples(st.integers(0, 15), numbers).map(lambda p: (*POSE[: p[0]], p[1], *POSE[p[0] + 1 :])),
        ),
    },
    SceneSpec: {"target_id": whole, "ground_size": numbers, "seed": whole},
}


@st.composite
def garbled(draw):
    """A good scene with one field of one record drawn from all values of its type."""
    scene = draw(
        st.sampled_from([CUBE, of_mesh(params=(0.5,)), thing(texture=CHECKER), lit(ambient_sh=SKY, shadow=0.5)])
    )
    record = draw(st.sampled_from(list(FIELDS)))
    name = draw(st.sampled_from(list(FIELDS[record])))
    change = {name: draw(FIELDS[record][name])}
    if record is SceneSpec:
        return dataclasses.replace(scene, **change)
    if record is Light:
        return dataclasses.replace(scene, light=dataclasses.replace(scene.light, **change))
    obj = scene.objects[0]
    if record is Texture and draw(st.booleans()):
        return dataclasses.replace(scene, ground=dataclasses.replace(CHECKER, **change))
    if record is not SceneObject:
        part = record.__name__.lower()
        change = {part: dataclasses.replace(getattr(obj, part), **change)}
    changed = dataclasses.replace(obj, **change)
    return dataclasses.replace(scene, objects=(changed,), target_id=changed.instance_id)


def check_garbled(renderer, scene):
    """Refused by name, with nothing changed; or built and drawn."""
    renderer.reset(np.arange(3), [one_cube(0.15), one_cube(0.2), CUBE])
    before = picture_of(renderer), used(renderer)
    try:
        renderer.reset(np.array([2, 3]), [one_cube(0.3), scene])
    except SceneError as e:
        assert str(e).startswith("environment 3: ") and "\n" not in str(e)
        assert used(renderer) == before[1]
    else:
        poses = look_at(np.array([[0.4, 0.3, 0.4]]), np.array([0.0, 0.0, 0.1]))
        frames = renderer.render(np.array([3]), poses, intrinsics(1, 16), (16, 16), ALL)
        assert set(np.unique(frames.instance_id)) <= {0, scene.objects[0].instance_id}
    assert picture_of(renderer) == before[0]


@huge_numbers
@settings(max_examples=150)
@given(scene=garbled())
def test_garbage_in_one_field_is_refused_or_drawn(renderer, scene):
    check_garbled(renderer, scene)


@huge_numbers
@pytest.mark.slow
@settings(max_examples=3000)
@given(scene=garbled())
def test_much_garbage_in_one_field_is_refused_or_drawn(renderer, scene):
    check_garbled(renderer, scene)


# ---------------------------------------------------------------- assets


@pytest.mark.parametrize(
    ("asset", "message"),
    [
        (np.zeros((4, 4, 3)), "float64 (4, 4, 3)"),
        (np.zeros((3, 3, 3), np.uint8), "uint8 (3, 3, 3)"),
        (np.zeros((4, 8, 3), np.uint8), "uint8 (4, 8, 3)"),
        (np.zeros((4, 4), np.uint8), "uint8 (4, 4)"),
        (np.zeros((0, 0, 3), np.uint8), "uint8 (0, 0, 3)"),
        ("ball", "str ()"),
        (dataclasses.replace(ball(0.1, 1), closed=False, normals=ball(0.1, 1).normals * 2), "length of a normal"),
    ],
)
def test_a_bad_asset_is_named_and_nothing_is_loaded(asset, message):
    with pytest.raises(SceneError, match="^asset x.*" + re.escape(message)):
        check_asset("x", asset)
    fresh = WarpRenderer(1)
    with pytest.raises(SceneError, match=r"^asset x"):
        fresh.load({"good": PICTURE, "x": asset})
    with pytest.raises(SceneError, match="'good'"):
        fresh.reset(np.array([0]), [thing(texture=Texture("image", asset="good"))])
    fresh.close()


def test_poses_are_rigid_to_a_thousandth():
    good = make_pose(so3_exp([0.3, -0.2, 2.0]), [1.0, 2.0, 3.0])
    stack = np.stack([good, good * 1.0, good, good, good])
    stack[1, :3, :3] *= 1.01
    stack[2, :3, 0] *= -1.0
    stack[3, 3, 0] = 0.1
    stack[4, :3, :3] *= 1.0001
    assert is_rigid(stack).tolist() == [True, False, False, False, True]


class Folder(Mapping):
    """Assets that are read when they are asked for; what is torn says so then."""

    def __init__(self, whole, torn):
        self.whole, self.torn, self.read = whole, torn, []

    def __getitem__(self, name):
        self.read.append(name)
        if name in self.torn:
            raise AssetError(f"asset {name}: cut short")
        return self.whole[name]

    def __iter__(self):
        return iter([*self.whole, *self.torn])

    def __len__(self):
        return len(self.whole) + len(self.torn)


def test_an_asset_that_cannot_be_read_leaves_everything_as_it_was():
    fresh = WarpRenderer(3)
    folder = Folder({"mesh": build_mesh(Shape("cone", (0.1, 0.2))), "picture": PICTURE}, {"torn"})
    fresh.load(folder)
    assert not folder.read
    fresh.reset(np.arange(2), [of_mesh("mesh"), thing(texture=Texture("image", asset="picture"))])
    # Once each: what was checked is what is drawn, and a second read could fail half way.
    assert sorted(folder.read) == ["mesh", "picture"]
    before = picture_of(fresh), used(fresh)
    bad = [of_mesh("torn"), thing(texture=Texture("image", asset="torn"))]
    bad.append(dataclasses.replace(CUBE, ground=Texture("image", asset="torn")))
    for scene in bad:
        with pytest.raises(AssetError, match="asset torn: cut short"):
            fresh.reset(np.arange(3), [one_cube(), of_mesh("mesh"), scene])
        assert (picture_of(fresh), used(fresh)) == before
    with pytest.raises(SceneError, match="environment 2 has no scene"):
        picture_of(fresh, 3)
    fresh.close()


def test_what_was_loaded_last_is_found_first():
    fresh = WarpRenderer(2)
    shape = Shape("mesh", (), "name")
    scene = a_scene(SceneObject(shape, GROUND, Symmetry(), 1, POSE))
    fresh.load({"name": build_mesh(Shape("cube", (0.3,)))})
    fresh.load({"name": build_mesh(Shape("cube", (0.1,)))})
    fresh.reset(np.arange(2), [scene, a_scene(an_object(Shape("cube", (0.1,)), standing(CUBE.objects[0].shape)))])
    seen = fresh.render(np.arange(2), np.tile(cameras_around(1), (2, 1, 1)), intrinsics(2, 32), (32, 32), ALL)
    assert np.array_equal(seen.instance_id[0], seen.instance_id[1])
    fresh.close()
