"""Meshes and pictures as they are sent, and the memory that a server keeps them in."""

from __future__ import annotations

import hashlib
import math
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from actors.render_service.limits import Limits
from actors.scenes.checks import check_asset
from actors.scenes.mesh import Mesh
from common.errors import AssetError, bad_value
from common.proto.servofleet.v1 import render_pb2 as pb

_DTYPES = ("|u1", "<i4", "<i8", "<f4", "<f8")


def encode_asset(name: str, asset: object) -> bytes:
    """A mesh, or texels u8 (S, S, 3), as they are sent.

    Raises:
        AssetError: naming it, if it is neither or has arrays of other dtypes.
    """
    if isinstance(asset, Mesh):
        fields = ("vertices", "faces", "normals", "uvs")
        arrays = {f: _array(f"asset {name}: {f}", getattr(asset, f)) for f in fields}
        return pb.Asset(mesh=pb.Mesh(**arrays, closed=asset.closed)).SerializeToString(deterministic=True)
    return pb.Asset(texels=_array(f"asset {name}", asset)).SerializeToString(deterministic=True)


def decode_asset(name: str, data: bytes) -> Mesh | NDArray[Any]:
    """Inverse of `encode_asset`; the arrays are not writable.

    Raises:
        AssetError: naming it, if it is not what was sent.
        SceneError: naming it, if it cannot be drawn.
    """
    message = pb.Asset()
    try:
        message.ParseFromString(data)
    except DecodeError as e:
        raise AssetError(f"asset {name} cannot be read: {e}") from e
    asset: Mesh | NDArray[Any]
    if message.WhichOneof("kind") == "mesh":
        arrays = {f: _decoded(name, getattr(message.mesh, f)) for f in ("vertices", "faces", "normals", "uvs")}
        asset = Mesh(**arrays, closed=message.mesh.closed)
    else:
        asset = _decoded(name, message.texels)
    check_asset(name, asset)
    return asset


def _array(name: str, value: object) -> pb.Array:
    array = np.ascontiguousarray(value)
    dtype = array.dtype.newbyteorder("<")
    if dtype.str not in _DTYPES:
        raise AssetError(bad_value(f"dtype of {name}", array.dtype.str, f"one of {_DTYPES}"))
    return pb.Array(dtype=dtype.str, shape=array.shape, data=array.astype(dtype, copy=False).tobytes())


def _decoded(name: str, message: pb.Array) -> NDArray[Any]:
    shape = tuple(message.shape)
    if message.dtype not in _DTYPES:
        raise AssetError(bad_value(f"dtype of asset {name}", message.dtype, f"one of {_DTYPES}"))
    dtype = np.dtype(message.dtype)
    if math.prod(shape) * dtype.itemsize != len(message.data):
        raise AssetError(bad_value(f"asset {name}", f"{len(message.data)} bytes", f"{dtype} {shape}"))
    return np.frombuffer(message.data, dtype=dtype).reshape(shape)


class AssetStore(Mapping[str, Any]):
    """Name -> asset, at most so many bytes; those not offered for longest go first. Safe between threads."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._assets: OrderedDict[str, tuple[bytes, Any, int]] = OrderedDict()
        self.nbytes = 0

    def missing(self, refs: Iterable[pb.AssetRef]) -> list[str]:
        """Which of the offered assets are not here; the others are now those used last.

        Raises:
            LimitError: if one of them, or all together, are larger than may be kept.
            AssetError: if one is here with other content.
        """
        refs = list(refs)
        for ref in refs:
            self._limits.check("max_asset_bytes", f"bytes of asset {ref.name}", ref.bytes)
        self._limits.check("max_assets_bytes", "bytes of the offered assets", sum(r.bytes for r in refs))
        out = []
        with self._lock:
            for ref in refs:
                known = self._assets.get(ref.name)
                if known is None:
                    out.append(ref.name)
                    continue
                if known[0] != ref.sha256:
                    raise AssetError(bad_value(f"sha256 of asset {ref.name}", ref.sha256.hex(), known[0].hex()))
                self._assets.move_to_end(ref.name)
        return out

    def put(self, ref: pb.AssetRef, data: bytes) -> None:
        """Keep an asset that was sent, if it is the one that was offered.

        Raises:
            AssetError, SceneError: if it is not, or cannot be drawn.
        """
        if len(data) != ref.bytes or hashlib.sha256(data).digest() != ref.sha256:
            raise AssetError(f"asset {ref.name} is damaged: {len(data)} bytes came, their sha256 is another")
        asset = decode_asset(ref.name, data)
        with self._lock:
            if ref.name in self._assets:
                return
            self._assets[ref.name] = (bytes(ref.sha256), asset, len(data))
            self.nbytes += len(data)
            while self.nbytes > self._limits.max_assets_bytes:
                self.nbytes -= self._assets.popitem(last=False)[1][2]

    def __getitem__(self, name: str) -> Any:
        with self._lock:
            return self._assets[name][1]

    def __iter__(self) -> Iterator[str]:
        with self._lock:
            return iter(list(self._assets))

    def __len__(self) -> int:
        return len(self._assets)


def receive(store: AssetStore, offer: pb.AssetOffer, messages: Iterable[pb.LoadAssetsRequest]) -> list[str]:
    """Take what a client sends after its offer; what is still missing then.

    Raises:
        AssetError: if a chunk does not continue an asset that was offered.
    """
    refs = {ref.name: ref for ref in offer.assets}
    wanted = set(store.missing(refs.values()))
    parts: dict[str, bytearray] = {}
    for message in messages:
        chunk = message.chunk
        ref, so_far = refs.get(chunk.name), parts.setdefault(chunk.name, bytearray())
        if ref is None or chunk.offset != len(so_far) or len(so_far) + len(chunk.data) > ref.bytes:
            seen = f"{len(chunk.data)} bytes at {chunk.offset} of {chunk.name!r}"
            raise AssetError(bad_value("chunk", seen, "the next bytes of an asset that was offered"))
        so_far += chunk.data
        if len(so_far) == ref.bytes:
            store.put(ref, bytes(parts.pop(chunk.name)))
            wanted.discard(chunk.name)
    if parts:
        raise AssetError(f"asset {min(parts)}: the stream ended after {len(parts[min(parts)])} bytes")
    return sorted(wanted)
