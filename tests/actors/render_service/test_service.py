"""The service as it is on the wire, without our client."""

import dataclasses
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from misbehaving import PatternRenderer, cube_scene, serving

from actors.render_service.client import RemoteRenderer
from actors.render_service.limits import PROTOCOL, Limits
from actors.render_service.shared_frames import Segment
from common.errors import RendererLostError
from common.proto.servofleet.v1 import render_pb2 as pb
from common.proto.servofleet.v1.render_pb2_grpc import RenderServiceStub

SESSION = "ab" * 16
ROOT = Path(__file__).resolve().parents[3]
IDS = np.array([0])
VIEW = (np.eye(4)[None], np.array([[9.0, 9.0, 4.0, 3.0]]), (6, 8), ["rgb"])


@pytest.fixture
def address(tmp_path):
    tmp_path.chmod(0o700)
    return f"unix://{tmp_path}/s"


@pytest.fixture
def stub(address):
    limits = Limits(max_envs=8, max_message_bytes=(1 << 20) + (1 << 16))
    with serving(address, limits=limits) as service, grpc.insecure_channel(service.bound) as channel:
        stub = RenderServiceStub(channel)
        stub.service = service
        yield stub


def hello(stub, **fields):
    return stub.Hello(pb.HelloRequest(**({"protocol": PROTOCOL, "session": SESSION} | fields)), timeout=10.0)


def reset_request(number=1, session=SESSION, scenes=None):
    scenes = [cube_scene().to_json()] if scenes is None else scenes
    return pb.ResetRequest(id=pb.RequestId(session=session, number=number), env_ids=[0], scenes=scenes)


def render_request(number=2, **fields):
    pose, (intrinsics,) = VIEW[0].ravel().tolist(), VIEW[1].tolist()
    request = {"env_ids": [0], "world_T_cam": pose, "intrinsics": intrinsics, "height": 6, "width": 8}
    return pb.RenderRequest(
        id=pb.RequestId(session=SESSION, number=number), **(request | {"channels": [pb.CHANNEL_RGB]} | fields)
    )


def refused(call, *arguments, **settings):
    with pytest.raises(grpc.RpcError) as e:
        answer = call(*arguments, **({"timeout": 10.0} | settings))
        list(answer) if hasattr(answer, "__next__") else answer
    return e.value.code(), e.value.details()


def test_hello_tells_versions_capabilities_and_limits(stub) -> None:
    said = hello(stub)
    assert (said.protocol, said.backend, said.backend_version) == (PROTOCOL, "pattern", "1")
    assert sorted(said.channels) == [1, 2, 3] and not said.shared_memory
    assert said.limits.max_envs == 8 and (said.fixed_height, said.fixed_width) == (0, 0)
    assert len(said.server) == 32 and said.server == hello(stub).server


def test_memory_that_the_server_cannot_see_is_not_shared(stub) -> None:
    segment = Segment(0)
    assert hello(stub, proof=segment.message()).shared_memory and segment.answered(SESSION)
    elsewhere = segment.message()
    elsewhere.token = bytes(32)  # as if another host had a process of this number
    assert not hello(stub, proof=elsewhere).shared_memory


def test_a_call_without_a_deadline_is_refused(stub) -> None:
    hello(stub)
    for call, request in ((stub.Hello, pb.HelloRequest(protocol=PROTOCOL)), (stub.Reset, reset_request())):
        code, details = refused(call, request, timeout=None)
        assert code == grpc.StatusCode.FAILED_PRECONDITION and "deadline" in details
    assert stub.service.renderer.frames == {}


def test_a_repeated_render_is_the_same_and_not_done_again(stub) -> None:
    hello(stub)
    first, again = (stub.Reset(reset_request(), timeout=10.0) for _ in range(2))
    assert first == again
    one = list(stub.Render(render_request(), timeout=10.0))
    assert list(stub.Render(render_request(), timeout=10.0)) == one
    assert stub.service.renderer.renders == 1
    assert next(iter(stub.Render(render_request(3), timeout=10.0))).head.frame_ids == [1]
    code, details = refused(stub.Render, render_request(height=5))
    assert code == grpc.StatusCode.FAILED_PRECONDITION and "request number = 2" in details


