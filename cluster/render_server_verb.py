"""`servofleet render-server`: a renderer in a process of its own, for the clients on this machine."""

from __future__ import annotations

import argparse

from actors.render_service import command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the verb its arguments."""
    command.add_arguments(parser)


def render_server(arguments: argparse.Namespace) -> int:
    """Serve until told to end; an exit code of `actors.render_service.exit_codes`."""
    return command.run_or_say_why(arguments)
