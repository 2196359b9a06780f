"""Imported models, read from their cache when a renderer asks for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actors.assets.byte_cache import ByteCache
from actors.assets.files import load_asset, mesh_arrays, mesh_path, texture_path
from actors.assets.manifest import AssetRecord, read_manifest
from actors.scenes.mesh import Mesh
from common.scene import Symmetry, Triple

U8 = NDArray[np.uint8]
Asset = Mesh | U8


@dataclasses.dataclass(frozen=True)
class AssetEntry:
    """What a sampler of scenes asks of an imported model; the fields are those of `AssetRecord`."""

    name: str
    mesh: str
    texture: str
    extent: Triple
    triangles: int
    symmetry: Symmetry
    licence: str
    closed: bool


class AssetLibrary(Mapping[str, Asset]):
    """Hash -> `Mesh` or texels u8 (S, S, 3) of everything in a cache; read when asked for. Read-only, one thread.

    Attributes:
        entries: the models, sorted by the hash of their mesh, then by texture and name.
        sha256: of the manifest: two libraries with the same one hold the same models.
    """

    def __init__(self, path: Path, records: Iterable[AssetRecord], sha256: str, cache_bytes: int) -> None:
        ordered = sorted(records, key=lambda r: (r.mesh, r.texture, r.name))
        fields = [f.name for f in dataclasses.fields(AssetEntry)]
        values = [{f: getattr(r, f) for f in fields} | {"symmetry": r.symmetry or Symmetry()} for r in ordered]
        self.entries = tuple(AssetEntry(**v) for v in values)
        self.sha256 = sha256
        self._path = path
        self._files = {r.mesh: mesh_path(path, r.mesh) for r in ordered}
        self._files |= {r.texture: texture_path(path, r.texture) for r in ordered}
        self._memory: ByteCache[Asset] = ByteCache(cache_bytes)

    def __getitem__(self, key: str) -> Asset:
        """The mesh or the texels of a hash; the arrays are not writable.

        Raises:
            KeyError: if the library has no such hash.
            AssetError: naming the file, if it is missing or not what was stored.
        """
        known = self._memory.get(key)
        if known is not None:
            return known
        value = load_asset(self._files[key])
        size = value.nbytes if isinstance(value, np.ndarray) else sum(a.nbytes for a in mesh_arrays(value).values())
        self._memory.put(key, value, size)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._files))

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, key: object) -> bool:
        return key in self._files


def open_assets(path: str | Path, cache_bytes: int = 256_000_000) -> AssetLibrary:
    """The library of a cache that `servofleet assets import` made; holds at most `cache_bytes` of arrays in memory.

    Raises:
        AssetError: if there is no manifest, or it is damaged or of another version.
    """
    records, sha256 = read_manifest(Path(path))
    return AssetLibrary(Path(path), records, sha256, cache_bytes)
