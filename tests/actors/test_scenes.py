import dataclasses

import numpy as np
import pytest

from actors.mesh_library import mesh_library
from actors.scenes import sample_scene
from actors.shapes import build_mesh
from actors.textures import build_texture
from common.config import SceneConfig
from common.errors import ConfigError
from common.geometry import transform_points
from common.rng import Purpose
from common.scene import SceneSpec

CONFIG = SceneConfig()
LIBRARY = mesh_library(0, 60, ["cube", "box", "cylinder", "cone", "revolution"])
KINDS = ("sym_diff", "sym_same", "asym_same")


def draw(kind, env=0, round=0, seed=0, purpose=Purpose.SCENE, config=CONFIG):
    return sample_scene(config, LIBRARY, seed=seed, purpose=purpose, round=round, env=env, kind=kind)


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
        sample_scene(CONFIG, [], seed=0, purpose=Purpose.SCENE, round=0, env=0, kind="sym_same")
