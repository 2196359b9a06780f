"""One render server process as its supervisor sees it: started clean, ended as a group, its log kept."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.errors import RendererLostError

# What a server needs of the environment: where things are, which GPU, and that Isaac Sim's licence was accepted. What
# else a collector has, Ray's and Python's above all, would change how the server starts.
PASSED = re.compile(
    r"PATH|HOME|USER|LANG|LC_\w+|TZ|TERM|TMPDIR|LD_LIBRARY_PATH|XDG_\w+|CUDA_\w+|NVIDIA_\w+|VK_\w+|WARP_CACHE_PATH|"
    r"__GL_\w+|OPTIX_CACHE_PATH|(OMNI_KIT_)?ACCEPT_EULA|PRIVACY_CONSENT|OMNI_KIT_ALLOW_ROOT|OMNI_KIT_DISABLE_CUP"
)
_THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
_GUARD = Path(__file__).with_name("supervisor_guard.py")
_ROOT = Path(__file__).resolve().parents[2]
_KILLED_WITHIN_S = 15.0
_POLL_S = 0.01


def clean_environment(pass_env: Sequence[str], python: str) -> dict[str, str]:
    """The variables that a server starts with.

    Args:
        pass_env: names besides the usual ones.
        python: the server's interpreter, or "" for this one; with this one it runs the code that runs here.
    """
    kept = {k: v for k, v in os.environ.items() if PASSED.fullmatch(k) or k in pass_env}
    # One thread per library: two threads on busy cores slow every process down.
    return kept | _THREADS | {"PYTHONUNBUFFERED": "1"} | ({} if python else {"PYTHONPATH": str(_ROOT)})


def log_path(folder: Path, keep: int) -> Path:
    """File of the next start's log, server-0001.log and on; deletes the oldest so that `keep` are left with it."""
    folder.mkdir(parents=True, exist_ok=True)
    logs = sorted(folder.glob("server-*.log"), key=_number)
    for old in logs[: max(len(logs) - keep + 1, 0)]:
        old.unlink()
        old.with_name(f"{old.name}.1").unlink(missing_ok=True)
    return folder / f"server-{_number(logs[-1]) + 1 if logs else 1:04d}.log"


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("server-"))


def last_line(log: Path) -> str:
    """What a log ends with, in one line of at most 300 characters; "" where it says nothing."""
    try:
        with open(log, "rb") as f:
            f.seek(max(f.seek(0, os.SEEK_END) - 4096, 0))
            lines = f.read().decode(errors="replace").split("\n")
    except FileNotFoundError:
        return ""
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")


def socket_folder() -> Path:
    """A folder for one start's socket: short, as socket paths must be, and open to nobody else."""
    return Path(tempfile.mkdtemp(prefix="servofleet-"))


class ServerProcess:
    """A server under its guard (`supervisor_guard`). Not thread-safe."""

    def __init__(
        self, argv: Sequence[str], environment: Mapping[str, str], log: Path, log_bytes: int, folder: Path
    ) -> None:
        """Start it; returns before it answers.

        Args:
            argv: interpreter and arguments.
            environment: all variables that it sees.
            log: file of its standard output and error.
            log_bytes: of log and its older half.
            folder: of its socket; removed with the server.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            guard = [sys.executable, "-I", "-S", str(_GUARD), str(theirs.fileno()), str(log), str(log_bytes)]
            self._guard = subprocess.Popen(
                [*guard, str(folder), *argv],
                env=dict(environment),
                cwd=log.parent,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=(theirs.fileno(),),
            )
        self._channel, self._heard, self._folder = ours, b"", folder
        self._channel.setblocking(False)
        self.pid: int | None = None
        self._code: int | None = None

    def poll(self) -> int | None:
        """Exit code of the server, negative for a signal; None while it runs.

        Raises:
            RendererLostError: if its guard was killed; then the server is killed as well.
        """
        if self._code is None:
            gone = self._guard.poll() is not None  # asked before listening, so that its last words are heard
            self._listen()
            if self._code is None and gone:
                self._kill_group()
                self._code = -signal.SIGKILL
                self._channel.close()
                raise RendererLostError("the render server's guard was killed, and the server with it")
        return self._code

    def end(self, grace_s: float) -> int:
        """Ask the server to end, wait, kill its group; nothing of it is left afterwards. Returns its exit code.

        Raises:
            RendererLostError: if processes of it do not even end when killed, as those that wait for a GPU may.
        """
        with contextlib.suppress(OSError):
            if grace_s > 0.0 and self._code is None:
                self._channel.send(b"t")
        if not self._ended_within(grace_s):
            with contextlib.suppress(OSError):
                self._channel.shutdown(socket.SHUT_WR)  # the guard kills, and still tells how it went
            if not self._ended_within(_KILLED_WITHIN_S):
                self._kill_group()
                self._channel.close()
                raise RendererLostError(f"render server {self.pid} does not end though it was killed")
        self._channel.close()
        self._guard.wait(_KILLED_WITHIN_S)
        assert self._code is not None
        return self._code

    def _ended_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while True:
            try:
                if self.poll() is not None:
                    return True
            except RendererLostError:
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_S)

    def _listen(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while data := self._channel.recv(4096):
                self._heard += data
        *lines, self._heard = self._heard.split(b"\n")
        for line in lines:
            word, _, number = line.decode().partition(" ")
            if word == "pid":
                self.pid = int(number)
            else:
                self._code = int(number)

    def _kill_group(self) -> None:
        for pid in (self.pid, self._guard.pid):
            if pid is not None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
        self._guard.wait(_KILLED_WITHIN_S)
        shutil.rmtree(self._folder, ignore_errors=True)  # the guard's task otherwise; it holds no more than a socket
