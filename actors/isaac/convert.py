"""Models as USD files, made offline and once: OBJ, GLB and PLY through trimesh and the asset cache, written by pxr.

    python -m actors.isaac.convert SOURCE --into FOLDER

SOURCE is a model, or a cache that `servofleet assets import` wrote. FOLDER gets a file per mesh, by the content hash
that scenes name it by, its picture, and `converted.json` with the checksum of each file. Runs in the trainer's Python
with the `usd-core` wheel. `actors.isaac.converted.UsdAssets` reads the folder back, for `IsaacRenderer.load`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from actors.assets.files import texture_path
from actors.assets.importing import import_models
from actors.assets.library import AssetLibrary, open_assets
from actors.assets.manifest import ImportSettings
from actors.isaac.api import Usd
from actors.isaac.converted import LIST, VERSION, is_whole, read_list, sha256_of
from actors.isaac.translate import geometry_of
from actors.isaac.writing import StageWriter
from actors.scenes.mesh import Mesh
from common.errors import AssetError, ServofleetError
from common.fsio import create_only, replace_atomically


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
        if entry.mesh in known and is_whole(folder, entry.mesh, known):
            kept.append(entry.mesh)
            continue
        mesh = library[entry.mesh]
        assert isinstance(mesh, Mesh)
        picture = folder / f"{entry.texture}.png"
        create_only(picture, texture_path(cache, entry.texture).read_bytes())
        write_usd(usd, folder / f"{entry.mesh}.usdc", mesh, picture.name)
        known = {**known, entry.mesh: sha256_of(folder / f"{entry.mesh}.usdc"), entry.texture: ""}
        written.append(entry.mesh)
    text = json.dumps({"version": VERSION, "files": known}, indent=1, sort_keys=True)
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


if __name__ == "__main__":
    sys.exit(main())
