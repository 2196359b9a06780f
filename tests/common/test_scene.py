import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import SceneError
from common.scene import Light, SceneObject, SceneSpec, Shape, Symmetry, Texture

number = st.floats(-10, 10, allow_nan=False)
triple = st.tuples(number, number, number)
textures = st.builds(
    Texture,
    kind=st.sampled_from(["plain", "checker", "noise", "stripes"]),
    colors=st.lists(triple, min_size=1, max_size=3).map(tuple),
    scale=number,
    seed=st.integers(0, 2**31),
)
objects = st.builds(
    SceneObject,
    shape=st.builds(
        Shape,
        kind=st.sampled_from(["cube", "cylinder", "revolution", "mesh"]),
        params=st.lists(number, max_size=5).map(tuple),
        asset=st.text(alphabet="0123456789abcdef", max_size=8),
    ),
    texture=textures,
    symmetry=st.builds(Symmetry, axis_continuous=st.none() | triple, rotations=st.lists(triple, max_size=3).map(tuple)),
    instance_id=st.integers(1, 9),
    world_T_obj=st.lists(number, min_size=16, max_size=16).map(tuple),
)
scenes = st.builds(
    SceneSpec,
    objects=st.lists(objects, min_size=1, max_size=3).map(tuple),
    target_id=st.integers(1, 9),
    ground=textures,
    light=st.builds(Light, direction=triple, diffuse=number, ambient=number),
    ground_size=number,
    seed=st.integers(0, 2**63),
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


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"version": 1}', "not json"])
def test_other_texts_are_no_scenes(text):
    with pytest.raises(SceneError, match="not a scene record"):
        SceneSpec.from_json(text)


def test_another_version_and_unknown_parts_are_refused():
    raw = json.loads(_scene().to_json())
    with pytest.raises(SceneError, match=r"scene\.version = 2: allowed is 1"):
        SceneSpec.from_json(json.dumps(raw | {"version": 2}))
    raw["ground"]["glitter"] = 1
    with pytest.raises(SceneError, match="glitter"):
        SceneSpec.from_json(json.dumps(raw))


def test_numbers_that_json_cannot_hold_are_refused():
    bad = SceneSpec((), 1, Texture(), ground_size=float("inf"))
    with pytest.raises(ValueError, match="JSON"):
        bad.to_json()
