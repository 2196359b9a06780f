import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import Delaunay

from actors.scenes.models import Model, model_library
from actors.scenes.sampling import sample_scene
from actors.scenes.shapes import build_mesh
from actors.scenes.textures import build_texture
from common.config import SceneConfig
from common.errors import ConfigError
from common.geometry import transform_points
from common.rng import Purpose
from common.scene import SceneSpec, Symmetry, Texture

CONFIG = SceneConfig()
ALL_SHAPES = SceneConfig(shapes=["cube", "box", "cylinder", "cone", "revolution"])
LIBRARY = model_library(ALL_SHAPES, 0, 60, "train")
KINDS = ("sym_diff", "sym_same", "asym_same")


# Everything that can be switched on at once; each value also stands alone in the tests below.
RICH = {
    "min_objects": 4,
    "max_objects": 4,
    "rests": "any",
    "lights": "rich",
    "shadows": True,
    "materials": "rich",
    "symmetric_patterns": 0.5,
    "intrinsics": 0.2,
    "sensor": "strong",
    "bare_goals": 0.5,
}


def draw(kind, env=0, round=0, seed=0, purpose=Purpose.SCENE, config=CONFIG, library=LIBRARY, **key):
    return sample_scene(config, library, seed=seed, purpose=purpose, round=round, env=env, kind=kind, **key)


def switched(**changes):
    return dataclasses.replace(CONFIG, **changes)


@pytest.mark.parametrize("kind", KINDS)
def test_a_scene_is_a_function_of_its_key(kind):
    first = draw(kind, env=3, round=2)
    assert draw(kind, env=3, round=2) == first
    others = [
        draw(kind, env=4, round=2),
        draw(kind, env=3, round=3),
        draw(kind, env=3, round=2, seed=1),
        draw(kind, env=3, round=2, purpose=Purpose.EVALUATION),
    ]
    assert all(o != first for o in others)
    assert SceneSpec.from_json(first[0].to_json()) == first[0]


def test_kinds_differ_in_what_the_goal_shows_and_in_symmetry():
    for env in range(40):
        current, goal = draw("sym_diff", env)
        assert current.objects == goal.objects and current.target().symmetry.is_symmetric
        assert current.ground != goal.ground and current.light != goal.light
        current, goal = draw("sym_same", env)
        assert current == goal and current.target().texture.kind == "plain"
        current, goal = draw("asym_same", env)
        assert current == goal and not current.target().symmetry.is_symmetric
        assert current.target().texture.kind != "plain"


def test_objects_stand_on_the_ground_near_the_origin():
    tops = set()
    for env in range(60):
        target = draw("sym_same", env)[0].target()
        points = transform_points(target.pose(), build_mesh(target.shape).vertices)
        assert abs(points[:, 2].min()) < 1e-6
        assert np.abs(target.pose()[:2, 3]).max() <= 0.05
        rotation = target.pose()[:3, :3]
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-8)
        if target.shape.kind in ("cube", "box"):
            tops.add((int(np.abs(rotation[2]).argmax()), bool(rotation[2].sum() > 0)))
        else:
            np.testing.assert_allclose(rotation[2], [0.0, 0.0, 1.0], atol=1e-9)
    assert len(tops) == 6


def spread(texture):
    return build_texture(texture).astype(float).std(axis=(0, 1)).mean()


def test_easy_ground_is_calm_and_hard_ground_is_strong():
    easy = [spread(draw("sym_same", e)[0].ground) for e in range(40)]
    hard_config = dataclasses.replace(CONFIG, difficulty="hard")
    hard = [spread(draw("sym_same", e, config=hard_config)[0].ground) for e in range(40)]
    assert max(easy) < 15.0 < 30.0 < np.mean(hard)


def test_objects_are_vivid():
    for env in range(40):
        color = draw("sym_diff", env)[0].target().texture.colors[0]
        assert max(color) >= 0.65 and min(color) <= 0.26 * max(color)


def test_bad_requests_are_refused_by_name():
    with pytest.raises(ConfigError, match="scene kind"):
        draw("sym_other")
    with pytest.raises(ConfigError, match=r"scenes\.difficulty"):
        draw("sym_same", config=dataclasses.replace(CONFIG, difficulty="medium"))
    with pytest.raises(ConfigError, match="mesh library"):
        draw("sym_same", library=[])
    with pytest.raises(ConfigError, match=r"scenes\.images"):
        draw("sym_same", config=switched(images="pictures"))


