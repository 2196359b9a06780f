import dataclasses
import hashlib
import json

import pytest

from actors.scenes.models import model_library
from actors.scenes.sampling import sample_scene
from actors.scenes.shapes import build_mesh
from actors.scenes.suite import held_out_suite
from actors.scenes.textures import build_texture
from cluster.config_loading import load_config
from common.config import SceneConfig
from common.rng import Purpose
from common.scene import Material, Sensor

CONFIG = SceneConfig()


def drawn(*scenes):
    """Hash over recipes, poses, meshes, texels and lights of scenes: what their pictures are made of."""
    out = hashlib.sha256()
    for s in scenes:
        things = [
            [o.shape.kind, o.shape.params, *dataclasses.astuple(o.symmetry), o.instance_id, o.world_T_obj]
            for o in s.objects
        ]
        textures = [*(o.texture for o in s.objects), s.ground]
        recipes = [[t.kind, t.colors, t.scale, t.seed] for t in textures]
        light = [s.light.direction, s.light.diffuse, s.light.ambient]
        out.update(json.dumps([things, recipes, light, s.ground_size, s.target_id, s.seed]).encode())
        for thing in s.objects:
            out.update(build_mesh(thing.shape).vertices.tobytes())
        for texture in textures:
            out.update(build_texture(texture).tobytes())
    return out.hexdigest()[:16]


# Published results are about these scenes: whatever can be switched on, the defaults draw them as they always did.
PUBLISHED = {"sym_diff": "59f9899f8eba66ba", "sym_same": "1b054432216f8d6d", "asym_same": "866072ed9c1adc63"}
PUBLISHED_SUITE = "82ee1a58de5bacef"


@pytest.mark.parametrize("kind", list(PUBLISHED))
def test_the_defaults_draw_the_scenes_of_the_published_results(kind):
    library = model_library(CONFIG, 0, 240, "train")
    scenes = [
        s
        for env in range(20)
        for s in sample_scene(CONFIG, library, seed=7, purpose=Purpose.SCENE, round=3, env=env, kind=kind)
    ]
    assert drawn(*scenes) == PUBLISHED[kind]
    for s in scenes:
        plain = (s.light.color, s.light.ambient_sh, s.light.shadow, s.target().material, s.camera, s.sensor)
        assert plain == ((1.0, 1.0, 1.0), (), 0.0, Material(), None, Sensor())


def test_the_held_out_suite_of_the_quick_start_shows_the_published_scenes():
    starts = held_out_suite(load_config(["experiment=quickstart"])).starts
    assert drawn(*(s for start in starts for s in (start.scene, start.goal_scene))) == PUBLISHED_SUITE
