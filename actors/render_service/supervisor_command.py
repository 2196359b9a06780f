"""The supervisor of a real render server: its command line, its health over gRPC, and its folders.

`python -m actors.render_service.supervisor_command --listen ADDRESS` keeps a server up on its own, for clients that
connect to the address (`renderer.place=remote`).
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc

from actors.render_service.address import parse_address
from actors.render_service.supervisor import Supervisor
from actors.render_service.supervisor_policy import Health
from common.errors import ConfigError, RendererLostError, RendererQuarantinedError, ServofleetError, bad_value
from common.proto.servofleet.v1 import render_pb2 as pb
from common.proto.servofleet.v1.render_pb2_grpc import RenderServiceStub
from common.renderer_config import RendererConfig


def supervise(config: RendererConfig, name: str, max_envs: int, *, size: int = 0, listen: str = "") -> Supervisor:
    """Start a supervisor of one render server; returns before that is up.

    Args:
        config: of the renderer.
        name: of the folder of its logs: of the collector, unique on this machine.
        max_envs: room for environments 0 .. max_envs-1.
        size: side of all images [px], for a backend that renders one size; 0: its own.
        listen: address that it always listens at, and the supervisor replaces it by itself; "": a new socket per start.
    """
    python = config.python or sys.executable
    chosen = ["--device", config.device] if config.device else []
    chosen += ["--size", f"{size}x{size}"] if size and config.backend == "isaacsim" else []

    def make_argv(sockets: Path) -> tuple[Sequence[str], str]:
        address = listen or f"unix://{sockets / 'render.sock'}"
        options = ["--backend", config.backend, "--listen", address, "--max-envs", str(max_envs), *chosen, *config.args]
        # -P: the folder that it runs in is not searched for modules.
        return [python, "-P", "-m", "actors.render_service", *options], address

    folder = logs_folder(config) / name
    known = known_machine(config.backend, python)
    return Supervisor(config, make_argv, ask_health, folder, known_machine=known, alone=bool(listen))


def ask_health(address: str, timeout_s: float) -> Health:
    """Ask a server how it is, on a connection of its own.

    Raises:
        RendererLostError: if no answer came within `timeout_s`, or the backend is still starting.
    """
    # A pool of its own: a failed attempt must not make later ones wait before they are tried.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(parse_address(address, "address").target(), options=options) as channel:
        try:
            stub = RenderServiceStub(channel)  # type: ignore[no-untyped-call]
            said: pb.HealthResponse = stub.Health(pb.HealthRequest(), timeout=timeout_s)
        except grpc.RpcError as e:
            raise RendererLostError(f"{address}: Health: {e.code().name}: {e.details()}") from e
    if said.state == pb.HealthResponse.STATE_STARTING:
        raise RendererLostError(f"{address}: the backend is starting")
    return Health(said.resets, said.rss_bytes, said.device_bytes, said.busy_s, said.recycle_advised)


def logs_folder(config: RendererConfig) -> Path:
    """Folder that each supervisor has a folder of logs in.

    Raises:
        ConfigError: if the one in the system's temporary folder belongs to somebody else.
    """
    if config.folder:
        return Path(config.folder).expanduser()
    own = Path(tempfile.gettempdir()) / f"servofleet-{os.getuid()}"
    own.mkdir(mode=0o700, exist_ok=True)
    if own.is_symlink() or own.lstat().st_uid != os.getuid():
        raise ConfigError(bad_value("renderer.folder", "", f"a folder of yours: {own} is somebody else's"))
    return own / "render-servers"


def known_machine(backend: str, python: str) -> Path:
    """File that exists where this backend started in this interpreter before; beside it Warp keeps what it compiled."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "servofleet" / f"started-{backend}-{hashlib.sha256(python.encode()).hexdigest()[:12]}"


def main(argv: Sequence[str] | None = None) -> int:
    """Keep a server up until SIGTERM or SIGINT; 0 then, 1 where it is given up on."""
    parser = argparse.ArgumentParser(prog="python -m actors.render_service.supervisor_command", description=__doc__)
    parser.add_argument("--listen", required=True, metavar="ADDRESS", help="unix:///PATH or 127.0.0.1:PORT")
    parser.add_argument("--backend", choices=("warp", "isaacsim"), default="warp")
    parser.add_argument("--max-envs", type=int, default=256)
    parser.add_argument("--logs", default="", help="folder of the logs")
    for field, kind in (("cold_start_s", float), ("warm_start_s", float), ("recycle_resets", int)):
        default = getattr(RendererConfig(), field)
        parser.add_argument(f"--{field.replace('_', '-')}", type=kind, default=default, help=f"as renderer.{field}")
    parser.add_argument("--python", default="", help="interpreter of the server")
    parser.add_argument("--args", nargs=argparse.REMAINDER, default=[], help="further arguments of the server; last")
    given = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = RendererConfig(
        backend=given.backend,
        place="supervised",
        python=given.python,
        folder=given.logs,
        args=given.args,
        cold_start_s=given.cold_start_s,
        warm_start_s=given.warm_start_s,
        recycle_resets=given.recycle_resets,
    )
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.set())
    return _keep(lambda: supervise(config, "alone", given.max_envs, listen=given.listen), asked)


def _keep(start: Callable[[], Supervisor], asked: threading.Event) -> int:
    try:
        with start() as supervisor:
            while not asked.wait(0.5):
                if supervisor.report().state == "quarantined":
                    raise RendererQuarantinedError(supervisor.report().reason)
    except ServofleetError as e:
        print(f"supervisor: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
