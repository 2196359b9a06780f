"""A supervisor of stand-in servers, and what a test asks of both."""

import contextlib
import json
import os
import socket
import sys
import time
from pathlib import Path

from actors.render_service.supervisor import Supervisor
from actors.render_service.supervisor_policy import Health
from common.config import RendererConfig
from common.errors import RendererLostError

STAND_IN = Path(__file__).with_name("stand_in_server.py")
QUICK = {"backoff_s": [0.0], "heartbeat_s": 0.05, "heartbeat_timeout_s": 0.3, "heartbeat_misses": 2, "grace_s": 5.0}


def ask(address, timeout_s=2.0):
    """What a stand-in server says of itself."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(address)
            return json.loads(b"".join(iter(lambda: connection.recv(65536), b"")))
        except (OSError, ValueError) as e:
            raise RendererLostError(f"no answer: {e}") from e


def probe(address, timeout_s):
    said = ask(address, timeout_s)
    return Health(said["resets"], said["rss_bytes"], busy_s=said["busy_s"])


@contextlib.contextmanager
def supervised(folder, *starts, known_machine=None, alone=False, **settings):
    """A supervisor whose n-th server has the n-th of `starts` as its arguments; the last of them stays."""
    made = []

    def make_argv(sockets):
        arguments = starts[min(len(made), len(starts) - 1)]
        made.append(arguments)
        path = str(sockets / "s")
        return [sys.executable, "-I", "-S", str(STAND_IN), path, *arguments.split()], path

    config = RendererConfig(**(QUICK | settings))
    supervisor = Supervisor(config, make_argv, probe, folder, known_machine=known_machine, alone=alone)
    with supervisor:
        yield supervisor


def alive(pid):
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def eventually(happens, seconds=10.0):
    """Wait until `happens()`; fails where it does not."""
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def kill(pid, number):
    os.kill(pid, number)