def summary(scene):
    """A scene by parts: each of the settings below may change its own part only."""
    target = scene.target()
    return {
        "target": (target.shape, target.world_T_obj, target.texture),
        "others": scene.objects[1:],
        "material": target.material,
        "ground": scene.ground,
        "sun": (scene.light.direction, scene.light.diffuse, scene.light.ambient, scene.light.color),
        "sky": scene.light.ambient_sh,
        "shadow": scene.light.shadow,
        "camera": scene.camera,
        "sensor": scene.sensor,
    }


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"min_objects": 3, "max_objects": 3}, {"others"}),
        ({"rests": "any"}, {"target"}),
        ({"lights": "rich"}, {"sun", "sky"}),
        ({"shadows": True}, {"shadow"}),
        ({"materials": "rich"}, {"material"}),
        ({"symmetric_patterns": 1.0}, {"target"}),
        ({"intrinsics": 0.2}, {"camera"}),
        ({"sensor": "mild"}, {"sensor"}),
        ({"images": "pictures", "image_share": 1.0}, {"ground"}),
    ],
    ids=lambda c: next(iter(c)) if isinstance(c, dict) else "",
)
@pytest.mark.parametrize("base", [{}, {k: v for k, v in RICH.items() if k != "symmetric_patterns"}], ids=["", "rich"])
def test_a_switch_changes_its_own_part_and_shifts_no_other(base, change, parts):
    if base and not set(change) & {"min_objects", "images", "symmetric_patterns"}:
        base = {k: v for k, v in base.items() if k not in change}
    images = ("aa" * 32, "bb" * 32) if "images" in change else ()
    seen = set()
    for env in range(6):
        before = draw("sym_diff", env, config=switched(**base))
        after = draw("sym_diff", env, config=switched(**{**base, **change}), images=images)
        for a, b in zip(before, after, strict=True):
            a, b = summary(a), summary(b)
            seen |= {name for name in a if a[name] != b[name]}
    # A target that lies otherwise pushes its neighbours aside, and materials are everybody's.
    pushed = {"others"} if base and set(change) & {"rests", "materials"} else set()
    assert parts <= seen <= parts | pushed


def test_more_objects_begin_with_the_same_ones():
    few = draw("sym_same", config=switched(min_objects=3, max_objects=3))[0].objects
    many = draw("sym_same", config=switched(min_objects=6, max_objects=6))[0].objects
    assert len(few) == 3 and many[:3] == few
    assert [o.instance_id for o in many] == [1, 2, 3, 4, 5, 6]


def test_scenes_of_different_purposes_and_rounds_have_different_distractors():
    config = switched(min_objects=2, max_objects=2)
    keys = [{}, {"round": 1}, {"env": 1}, {"seed": 1}, {"purpose": Purpose.EVALUATION}]
    # Rotations, because positions are about the target's.
    assert len({draw("sym_same", config=config, **k)[0].objects[1].world_T_obj[:3] for k in keys}) == len(keys)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**40), st.sampled_from([*KINDS, "any"]), st.integers(1, 12))
def test_objects_rest_on_the_ground_without_touching(env, kind, count):
    current, goal = draw(kind, env, config=switched(**{**RICH, "min_objects": count, "max_objects": count}))
    assert len(current.objects) == count and goal.objects in (current.objects, current.objects[:1])
    hulls = []
    for thing in current.objects:
        points = transform_points(thing.pose(), build_mesh(thing.shape).vertices)
        assert abs(points[:, 2].min()) < 1e-6
        hulls.append(Delaunay(points))
    for i, one in enumerate(hulls):
        for other in hulls[:i]:
            # Independent of the placing: no corner of one, and no random point inside it, is inside the other.
            for a, b in ((one, other), (other, one)):
                weights = np.random.default_rng(0).dirichlet(np.full(len(a.points), 0.05), size=60)
                assert (b.find_simplex(np.concatenate([a.points, weights @ a.points])) < 0).all()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**40), st.sampled_from([*KINDS, "any"]))
def test_rich_scenes_survive_their_record(env, kind):
    for scene in draw(kind, env, config=switched(**RICH)):
        assert SceneSpec.from_json(scene.to_json()) == scene


