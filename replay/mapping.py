"""Files mapped into memory, and rows copied out of many of them by one call.

Python's own mmap keeps a file descriptor open for every map; a store has far more segments than a process may have
descriptors, so the C library is asked directly.
"""

from __future__ import annotations

import ctypes
import mmap
import resource
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

# numpy refuses to describe more bytes than this, also where it would never touch them.
_MAX_WINDOW = 2**62
_FAILED = ctypes.c_void_p(-1).value
_MADV_WILLNEED = 3

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class _Map:
    """Owner of a map: numpy arrays made of it keep it alive, and it goes with the last of them."""

    def __init__(self, fd: int, size: int) -> None:
        self._address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
        if self._address == _FAILED:
            self._address = None
            code = ctypes.get_errno()
            raise OSError(code, f"{size} bytes cannot be mapped (errno {code})")
        self._size = size
        self.__array_interface__ = {"data": (self._address, True), "shape": (size,), "typestr": "|u1", "version": 3}

    def __del__(self, munmap: Callable[[int, int], int] = _libc.munmap) -> None:
        if self._address is not None:
            munmap(self._address, self._size)


def map_file(fd: int, size: int) -> NDArray[np.uint8]:
    """The first `size` bytes of an open file, read-only; the file may be closed, and even deleted, afterwards.

    The file must be at least that long: touching a map beyond the end of its file kills the process.

    Raises:
        OSError: if the system refuses.
    """
    return np.asarray(_Map(fd, size))


def address_of(array: NDArray[Any]) -> int:
    """Where the first byte of an array lies."""
    address: int = array.__array_interface__["data"][0]
    return address


class Rows:
    """Rows of equal length that lie anywhere in memory, copied out without any Python per row."""

    def __init__(self, addresses: NDArray[np.int64], row_bytes: int) -> None:
        """Rows at `addresses` (n,), n at least 1, of `row_bytes`, at least 1. The caller holds what they point into."""
        self.addresses, self.row_bytes = addresses, row_bytes
        low = int(addresses.min())
        self._offsets = addresses - low
        # All memory from the lowest row on, as rows that begin at every byte: numpy's indexing touches only those it
        # is asked for.
        windows = int(self._offsets.max()) + 1
        fits = windows * row_bytes < _MAX_WINDOW
        self._memory: NDArray[Any] | None = np.asarray(_Window(low, windows, row_bytes)) if fits else None

    def copy(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Rows start .. stop: u8 (stop - start, row_bytes)."""
        if self._memory is not None:
            rows = self._memory[self._offsets[start:stop]]
            return rows.view(np.uint8).reshape(len(rows), self.row_bytes)
        out = np.empty((stop - start, self.row_bytes), np.uint8)
        for row, address in zip(out, self.addresses[start:stop].tolist(), strict=True):
            ctypes.memmove(address_of(row), address, self.row_bytes)
        return out


class _Window:
    """Memory as numpy sees it: pieces of so many bytes, one from every byte on."""

    def __init__(self, address: int, windows: int, row_bytes: int) -> None:
        about = {"data": (address, True), "shape": (windows,), "strides": (1,), "typestr": f"|V{row_bytes}"}
        self.__array_interface__ = {**about, "version": 3}


class Readahead:
    """Asks the disk for all rows of a batch at once where they are not in RAM.

    Rows that are touched one after the other are read from the disk one after the other. Asking ahead costs a system
    call per row, so it is done only while the disk is read at all: the reads before this one tell.
    """

    def __init__(self) -> None:
        self.cold = False

    def copy(self, rows: Rows, start: int, stop: int) -> NDArray[np.uint8]:
        """`Rows.copy` of rows in mapped files."""
        before = _blocks_read()
        if self.cold:
            for address in np.unique(rows.addresses[start:stop] // mmap.PAGESIZE * mmap.PAGESIZE).tolist():
                # Advice: where it is refused, the rows are read one by one all the same.
                _libc.madvise(address, rows.row_bytes + mmap.PAGESIZE, _MADV_WILLNEED)
        out = rows.copy(start, stop)
        self.cold = _blocks_read() > before
        return out


def _blocks_read() -> int:
    """Blocks that this thread had the disk read, by faults and by advice."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_inblock
