"""Memory that a client and a server of one host both see, so that pixels need not be sent.

The client makes an anonymous file (memfd), which has no name anywhere: whoever is killed, the kernel frees it with its
last user. The server opens it as /proc/PID/fd/FD; that it finds the token there proves that both speak of the same
memory on the same host, which no name of a host could.

| bytes | hold |
|---|---|
| 0 .. 31 | the token, drawn by the client |
| 32 .. 63 | the server's answer to it: sha256 of token and session |
| 64 .. 79 | number of the request whose pixels follow, and their bytes: two u64, written after the pixels |
| 4096 .. | pixels, in the order of `layout.Layout` |
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import secrets
import sys
import weakref
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.render_service.layout import Layout
from common.errors import RendererError, bad_value
from common.proto.servofleet.v1 import render_pb2 as pb
from common.protocols import Channel

U8 = NDArray[np.uint8]
HEADER = 4096
SEGMENTS = 4  # that a client has at a time, and that a server keeps mapped
_SPARE = 2  # that no frames in use may occupy: one is rendered into while the other is read
_NAME = "servofleet-frames"
_STAMP = slice(64, 80)


def available() -> bool:
    """Whether this system has such memory."""
    return sys.platform == "linux" and hasattr(os, "memfd_create")


def answer_to(token: bytes, session: str) -> bytes:
    """What a server writes beside a token to show that it maps the client's memory."""
    return hashlib.sha256(token + session.encode()).digest()


class Segment:
    """One piece of memory of the client; `pixels` stay valid for as long as something refers to them."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self._fd = os.memfd_create(_NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self._close = weakref.finalize(self, os.close, self._fd)
        os.ftruncate(self._fd, HEADER + nbytes)
        # A file that could shrink would kill the other end by SIGBUS.
        fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        self._map = mmap.mmap(self._fd, HEADER + nbytes)
        self._token = secrets.token_bytes(32)
        self._map[:32] = self._token

    def message(self) -> pb.SharedMemory:
        """As the server is told of it."""
        return pb.SharedMemory(pid=os.getpid(), fd=self._fd, bytes=HEADER + self.nbytes, token=self._token)

    def answered(self, session: str) -> bool:
        """Whether a server has answered the token."""
        return self._map[32:64] == answer_to(self._token, session)

    def stamp(self) -> tuple[int, int]:
        """Number of the request whose pixels are here, and their bytes."""
        number, nbytes = np.frombuffer(self._map[_STAMP], dtype="<u8").tolist()
        return number, nbytes

    def pixels(self, nbytes: int) -> U8:
        """The first bytes of the pixels, writable, over the memory itself."""
        return np.frombuffer(self._map, dtype=np.uint8, count=nbytes, offset=HEADER)


class SegmentPool:
    """The segments of one client. Frames lie in them without a copy for as long as somebody holds the arrays."""

    def __init__(self) -> None:
        self._free: list[Segment] = []
        self.leased = 0

    def take(self, nbytes: int) -> Segment:
        """A segment with room for as many bytes; it belongs to the caller until it is leased or given back."""
        for i, segment in enumerate(self._free):
            if nbytes <= segment.nbytes <= 4 * nbytes:
                return self._free.pop(i)
        return Segment(nbytes)

    def give_back(self, segment: Segment) -> None:
        """Have a segment used again. One that a server may still write into must be dropped instead."""
        self._free.append(segment)
        del self._free[: max(0, len(self._free) - (SEGMENTS - self.leased))]

    def lease(self, segment: Segment, layout: Layout) -> dict[Channel, NDArray[Any]]:
        """The channels in a segment: its own memory where enough other segments are left, else a copy."""
        memory = segment.pixels(layout.total)
        if self.leased >= SEGMENTS - _SPARE:
            views = layout.views(memory.copy())
            self.give_back(segment)
            return views
        self.leased += 1
        # Every view of the memory refers to this array: it goes when the last of them is gone.
        weakref.finalize(memory, self._end_lease, segment).atexit = False
        return layout.views(memory)

    def _end_lease(self, segment: Segment) -> None:
        self.leased -= 1
        self.give_back(segment)


class MappedSegments:
    """The client's segments as the server sees them; those used last stay mapped."""

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes`: of the pixels of one segment."""
        self._max_bytes = max_bytes
        self._maps: OrderedDict[bytes, mmap.mmap] = OrderedDict()

    def answer(self, message: pb.SharedMemory, session: str) -> None:
        """Write the answer to a token; raises what `pixels` does."""
        self._open(message)[32:64] = answer_to(message.token, session)

    def pixels(self, message: pb.SharedMemory, nbytes: int) -> U8:
        """The memory u8 (nbytes,) that pixels are to be written into; its stamp is taken away.

        Raises:
            RendererError: if the memory is not the client's, or too small.
        """
        memory = self._open(message)
        if len(memory) < HEADER + nbytes:
            raise RendererError(bad_value("slot.bytes", len(memory), f">= {HEADER + nbytes} for these frames"))
        memory[_STAMP] = bytes(16)
        return np.frombuffer(memory, dtype=np.uint8, count=nbytes, offset=HEADER)

    def stamp(self, message: pb.SharedMemory, number: int, nbytes: int) -> None:
        """Say that the pixels of a request are written."""
        self._open(message)[_STAMP] = np.array([number, nbytes], dtype="<u8").tobytes()

    def clear(self) -> None:
        """Let go of all memory."""
        self._maps.clear()

    def _open(self, message: pb.SharedMemory) -> mmap.mmap:
        token = bytes(message.token)
        known = self._maps.get(token)
        if known is None:
            known = self._maps[token] = _map(message, HEADER + self._max_bytes)
            while len(self._maps) > SEGMENTS:
                self._maps.popitem(last=False)
        self._maps.move_to_end(token)
        return known


def _map(message: pb.SharedMemory, max_bytes: int) -> mmap.mmap:
    if not available():
        raise RendererError("shared memory: this system has none")
    if not HEADER <= message.bytes <= max_bytes or len(message.token) != 32:
        seen = f"{message.bytes} bytes, a token of {len(message.token)}"
        raise RendererError(bad_value("shared memory", seen, f"{HEADER} .. {max_bytes} bytes, a token of 32"))
    path = f"/proc/{message.pid}/fd/{message.fd}"
    try:
        # Nothing but such a file is opened, whatever number a client names.
        if not os.readlink(path).startswith(f"/memfd:{_NAME}"):
            raise RendererError(f"shared memory: {path} is something else")
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as e:
        raise RendererError(f"shared memory: {path} cannot be opened: {e.strerror}") from e
    try:
        sealed = fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
        if not sealed or os.fstat(fd).st_size != message.bytes:
            raise RendererError(f"shared memory: {path} is not of {message.bytes} bytes for good")
        memory = mmap.mmap(fd, message.bytes)
    finally:
        os.close(fd)
    if memory[:32] != bytes(message.token):
        raise RendererError(f"shared memory: {path} holds another token: the client is on another host")
    return memory
