"""The six calls of `servofleet.v1.RenderService`, over a renderer that another thread works."""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import grpc
import numpy as np

from actors.render_service.asset_wire import AssetStore, receive
from actors.render_service.backends import Backend
from actors.render_service.desk import Answer, Desk
from actors.render_service.layout import Layout, channels_of, cut_frames, make_layout, write_frames
from actors.render_service.limits import CHUNK_BYTES, PROTOCOL, LimitError, Limits
from actors.render_service.shared_frames import MappedSegments
from common.errors import AssetError, RendererError, RendererLostError, SceneError, ServofleetError, bad_value
from common.processes import rss_bytes
from common.proto.servofleet.v1 import render_pb2 as pb
from common.proto.servofleet.v1 import render_pb2_grpc
from common.protocols import Channel, Frames
from common.scene import SceneSpec

ERROR_KEY = "servofleet-error"  # trailing metadata: the class of the error, whose text is the status's details
_LONGEST = 86400.0  # seconds of a deadline
_DETAILS = 4000  # characters: gRPC refuses trailers of more than 8 KiB
_STATUS: list[tuple[type[BaseException], grpc.StatusCode]] = [
    (LimitError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (MemoryError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (SceneError, grpc.StatusCode.INVALID_ARGUMENT),
    (AssetError, grpc.StatusCode.INVALID_ARGUMENT),
    (RendererError, grpc.StatusCode.FAILED_PRECONDITION),
]


class RenderService(render_pb2_grpc.RenderServiceServicer):  # type: ignore[misc]
    """Takes requests in gRPC's threads, checks them, and has the desk's thread do them."""

    def __init__(self, desk: Desk, limits: Limits, version: str, drain: Callable[[bool], None]) -> None:
        """Serve Health at once, the rest once `backend` is set; `drain(recycle)` begins the end of the process."""
        self.backend: Backend | None = None
        self.server_id = secrets.token_hex(16)
        self._desk = desk
        self._limits = limits
        self._version = version
        self._drain = drain
        self._began = time.monotonic()
        self._assets = AssetStore(limits)
        self._maps = MappedSegments(limits.max_frame_bytes)
        # Of the session that asked last, and the desk's thread's alone: environments that it reset.
        self._owner = ""
        self._built: set[int] = set()
        # What the backend says of itself, asked in its own thread after each reset.
        self._device_bytes = 0
        self._recycle_advised = False
        self._resets = 0
        self._frames = 0

    def start(self, backend: Backend) -> None:
        """Serve with a backend; called by the thread that made it."""
        backend.renderer.load(self._assets)
        self.backend = backend

    def Hello(self, request: pb.HelloRequest, context: grpc.ServicerContext) -> pb.HelloResponse:
        """Open a session and prove the shared memory."""
        with _errors(context):
            _remaining(context)
            backend = self._ready()
            if self._desk.stopping:
                raise RendererLostError("the server is draining: it takes no new client")
            if request.protocol != PROTOCOL:
                raise RendererError(bad_value("protocol", request.protocol, f"{PROTOCOL}: client and server differ"))
            if len(request.session) != 32 or not all(c in "0123456789abcdef" for c in request.session):
                raise RendererError(bad_value("session", request.session[:40], "32 hexadecimal digits"))
            shared = False
            if request.HasField("proof"):
                try:
                    MappedSegments(self._limits.max_frame_bytes).answer(request.proof, request.session)
                    shared = True
                except RendererError:
                    shared = False  # another host, container or user: not an error, the pixels are sent then
            self._desk.open(request.session)
            height, width = backend.fixed_size or (0, 0)
            return pb.HelloResponse(
                protocol=PROTOCOL,
                backend=backend.name,
                backend_version=backend.version,
                servofleet_version=self._version,
                limits=self._limits.message(),
                channels=[pb.CHANNEL_RGB, pb.CHANNEL_INSTANCE_ID, pb.CHANNEL_DEPTH],
                shared_memory=shared,
                server=self.server_id,
                fixed_height=height,
                fixed_width=width,
            )

    def LoadAssets(
        self, requests: Iterator[pb.LoadAssetsRequest], context: grpc.ServicerContext
    ) -> pb.LoadAssetsResponse:
        """Take assets; the renderer reads them when a scene names them."""
        with _errors(context):
            _remaining(context)
            self._ready()
            first = next(requests, None)
            if first is None or first.WhichOneof("part") != "offer":
                raise AssetError("LoadAssets: the first message must be an offer")
            self._desk.check(first.offer.session)
            return pb.LoadAssetsResponse(missing=receive(self._assets, first.offer, requests))

    def Reset(self, request: pb.ResetRequest, context: grpc.ServicerContext) -> pb.ResetResponse:
        """Build scenes."""
        with _errors(context):
            backend = self._ready()
            scenes = [SceneSpec.from_json(text) for text in request.scenes]
            work = functools.partial(self._reset, backend, request, scenes)
            answer: pb.ResetResponse = self._ask(request, context, work).messages[0]
            return answer

    def Render(self, request: pb.RenderRequest, context: grpc.ServicerContext) -> Iterator[pb.RenderResponse]:
        """Render into the client's memory, or send the pixels."""
        with _errors(context):
            backend = self._ready()
            layout = self._layout(backend, request)
            answer = self._ask(request, context, functools.partial(self._render, backend, request, layout))
            yield from answer.messages

    def Health(self, request: pb.HealthRequest, context: grpc.ServicerContext) -> pb.HealthResponse:
        """How the process is; never waits for the renderer."""
        desk = self._desk
        state = pb.HealthResponse.STATE_STARTING if self.backend is None else pb.HealthResponse.STATE_SERVING
        return pb.HealthResponse(
            state=pb.HealthResponse.STATE_DRAINING if desk.stopping else state,
            server=self.server_id,
            pid=os.getpid(),
            uptime_s=time.monotonic() - self._began,
            busy_s=desk.busy_s(),
            waiting=desk.waiting,
            resets=self._resets,
            frames=self._frames,
            rss_bytes=rss_bytes(),
            device_bytes=self._device_bytes,
            assets_bytes=self._assets.nbytes,
            session=desk.session,
            recycle_advised=self._recycle_advised,
        )

    def Drain(self, request: pb.DrainRequest, context: grpc.ServicerContext) -> pb.DrainResponse:
        """Begin the end."""
        waiting = self._desk.waiting
        self._drain(request.recycle)
        return pb.DrainResponse(waiting=waiting)

    def _ready(self) -> Backend:
        if self.backend is None:
            raise RendererError("the server is starting: its backend is not there yet")
        return self.backend

    def _ask(self, request: Any, context: grpc.ServicerContext, work: Callable[[], Answer]) -> Answer:
        remaining = _remaining(context)
        digest = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
        deadline = time.monotonic() + remaining
        done = self._desk.submit(request.id.session, request.id.number, digest, work, deadline)
        # Says that the request has its place: only then does the client send the next, for threads overtake each other.
        context.send_initial_metadata(())
        return done.result(remaining)

    def _reset(self, backend: Backend, request: pb.ResetRequest, scenes: list[SceneSpec]) -> Answer:
        ids = np.array(request.env_ids, dtype=np.int64)
        self._own(request.id.session)
        backend.renderer.reset(ids, scenes)
        self._built.update(ids.tolist())
        self._resets += len(ids)
        self._device_bytes, self._recycle_advised = backend.device_bytes(), backend.recycle_advised()
        return Answer((pb.ResetResponse(id=request.id),))

    def _own(self, session: str) -> None:
        """Forget what an older session built, and let go of its memory."""
        if session != self._owner:
            self._owner = session
            self._built.clear()
            self._maps.clear()

    def _layout(self, backend: Backend, request: pb.RenderRequest) -> Layout:
        """What is asked for, within the limits; nothing of it is allocated yet."""
        limits, count = self._limits, len(request.env_ids)
        limits.check("max_cameras", "cameras", count)
        limits.check("max_side", "height", request.height)
        limits.check("max_side", "width", request.width)
        fixed = backend.fixed_size
        if fixed is not None and (request.height, request.width) != fixed:
            raise LimitError(bad_value("size", (request.height, request.width), f"{fixed}, this server's one size"))
        if len(request.world_T_cam) != 16 * count or len(request.intrinsics) != 4 * count:
            seen = f"{len(request.world_T_cam)} and {len(request.intrinsics)} numbers"
            raise SceneError(bad_value("world_T_cam and intrinsics", seen, f"{16 * count} and {4 * count}"))
        layout = make_layout(channels_of(request.channels), count, (request.height, request.width))
        limits.check("max_frame_bytes", "bytes of the frames", layout.total)
        return layout

    def _render(self, backend: Backend, request: pb.RenderRequest, layout: Layout) -> Answer:
        ids = np.array(request.env_ids, dtype=np.int64)
        self._own(request.id.session)
        never = sorted(set(ids.tolist()) - self._built)
        if never:
            raise SceneError(f"environment {never[0]} has no scene: reset it first")
        poses = np.array(request.world_T_cam, dtype=np.float64).reshape(-1, 4, 4)
        intrinsics = np.array(request.intrinsics, dtype=np.float64).reshape(-1, 4)
        channels: tuple[Channel, ...] = layout.channels
        # Found, and its old stamp taken away, before anything is drawn.
        slot = self._maps.pixels(request.slot, layout.total) if request.HasField("slot") else None
        frames = backend.renderer.render(ids, poses, intrinsics, (layout.height, layout.width), channels)
        self._frames += layout.count
        head = pb.RenderResponse(head=_head(request, layout, frames))
        end = pb.RenderResponse(end=pb.FrameEnd(bytes=layout.total))
        if slot is not None:
            write_frames(frames, layout, slot)
            self._maps.stamp(request.slot, request.id.number, layout.total)
            return Answer((head, end))
        # Copied now: a backend may draw the next frames into the same arrays.
        chunks = [
            pb.RenderResponse(chunk=pb.FrameChunk(offset=at, data=data))
            for at, data in cut_frames(frames, layout, CHUNK_BYTES)
        ]
        return Answer((head, *chunks, end), layout.total)


def _head(request: pb.RenderRequest, layout: Layout, frames: Frames) -> pb.FrameHead:
    return pb.FrameHead(
        id=request.id,
        frame_ids=frames.frame_id.tolist(),
        pose_used=frames.pose_used.ravel().tolist(),
        height=layout.height,
        width=layout.width,
        channels=layout.wire(),
        bytes=layout.total,
        in_slot=request.HasField("slot"),
    )


def _remaining(context: grpc.ServicerContext) -> float:
    remaining = context.time_remaining()
    if remaining is None or remaining > _LONGEST:
        raise RendererError(bad_value("deadline", None, f"{_LONGEST:.0f} s at most: a call could wait for ever"))
    return float(remaining)


class _errors:  # noqa: N801 - a context manager that reads as a word
    """Turn what a call raises into a status that names the class of the error."""

    def __init__(self, context: grpc.ServicerContext) -> None:
        self._context = context

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None and not isinstance(error, GeneratorExit):
            _abort(self._context, error)


def _abort(context: grpc.ServicerContext, error: BaseException) -> NoReturn:
    name = type(error).__name__
    if isinstance(error, concurrent.futures.TimeoutError):
        context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the request was not done before its deadline")
    context.set_trailing_metadata(((ERROR_KEY, name),))
    codes = [code for kind, code in _STATUS if isinstance(error, kind)]
    said = str(error) if isinstance(error, ServofleetError) else f"{name}: {error}"
    context.abort(codes[0] if codes else grpc.StatusCode.INTERNAL, said[:_DETAILS])
    raise AssertionError("abort raises")