def test_what_makes_no_sense_is_refused_by_name_and_nothing_is_drawn(stub) -> None:
    hello(stub)
    stub.Reset(reset_request(), timeout=10.0)
    for fields, said in (
        ({"world_T_cam": [1.0]}, "world_T_cam and intrinsics = '1 and 4 numbers'"),
        ({"channels": []}, "channels = []"),
        ({"channels": [9]}, "channels = ['channel 9']"),
        ({"height": 1 << 20}, "height = 1048576: allowed is <= 4096"),
        ({"slot": pb.SharedMemory(pid=1, fd=0, bytes=1 << 16, token=bytes(32))}, "shared memory: /proc/1/fd/0"),
    ):
        _, details = refused(stub.Render, render_request(5, **fields))
        assert said in details
    assert stub.service.renderer.renders == 0
    for scene, said in (("{", "not a scene record"), ("{}", "scene.version")):
        code, details = refused(stub.Reset, reset_request(9 + len(scene), scenes=[scene]))
        assert code == grpc.StatusCode.INVALID_ARGUMENT and said in details
    code, details = refused(stub.Reset, reset_request(20, scenes=["x" * (1 << 21)]))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details
    code, details = refused(stub.Hello, pb.HelloRequest(protocol=PROTOCOL, session="short"))
    assert "session = 'short'" in details
    code, details = refused(stub.Reset, reset_request(session="cd" * 16))
    assert "session cdcdcdcd is not open here" in details


def test_scenes_of_an_older_session_are_not_the_new_ones(stub) -> None:
    hello(stub)
    stub.Reset(reset_request(), timeout=10.0)
    hello(stub, session="cd" * 16)
    render = render_request(1)
    render.id.session = "cd" * 16
    code, details = refused(stub.Render, render)
    assert code == grpc.StatusCode.INVALID_ARGUMENT and "environment 0 has no scene" in details
    code, details = refused(stub.Render, render_request())
    assert code == grpc.StatusCode.FAILED_PRECONDITION and "another client has taken the server over" in details
    assert stub.service.renderer.renders == 0


def test_a_backend_of_one_size_refuses_others(stub) -> None:
    stub.service.backend = dataclasses.replace(stub.service.backend, fixed_size=(6, 8))
    said = hello(stub)
    assert (said.fixed_height, said.fixed_width) == (6, 8)
    stub.Reset(reset_request(), timeout=10.0)
    assert len(list(stub.Render(render_request(), timeout=10.0))) == 3
    code, details = refused(stub.Render, render_request(3, height=8))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED and "size = (8, 8): allowed is (6, 8)" in details


def test_health_answers_while_a_render_is_stuck(address) -> None:
    go = threading.Event()
    with serving(address, PatternRenderer(lambda k: go.wait(20.0))) as service:
        client = RemoteRenderer(service.bound)
        client.reset(IDS, [cube_scene()])
        pending = client.submit(IDS, *VIEW)
        until = time.monotonic() + 5.0
        while client.health().busy_s < 0.05 and time.monotonic() < until:
            time.sleep(0.01)
        health = client.health()
        assert health.busy_s >= 0.05 and health.waiting == 1 and health.pid == os.getpid()
        assert (health.resets, health.frames, health.state) == (1, 0, pb.HealthResponse.STATE_SERVING)
        client.drain()
        assert client.health().state == pb.HealthResponse.STATE_DRAINING
        with pytest.raises(RendererLostError, match="it takes no new client"):
            RemoteRenderer(service.bound)
        go.set()
        assert pending.result().rgb is not None  # what was taken is answered
        assert client.health().frames == 1


CLIENT = """
import sys, numpy as np
sys.path.insert(0, sys.argv[2])
from misbehaving import cube_scene
from actors.render_service.client import RemoteRenderer
client = RemoteRenderer(sys.argv[1])
client.reset(np.array([0]), [cube_scene()])
view = (np.eye(4)[None], np.array([[9.0, 9.0, 4.0, 3.0]]), (64, 64), ["rgb"])
held = [client.render(np.array([0]), *view) for _ in range(3)]
print(client.shares_memory, flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.faults
def test_a_killed_clients_memory_is_let_go_when_the_next_one_comes(address) -> None:
    def mapped():
        return Path("/proc/self/maps").read_text().count("memfd:servofleet-frames")

    before = mapped()
    with serving(address) as service:
        command = [sys.executable, "-c", CLIENT, service.bound, str(Path(__file__).parent)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
        assert process.stdout is not None
        assert process.stdout.readline() == b"True\n"
        assert mapped() > before
        process.kill()
        process.wait(10.0)
        new = RemoteRenderer(service.bound)
        new.reset(IDS, [cube_scene()])
        assert mapped() == before
        assert new.render(IDS, *VIEW).rgb is not None
