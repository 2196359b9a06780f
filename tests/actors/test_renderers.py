"""Which renderer the settings give, and what a collector does when its render server fails."""

import contextlib
import dataclasses
import time

import numpy as np
import pytest
from render_service.misbehaving import PatternRenderer, cube_scene, serving
from workshop_for_tests import HASHES, small_config, task_of

from actors.collector import Collector
from actors.rasteriser.renderer import WarpRenderer
from actors.render_service.supervised_renderer import SupervisedRenderer
from actors.renderers import drawn_by, make_renderer, waits_for_server
from common.config import RendererConfig
from common.errors import ConfigError, RendererLostError, RendererQuarantinedError
from replay.store import open_store


class Failing(PatternRenderer):
    """Its first `fails` renders raise."""

    waiting = False

    def __init__(self, fails, error=RendererLostError):
        super().__init__()
        self.fails, self.error, self.tries = fails, error, 0

    def render(self, *args):
        self.tries += 1
        if self.tries <= self.fails:
            raise self.error(f"failure {self.tries}")
        return super().render(*args)


@pytest.fixture
def collector(tmp_path, monkeypatch):
    """Renderer -> a collector that draws with it, and its store."""
    open_store(tmp_path / "store", mode="a", create=True).close()
    made = []

    def make(renderer):
        monkeypatch.setattr("actors.collector.make_renderer", lambda *args: made.append(args) or renderer)
        opener = lambda name: open_store(tmp_path / "store", mode="a").writer(name)
        return Collector(small_config(), "unit", opener, "c000-a0000", dict(HASHES))

    make.arguments = made
    return make


def stored(tmp_path):
    with contextlib.closing(open_store(tmp_path / "store")) as store:
        store.refresh()
        return [entry.id for entry in store.select()]


def test_collectors_draw_by_themselves_unless_told_otherwise():
    renderer = make_renderer(RendererConfig(), 2, "c000", 64)
    assert type(renderer) is WarpRenderer and not waits_for_server(renderer) and drawn_by(renderer) == ""


def test_a_collector_s_own_renderer_keeps_as_much_as_it_may():
    renderer = make_renderer(RendererConfig(pool_bytes=1_000_000), 2, "c000", 64)
    assert {p._budget for p in (renderer._scenes.meshes, renderer._scenes.textures)} == {1_000_000}
    renderer.close()


def test_a_server_at_an_address_must_draw_with_the_backend_of_the_run(tmp_path):
    tmp_path.chmod(0o700)
    with serving(f"unix://{tmp_path}/s") as service:
        config = RendererConfig(place="remote", address=service.bound)
        with pytest.raises(ConfigError, match=r"renderer\.backend = 'warp': allowed is 'pattern', the server's"):
            make_renderer(config, 2, "c000", 64)
        config.backend = "pattern"
        renderer = make_renderer(config, 2, "c000", 64)
        assert type(renderer) is SupervisedRenderer and drawn_by(renderer) == "pattern-1"
        renderer.close()


def test_episodes_are_not_drawn_by_two_versions(tmp_path):
    tmp_path.chmod(0o700)
    with serving(f"unix://{tmp_path}/s") as service:
        config = RendererConfig(backend="pattern", place="remote", address=service.bound)
        renderer = make_renderer(config, 2, "c000", 64)
        service.backend = dataclasses.replace(service.backend, version="2")
        renderer._keeper.failed(1, "lost", "it was started again")
        with pytest.raises(ConfigError, match="renderer of the new server = 'pattern-2': allowed is 'pattern-1'"):
            renderer.load({})
        renderer.close()


def test_a_task_whose_server_fails_is_done_again_and_stored_once(collector, tmp_path):
    renderer = Failing(2)
    result = collector(renderer).run(task_of("pairs", 0, 3))
    assert stored(tmp_path) == sorted(result.episode_ids) and len(result.episode_ids) == 3
    assert result.seconds["render_lost"] > 0.0 and renderer.tries > 2
    assert collector.arguments[0][2] == "unit-c000-a0000"  # collectors of other runs have folders of their own


def test_it_is_not_done_again_for_ever(collector, tmp_path):
    renderer = Failing(99)
    with pytest.raises(RendererLostError, match="failure 5"):
        collector(renderer).run(task_of("pairs", 0, 3))
    assert renderer.tries == 5 and stored(tmp_path) == []


def test_without_any_server_the_task_fails_at_once(collector):
    renderer = Failing(99, RendererQuarantinedError)
    with pytest.raises(RendererQuarantinedError, match="failure 1"):
        collector(renderer).run(task_of("pairs", 0, 3))
    assert renderer.tries == 1


def test_waiting_for_a_server_is_no_hang(collector):
    renderer = Failing(0)
    worker = collector(renderer)
    assert worker.progress()[0] == worker.progress()[0]
    renderer.waiting = True
    counts = [worker.progress()[0] for _ in range(3)]
    assert counts[0] < counts[1] < counts[2]


def test_a_server_that_nobody_keeps_is_connected_to_anew(tmp_path):
    tmp_path.chmod(0o700)
    address = f"unix://{tmp_path}/s"
    config = RendererConfig(backend="pattern", place="remote", address=address, warm_start_s=5.0)
    with serving(address):
        renderer = make_renderer(config, 2, "c000", 64)
    with pytest.raises(RendererLostError, match="server 1 failed"):
        renderer.load({})
        renderer.reset(np.array([0]), [cube_scene()])
    with serving(address):
        began = time.monotonic()
        renderer.reset(np.array([0]), [cube_scene()])
        assert time.monotonic() - began < 5.0
        renderer.close()
