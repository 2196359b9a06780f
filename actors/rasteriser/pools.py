"""Meshes and textures on the device, each once however many environments show it.

A pool gives what it holds a slot, a number that stays. Where it grows over its budget, what no environment shows any
more is dropped and its slot given out again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import warp as wp
from numpy.typing import NDArray

from actors.rasteriser.clusters import cluster_faces, normals_side
from actors.rasteriser.layout import CLUSTER, CLUSTER_FLOATS, MESH_INTS, TEXTURE_INTS
from actors.scenes.mesh import Mesh

I32 = NDArray[np.int32]
U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]


class DeviceArray:
    """A flat array that grows, on the host and on the device; on the CPU both are the same memory."""

    def __init__(self, dtype: Any, device: Any, length: int = 1024) -> None:
        """`length` elements of zeros on a Warp device."""
        self._device = device
        self.host: NDArray[Any] = np.zeros(length, dtype)
        self.used = 0
        self.device: Any = None
        self._mirror()

    def append(self, part: NDArray[Any]) -> int:
        """Copy `part` behind what is used; returns where it begins."""
        start, self.used = self.used, self.used + part.size
        self.reserve(self.used)
        self.host[start : self.used] = part.ravel()
        self.upload(start, self.used)
        return start

    def reserve(self, length: int) -> None:
        """Make room for `length` elements, keeping what is there."""
        if length > len(self.host):
            grown = np.zeros(max(length, 2 * len(self.host)), self.host.dtype)
            grown[: len(self.host)] = self.host
            self.host = grown
            self._mirror()

    def upload(self, start: int, stop: int) -> None:
        """Bring host elements [start, stop) to the device."""
        if self._device.is_cuda and stop > start:
            part = wp.array(self.host[start:stop], device="cpu", copy=False)
            wp.copy(self.device, part, dest_offset=start, count=stop - start)

    def _mirror(self) -> None:
        self.device = wp.array(self.host, device=self._device, copy=False)


class _Pool:
    """Slots by key, with a count of who uses each."""

    def __init__(self, row_ints: int, device: Any, budget: int) -> None:
        self.table = DeviceArray(np.int32, device, 64 * row_ints)
        self._row, self._budget = row_ints, budget
        self._slots: dict[Hashable, int] = {}
        self._uses: list[int] = []
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self._slots)

    def slot(self, key: Hashable, make: Callable[[], Any]) -> int:
        """The slot of `key`; what `make` returns is stored if it is not there yet."""
        if key in self._slots:
            return self._slots[key]
        made = make()
        if self.nbytes() > self._budget:
            self._drop_unused()
        slot = self._free.pop() if self._free else len(self._uses)
        if slot == len(self._uses):
            self._uses.append(0)
        self._slots[key] = slot
        self._set_row(slot, self._store(slot, made))
        return slot

    def use(self, slot: int, change: int) -> None:
        """One environment more (+1) or less (-1) shows a slot."""
        self._uses[slot] += change

    def row(self, slot: int) -> I32:
        """The slot's row of the table."""
        return self.table.host[slot * self._row : (slot + 1) * self._row]

    def nbytes(self) -> int:
        """Bytes in use on the device."""
        return sum(a.used * a.host.itemsize for a in self._arrays())

    def _set_row(self, slot: int, row: list[int]) -> None:
        start, stop = slot * self._row, (slot + 1) * self._row
        self.table.reserve(stop)
        self.table.host[start:stop] = row
        self.table.upload(start, stop)

    def _drop_unused(self) -> None:
        """Keep what is shown, moved together; rows of the table follow, slots stay."""
        kept = {key: (slot, self._load(slot)) for key, slot in self._slots.items() if self._uses[slot] > 0}
        self._free += [slot for key, slot in self._slots.items() if key not in kept]
        self._slots = {key: slot for key, (slot, _) in kept.items()}
        for array in self._arrays():
            array.used = 0
        for slot, parts in kept.values():
            self._set_row(slot, self._store_parts(parts))

    def _arrays(self) -> tuple[DeviceArray, ...]:
        raise NotImplementedError

    def _store(self, slot: int, made: Any) -> list[int]:
        raise NotImplementedError

    def _store_parts(self, parts: tuple[NDArray[Any], ...]) -> list[int]:
        raise NotImplementedError

    def _load(self, slot: int) -> tuple[NDArray[Any], ...]:
        raise NotImplementedError


