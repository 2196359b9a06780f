"""The render server's command line, the same for `python -m actors.render_service` and `servofleet render-server`."""

from __future__ import annotations

import argparse
import os
import sys

from actors.render_service import exit_codes
from actors.render_service.backends import BACKENDS, open_backend
from common.errors import ConfigError, ServofleetError, bad_value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The server's arguments, the same for `servofleet render-server`."""
    parser.add_argument("--backend", choices=BACKENDS, default="warp", help="what draws (default warp)")
    parser.add_argument(
        "--listen", required=True, metavar="ADDRESS", help="unix:///PATH in a folder of yours alone, or 127.0.0.1:PORT"
    )
    parser.add_argument("--max-envs", type=int, default=256, help="environments held at once (default 256)")
    parser.add_argument("--device", default="", help="cpu or cuda:0 (default: cpu for warp, cuda:0 for isaacsim)")
    parser.add_argument("--size", metavar="HxW", default="", help="isaacsim: the one size it renders (default 512x512)")
    parser.add_argument("--tiles", type=int, default=1, help="isaacsim: frames drawn at a time under one light (1)")
    parser.add_argument("--max-frame-bytes", type=int, default=1 << 30, help="of one batch (default 1 GiB)")
    parser.add_argument("--max-assets-bytes", type=int, default=1 << 30, help="meshes and pictures kept (1 GiB)")


def run(arguments: argparse.Namespace) -> int:
    """Serve; the exit code.

    Raises:
        ConfigError, RendererError: if an argument or the address is refused.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # of clients that come and go it tells enough by itself
    from actors.render_service.address import parse_address
    from actors.render_service.limits import Limits
    from actors.render_service.server import serve

    address = parse_address(arguments.listen, "--listen")
    size = _size(arguments.size)
    if arguments.backend == "warp" and size is not None:
        raise ConfigError(bad_value("--size", arguments.size, "nothing with --backend warp, which renders any size"))
    limits = Limits(
        max_envs=arguments.max_envs,
        max_frame_bytes=arguments.max_frame_bytes,
        max_assets_bytes=arguments.max_assets_bytes,
    )
    device = arguments.device or ("cpu" if arguments.backend == "warp" else "cuda:0")
    if arguments.backend == "isaacsim":
        size = size or (512, 512)
        sys.argv = sys.argv[:1]  # Isaac Sim hands what it does not know to Kit
    code = serve(
        address, limits, lambda: open_backend(arguments.backend, limits.max_envs, device, size, arguments.tiles)
    )
    if arguments.backend == "isaacsim":
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # at a normal end Isaac Sim sets the exit code to 0
    return code


def _size(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    height, x, width = text.partition("x")
    if not x or not height.isdecimal() or not width.isdecimal() or not int(height) or not int(width):
        raise ConfigError(bad_value("--size", text, "HEIGHTxWIDTH in pixels, such as 512x512"))
    return int(height), int(width)


def run_or_say_why(arguments: argparse.Namespace) -> int:
    """Serve; refusals become one line on stderr and an exit code of `exit_codes`."""
    try:
        return run(arguments)
    except ServofleetError as e:
        print(f"render server: {e}", file=sys.stderr)
        return exit_codes.BAD_ARGUMENTS
    except MemoryError as e:
        print(f"render server: out of memory: {e}", file=sys.stderr)
        return exit_codes.OUT_OF_MEMORY
