"""What a client believes of an answer, and how it asks again."""

import time

import grpc
import numpy as np
import pytest
from misbehaving import PatternRenderer, cube_scene, serving

from actors.render_service import connection
from actors.render_service.client import RemoteRenderer
from actors.render_service.limits import LimitError, Limits
from common.errors import (
    ConfigError,
    FrameShapeError,
    LateFrameError,
    RendererError,
    RendererLostError,
    SceneError,
    StaleFrameError,
    TornFrameError,
)
from common.geometry import make_pose

SCENE = cube_scene()
IDS = np.array([2, 0, 2])
POSES = np.stack([make_pose(np.eye(3), [0.1 * k, 0.0, 1.0 / 3.0]) for k in range(3)])
INTRINSICS = np.tile([30.0, 30.0, 10.0, 6.0], (3, 1))
VIEW = (POSES, INTRINSICS, (13, 21), ["rgb", "depth", "instance_id"])


@pytest.fixture
def address(tmp_path):
    tmp_path.chmod(0o700)
    return f"unix://{tmp_path}/s"


def connect(service, **settings):
    client = RemoteRenderer(service.bound, **({"call_timeout_s": 20.0, "connect_s": 10.0} | settings))
    client.reset(np.array([0, 2]), [SCENE, SCENE])
    return client


def same(mine, theirs):
    return all(np.array_equal(getattr(mine, c), getattr(theirs, c)) for c in ("rgb", "instance_id", "depth"))


def local():
    renderer = PatternRenderer()
    renderer.reset(np.array([0, 2]), [SCENE, SCENE])
    return renderer


@pytest.mark.parametrize("shared", [True, False], ids=["shared memory", "sent"])
def test_frames_are_those_of_the_renderer_itself(address, shared) -> None:
    mine = local()
    with serving(address) as service:
        client = connect(service, shared_memory=shared)
        assert client.shares_memory == shared
        for channels in (["rgb"], ["instance_id"], ["depth", "rgb"], ["rgb", "depth", "instance_id"]):
            got = client.render(IDS, *VIEW[:3], channels)
            want = mine.render(IDS, *VIEW[:3], channels)
            for name in ("rgb", "instance_id", "depth", "frame_id", "pose_used"):
                a, b = getattr(got, name), getattr(want, name)
                assert (a is None) == (b is None)
                assert a is None or (a.dtype == b.dtype and np.array_equal(a, b)), name
        empty = client.render(IDS[:0], POSES[:0], INTRINSICS[:0], (13, 21), ["rgb"])
        assert empty.rgb is not None and empty.rgb.shape == (0, 13, 21, 3)
        client.close()
    assert len(service.renderer.threads) == 1  # whatever thread of gRPC took the request


def test_a_batch_larger_than_a_message_comes_in_chunks(address) -> None:
    size = (250, 400)  # 3 x 100000 pixels of 11 bytes: five chunks
    mine = local().render(IDS, *VIEW[:2], size, VIEW[3])
    with serving(address) as service:
        client = connect(service, shared_memory=False)
        assert same(mine, client.render(IDS, *VIEW[:2], size, VIEW[3]))


@pytest.mark.parametrize("shared", [True, False], ids=["shared memory", "sent"])
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("late", LateFrameError),
        ("pose", StaleFrameError),
        ("frame", StaleFrameError),
        ("shape", FrameShapeError),
        ("cameras", FrameShapeError),
        ("channel", FrameShapeError),
        ("half", TornFrameError),
        ("headless", TornFrameError),
        ("endless", TornFrameError),
        ("twice", TornFrameError),
        ("other", TornFrameError),
    ],
)
def test_a_spoilt_answer_is_refused_by_name_and_the_next_one_is_right(address, fault, error, shared) -> None:
    mine = local()
    with serving(address, fault=fault, at=1, late_s=0.6) as service:
        client = connect(service, shared_memory=shared, call_timeout_s=0.3 if fault == "late" else 20.0)
        assert same(mine.render(IDS, *VIEW), client.render(IDS, *VIEW))
        mine.render(IDS, *VIEW)
        with pytest.raises(error):
            client.render(IDS, *VIEW)
        client._timeout = 20.0
        assert same(mine.render(IDS, *VIEW), client.render(IDS, *VIEW))


def test_frames_that_are_held_are_not_drawn_over(address) -> None:
    with serving(address) as service:
        client = connect(service)
        kept, copies = [], []
        for k in range(7):
            poses = POSES.copy()
            poses[:, 0, 3] += k  # so that no two batches have the same depths
            frames = client.render(IDS, poses, INTRINSICS, (13 + k % 2, 21), VIEW[3])
            row = frames.depth[1:2, 2:]  # a view keeps the memory as well as the whole does
            kept.append(row)
            copies.append(row.copy())
            del frames
        assert client._pool.leased == 2  # the others were copied: two segments are for rendering
        assert all(np.array_equal(a, b) for a, b in zip(kept, copies, strict=True))
        assert not np.array_equal(kept[0], kept[2])
        del kept, row
        assert client._pool.leased == 0


def test_the_next_batch_is_rendered_while_the_last_is_read(address) -> None:
    with serving(address) as service:
        client = connect(service)
        first = client.submit(IDS, *VIEW)
        second = client.submit(IDS, POSES + 0.0, *VIEW[1:])
        a, b = first.result(), second.result()
        assert same(a, b)
        assert a.frame_id.tolist() == [0, 0, 1]
        assert b.frame_id.tolist() == [2, 1, 3]
        with pytest.raises(RendererError, match="taken already"):
            first.result()


