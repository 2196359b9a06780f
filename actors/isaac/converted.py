"""Models as USD files, read back; what `actors.isaac.convert` wrote. Needs no more than Isaac Sim's own Python has."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from actors.isaac.api import Usd
from actors.scenes.mesh import Mesh, is_closed
from common.errors import AssetError, bad_value

LIST = "converted.json"
VERSION = 1


class UsdAssets(Mapping[str, Mesh | NDArray[np.uint8]]):
    """Content hash -> mesh or texels of a folder of converted files, read when asked for; checksums are checked."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._files, self._usd = folder, read_list(folder), Usd()

    def __getitem__(self, key: str) -> Mesh | NDArray[np.uint8]:
        """Read an asset.

        Raises:
            KeyError: if the folder has no such hash.
            AssetError: naming the file, if it is not what was written.
        """
        if not self._files[key]:
            return _texels(self._folder / f"{key}.png")
        if not is_whole(self._folder, key, self._files):
            raise AssetError(f"{self._folder / f'{key}.usdc'} is damaged or missing: convert the model again")
        return read_usd(self._usd, self._folder / f"{key}.usdc")

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._files))

    def __len__(self) -> int:
        return len(self._files)


def read_list(folder: Path) -> dict[str, str]:
    """Content hash -> sha256 of the USD file, "" for pictures, whose name is their checksum.

    Raises:
        AssetError: if the folder has no list, or one of another version.
    """
    try:
        found = json.loads((folder / LIST).read_text())
    except (OSError, ValueError) as e:
        raise AssetError(f"{folder / LIST} cannot be read: {e}") from e
    if not isinstance(found, dict) or found.get("version") != VERSION or not isinstance(found.get("files"), dict):
        raise AssetError(bad_value(f"version of {folder / LIST}", found, str(VERSION)))
    return {str(k): str(v) for k, v in found["files"].items()}


def read_usd(usd: Usd, file: Path) -> Mesh:
    """The mesh of a file that `write_usd` wrote; texture coordinates to a float's rounding, everything else exactly.

    Raises:
        AssetError: if it holds no such mesh.
    """
    stage = usd.name("pxr.Usd:Stage.Open")(str(file))
    prim = stage.GetPrimAtPath("/Model/mesh")
    if not prim.IsValid():
        raise AssetError(f"{file} holds no /Model/mesh: convert the model again")

    def array(name: str, dtype: str) -> NDArray[np.generic]:
        return np.array(prim.GetAttribute(name).Get(), dtype=dtype)

    vertices, normals, uvs = (array(n, "float32").astype(np.float32) for n in ("points", "normals", "primvars:st"))
    faces = array("faceVertexIndices", "int32").astype(np.int32).reshape(-1, 3)
    uvs[:, 1] = 1.0 - uvs[:, 1]
    return Mesh(vertices, faces, normals, uvs, is_closed(vertices, faces))


def sha256_of(file: Path) -> str:
    """Checksum of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def is_whole(folder: Path, mesh: str, known: Mapping[str, str]) -> bool:
    """Whether the USD file of a mesh is there and is what was written."""
    file = folder / f"{mesh}.usdc"
    return file.is_file() and sha256_of(file) == known[mesh]


def _texels(file: Path) -> NDArray[np.uint8]:
    try:
        data = file.read_bytes()
    except OSError as e:
        raise AssetError(f"{file} cannot be read: {e.strerror}") from e
    if hashlib.sha256(data).hexdigest() != file.stem:
        raise AssetError(f"{file} is damaged: its sha256 is not its name; convert the model again")
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image.convert("RGB"), dtype=np.uint8)
