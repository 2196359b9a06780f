"""A renderer that lives in another process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from actors.render_service.address import parse_address
from actors.render_service.answer_checks import check_fresh, check_id, read_answer
from actors.render_service.asset_wire import encode_asset
from actors.render_service.connection import Connection
from actors.render_service.layout import Layout, make_layout
from actors.render_service.limits import CHUNK_BYTES
from actors.render_service.shared_frames import Segment, SegmentPool
from actors.scenes.checks import assets_of
from common.errors import RendererError, RendererLostError, SceneError, TornFrameError, bad_value
from common.proto.servofleet.v1 import render_pb2 as pb
from common.protocols import F64, I64, Channel, Frames
from common.scene import SceneSpec


class PendingFrames:
    """Frames that a server is rendering; `result` waits for them, once."""

    def __init__(self, renderer: RemoteRenderer, request: pb.RenderRequest, layout: Layout, slot: Segment | None):
        self._renderer: RemoteRenderer | None = renderer
        self._request = request
        self._layout = layout
        self._slot = slot
        self._last = renderer._last
        self._stream: Iterator[pb.RenderResponse] | None = renderer._ask(request)

    def result(self) -> Frames:
        """The frames.

        Raises:
            LateFrameError, TornFrameError, FrameShapeError, StaleFrameError: naming what is wrong with the answer.
            RendererLostError: if the server is gone.
            SceneError, LimitError: what the server refused.
        """
        renderer, self._renderer = self._renderer, None
        if renderer is None:
            raise RendererError("these frames were taken already")
        return renderer._receive(self._request, self._layout, self._slot, self._last, self._first)

    def _first(self) -> Iterator[pb.RenderResponse] | None:
        stream, self._stream = self._stream, None
        return stream


class RemoteRenderer:
    """`common.protocols.Renderer` over a render server. Not thread-safe.

    Attributes:
        hello: what the server said of itself.
        shares_memory: pixels come by shared memory, else they are sent.
    """

    def __init__(
        self,
        address: str,
        *,
        call_timeout_s: float = 60.0,
        connect_s: float = 30.0,
        shared_memory: bool = True,
        client: str = "",
    ) -> None:
        """Connect and take the server over: the newest client owns it.

        Args:
            address: ``unix:///PATH`` or ``127.0.0.1:PORT``.
            call_timeout_s: after which a call is late.
            connect_s: how long to wait for a server that is starting.
            shared_memory: False has the pixels sent even where both ends see the same memory.
            client: what the server's log calls this one.

        Raises:
            ConfigError: if the address is none, or on another machine.
            RendererError: if no server answers, or not one of ours.
        """
        self._connection: Connection | None = Connection(
            parse_address(address, "renderer.address"),
            client=client,
            shared_memory=shared_memory,
            connect_s=connect_s,
        )
        self.hello: pb.HelloResponse = self._connection.hello
        self.shares_memory: bool = self._connection.shares_memory
        self._timeout = call_timeout_s
        self._assets: list[Mapping[str, Any]] = []
        self._refs: dict[str, pb.AssetRef] = {}
        self._sent: Any = None  # the last Render call, which the next request must not overtake
        self._built: set[int] = set()
        self._last: dict[int, int] = {}
        self._pool = SegmentPool()

    def load(self, assets: Mapping[str, Any]) -> None:
        """Make imported meshes and pictures known, by content hash. They are sent when a scene first names them."""
        self._open()
        self._assets.insert(0, assets)

    def reset(self, env_ids: I64, scenes: Sequence[SceneSpec]) -> None:
        """Build `scenes[i]` in environment `env_ids[i]`; see `common.protocols.Renderer.reset`.

        Raises:
            SceneError, AssetError: as the embedded renderer.
            RendererError: if the server fails or refuses it; one of the classes in `common.errors`.
        """
        connection = self._open()
        ids = np.asarray(env_ids)
        if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer) or (len(ids) and ids.min() < 0):
            raise SceneError(bad_value("env_ids", f"{ids.dtype} {ids.shape}", "integers (N,) >= 0"))
        if len(scenes) != len(ids):
            raise SceneError(bad_value("len(scenes)", len(scenes), f"len(env_ids) = {len(ids)}"))
        self._send_assets(set().union(*(assets_of(s) for s in scenes)) if len(scenes) else set())
        request = pb.ResetRequest(id=connection.next_id(), env_ids=ids.tolist(), scenes=[s.to_json() for s in scenes])
        connection.limits.check("max_message_bytes", "bytes of the scenes", request.ByteSize())
        self._wait_for_place()
        try:
            answer = connection.call("Reset", lambda s: connection.stub.Reset(request, timeout=s), self._timeout)
            if answer.id != request.id:
                raise TornFrameError(bad_value("request of the answer", answer.id.number, str(request.id.number)))
        except RendererError:
            # Built or not built, who knows: neither scene may be taken for the other.
            self._built.difference_update(ids.tolist())
            raise
        self._built.update(ids.tolist())
        # A new table: frames still to come were rendered before this reset, and are counted in the old one.
        new = set(ids.tolist())
        self._last = {env: frame for env, frame in self._last.items() if env not in new}

    def render(
        self, env_ids: I64, world_T_cam: F64, intrinsics: F64, size: tuple[int, int], channels: Sequence[Channel]
    ) -> Frames:
        """Render environment `env_ids[i]` from `world_T_cam[i]`; see `common.protocols.Renderer.render`.

        Raises:
            SceneError: as the embedded renderer.
            RendererError: if the answer is late, torn, misshapen or stale, or the server is lost or refuses; the
                classes are in `common.errors`.
        """
        return self.submit(env_ids, world_T_cam, intrinsics, size, channels).result()

    def submit(
        self, env_ids: I64, world_T_cam: F64, intrinsics: F64, size: tuple[int, int], channels: Sequence[Channel]
    ) -> PendingFrames:
        """Ask for frames and do not wait: the server renders them while the caller reads the last ones.

        Results are to be taken in the order of the calls.

        Raises:
            SceneError: if an argument has another shape than `render` asks for.
            LimitError: if the server would refuse it for its size.
        """
        connection = self._open()
        ids, poses, intr = np.asarray(env_ids), np.asarray(world_T_cam, np.float64), np.asarray(intrinsics, np.float64)
        if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer) or (len(ids) and ids.min() < 0):
            raise SceneError(bad_value("env_ids", f"{ids.dtype} {ids.shape}", "integers (N,) >= 0"))
        n = len(ids)
        if poses.shape != (n, 4, 4):
            raise SceneError(bad_value("world_T_cam", f"shape {poses.shape}", f"finite rigid poses ({n}, 4, 4)"))
        if intr.shape != (n, 4):
            raise SceneError(bad_value("intrinsics", f"shape {intr.shape}", f"finite ({n}, 4), focal lengths > 0"))
        if min(size) < 1:
            raise SceneError(bad_value("size", tuple(size), "(height, width), each >= 1"))
        never = sorted(set(ids.tolist()) - self._built)
        if never:
            raise SceneError(f"environment {never[0]} has no scene: reset it first")
        layout = make_layout(channels, n, size)
        connection.limits.check("max_cameras", "cameras", n)
        connection.limits.check("max_frame_bytes", "bytes of the frames", layout.total)
        self._wait_for_place()
        slot = self._pool.take(layout.total) if self.shares_memory else None
        request = pb.RenderRequest(
            id=connection.next_id(),
            env_ids=ids.tolist(),
            world_T_cam=poses.ravel().tolist(),
            intrinsics=intr.ravel().tolist(),
            height=layout.height,
            width=layout.width,
            channels=layout.wire(),
            slot=None if slot is None else slot.message(),
        )
        return PendingFrames(self, request, layout, slot)

    def health(self, timeout_s: float = 5.0) -> pb.HealthResponse:
        """How the server is; it answers while it renders."""
        connection = self._open()
        return connection.call("Health", lambda s: connection.stub.Health(pb.HealthRequest(), timeout=s), timeout_s)

    def drain(self, *, recycle: bool = False, timeout_s: float = 5.0) -> None:
        """Ask the server to finish its work and end."""
        connection, request = self._open(), pb.DrainRequest(recycle=recycle)
        connection.call("Drain", lambda s: connection.stub.Drain(request, timeout=s), timeout_s)

    def close(self) -> None:
        """Break the connection; the server goes on. The renderer cannot be used afterwards."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _open(self) -> Connection:
        if self._connection is None:
            raise RendererLostError("the renderer is closed: make a new one")
        return self._connection

    def _ask(self, request: pb.RenderRequest, timeout_s: float | None = None) -> Iterator[pb.RenderResponse]:
        timeout = self._timeout if timeout_s is None else timeout_s
        self._sent = self._open().stub.Render(request, timeout=timeout)
        stream: Iterator[pb.RenderResponse] = self._sent
        return stream

    def _wait_for_place(self) -> None:
        """Wait until the request sent last has its place in the server's order; not until it is done."""
        sent, self._sent = self._sent, None
        if sent is not None:
            sent.initial_metadata()

    def _receive(
        self, request: pb.RenderRequest, layout: Layout, slot: Segment | None, last: dict[int, int], first: Any
    ) -> Frames:
        # What fails leaves its slot behind: the server may write into it still.
        memory = None if slot is not None else np.empty(layout.total, np.uint8)

        def read(seconds: float) -> pb.FrameHead:
            return read_answer(first() or self._ask(request, seconds), layout, memory)

        head = self._open().call("Render", read, self._timeout)
        check_id(head, request.id)
        poses = np.array(request.world_T_cam, np.float64).reshape(-1, 4, 4)
        frame_ids, used = check_fresh(head, np.array(request.env_ids, np.int64), poses, last)
        if slot is None:
            assert memory is not None
            views = layout.views(memory)
        else:
            if slot.stamp() != (request.id.number, layout.total):
                raise TornFrameError(
                    bad_value("stamp of the slot", slot.stamp(), f"{(request.id.number, layout.total)}")
                )
            views = self._pool.lease(slot, layout)
        return Frames(views.get("rgb"), views.get("instance_id"), views.get("depth"), frame_ids, used)

    def _send_assets(self, names: set[str]) -> None:
        """Offer what scenes name, and send what the server lacks; what nobody loaded is for the server to refuse."""
        connection = self._open()
        refs = [ref for ref in (self._ref(name) for name in sorted(names)) if ref is not None]
        if not refs:
            return
        offer = pb.AssetOffer(session=connection.session, assets=refs)
        missing = self._load(connection, offer, [])
        if missing:
            wanted = pb.AssetOffer(session=connection.session, assets=[r for r in refs if r.name in missing])
            missing = self._load(connection, wanted, [r.name for r in wanted.assets])
        if missing:
            raise RendererError(f"{connection.address}: assets {missing} were sent, and the server has them not")

    def _load(self, connection: Connection, offer: pb.AssetOffer, send: Sequence[str]) -> list[str]:
        def messages() -> Iterator[pb.LoadAssetsRequest]:
            yield pb.LoadAssetsRequest(offer=offer)
            for name in send:
                data = encode_asset(name, self._find(name))
                for at in range(0, len(data), CHUNK_BYTES):
                    chunk = pb.AssetChunk(name=name, offset=at, data=data[at : at + CHUNK_BYTES])
                    yield pb.LoadAssetsRequest(chunk=chunk)

        answer = connection.call(
            "LoadAssets", lambda s: connection.stub.LoadAssets(messages(), timeout=s), self._timeout
        )
        return list(answer.missing)

    def _ref(self, name: str) -> pb.AssetRef | None:
        known = self._refs.get(name)
        if known is None:
            asset = self._find(name)
            if asset is None:
                return None
            data = encode_asset(name, asset)
            known = self._refs[name] = pb.AssetRef(name=name, sha256=hashlib.sha256(data).digest(), bytes=len(data))
        return known

    def _find(self, name: str) -> Any:
        for assets in self._assets:
            try:
                return assets[name]
            except KeyError:
                continue
        return None
