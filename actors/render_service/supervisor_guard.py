"""Starts one render server, keeps its log, and ends with it: nothing of a server outlives its supervisor.

A process of its own between supervisor and server, with the standard library alone, run by its path. The supervisor
holds the other end of a socket: when that closes, however the supervisor ended, the server's process group is killed,
hung or not. It adopts what leaves the group, and the kernel kills the server if this process is killed.

Words on the socket: `pid N` and `exit N` (negative: a signal) to the supervisor, `t` from it: ask the server to end.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_CANNOT_START = 64  # `exit_codes.BAD_ARGUMENTS`; this file imports nothing of ours
_KILLED_WITHIN_S = 10.0


class Log:
    """A file of at most `max_bytes`: when half of that is written, it becomes FILE.1, and the FILE.1 before is gone."""

    def __init__(self, path: str, max_bytes: int) -> None:
        self._path, self._half, self._lost = path, max(max_bytes // 2, 1), 0
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._size = 0

    def write(self, data: bytes) -> None:
        """Append; what a full disk refuses is counted, and the count is written once there is room."""
        for at in range(0, len(data), self._half):
            self._append(data[at : at + self._half])

    def _append(self, data: bytes) -> None:
        if self._size and self._size + len(data) > self._half:
            os.replace(self._path, f"{self._path}.1")
            os.close(self._file)
            self._file, self._size = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 0
        note = f"[{self._lost} bytes were lost: the disk was full]\n".encode() if self._lost else b""
        try:
            self._size += os.write(self._file, note + data)
            self._lost = 0
        except OSError:
            self._lost += len(data)


def main(arguments: list[str]) -> None:
    """Run ``CHANNEL_FD LOG MAX_BYTES FOLDER COMMAND...``; FOLDER, of the server's socket, is removed at the end."""
    channel = socket.socket(fileno=int(arguments[0]))
    log, folder, command = Log(arguments[1], int(arguments[2])), Path(arguments[3]), arguments[4:]
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    output, write_end = os.pipe()
    try:
        # One thread forks here and lives as long as this process, so the death signal means this process's death.
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=write_end,
            stderr=write_end,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
    except OSError as error:
        log.write(f"{command[0]}: cannot be run: {error.strerror}\n".encode())
        _remove(folder)
        _say(channel, f"exit {_CANNOT_START}")
        return
    os.close(write_end)
    _say(channel, f"pid {server.pid}")
    _wait(server.pid, channel, output, woken, log)
    code = _end(server.pid, log)
    _drain(output, log)
    _remove(folder)
    _say(channel, f"exit {code}")


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _wait(pid: int, channel: socket.socket, output: int, woken: int, log: Log) -> None:
    """Until the server ended, the supervisor is gone, or this process is asked to end."""
    watched: list[Any] = [channel, output, woken]
    while True:
        ready, _, _ = select.select(watched, [], [])
        if output in ready:
            data = os.read(output, 65536)
            if data:
                log.write(data)
            else:
                watched.remove(output)
        if channel in ready:
            if not _hear(channel):
                return
            os.killpg(pid, signal.SIGTERM)
        if woken in ready and signal.SIGTERM in os.read(woken, 4096):
            return
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return


def _end(pid: int, log: Log) -> int:
    """Kill the group before its leader is reaped, while the number is still its own; then whatever was adopted."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    code, deadline = -signal.SIGKILL, time.monotonic() + _KILLED_WITHIN_S
    while time.monotonic() < deadline:
        try:
            ended, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if ended == pid:
            code = os.waitstatus_to_exitcode(status)
        if ended == 0:
            for child in _children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            time.sleep(0.005)
    log.write(f"processes {_children()} do not end though they were killed\n".encode())
    return code


def _children() -> list[int]:
    return [int(word) for word in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def _drain(output: int, log: Log) -> None:
    os.set_blocking(output, False)
    with contextlib.suppress(BlockingIOError):
        while data := os.read(output, 65536):
            log.write(data)


def _remove(folder: Path) -> None:
    with contextlib.suppress(OSError):  # already gone
        for path in folder.glob("*"):
            path.unlink()
        folder.rmdir()


def _hear(channel: socket.socket) -> bytes:
    try:
        return channel.recv(1)
    except ConnectionError:
        return b""


def _say(channel: socket.socket, line: str) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more
        channel.sendall(f"{line}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1:])
