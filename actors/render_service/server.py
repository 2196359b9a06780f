"""The process of a render server: gRPC's threads take requests, this thread draws, and a signal ends it in order."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata

import grpc

from actors.render_service import exit_codes
from actors.render_service.address import Address, claim
from actors.render_service.backends import Backend
from actors.render_service.desk import Desk
from actors.render_service.limits import Limits, channel_options
from actors.render_service.service import RenderService
from common.errors import ConfigError, RendererError, ServofleetError
from common.proto.servofleet.v1.render_pb2_grpc import add_RenderServiceServicer_to_server

_SPARE_THREADS = 4  # so that Health and Drain answer while every place at the desk is taken
_GRACE = 10.0  # seconds that answers may take to leave


def serve(
    address: Address,
    limits: Limits,
    start: Callable[[], Backend],
    make_service: Callable[[Desk, Limits, str, Callable[[bool], None]], RenderService] = RenderService,
) -> int:
    """Serve until SIGTERM, SIGINT or Drain; call it in the main thread, which `start` and the renderer run in.

    Prints one line of JSON on stdout once requests are taken: `{"serving": ADDRESS, "backend", "version", "pid"}`.

    Args:
        address: to listen at; port 0 lets the system choose.
        limits: what is accepted.
        start: makes the backend. Health answers while it does.
        make_service: what answers, of the arguments of `RenderService`.

    Returns:
        An exit code of `exit_codes`.

    Raises:
        ConfigError, RendererError: if the address is refused or taken.
    """
    desk = Desk(limits.max_waiting)
    recycle = False

    def drain(and_recycle: bool) -> None:
        nonlocal recycle
        recycle = recycle or and_recycle
        desk.stop()

    service = make_service(desk, limits, _version(), drain)
    server, bound = listen(address, limits, service)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: desk.stop())
    try:
        backend = _start(start)
        if backend is None:
            return exit_codes.BACKEND_UNAVAILABLE
        try:
            # Isaac Sim sets handlers of its own when it starts.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: desk.stop())
            service.start(backend)
            line = {"serving": str(bound), "backend": backend.name, "version": backend.version, "pid": os.getpid()}
            print(json.dumps(line), flush=True)
            error = desk.run(is_fatal, backend.idle)
            server.stop(_GRACE).wait()
            if error is not None:
                traceback.print_exception(error)
                print(f"render server: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                return _code_of(error)
            return exit_codes.RECYCLE if recycle else exit_codes.DRAINED
        finally:
            if backend.closes:
                backend.renderer.close()
    finally:
        server.stop(None)
        if bound.path is not None:
            with contextlib.suppress(FileNotFoundError):
                bound.path.unlink()


def listen(address: Address, limits: Limits, service: RenderService) -> tuple[grpc.Server, Address]:
    """Start gRPC's threads at an address; the server, and the address with the port that the system chose.

    Raises:
        ConfigError, RendererError: if the address is refused or taken.
    """
    claim(address)
    threads = ThreadPoolExecutor(limits.max_waiting + _SPARE_THREADS, thread_name_prefix="render-service")
    server = grpc.server(threads, options=channel_options(limits))
    add_RenderServiceServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    # Nobody else may connect, not even in the moment between the socket's making and a chmod.
    mask = os.umask(0o177)
    try:
        port = server.add_insecure_port(address.target())
    except RuntimeError as e:
        raise RendererError(f"{address}: cannot listen there: {e}") from e
    finally:
        os.umask(mask)
    if address.path is not None:
        address.path.chmod(0o600)
    server.start()
    return server, address if address.path is not None else Address(host=address.host, port=port)


def _start(start: Callable[[], Backend]) -> Backend | None:
    try:
        return start()
    except ConfigError:
        raise
    except Exception as e:
        if _is_out_of_memory(e):
            raise MemoryError(str(e)) from e
        print(f"render server: the backend cannot start: {type(e).__name__}: {e}", file=sys.stderr, flush=True)
        return None


def is_fatal(error: BaseException) -> bool:
    """Whatever is not an answer of ours leaves a renderer whose state nobody knows."""
    return not isinstance(error, ServofleetError)


def _is_out_of_memory(error: BaseException) -> bool:
    """Python's own, and what Warp and CUDA say."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in said or "failed to allocate" in said


def _code_of(error: BaseException) -> int:
    return exit_codes.OUT_OF_MEMORY if _is_out_of_memory(error) else exit_codes.BACKEND_FAILED


def _version() -> str:
    """Of the installed package; Isaac's Python may have the sources alone."""
    try:
        return metadata.version("servofleet")
    except metadata.PackageNotFoundError:
        return "sources"
