"""The renderer's settings: what contradicts what."""

import dataclasses

import pytest

from common.config import RendererConfig, RunConfig, walk
from common.errors import ConfigError
from common.renderer_config import check_renderer

FLEET = {"sizes": (64, 128), "collectors": 1, "hang_timeout_s": 90.0, "task_timeout_s": 120.0, "start_timeout_s": 180.0}


@pytest.mark.parametrize("place", ["embedded", "supervised"])
def test_the_defaults_fit_each_other_in_every_place(place):
    check_renderer(RendererConfig(place=place), **FLEET)
    check_renderer(RendererConfig(place="remote", address="unix:///run/r.sock"), **FLEET)


@pytest.mark.parametrize(
    ("settings", "fleet", "line"),
    [
        ({"backend": "isaacsim"}, {}, "renderer.place = 'embedded': allowed is supervised or remote where"),
        (
            {"backend": "isaacsim", "place": "supervised"},
            {},
            "env.mask_size = 128: allowed is env.image_size = 64 where",
        ),
        ({"device": "gpu"}, {}, "renderer.device = 'gpu': allowed is cpu, cuda:K or empty"),
        ({"place": "remote"}, {}, "renderer.address = '': allowed is an address where"),
        ({"place": "remote", "address": "127.0.0.1:1"}, {"collectors": 2}, "fleet.collectors = 2: allowed is 0 or 1"),
        ({"address": "127.0.0.1:1"}, {}, "renderer.address = '127.0.0.1:1': allowed is"),
        ({"backoff_s": []}, {}, r"renderer.backoff_s = \[\]"),
        ({"backoff_s": [1.0, -1.0]}, {}, "renderer.backoff_s"),
        ({"place": "supervised", "cold_start_s": 1200.0}, {}, "fleet.start_timeout_s = 180.0: allowed is >= renderer"),
        ({"place": "supervised"}, {"hang_timeout_s": 60.0}, "fleet.hang_timeout_s = 60.0: allowed is > renderer.call"),
        ({"place": "supervised"}, {"task_timeout_s": 80.0}, "fleet.task_timeout_s = 80.0: allowed is > .* = 80.0"),
    ],
)
def test_a_contradiction_is_named(settings, fleet, line):
    with pytest.raises(ConfigError, match=line):
        check_renderer(RendererConfig(**settings), **(FLEET | fleet))


def test_isaac_sim_renders_the_one_size_of_pictures_and_masks():
    check_renderer(RendererConfig(backend="isaacsim", place="supervised"), **(FLEET | {"sizes": (64, 64)}))


def test_the_fleet_need_not_wait_for_servers_that_nobody_supervises():
    check_renderer(RendererConfig(cold_start_s=1200.0, warm_start_s=600.0), **FLEET)


def test_a_resume_may_move_the_renderer_but_not_replace_it():
    fixed = [f.name for f in dataclasses.fields(RendererConfig) if f.metadata["resume"] == "fixed"]
    assert fixed == ["backend", "device"]
    assert "renderer.place" in {name for name, _, _ in walk(RunConfig())}