class MeshPool(_Pool):
    """Meshes as `actors.rasteriser.layout.Tables` describes them."""

    def __init__(self, device: Any, budget: int) -> None:
        """An empty pool on a Warp device; `budget` bytes from which on unused meshes are dropped."""
        super().__init__(MESH_INTS, device, budget)
        self.positions = DeviceArray(np.float32, device)
        self.attributes = DeviceArray(np.float32, device)
        self.faces = DeviceArray(np.int32, device)
        self.clusters = DeviceArray(np.float32, device)
        self._bounds: dict[int, NDArray[np.float32]] = {}

    def bounds(self, slot: int) -> NDArray[np.float32]:
        """Lowest and highest corner of the bounding box, f32 (6,) in the object frame."""
        return self._bounds[slot]

    def _arrays(self) -> tuple[DeviceArray, ...]:
        return self.positions, self.attributes, self.faces, self.clusters

    def _store(self, slot: int, made: Mesh) -> list[int]:
        self._bounds[slot] = np.concatenate([made.vertices.min(axis=0), made.vertices.max(axis=0)])
        order, clusters = cluster_faces(made)
        faces = made.faces[order]
        # Vertices in the order of their first use: what a cluster reads lies together.
        used, first = np.unique(faces, return_index=True)
        used = used[np.argsort(first)]
        place = np.zeros(len(made.vertices), np.int32)
        place[used] = np.arange(len(used), dtype=np.int32)
        attributes = np.zeros((len(used), 8), np.float32)
        attributes[:, :3], attributes[:, 4:6] = made.normals[used], made.uvs[used]
        faces = np.concatenate([place[faces], normals_side(made)[order, None]], axis=1)
        return self._store_parts((made.vertices[used].T, attributes, faces, clusters, np.array([made.closed])))

    def _store_parts(self, parts: tuple[NDArray[Any], ...]) -> list[int]:
        positions, attributes, faces, clusters, closed = parts
        first = self.positions.append(np.ascontiguousarray(positions, np.float32)) // 3
        self.attributes.append(np.ascontiguousarray(attributes, np.float32))
        face = self.faces.append(np.ascontiguousarray(faces, np.int32)) // 4
        cluster = self.clusters.append(np.ascontiguousarray(clusters, np.float32)) // CLUSTER_FLOATS
        return [first, len(attributes), face, len(faces), int(closed[0]), cluster]

    def _load(self, slot: int) -> tuple[NDArray[Any], ...]:
        first, count, face, faces, closed, cluster = self.row(slot).tolist()
        stop = cluster + -(-faces // CLUSTER)
        return (
            self.positions.host[3 * first : 3 * (first + count)].reshape(3, count).copy(),
            self.attributes.host[8 * first : 8 * (first + count)].reshape(count, 8).copy(),
            self.faces.host[4 * face : 4 * (face + faces)].reshape(faces, 4).copy(),
            self.clusters.host[CLUSTER_FLOATS * cluster : CLUSTER_FLOATS * stop].copy(),
            np.array([closed]),
        )


class TexturePool(_Pool):
    """Textures with all their levels."""

    def __init__(self, device: Any, budget: int) -> None:
        """An empty pool on a Warp device; `budget` bytes from which on unused textures are dropped."""
        super().__init__(TEXTURE_INTS, device, budget)
        self.texels = DeviceArray(np.uint32, device)

    def _arrays(self) -> tuple[DeviceArray, ...]:
        return (self.texels,)

    def _store(self, slot: int, made: U8) -> list[int]:
        return self._store_parts((texture_levels(made),))

    def _store_parts(self, parts: tuple[NDArray[Any], ...]) -> list[int]:
        levels = parts[0]
        # A texture of side 2^n has (4^(n+1) - 1) / 3 texels in all its levels.
        return [self.texels.append(levels), ((3 * len(levels) + 1).bit_length() - 3) // 2]

    def _load(self, slot: int) -> tuple[NDArray[Any], ...]:
        first, lg = self.row(slot).tolist()
        return (self.texels.host[first : first + (4 ** (lg + 1) - 1) // 3].copy(),)


def texture_levels(texels: U8) -> U32:
    """All levels of a texture one after the other, packed 0x00BBGGRR, u32 (X,).

    Each texel of a level is the mean of four of the level before, rounded.

    Args:
        texels: u8 (S, S, 3), S a power of two.
    """
    level = texels.astype(np.uint16)
    out = [_packed(texels)]
    while len(level) > 1:
        rows = level[0::2] + level[1::2]
        level = (rows[:, 0::2] + rows[:, 1::2] + np.uint16(2)) >> np.uint16(2)
        out.append(_packed(level))
    return np.concatenate(out)


def _packed(texels: NDArray[Any]) -> U32:
    wide = np.zeros((*texels.shape[:2], 4), np.uint8)
    wide[..., :3] = texels
    return wide.reshape(-1, 4).view("<u4").ravel().astype(np.uint32, copy=False)
