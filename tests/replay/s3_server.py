"""A real S3 server in a process of its own, and a network between it and its clients that can fail."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import boto3

BUCKET = "replay-tests"
NAMES_AT_ONCE = 100


class S3Server:
    """`moto_server` on a free port of this machine, until `stop`."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        # Answers of few names: what takes several requests at a thousand names takes them here at a hundred.
        env = os.environ | {"MOTO_S3_DEFAULT_MAX_KEYS": str(NAMES_AT_ONCE)}
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
        self.endpoint = f"http://127.0.0.1:{self.port}"
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{self.endpoint}/moto-api/", timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < deadline and self.process.poll() is None, "no S3 server comes up"
                time.sleep(0.05)
        keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
        self.client = boto3.client("s3", endpoint_url=self.endpoint, **keys)
        self.client.create_bucket(Bucket=BUCKET)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def options(endpoint: str, **more: str) -> dict[str, str]:
    """`storage_options` for a server; short, so that a test of what fails does not wait."""
    keys = {"access_key_id": "key", "secret_access_key": "secret", "region": "us-east-1"}
    return {"endpoint": endpoint, "timeout_s": "5", "retries": "1"} | keys | more


class Network:
    """Passes requests on to a server, until it is cut; answers it is told to lose never arrive."""

    def __init__(self, port: int) -> None:
        self._to, self._lock = port, threading.Lock()
        self._open: set[socket.socket] = set()
        self._left: int | None = None
        self._lose: bytes | None = None
        self.lost = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._serve()

    def _serve(self) -> None:
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut_after(self, puts: int) -> None:
        """The server is gone when so many more uploads have begun; the next one is cut in its middle."""
        self._left = puts

    def lose_answer_to(self, path: bytes) -> None:
        """The server does what the next upload to a path with this in it asks for, but nobody hears of it."""
        self._lose = path

    def restore(self) -> None:
        self._left = None
        with contextlib.suppress(OSError):
            self._listener.close()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._serve()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                return
            with self._lock:
                self._open |= {client, server}
            mute = threading.Event()
            for source, target, up in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pump, args=(source, target, up, mute), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, up: bool, mute: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if up and data.startswith(b"PUT "):
                    with self._lock:
                        if self._lose is not None and self._lose in data.split(b"\r\n", 1)[0]:
                            self._lose = None
                            self.lost += 1
                            mute.set()
                        left = self._left = None if self._left is None else self._left - 1
                    if left is not None and left < 0:
                        target.sendall(data[: len(data) // 2])
                        self.close()
                        break
                if mute.is_set() and not up:
                    break
                target.sendall(data)
        for sock in (source, target):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            with self._lock:
                self._open.discard(sock)
            sock.close()
