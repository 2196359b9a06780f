"""Models as USD files, made offline and once: OBJ, GLB and PLY through trimesh and the asset cache, written by pxr.

    python -m actors.isaac.convert SOURCE --into FOLDER

SOURCE is a model, or a cache that `servofleet assets import` wrote. FOLDER gets a file per mesh, by the content hash
that scenes name it by, its picture, and `converted.json` with the checksum of each file. Runs in the trainer's Python
with the `usd-core` wheel, or in Isaac Sim's own after the app started. `UsdAssets` reads the folder back for
`IsaacRenderer.load`.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actors.assets.files import load_asset, texture_path
from actors.assets.library import AssetLibrary, open_assets
from actors.isaac.api import Usd
from actors.isaac.translate import geometry_of
from actors.isaac.writing import StageWriter
from actors.scenes.mesh import Mesh, is_closed
from common.errors import AssetError, ServofleetError, bad_value
from common.fsio import create_only, replace_atomically

LIST = "converted.json"
_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Converted:
    """What a conversion did: content hashes of meshes that were written, and of those that were there already."""

    written: tuple[str, ...]
    kept: tuple[str, ...]


def convert_model(file: Path, folder: Path) -> Converted:
    """Import one model (OBJ, GLB or PLY) into `folder`/assets and convert it.

    Raises:
        AssetError: saying why it cannot be used.
    """
    # Only here: the import wants trimesh and a mesh decimator, which Isaac Sim's Python has not.
    from actors.assets.importing import import_models
    from actors.assets.manifest import ImportSettings

    cache = folder / "assets"
    for outcome in import_models(file.parent, {file.stem: file}, cache, ImportSettings()):
        if outcome.status == "failed":
            raise AssetError(f"{outcome.file}: {outcome.error}")
    return convert_library(open_assets(cache), cache, folder)


def convert_library(library: AssetLibrary, cache: Path, folder: Path) -> Converted:
    """Write a USD file for each model of a library that has none yet.

    Args:
        library: read from `cache`.
        cache: folder of the library, for its pictures.
        folder: of the converted files.

    Raises:
        AssetError: if an asset of the library is damaged, or `pxr` is missing.
    """
    usd = Usd()
    folder.mkdir(parents=True, exist_ok=True)
    known = read_list(folder) if (folder / LIST).exists() else {}
    written, kept = [], []
    for entry in library.entries:
        if entry.mesh in known and _is_whole(folder, entry.mesh, known):
            kept.append(entry.mesh)
            continue
        mesh = library[entry.mesh]
        assert isinstance(mesh, Mesh)
        picture = folder / f"{entry.texture}.png"
        create_only(picture, texture_path(cache, entry.texture).read_bytes())
        write_usd(usd, folder / f"{entry.mesh}.usdc", mesh, picture.name)
        known = {**known, entry.mesh: _sha256(folder / f"{entry.mesh}.usdc"), entry.texture: ""}
        written.append(entry.mesh)
    text = json.dumps({"version": _VERSION, "files": known}, indent=1, sort_keys=True)
    replace_atomically(folder / LIST, text.encode())
    return Converted(tuple(written), tuple(kept))


def write_usd(usd: Usd, file: Path, mesh: Mesh, picture: str) -> None:
    """Write a mesh in metres, z up, with a preview surface that shows `picture`, a file beside it."""
    temporary = file.with_name(f".{file.stem}.tmp{file.suffix}")
    temporary.unlink(missing_ok=True)
    stage = usd.name("pxr.Usd:Stage.CreateNew")(str(temporary))
    usd.name("pxr.UsdGeom:SetStageUpAxis")(stage, "Z")
    usd.name("pxr.UsdGeom:SetStageMetersPerUnit")(stage, 1.0)
    writer = StageWriter(usd, stage)
    stage.SetDefaultPrim(writer.define("/Model", "Xform"))
    writer.define_look("/Model/look")
    writer.define_mesh("/Model/mesh", "/Model/look", geometry_of(mesh))
    writer.paint("/Model/look", f"./{picture}", 0.0, 1.0)
    stage.GetRootLayer().Save()
    temporary.replace(file)


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
            return load_asset(self._folder / f"{key}.png")
        if not _is_whole(self._folder, key, self._files):
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
    if not isinstance(found, dict) or found.get("version") != _VERSION or not isinstance(found.get("files"), dict):
        raise AssetError(bad_value(f"version of {folder / LIST}", found, str(_VERSION)))
    return {str(k): str(v) for k, v in found["files"].items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert what the command line names; 0 done, 1 failed."""
    parser = argparse.ArgumentParser(prog="python -m actors.isaac.convert", description="Write models as USD files.")
    parser.add_argument("source", type=Path, help="a model (OBJ, GLB, PLY) or a cache of `servofleet assets import`")
    parser.add_argument("--into", type=Path, required=True, metavar="FOLDER", help="where the files go")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.source.is_dir():
            done = convert_library(open_assets(chosen.source), chosen.source, chosen.into)
        else:
            done = convert_model(chosen.source, chosen.into)
    except ServofleetError as e:
        print(f"convert: {e}", file=sys.stderr)
        return 1
    print(f"{chosen.into}: {len(done.written)} models converted, {len(done.kept)} there already")
    return 0


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _is_whole(folder: Path, mesh: str, known: Mapping[str, str]) -> bool:
    file = folder / f"{mesh}.usdc"
    return file.is_file() and _sha256(file) == known[mesh]


if __name__ == "__main__":
    sys.exit(main())
