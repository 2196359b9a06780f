"""The held-out evaluation suite: frozen by its seed, named by its hash, the same for every run and every policy."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from typing import Any

from actors.env import EpisodeStart
from actors.scenes.models import open_stock
from actors.scenes.rescale import rescale_start
from actors.scenes.starts import sample_start
from common.config import RunConfig
from common.identity import json_sha256
from common.rng import Purpose

# The tables are about symmetric objects; half of the scenes show another ground and light in the desired image.
SUITE_MIX = {"sym_diff": 0.5, "sym_same": 0.5}


@dataclasses.dataclass(frozen=True)
class Suite:
    """The starts, in order, the hash of everything that decides them (scenes, poses, camera), and what they import."""

    starts: tuple[EpisodeStart, ...]
    sha256: str
    assets: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)


def held_out_suite(config: RunConfig) -> Suite:
    """The suite of `config.evaluation`: held-out shapes, textures and poses, alternating between the kinds of scene.

    Other focal lengths and distances (`evaluation.focal_scale`, `evaluation.distance_scale`) are another suite, of the
    same scenes.
    """
    evaluation = config.evaluation
    scales = [evaluation.focal_scale, evaluation.distance_scale]
    return _build(json.dumps([evaluation.scenes, evaluation.seed, evaluation.steps, *scales]), _Keyed(config))


class _Keyed:
    """Makes a config usable as a cache key by what the suite depends on."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        parts = [dataclasses.asdict(config.scenes), dataclasses.asdict(config.env)]
        self.key = json.dumps(parts, sort_keys=True)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Keyed) and other.key == self.key


@functools.lru_cache(maxsize=2)
def _build(settings: str, keyed: _Keyed) -> Suite:
    count, seed, steps, focal_scale, distance_scale = json.loads(settings)
    config = keyed.config
    stock = open_stock(config.scenes, seed, config.scenes.heldout_meshes, "heldout")
    kinds = list(SUITE_MIX)
    drawn = (
        sample_start(
            config.scenes,
            config.env,
            stock.models,
            {kinds[i % len(kinds)]: 1.0},
            seed=seed,
            purpose=Purpose.EVALUATION,
            round=0,
            env=i,
            meshes=stock.assets,
            images=stock.images,
        )
        for i in range(count)
    )
    starts = tuple(rescale_start(s, config.env.fov_deg, focal_scale, distance_scale) for s in drawn)
    described = [
        {
            "scene": s.scene.to_json(),
            "goal_scene": s.goal_scene.to_json(),
            "world_T_cam": s.world_T_cam.tolist(),
            "goal_world_T_cam": s.goal_world_T_cam.tolist(),
            # Poses come rounded; a norm does not, and its last bit differs between processors.
            "d_star": round(s.d_star, 9),
        }
        for s in starts
    ]
    return Suite(starts, json_sha256([described, dataclasses.asdict(config.env), steps]), stock.assets)
