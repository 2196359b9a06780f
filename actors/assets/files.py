"""The content-addressed files of a cache of imported models: meshes without pickle, and textures.

| path | holds |
|---|---|
| meshes/HASH.safetensors | vertices f32 (V, 3), faces i32 (F, 3), normals f32 (V, 3), uvs f32 (V, 2) |
| textures/HASH.png | texels u8 (S, S, 3), S a power of two |

HASH is the sha256 of the file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray
from PIL import Image

from actors.assets.formats import open_picture
from actors.scenes.mesh import Mesh, check_mesh, is_closed
from common.errors import AssetError, SceneError, bad_value
from common.fsio import create_only, replace_atomically

U8 = NDArray[np.uint8]
_FIELDS = ("vertices", "faces", "normals", "uvs")


def mesh_path(cache: Path, digest: str) -> Path:
    """The file of a mesh."""
    return cache / "meshes" / f"{digest}.safetensors"


def texture_path(cache: Path, digest: str) -> Path:
    """The file of a texture."""
    return cache / "textures" / f"{digest}.png"


def store_mesh(cache: Path, mesh: Mesh) -> str:
    """Put a mesh into the cache in a folder; its hash."""
    data = safetensors.numpy.save(mesh_arrays(mesh))
    digest = hashlib.sha256(data).hexdigest()
    _store(mesh_path(cache, digest), data)
    return digest


def store_texture(cache: Path, texels: U8) -> str:
    """Put texels u8 (S, S, 3) into the cache in a folder; their hash."""
    buffer = io.BytesIO()
    Image.fromarray(texels).save(buffer, format="PNG")
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    _store(texture_path(cache, digest), buffer.getvalue())
    return digest


def is_stored(file: Path) -> bool:
    """True if a file is there and holds what its name says."""
    return file.is_file() and hashlib.sha256(read_file(file)).hexdigest() == file.stem


def _store(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    # A damaged file is mended; a good one is left alone, others may be reading it.
    if not create_only(file, data) and not is_stored(file):
        replace_atomically(file, data)


def load_asset(file: Path) -> Mesh | U8:
    """The mesh or the texels in a file of the cache; the arrays are not writable.

    Raises:
        AssetError: naming the file, if it is missing, damaged or not of the form that it should have.
    """
    data = read_file(file)
    if hashlib.sha256(data).hexdigest() != file.stem:
        raise AssetError(f"{file} is damaged: its sha256 is not its name; import the model again")
    if file.suffix == ".png":
        texels = np.array(open_picture(data, str(file)), dtype=np.uint8)
        if texels.shape[0] != texels.shape[1] or texels.shape[0] & (texels.shape[0] - 1):
            raise AssetError(bad_value(f"size of {file}", texels.shape[:2], "a square with a power of two as its side"))
        texels.setflags(write=False)
        return texels
    return _decode_mesh(data, str(file))


def _decode_mesh(data: bytes, name: str) -> Mesh:
    try:
        arrays = safetensors.numpy.load(data)
        mesh = Mesh(**{f: arrays[f] for f in _FIELDS})
        check_mesh(mesh, name)
    except (safetensors.SafetensorError, SceneError, KeyError, ValueError) as e:
        raise AssetError(f"{name} is not a mesh: {e}") from e
    for field, array in mesh_arrays(mesh).items():
        wanted = "int32" if field == "faces" else "float32"
        if array.dtype != wanted:
            raise AssetError(bad_value(f"{field} of {name}", str(array.dtype), wanted))
        array.setflags(write=False)
    return dataclasses.replace(mesh, closed=is_closed(mesh.vertices, mesh.faces))


def mesh_arrays(mesh: Mesh) -> dict[str, NDArray[np.generic]]:
    """The stored arrays of a mesh by name."""
    return {f: getattr(mesh, f) for f in _FIELDS}


def read_file(file: Path) -> bytes:
    """The bytes of a file.

    Raises:
        AssetError: naming it, if it cannot be read.
    """
    try:
        return file.read_bytes()
    except OSError as e:
        raise AssetError(f"{file} cannot be read: {e.strerror}") from e
