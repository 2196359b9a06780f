"""The adapter behind the render service's wire, as production runs it, on the fake."""

import signal
import threading

import numpy as np
import pytest

from actors.isaac import folders
from actors.isaac.renderer import IsaacConfig, IsaacRenderer
from actors.render_service import exit_codes
from actors.render_service.address import parse_address
from actors.render_service.backends import open_backend
from actors.render_service.client import RemoteRenderer
from actors.render_service.limits import Limits
from actors.render_service.server import serve
from common.errors import ConfigError, RendererError, SceneError
from common.geometry import intrinsics_from_fov, look_at
from common.scene import Shape
from tests.actors.isaac.isaac_fake import install
from tests.actors.scenes_for_tests import a_scene, an_object, standing

SIZE = (32, 32)


@pytest.fixture
def handlers():
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("SERVOFLEET_ISAAC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(folders, "_held", [])
    yield tmp_path / "cache"
    for lock in folders._held:
        lock.close()


def test_a_client_gets_the_frames_that_the_renderer_draws(monkeypatch, tmp_path, cache, handlers):
    fake = install(monkeypatch, "5_1", tmp_path)
    folder = tmp_path / "socket"
    folder.mkdir(mode=0o700)
    address = f"unix://{folder}/s"
    shape = Shape("cube", (0.2,))
    scenes = [a_scene(an_object(shape, standing(shape, x), k)) for x, k in ((0.0, 5), (0.1, 6))]
    pose, lens = look_at([[0.0, 0.0, 1.0]], [[0.0, 0.0, 0.0]]), intrinsics_from_fov(0.9, *SIZE)[None]
    poses, lenses = np.repeat(pose, 2, axis=0), np.repeat(lens, 2, axis=0)
    got, wrong = [], []

    def ask():
        client = RemoteRenderer(address, connect_s=60.0)
        try:
            client.reset(np.arange(2), scenes)
            for channels in (("rgb", "instance_id", "depth"), ("depth",)):
                got.append(client.render(np.arange(2), poses, lenses, SIZE, channels))
            got.append(client.health().recycle_advised)
            for call in (
                lambda: client.render(np.arange(2), poses, lenses, (16, 16), ("rgb",)),
                lambda: client.reset(np.array([0]), [a_scene(an_object(shape, standing(shape, 30.0)))]),
            ):
                with pytest.raises((SceneError, RendererError)) as refused:
                    call()
                wrong.append(str(refused.value))
            fake.stuck = True
            with pytest.raises(RendererError) as refused:
                client.render(np.arange(2), poses, lenses, SIZE, ("rgb",))
            wrong.append(str(refused.value))
        finally:
            client.drain()
            client.close()

    thread = threading.Thread(target=ask)
    thread.start()
    code = serve(
        parse_address(address, "address"), Limits(max_envs=2), lambda: open_backend("isaacsim", 2, "cuda:0", SIZE, 2)
    )
    thread.join(60.0)
    assert code == exit_codes.DRAINED and len(got) == 3
    frames, depth, advised = got
    assert [set(np.unique(ids)) for ids in frames.instance_id] == [{0, 5}, {0, 6}] and advised is False
    assert np.array_equal(frames.depth, depth.depth) and depth.rgb is None
    assert frames.depth[0][frames.instance_id[0] == 5] == pytest.approx(0.8)
    assert "one size" in wrong[0] and "within 4 m" in wrong[1] and "stamp of the frame" in wrong[2]
    assert [p.name for p in cache.iterdir()] == ["5.1.0.0-0"]
    assert not fake.closed  # Isaac Sim would end the process with its own exit code


def test_what_the_server_refuses_before_isaac_is_touched(monkeypatch, tmp_path, cache):
    fake = install(monkeypatch, "5_1", tmp_path)
    for device, size, said in (("cuda:1", SIZE, "one GPU"), ("cuda:0", None, "--size")):
        with pytest.raises(ConfigError, match=said):
            open_backend("isaacsim", 1, device, size)
    bad = ({"size": (8, 8)}, {"tiles": 0}, {"subframes": -1}, {"max_updates": 50}, {"slots": 0}, {"max_envs": 0})
    for settings in bad:
        with pytest.raises(SceneError, match=next(iter(settings))):
            IsaacRenderer(IsaacConfig(**{"max_envs": 1, "size": SIZE, "folder": tmp_path, **settings}))
    assert not fake.app_started
