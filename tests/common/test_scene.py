import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import SceneError
from common.scene import (
    Camera,
    Light,
    Material,
    Occluder,
    SceneObject,
    SceneSpec,
    Sensor,
    Shape,
    Symmetry,
    Texture,
)

number = st.floats(-10, 10, allow_nan=False)
triple = st.tuples(number, number, number)
textures = st.builds(
    Texture,
    kind=st.sampled_from(["plain", "checker", "noise", "stripes", "image"]),
    colors=st.lists(triple, min_size=1, max_size=3).map(tuple),
    scale=number,
    seed=st.integers(0, 2**31),
    asset=st.text(alphabet="0123456789abcdef", max_size=8),
    symmetric=st.booleans(),
)
objects = st.builds(
    SceneObject,
    shape=st.builds(
        Shape,
        kind=st.sampled_from(["cube", "cylinder", "torus", "lathe", "mesh"]),
        params=st.lists(number, max_size=5).map(tuple),
        asset=st.text(alphabet="0123456789abcdef", max_size=8),
    ),
    texture=textures,
    symmetry=st.builds(Symmetry, axis_continuous=st.none() | triple, rotations=st.lists(triple, max_size=3).map(tuple)),
    instance_id=st.integers(1, 9),
    world_T_obj=st.lists(number, min_size=16, max_size=16).map(tuple),
    material=st.builds(Material, number, number, number),
)
pair = st.tuples(number, number)
occluders = st.builds(Occluder, st.sampled_from(["rectangle", "ellipse"]), pair, pair, number, triple)
scenes = st.builds(
    SceneSpec,
    objects=st.lists(objects, min_size=1, max_size=3).map(tuple),
    target_id=st.integers(1, 9),
    ground=textures,
    light=st.builds(
        Light,
        direction=triple,
        diffuse=number,
        ambient=number,
        color=triple,
        ambient_sh=st.just(()) | st.lists(triple, min_size=9, max_size=9).map(tuple),
        shadow=number,
    ),
    ground_size=number,
    seed=st.integers(0, 2**63),
    camera=st.none() | st.builds(Camera, number, number, number, number),
    sensor=st.builds(
        Sensor, st.lists(occluders, max_size=2).map(tuple), number, number, number, number, triple, number
    ),
)


def _scene(ids=(4, 2), target=2):
    pose = tuple(np.arange(16.0))
    made = tuple(SceneObject(Shape("cube", (0.1,)), Texture(), Symmetry(), i, pose) for i in ids)
    return SceneSpec(made, target, Texture())


@given(scenes)
def test_a_scene_reads_back_equal_and_hashes_alike(scene):
    again = SceneSpec.from_json(scene.to_json())
    assert again == scene and hash(again) == hash(scene)
    assert again.to_json() == scene.to_json()


def test_the_text_is_that_of_the_fields_sorted_by_name():
    scene = SceneSpec((), 1, Texture("checker"), camera=Camera(1.0, 2.0), sensor=Sensor(blur=0.5))
    assert scene.to_json() == json.dumps(dataclasses.asdict(scene), sort_keys=True)


def test_the_target_is_the_object_with_its_id():
    assert _scene().target().instance_id == 2
    with pytest.raises(SceneError, match=r"scene.target_id = 7: allowed is one of \[4, 2\]"):
        _scene(target=7).target()


def test_pose_is_row_major():
    pose = _scene().objects[0].pose()
    assert pose.shape == (4, 4) and pose[0, 3] == 3.0 and pose[3, 0] == 12.0


def test_symmetry_knows_whether_there_is_any():
    assert not Symmetry().is_symmetric
    assert Symmetry((0, 0, 1)).is_symmetric and Symmetry(None, ((0, 0, 1.5),)).is_symmetric


@pytest.mark.parametrize("key", ["version", "objects", "target_id", "ground", "light", "ground_size", "seed"])
def test_a_missing_key_is_no_scene(key):
    raw = json.loads(_scene().to_json())
    del raw[key]
    with pytest.raises(SceneError, match=key):
        SceneSpec.from_json(json.dumps(raw))


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{}", '{"version": 1}', '{"version": true}', "not json", "[" * 9999]
)
def test_other_texts_are_no_scenes(text):
    with pytest.raises(SceneError, match="scene"):
        SceneSpec.from_json(text)