def test_a_request_does_not_overtake_the_one_before_it(address) -> None:
    with serving(address) as service:
        client = connect(service)
        check, slow = service._layout, [0.3]

        def layout(*arguments):
            time.sleep(slow.pop() if slow else 0.0)  # the first request's thread is late
            return check(*arguments)

        service._layout = layout
        pending = [client.submit(IDS, *VIEW) for _ in range(2)]
        client.reset(np.array([0]), [SCENE])
        assert [p.result().frame_id.tolist() for p in pending] == [[0, 0, 1], [2, 1, 3]]
        assert client.render(IDS, *VIEW).frame_id.tolist() == [4, 0, 5]


class Cut:
    """A stub whose first stream breaks after one message, as a lost connection does."""

    class Broken(grpc.RpcError):
        def code(self):
            return grpc.StatusCode.UNAVAILABLE

        def details(self):
            return "on purpose"

        def trailing_metadata(self):
            return ()

    def __init__(self, stub):
        self._stub, self._cut = stub, False

    def __getattr__(self, name):
        return getattr(self._stub, name)

    def Render(self, request, timeout):
        stream = self._stub.Render(request, timeout=timeout)
        yield next(stream)
        if not self._cut:
            self._cut = True
            raise Cut.Broken
        yield from stream


@pytest.mark.parametrize("shared", [True, False], ids=["shared memory", "sent"])
def test_an_answer_lost_on_the_way_is_asked_for_again_and_not_rendered_again(address, shared) -> None:
    mine = local()
    with serving(address) as service:
        client = connect(service, shared_memory=shared)
        client._connection.stub = Cut(client._connection.stub)
        got = client.render(IDS, *VIEW)
        assert same(mine.render(IDS, *VIEW), got)
        assert got.frame_id.tolist() == [0, 0, 1]
        assert service.renderer.renders == 1
        assert service.answers == 2


def test_refusals_of_the_renderer_have_its_own_classes(address) -> None:
    with serving(address) as service:
        client = connect(service)
        with pytest.raises(SceneError, match="environment 1 has no scene"):
            client.render(np.array([1]), POSES[:1], INTRINSICS[:1], (4, 4), ["rgb"])
        with pytest.raises(SceneError, match="channels"):
            client.render(IDS, *VIEW[:3], ["rgb", "normals"])
        with pytest.raises(SceneError, match="world_T_cam"):
            client.render(IDS, POSES[:2], *VIEW[1:])
        with pytest.raises(SceneError, match="intrinsics"):
            client.render(IDS, POSES, INTRINSICS[:, :3], *VIEW[2:])
        with pytest.raises(SceneError, match="env_ids"):
            client.reset(np.array([-1]), [SCENE])
        with pytest.raises(SceneError, match="len"):
            client.reset(np.array([0, 1]), [SCENE])
        client.close()
        with pytest.raises(RendererLostError, match="closed"):
            client.render(IDS, *VIEW)


def test_after_a_reset_that_nobody_knows_of_neither_scene_is_drawn(address) -> None:
    renderer = PatternRenderer()
    build = renderer.reset
    with serving(address, renderer) as service:
        client = connect(service)
        renderer.reset = lambda *a: (time.sleep(0.4), build(*a))
        client._timeout = 0.1
        with pytest.raises(LateFrameError, match=r"Reset: no answer in 0\.1 s"):
            client.reset(np.array([2]), [SCENE])
        renderer.reset, client._timeout = build, 20.0
        with pytest.raises(SceneError, match="environment 2 has no scene"):
            client.render(IDS, *VIEW)
        assert client.render(IDS[1:2], POSES[:1], INTRINSICS[:1], (4, 4), ["rgb"]).rgb is not None
        client.reset(np.array([2]), [SCENE])
        assert client.render(IDS, *VIEW).rgb is not None


def test_limits_are_refused_by_name_by_the_server_and_before_that_by_the_client(address) -> None:
    limits = Limits(max_envs=8, max_cameras=2, max_side=32, max_frame_bytes=20_000)
    with serving(address, limits=limits) as service:
        client = connect(service)
        big = (IDS[:1], POSES[:1], INTRINSICS[:1], (40, 64), ["depth"])
        wide = (IDS[:2], POSES[:2], INTRINSICS[:2], (32, 64), ["depth"])
        for ours in (limits, Limits()):  # the second time the client knows no limit
            client._connection.limits = ours
            with pytest.raises(LimitError, match=r"cameras = 3: allowed is <= 2, the server's max_cameras"):
                client.render(IDS, *VIEW)
            with pytest.raises(LimitError, match=r"height = 40: allowed is <= 32, the server's max_side"):
                client.render(*big)
        with pytest.raises(LimitError, match=r"width = 64"):
            client.render(*wide)
        assert service.renderer.renders == 0


def test_the_newest_client_owns_the_server(address) -> None:
    with serving(address) as service:
        old = connect(service)
        new = RemoteRenderer(service.bound)
        with pytest.raises(RendererLostError, match="another client has taken the server over"):
            old.render(IDS, *VIEW)
        with pytest.raises(SceneError, match="has no scene"):  # those of the old one are not the new one's
            new.render(IDS, *VIEW)
        assert service.renderer.renders == 0


def test_nobody_there_and_another_protocol_are_said_so(address, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RendererLostError, match=r"no render server answered in 0\.2 s"):
        RemoteRenderer(address, connect_s=0.2)
    with pytest.raises(ConfigError, match=r"renderer\.address = '192\.0\.2\.1:80'"):
        RemoteRenderer("192.0.2.1:80")
    monkeypatch.setattr(connection, "PROTOCOL", 2)
    with serving(address) as service, pytest.raises(RendererError, match="protocol = 2: allowed is 1"):
        RemoteRenderer(service.bound)