def test_a_fresh_process_draws_the_same_rich_scenes():
    code = (
        "from common.config import SceneConfig\nfrom common.rng import Purpose\n"
        "from actors.scenes.models import model_library\nfrom actors.scenes.sampling import sample_scene\n"
        f"config = SceneConfig(**{RICH!r})\n"
        f"library = model_library(SceneConfig(shapes={ALL_SHAPES.shapes!r}), 0, 60, 'train')\n"
        "for env in (5, 4, 3):\n"
        "    pair = sample_scene(config, library, seed=0, purpose=Purpose.SCENE, round=0, env=env, kind='any')\n"
        "    print(*(s.to_json() for s in pair), sep='\\n')\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    here = [s.to_json() for env in (5, 4, 3) for s in draw("any", env, config=switched(**RICH))]
    assert out.splitlines() == here


def test_the_number_of_objects_covers_its_range():
    config = switched(min_objects=1, max_objects=6)
    counts = [len(draw("sym_same", env, config=config)[0].objects) for env in range(120)]
    # 20 of each expected; 7 or fewer of one come about once in 3000.
    assert set(counts) == set(range(1, 7)) and min(np.bincount(counts)[1:]) > 7


def test_some_distractors_have_the_shape_of_the_target_turned_otherwise():
    copies, others = 0, 0
    for env in range(60):
        first, *rest = draw("sym_same", env, config=switched(min_objects=3, max_objects=3))[0].objects
        for thing in rest:
            same = thing.shape == first.shape
            copies, others = copies + same, others + (not same)
            assert thing.world_T_obj[:3] != first.world_T_obj[:3]
    # A quarter, and one of 60 by chance.
    assert 0.15 < copies / (copies + others) < 0.38
    every = draw("sym_same", config=switched(min_objects=5, max_objects=5, copies=1.0))[0].objects
    assert len({o.shape for o in every}) == 1 and len({o.texture for o in every}) > 1


def test_distractors_look_like_anything_and_stay_near_the_target():
    looks, ways = set(), []
    for env in range(40):
        first, *rest = draw("asym_same", env, config=switched(min_objects=4, max_objects=4))[0].objects
        looks |= {o.texture.kind for o in rest}
        ways += [np.hypot(*(o.pose()[:2, 3] - first.pose()[:2, 3])) for o in rest]
        assert all(o.symmetry.is_symmetric == (o.texture.kind == "plain") for o in rest)
        assert len({o.world_T_obj[:3] for o in rest}) == len({o.texture for o in rest}) == 3
    assert {"plain", "noise", "checker"} <= looks
    assert np.median(ways) < 0.3 and max(ways) < 0.7


def test_a_target_of_any_pose_also_lies_on_its_side():
    ups = {"standing": set(), "any": set()}
    cylinders = [m for m in LIBRARY if m.shape.kind == "cylinder"]
    for rests, seen in ups.items():
        for env in range(30):
            pose = draw("sym_same", env, config=switched(rests=rests), library=cylinders)[0].target().pose()
            seen.add(round(abs(pose[2, 2])))
    assert ups == {"standing": {1}, "any": {0, 1}}


def test_any_target_is_plain_or_patterned_and_its_goal_looks_the_same_or_not():
    seen = set()
    for env in range(60):
        current, goal = draw("any", env)
        assert goal.objects == current.objects
        seen.add((current.target().texture.kind == "plain", current.light == goal.light))
    assert seen == {(a, b) for a in (True, False) for b in (True, False)}


def test_symmetric_patterns_keep_the_symmetry_of_the_shape():
    patterned = 0
    for env in range(40):
        plain = draw("sym_diff", env)[0].target()
        target = draw("sym_diff", env, config=switched(symmetric_patterns=0.5))[0].target()
        patterned += target.texture.symmetric
        assert target.symmetry == plain.symmetry
        assert target.texture == plain.texture or (target.texture.symmetric and target.texture.kind != "plain")
        assert not draw("asym_same", env, config=switched(symmetric_patterns=1.0))[0].target().texture.symmetric
    assert 10 < patterned < 30


def test_bare_goals_show_the_target_alone():
    config = switched(min_objects=3, max_objects=3, bare_goals=0.5)
    counts = {(len(a.objects), len(b.objects)) for a, b in (draw("sym_same", env, config=config) for env in range(20))}
    assert counts == {(3, 3), (3, 1)}


def test_both_images_have_one_camera_and_each_its_own_sensor():
    current, goal = draw("sym_same", config=switched(intrinsics=0.2, sensor="strong"), fov_deg=60.0)
    assert current.camera == goal.camera and current.sensor != goal.sensor
    focal = 0.5 / np.tan(np.deg2rad(30.0))
    assert focal / 1.2 <= current.camera.fx <= focal * 1.2


def declared(texture, symmetry):
    return Model(LIBRARY[0].shape, texture, symmetry)


def test_a_look_of_its_own_is_a_target_only_where_its_symmetry_is_known():
    image = Texture("image", asset="ab" * 32)
    round_one = declared(image, Symmetry(axis_continuous=(0.0, 0.0, 1.0)))
    odd_one = declared(image, Symmetry())
    for env in range(8):
        # A symmetric kind asks for a plain colour, whatever the model's own look.
        target = draw("sym_same", env, library=[odd_one, round_one])[0].target()
        assert target.texture.kind == "plain" and target.symmetry == round_one.symmetry
        target = draw("asym_same", env, library=[odd_one, round_one])[0].target()
        assert target.texture == image and target.symmetry == Symmetry()
    looks = {draw("any", env, library=[round_one])[0].target().texture.kind for env in range(30)}
    assert looks == {"plain", "image"}
    with pytest.raises(ConfigError, match="targets of sym_same"):
        draw("sym_same", library=[odd_one])
    with pytest.raises(ConfigError, match="targets of asym_same"):
        draw("asym_same", library=[round_one])
