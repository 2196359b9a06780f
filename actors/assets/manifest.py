"""The manifest of a cache of imported models: what each is, what it was made of, and how well it was kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from actors.assets.files import read_file
from actors.assets.formats import MissingTexture
from common.errors import AssetError, bad_value
from common.fsio import replace_atomically
from common.records import decode_record
from common.scene import Symmetry, Triple

MANIFEST = "manifest.json"
MANIFEST_VERSION = 1


@dataclasses.dataclass(frozen=True)
class ImportSettings:
    """What decides how a model is stored, besides its files.

    Attributes:
        max_triangles: more are decimated.
        texture_side: largest side of the texture in texels, a power of two.
        up: the file's axis that points up; "file" is y for GLB, as the format says, and z for OBJ and PLY.
        scale: metres per unit of the file.
        missing_texture: what to do where a file names a picture that is not there.
    """

    max_triangles: int = 5000
    texture_side: int = 512
    up: Literal["file", "y", "z"] = "file"
    scale: float = 1.0
    missing_texture: MissingTexture = "error"


@dataclasses.dataclass(frozen=True)
class AssetSource:
    """A file that a model was made of: its path below the imported folder, and its sha256."""

    file: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class AssetRecord:
    """An imported model as the manifest has it.

    Attributes:
        name: unique in the cache.
        mesh: hash of the mesh file.
        texture: hash of the texture file.
        triangles_before: of the model.
        triangles: of the stored mesh.
        extent: edge lengths of the bounding box [m].
        center: of the bounding box in the file's frame, after scaling and turning z up [m]; the stored origin.
        closed: the stored mesh is, see `actors.scenes.mesh.is_closed`.
        symmetry: as annotated, about the stored origin, or None.
        licence: as the importer gave it.
        sources: files it was made of, the model first.
        settings: of the import.
        deviation: largest and mean distance between the stored surface and the model, over the longest edge.
        color_error: mean and 95 % quantile of the difference in colour from the model, 0..1.
    """

    name: str
    mesh: str
    texture: str
    triangles_before: int
    triangles: int
    extent: Triple
    center: Triple
    closed: bool
    symmetry: Symmetry | None
    licence: str
    sources: tuple[AssetSource, ...]
    settings: ImportSettings
    deviation: tuple[float, float]
    color_error: tuple[float, float]


def read_manifest(path: Path) -> tuple[tuple[AssetRecord, ...], str]:
    """The records of the cache in a folder, and the sha256 of its manifest.

    Raises:
        AssetError: as `open_assets`.
    """
    file = path / MANIFEST
    data = read_file(file)
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise AssetError(f"{file} is not a manifest: {e}") from e
    if not isinstance(raw, dict) or raw.get("version") != MANIFEST_VERSION or not isinstance(raw.get("assets"), list):
        found = raw.get("version") if isinstance(raw, dict) else type(raw).__name__
        raise AssetError(bad_value(f"version of {file}", found, str(MANIFEST_VERSION)))
    records = tuple(
        decode_record(AssetRecord, r, f"{file} assets[{i}]", AssetError) for i, r in enumerate(raw["assets"])
    )
    for record in records:
        for digest in (record.mesh, record.texture):
            if not re.fullmatch("[0-9a-f]{64}", digest):
                raise AssetError(bad_value(f"hash of {record.name} in {file}", digest, "64 hexadecimal digits"))
    return records, hashlib.sha256(data).hexdigest()


def write_manifest(path: Path, records: Iterable[AssetRecord]) -> None:
    """Replace the manifest of the cache in a folder; the files that it names must be there already."""
    assets = [dataclasses.asdict(r) for r in sorted(records, key=lambda r: r.name)]
    text = json.dumps({"version": MANIFEST_VERSION, "assets": assets}, sort_keys=True, indent=1, allow_nan=False)
    replace_atomically(path / MANIFEST, text.encode())
