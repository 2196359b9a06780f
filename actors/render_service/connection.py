"""One client's connection to a render server: its session, its calls, and what their failures are called here."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import grpc

from actors.render_service.address import Address
from actors.render_service.limits import PROTOCOL, LimitError, Limits, channel_options
from actors.render_service.shared_frames import Segment, available
from common.errors import (
    AssetError,
    LateFrameError,
    RendererError,
    RendererLostError,
    SceneError,
    bad_value,
)
from common.proto.servofleet.v1 import render_pb2 as pb
from common.proto.servofleet.v1.render_pb2_grpc import RenderServiceStub

T = TypeVar("T")
ERROR_KEY = "servofleet-error"
# A server that ran out of memory ends because of it.
_NAMED: dict[str, type[Exception]] = {"MemoryError": RendererLostError} | {
    kind.__name__: kind
    for kind in (SceneError, AssetError, RendererError, RendererLostError, LateFrameError, LimitError)
}
_ATTEMPTS = 2  # an answer lost on the way is asked for once more, under the same number


class Connection:
    """A session of a server; its calls raise our errors. Not thread-safe, like the renderer that it carries."""

    def __init__(self, address: Address, *, client: str, shared_memory: bool, connect_s: float) -> None:
        """Connect, waiting for a server that is still starting.

        Args:
            address: of the server.
            client: what the server's log calls this one.
            shared_memory: ask for pixels by shared memory; `hello.shared_memory` says what the proof showed.
            connect_s: how long to wait.

        Raises:
            RendererLostError: if no server answers within `connect_s`.
            RendererError: if it speaks another protocol.
        """
        self.address = address
        self.session = secrets.token_hex(16)
        self._number = 0
        self._channel = grpc.insecure_channel(address.target(), options=_client_options())
        self.stub = RenderServiceStub(self._channel)  # type: ignore[no-untyped-call]
        proof = Segment(0) if shared_memory and available() else None
        request = pb.HelloRequest(
            protocol=PROTOCOL, session=self.session, client=client, proof=None if proof is None else proof.message()
        )
        try:
            self.hello: pb.HelloResponse = self._open(request, connect_s)
            if self.hello.protocol != PROTOCOL:
                raise RendererError(bad_value("the server's protocol", self.hello.protocol, str(PROTOCOL)))
            self.limits = Limits.of(self.hello.limits)
        except BaseException:
            self.close()
            raise
        # The server's word is not enough: its answer must stand in our own memory.
        self.shares_memory = self.hello.shared_memory and proof is not None and proof.answered(self.session)

    def next_id(self) -> pb.RequestId:
        """The id of a new request."""
        self._number += 1
        return pb.RequestId(session=self.session, number=self._number)

    def call(self, what: str, ask: Callable[[float], T], timeout_s: float) -> T:
        """Call `ask(seconds left)`, and once more if the connection broke: the request's id makes that harmless.

        Raises:
            RendererError: or what the server raised, one of the classes this module imports.
        """
        until = time.monotonic() + timeout_s
        for attempt in range(_ATTEMPTS):
            try:
                return ask(max(until - time.monotonic(), 1e-3))
            except grpc.RpcError as e:
                again = attempt + 1 < _ATTEMPTS and time.monotonic() < until
                if e.code() != grpc.StatusCode.UNAVAILABLE or not again:
                    raise named(e, f"{self.address}: {what}", timeout_s) from e
        raise AssertionError("the last attempt returns or raises")

    def close(self) -> None:
        """Break the connection; calls that are under way fail."""
        self._channel.close()

    def _open(self, request: pb.HelloRequest, connect_s: float) -> pb.HelloResponse:
        until = time.monotonic() + connect_s
        while True:
            left = until - time.monotonic()
            try:
                return self.stub.Hello(request, timeout=max(left, 1e-3), wait_for_ready=True)
            except grpc.RpcError as e:
                starting = e.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.FAILED_PRECONDITION)
                if e.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise RendererLostError(f"{self.address}: no render server answered in {connect_s:g} s") from e
                if not starting or "starting" not in (e.details() or "") or left < 0.2:
                    raise named(e, f"{self.address}: Hello", connect_s) from e
                time.sleep(0.1)


def named(error: grpc.RpcError, what: str, timeout_s: float) -> Exception:
    """The error of ours that a failed call is."""
    code, details = error.code(), error.details() or ""
    said: Iterator[str] = (value for key, value in error.trailing_metadata() or () if key == ERROR_KEY)
    kind = _NAMED.get(next(said, ""))
    if kind is not None:
        return kind(details if kind in (SceneError, AssetError) else f"{what}: {details}")
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return LateFrameError(f"{what}: no answer in {timeout_s:g} s")
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return RendererLostError(f"{what}: the server is gone: {details}")
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return LimitError(f"{what}: {details}")
    return RendererError(f"{what}: {code.name}: {details}")


def _client_options() -> list[tuple[str, int]]:
    # A server that comes back is found within a second, not after minutes of doubling waits.
    return [*channel_options(None), ("grpc.max_reconnect_backoff_ms", 1000), ("grpc.initial_reconnect_backoff_ms", 100)]
