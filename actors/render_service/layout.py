"""How the channels of a batch of frames lie in one piece of memory, the same for shared memory and for chunks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import SceneError, bad_value
from common.proto.servofleet.v1 import render_pb2 as pb
from common.protocols import Channel, Frames

_WIRE: dict[Channel, pb.Channel] = {
    "instance_id": pb.CHANNEL_INSTANCE_ID,
    "depth": pb.CHANNEL_DEPTH,
    "rgb": pb.CHANNEL_RGB,
}  # the order in memory: what has four bytes to a pixel comes first, so that everything is aligned
_DTYPES: dict[Channel, np.dtype[Any]] = {
    "instance_id": np.dtype("<i4"),
    "depth": np.dtype("<f4"),
    "rgb": np.dtype("u1"),
}
CHANNELS: tuple[Channel, ...] = tuple(_WIRE)


@dataclasses.dataclass(frozen=True)
class Layout:
    """The channels of `count` frames of `height` x `width` pixels, one after the other in the order of `CHANNELS`."""

    channels: tuple[Channel, ...]
    count: int
    height: int
    width: int

    def shape(self, channel: Channel) -> tuple[int, ...]:
        """(N, H, W), and 3 of rgb."""
        return (self.count, self.height, self.width, *((3,) if channel == "rgb" else ()))

    def nbytes(self, channel: Channel) -> int:
        """Of one channel."""
        pixels = self.count * self.height * self.width
        return pixels * (3 if channel == "rgb" else _DTYPES[channel].itemsize)

    @property
    def total(self) -> int:
        """Bytes of all channels."""
        return sum(self.nbytes(c) for c in self.channels)

    def views(self, memory: NDArray[np.uint8]) -> dict[Channel, NDArray[Any]]:
        """The channels in a memory u8 (total,), each with its dtype and shape; nothing is copied."""
        out: dict[Channel, NDArray[Any]] = {}
        at = 0
        for channel in self.channels:
            size = self.nbytes(channel)
            out[channel] = memory[at : at + size].view(_DTYPES[channel]).reshape(self.shape(channel))
            at += size
        return out

    def wire(self) -> list[pb.Channel]:
        """The channels as the wire numbers them."""
        return [_WIRE[c] for c in self.channels]


def make_layout(channels: Sequence[str], count: int, size: tuple[int, int]) -> Layout:
    """The layout of these channels, whatever their order.

    Raises:
        SceneError: if there is none, or one is unknown.
    """
    unknown = [c for c in channels if c not in _WIRE]
    if unknown or not channels:
        raise SceneError(bad_value("channels", list(channels), f"one or more of {tuple(sorted(_WIRE))}"))
    return Layout(tuple(c for c in CHANNELS if c in channels), count, int(size[0]), int(size[1]))


def channels_of(numbers: Sequence[int]) -> list[str]:
    """Names of the wire's channels; an unknown number keeps its number as its name."""
    names: dict[int, str] = {int(number): name for name, number in _WIRE.items()}
    return [names.get(number, f"channel {number}") for number in numbers]


def checked(frames: Frames, layout: Layout) -> dict[Channel, NDArray[Any]]:
    """The channels of `frames` that a layout asks for, in its order.

    Raises:
        TypeError: naming the channel that is missing or has another dtype or shape: a bug of the backend, which must
            not become pixels.
    """
    arrays: dict[Channel, NDArray[Any]] = {}
    for channel in layout.channels:
        array, shape, dtype = getattr(frames, channel), layout.shape(channel), _DTYPES[channel]
        if array is None or array.dtype != dtype or array.shape != shape:
            seen = None if array is None else f"{array.dtype} {array.shape}"
            raise TypeError(bad_value(f"the backend's {channel}", seen, f"{dtype} {shape}"))
        arrays[channel] = array
    return arrays


def write_frames(frames: Frames, layout: Layout, memory: NDArray[np.uint8]) -> None:
    """Copy the channels of `frames` into a memory u8 (total,).

    Raises:
        TypeError: as `checked`.
    """
    views = layout.views(memory)
    for channel, array in checked(frames, layout).items():
        np.copyto(views[channel], array)


def cut_frames(frames: Frames, layout: Layout, size: int) -> Iterator[tuple[int, bytes]]:
    """The same bytes in pieces of at most `size`, each with its offset.

    Raises:
        TypeError: as `checked`.
    """
    start = 0
    for channel, array in checked(frames, layout).items():
        data = np.ascontiguousarray(array).data.cast("B") if array.size else memoryview(b"")
        for at in range(0, len(data), size):
            yield start + at, bytes(data[at : at + size])
        start += layout.nbytes(channel)
