"""`python -m actors.render_service`: the render server where the rest of servofleet is not installed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from actors.render_service import exit_codes
from actors.render_service.command import add_arguments, run_or_say_why

_EXAMPLES = """examples:
  python -m actors.render_service --backend warp --listen unix:///run/user/1000/servofleet/render.sock
  python -m actors.render_service --backend isaacsim --size 512x512 --listen 127.0.0.1:50551

exit codes: 0 drained, 64 bad arguments, 69 the backend cannot start, 70 the backend failed, 71 out of memory,
75 asked to recycle
"""


class _Parser(argparse.ArgumentParser):
    """Ends with our code for bad arguments, where argparse ends with 2."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(exit_codes.BAD_ARGUMENTS, f"{self.prog}: error: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Serve; errors a user can act on become one line on stderr."""
    parser = _Parser(
        prog="python -m actors.render_service",
        description="Render for clients on this machine.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    return run_or_say_why(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
