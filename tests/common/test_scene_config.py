import dataclasses
from typing import get_args

import pytest

from common.errors import ConfigError
from common.scene import ShapeKind
from common.scene_config import SceneConfig, SceneKind, check_scenes


def test_every_kind_of_shape_and_scene_may_be_asked_for():
    check_scenes(SceneConfig())
    check_scenes(SceneConfig(shapes=[k for k in get_args(ShapeKind) if k != "mesh"]))
    check_scenes(SceneConfig(rl_mix=dict.fromkeys(get_args(SceneKind), 1.0)))
    check_scenes(SceneConfig(shapes=[], assets="somewhere", asset_share=1.0))
    check_scenes(SceneConfig(min_objects=12, max_objects=12))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_distance": 0.1}, r"scenes\.max_distance = 0\.1: .* scenes\.min_distance"),
        ({"min_objects": 3, "max_objects": 2}, r"scenes\.max_objects = 2: .* scenes\.min_objects"),
        ({"shapes": ["cube", "knot"]}, r"scenes\.shapes = 'knot': .*torus"),
        ({"shapes": ["mesh"]}, r"scenes\.shapes = 'mesh'"),
        ({"shapes": []}, r"scenes\.shapes = \[\]"),
        ({"shapes": [], "assets": "somewhere", "asset_share": 0.9}, r"scenes\.shapes = \[\]"),
        ({"shapes": [], "asset_share": 1.0}, r"scenes\.shapes = \[\]"),
        ({"rl_mix": {"sym": 1.0}}, r"scenes\.rl_mix = 'sym': .*sym_diff"),
        ({"imitation_mix": {"any": -0.1}}, r"scenes\.imitation_mix\.any = -0\.1: allowed is >= 0"),
        ({"imitation_mix": {"any": float("nan")}}, r"scenes\.imitation_mix\.any = nan"),
        ({"imitation_mix": {"any": 0.0}}, r"scenes\.imitation_mix = .*a share > 0"),
        ({"rl_mix": {}}, r"scenes\.rl_mix = \{\}"),
    ],
)
def test_settings_of_scenes_that_cannot_be_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        check_scenes(dataclasses.replace(SceneConfig(), **change))
