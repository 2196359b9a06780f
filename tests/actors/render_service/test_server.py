"""The server as a process: started and ended as operators and supervisors do it."""

import argparse
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from misbehaving import Misbehaving, PatternRenderer, before_render, cube_scene

from actors.rasteriser.renderer import WarpRenderer
from actors.render_service import exit_codes
from actors.render_service.__main__ import main
from actors.render_service.address import parse_address
from actors.render_service.backends import Backend
from actors.render_service.client import RemoteRenderer
from actors.render_service.command import add_arguments, run_or_say_why
from actors.render_service.limits import Limits
from actors.render_service.server import is_fatal, serve
from actors.scenes.shapes import build_mesh
from common.errors import RendererError, RendererLostError, SceneError
from common.geometry import look_at
from common.scene import Shape

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
ONE = {"OMP_NUM_THREADS": "1", "WARP_QUIET": "1"}
# What Isaac's Python may not have, or not in our version: an import of it fails.
BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "ray", "mlflow", "hydra", "omegaconf", "safetensors", "PIL", "trimesh"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
sys.argv = ["server", *sys.argv[1:]]
import runpy
runpy.run_module("actors.render_service", run_name="__main__")
"""


IDS = np.array([0])
CHANNELS = ["rgb", "instance_id", "depth"]
VIEW = (np.eye(4)[None], np.array([[9.0, 9.0, 4.0, 3.0]]), (6, 8), ["rgb"])


@contextlib.contextmanager
def process(*command):
    """A server process that has said that it serves, and its address; killed if a test leaves it running."""
    server = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env={**os.environ, **ONE}
    )
    assert server.stdout is not None and server.stderr is not None
    try:
        line = server.stdout.readline()
        if not line:
            raise RuntimeError(server.stderr.read().decode()[-2000:])
        server.address = json.loads(line)["serving"]
        yield server
    finally:
        server.kill()
        server.communicate()


@contextlib.contextmanager
def signals_restored():
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def connect(address):
    client = RemoteRenderer(address, call_timeout_s=30.0, connect_s=30.0)
    client.reset(IDS, [cube_scene()])
    return client


def serve_while(act, folder, dies="", **faults):
    """Exit code of a server in this thread, and what `act` of a client in another thread returned."""
    folder.chmod(0o700)
    address, found = f"unix://{folder}/s", []
    thread = threading.Thread(target=lambda: found.append(act(connect(address))))
    thread.start()
    with signals_restored():
        renderer = PatternRenderer(before_render(dies, 1))
        make = functools.partial(Misbehaving, **faults)
        code = serve(parse_address(address), Limits(max_envs=8), lambda: Backend(renderer, "pattern", "1"), make)
    thread.join(30.0)
    assert renderer.closed and os.listdir(folder) == []
    return code, found[0]


def test_warp_draws_the_same_bits_here_and_there_without_torch_ray_or_mlflow(tmp_path) -> None:
    tmp_path.chmod(0o700)
    meshes = {"m": build_mesh(Shape("torus", (0.1, 0.03)))}
    scenes = [cube_scene(), cube_scene("m")]
    ids = np.array([3, 0, 3])
    poses = look_at(np.array([[0.5, 0.2, 0.4], [0.1, -0.6, 0.5], [-0.4, 0.3, 0.7]]), np.zeros((3, 3)), np.zeros(3))
    intrinsics = np.array([[60.0, 60.0, 32.0, 24.0], [50.0, 61.0, 30.5, 22.0], [40.0, 40.0, 32.0, 24.0]])
    local = WarpRenderer(4)
    with process("-c", BLOCKED, "--listen", f"unix://{tmp_path}/s", "--max-envs", "4") as server:
        for shared in (True, False):
            remote = RemoteRenderer(server.address, shared_memory=shared)
            assert remote.shares_memory == shared and remote.hello.backend == "warp"
            for renderer in (local, remote):
                renderer.load(meshes)
                renderer.reset(np.array([3, 0]), scenes)
            for _ in range(2):
                a, b = (r.render(ids, poses, intrinsics, (48, 64), CHANNELS) for r in (local, remote))
                assert len(np.unique(a.instance_id)) >= 2 and a.rgb.std() > 5.0
                for name in (*CHANNELS, "frame_id", "pose_used"):
                    mine, theirs = getattr(a, name), getattr(b, name)
                    assert mine.dtype == theirs.dtype and mine.tobytes() == theirs.tobytes(), name
        for call in (
            lambda r: r.render(np.array([1]), poses[:1], intrinsics[:1], (4, 4), ["rgb"]),
            lambda r: r.render(ids, np.full((3, 4, 4), np.nan), intrinsics, (4, 4), ["rgb"]),
            lambda r: r.reset(np.array([9]), scenes[:1]),
            lambda r: r.reset(np.array([0]), [cube_scene("unknown")]),
        ):
            said = []
            for renderer in (local, remote):
                with pytest.raises(SceneError) as e:
                    call(renderer)
                said.append(str(e.value))
            assert said[0] == said[1]
        server.send_signal(signal.SIGTERM)
        assert server.wait(20.0) == exit_codes.DRAINED
        assert os.listdir(tmp_path) == []


def test_sigterm_answers_what_was_taken_and_ends_with_0(tmp_path) -> None:
    def act(client):
        pending = client.submit(IDS, *VIEW)
        while not client.health().frames:  # rendered, but the answer is held back
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        return pending.result()

    code, frames = serve_while(act, tmp_path, fault="late", late_s=0.3)
    assert code == exit_codes.DRAINED and frames.rgb is not None


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [("memory", exit_codes.OUT_OF_MEMORY, "MemoryError"), ("bug", exit_codes.BACKEND_FAILED, "ZeroDivisionError")],
)
def test_a_failure_ends_it_and_the_code_says_why(tmp_path, capsys, fault, code, said) -> None:
    def act(client):
        client.render(IDS, *VIEW)
        with pytest.raises(RendererError, match=said) as e:
            client.render(IDS, *VIEW)
        return e.value

    assert serve_while(act, tmp_path, fault)[0] == code
    assert f"render server: {said}: on purpose" in capsys.readouterr().err


def test_asked_to_recycle_it_ends_with_the_code_for_it(tmp_path) -> None:
    assert serve_while(lambda client: client.drain(recycle=True), tmp_path)[0] == exit_codes.RECYCLE


@pytest.mark.slow
@pytest.mark.faults
def test_a_server_that_is_killed_is_lost_at_once_and_its_socket_is_used_again(tmp_path) -> None:
    tmp_path.chmod(0o700)
    command = [str(HERE / "misbehaving.py"), "--listen", f"unix://{tmp_path}/s", "--backend", "pattern"]
    with process(*command, "--fault", "kill", "--at", "1") as server:
        client = connect(server.address)
        client.render(IDS, *VIEW)
        began = time.monotonic()
        with pytest.raises(RendererLostError, match="the server is gone"):
            client.render(IDS, *VIEW)
        assert time.monotonic() - began < 5.0
        assert server.wait(20.0) == -signal.SIGKILL
    assert os.listdir(tmp_path) == ["s"]
    with process(*command) as server:
        with pytest.raises(RendererLostError):  # of another process's session, whatever listens there now
            client.render(IDS, *VIEW)
        assert connect(server.address).render(IDS, *VIEW).rgb is not None


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--listen", "0.0.0.0:1"], exit_codes.BAD_ARGUMENTS, "would need TLS and a token"),
        (["--listen", "127.0.0.1:0", "--size", "9x9"], exit_codes.BAD_ARGUMENTS, "--size = '9x9'"),
        (["--listen", "127.0.0.1:0", "--max-envs", "0"], exit_codes.BAD_ARGUMENTS, "max_envs = 0"),
        (["--listen", "127.0.0.1:0", "--device", "gpu7"], exit_codes.BACKEND_UNAVAILABLE, "the backend cannot start"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(arguments, code, said, capsys) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with signals_restored():
        assert run_or_say_why(parser.parse_args(arguments)) == code
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_bad_usage_ends_with_its_own_code(capsys) -> None:
    with pytest.raises(SystemExit) as e:
        main(["--listen"])
    assert e.value.code == exit_codes.BAD_ARGUMENTS
    assert "--listen" in capsys.readouterr().err


def test_an_answer_of_ours_is_not_fatal_and_anything_else_is() -> None:
    assert not is_fatal(SceneError("a scene"))
    assert is_fatal(TypeError("the backend's rgb"))