@pytest.mark.parametrize(
    ("path", "value", "error"),
    [
        (["target_id"], 1.5, r"scene\.target_id = 1\.5: allowed is a whole number"),
        (["target_id"], True, "target_id"),
        (["ground_size"], "1", r"scene\.ground_size = '1': allowed is a finite number"),
        (["light", "direction"], [0.0, 1.0], r"scene\.light\.direction = .*: allowed is 3 entries"),
        (["light", "shadow"], None, r"scene\.light\.shadow"),
        (["objects"], {}, r"scene\.objects = {}: allowed is a list"),
        (["objects", 0, "shape", "kind"], "teapot", r"scene\.objects\[0\]\.shape\.kind = 'teapot': allowed is one of"),
        (["objects", 0, "world_T_obj", 3], [1], r"objects\[0\]\.world_T_obj\[3\]"),
        (["camera"], 5, r"scene\.camera = 5"),
        (["sensor", "occluders"], [{"kind": "star"}], r"occluders\[0\]"),
    ],
)
def test_a_wrong_type_is_refused_by_its_path(path, value, error):
    raw = json.loads(_scene().to_json())
    part = raw
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    with pytest.raises(SceneError, match=error):
        SceneSpec.from_json(json.dumps(raw))


@given(st.binary(max_size=40), st.integers(0, 3000), st.integers(0, 60))
def test_damaged_records_are_refused_or_read_as_scenes(junk, at, cut):
    text = _scene().to_json().encode()
    damaged = (text[:at] + junk + text[at + cut :]).decode("utf-8", "replace")
    try:
        read = SceneSpec.from_json(damaged)
    except SceneError as e:
        assert "\n" not in str(e)
    else:
        assert SceneSpec.from_json(read.to_json()) == read


def test_records_of_version_1_read_as_the_scenes_they_were():
    """A record that the first release wrote: no materials, no sensor, no coloured light."""
    text = (
        '{"ground": {"colors": [[0.25, 0.5, 0.75]], "kind": "plain", "scale": 4.0, "seed": 0}, "ground_size": 1.25,'
        ' "light": {"ambient": 0.4, "diffuse": 0.6, "direction": [0.0, 0.6, 0.8]}, "objects": [{"instance_id": 1,'
        ' "shape": {"asset": "", "kind": "cube", "params": [0.2]}, "symmetry": {"axis_continuous": null,'
        ' "rotations": [[0.0, 0.0, 1.5]]}, "texture": {"colors": [[1.0, 0.0, 0.0]], "kind": "plain", "scale": 4.0,'
        ' "seed": 0}, "world_T_obj": [1.0,'
        " 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.1, 0.0, 0.0, 0.0, 1.0]}],"
        ' "seed": 7, "target_id": 1, "version": 1}'
    )
    scene = SceneSpec.from_json(text)
    pose = (1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.1, 0.0, 0.0, 0.0, 1.0)
    cube = SceneObject(
        Shape("cube", (0.2,)), Texture("plain", ((1.0, 0.0, 0.0),)), Symmetry(None, ((0.0, 0.0, 1.5),)), 1, pose
    )
    ground, light = Texture("plain", ((0.25, 0.5, 0.75),)), Light((0.0, 0.6, 0.8), 0.6, 0.4)
    assert scene == SceneSpec((cube,), 1, ground, light, 1.25, 7)
    for cut in ("objects", "ground", "light", "seed"):
        raw = json.loads(text)
        del raw[cut]
        with pytest.raises(SceneError, match=f"scene.{cut} is missing"):
            SceneSpec.from_json(json.dumps(raw))


def test_another_version_and_unknown_parts_are_refused():
    raw = json.loads(_scene().to_json())
    with pytest.raises(SceneError, match=r"scene\.version = 3: allowed is 1 \.\. 2"):
        SceneSpec.from_json(json.dumps(raw | {"version": 3}))
    raw["ground"]["glitter"] = 1
    with pytest.raises(SceneError, match="glitter"):
        SceneSpec.from_json(json.dumps(raw))


def test_numbers_that_json_cannot_hold_are_refused():
    bad = SceneSpec((), 1, Texture(), ground_size=float("inf"))
    with pytest.raises(ValueError, match="JSON"):
        bad.to_json()
