"""Import of models into a cache: read, check, decimate, dress, store; one bad file never stops the others."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from actors.assets.atlas import make_texture
from actors.assets.decimation import decimate
from actors.assets.files import is_stored, mesh_path, read_file, store_mesh, store_texture, texture_path
from actors.assets.finder import Finder
from actors.assets.formats import MissingTexture, read_parts
from actors.assets.manifest import MANIFEST, AssetRecord, AssetSource, ImportSettings, read_manifest, write_manifest
from actors.assets.quality import asymmetry, color_error, deviation
from actors.assets.surface import as_mesh, merge_parts
from common.errors import AssetError, ConfigError, bad_value
from common.records import decode_record
from common.scene import Symmetry, Triple

MOST_ASYMMETRY = 0.02  # of the longest edge
_MOST_TRIANGLES = 1_000_000
_MOST_SIDE = 4096
_PUBLISH_S = 10.0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one model: `error` is one line where `status` is "failed", else ""."""

    name: str
    file: str
    status: Literal["imported", "replaced", "unchanged", "failed"]
    error: str = ""


def check_settings(settings: ImportSettings) -> None:
    """Check the numbers of an import.

    Raises:
        ConfigError: naming the setting.
    """
    side = settings.texture_side
    if not 4 <= settings.max_triangles <= _MOST_TRIANGLES:
        raise ConfigError(bad_value("max_triangles", settings.max_triangles, f"4 .. {_MOST_TRIANGLES}"))
    if not 8 <= side <= _MOST_SIDE or side & (side - 1):
        raise ConfigError(bad_value("texture_side", side, f"a power of two, 8 .. {_MOST_SIDE}"))
    if not (np.isfinite(settings.scale) and settings.scale > 0.0):
        raise ConfigError(bad_value("scale", settings.scale, "metres per unit of the files, > 0"))
    if settings.up not in ("file", "y", "z"):
        raise ConfigError(bad_value("up", settings.up, "one of file, y, z"))
    if settings.missing_texture not in get_args(MissingTexture):
        raise ConfigError(bad_value("missing_texture", settings.missing_texture, f"one of {get_args(MissingTexture)}"))


def read_symmetries(file: Path) -> dict[str, Symmetry]:
    """Symmetry by model name from a JSON file: ``{NAME: {"axis_continuous": [x, y, z] | null, "rotations": [...]}}``.

    Rotations are rotation vectors [rad] about the centre of the bounding box, in the stored frame (z up).

    Raises:
        ConfigError: naming the entry that is no symmetry.
    """
    try:
        raw = json.loads(file.read_bytes())
    except OSError as e:
        raise ConfigError(f"{file} cannot be read: {e.strerror}") from e
    except (ValueError, RecursionError) as e:
        raise ConfigError(f"{file} is not JSON: {e}") from e
    if not isinstance(raw, dict):
        raise ConfigError(bad_value(str(file), type(raw).__name__, "a JSON object of model names"))
    out = {}
    for name, value in raw.items():
        symmetry = decode_record(Symmetry, value, f"{file.name} {name}", ConfigError)
        axis = symmetry.axis_continuous
        if axis is not None:
            length = float(np.linalg.norm(axis))
            if abs(length - 1.0) > 1e-3:
                raise ConfigError(bad_value(f"{file.name} {name}.axis_continuous", axis, "a unit vector"))
            symmetry = dataclasses.replace(symmetry, axis_continuous=_triple(np.array(axis) / length, 12))
        out[name] = symmetry
    return out


def import_models(
    folder: Path,
    models: Mapping[str, Path],
    cache: Path,
    settings: ImportSettings,
    licence: str = "",
    symmetries: Mapping[str, Symmetry] | None = None,
) -> Generator[Outcome, None, None]:
    """Import models one by one into a cache; yields what became of each.

    The manifest is replaced now and then and when the iterator ends or is closed, always after the files it names: a
    reader, and whoever stops the import, sees a whole cache. A model that is stored already stays as it is.

    Args:
        folder: sources are recorded relative to it.
        models: name -> file, from `actors.assets.layouts.find_models`.
        cache: folder, made if it does not exist.
        settings: of the import.
        licence: of all models.
        symmetries: name -> symmetry about the stored origin.

    Raises:
        ConfigError: if a setting is out of range, or a symmetry names no model.
        AssetError: if the cache cannot be used, or another import is writing to it.
    """
    check_settings(settings)
    symmetries = symmetries or {}
    unknown = sorted(set(symmetries) - set(models))
    if unknown:
        raise ConfigError(bad_value("symmetry of", unknown[0], "the name of a model of this import"))
    with _locked(cache):
        records = {r.name: r for r in read_manifest(cache)[0]} if (cache / MANIFEST).exists() else {}
        changed, published = not (cache / MANIFEST).exists(), time.monotonic()
        try:
            for name, path in models.items():
                known, symmetry = records.get(name), symmetries.get(name)
                file = str(path.relative_to(folder))
                try:
                    if known is not None and _is_current(known, cache, folder, path, settings, licence, symmetry):
                        yield Outcome(name, file, "unchanged")
                        continue
                    record = import_model(folder, name, path, cache, settings, licence, symmetry)
                except (AssetError, OSError) as e:
                    yield Outcome(name, file, "failed", " ".join(str(e).split()))
                    continue
                status: Literal["imported", "replaced", "unchanged"] = "imported" if known is None else "replaced"
                if record == known:
                    status = "unchanged"
                else:
                    records[name], changed = record, True
                if changed and time.monotonic() - published > _PUBLISH_S:
                    _publish(cache, records)
                    changed, published = False, time.monotonic()
                yield Outcome(name, file, status)
        finally:
            if changed:
                _publish(cache, records)


def import_model(
    folder: Path,
    name: str,
    path: Path,
    cache: Path,
    settings: ImportSettings,
    licence: str = "",
    symmetry: Symmetry | None = None,
) -> AssetRecord:
    """Store one model's mesh and texture in a cache and describe them; the manifest is left alone.

    Raises:
        AssetError: saying why the model cannot be used.
    """
    parts, files = read_parts(path, settings.missing_texture)
    y_up = settings.up == "y" or (settings.up == "file" and path.suffix.lower() == ".glb")
    original = Finder(merge_parts(parts, settings.scale, y_up))
    surface = decimate(original, settings.max_triangles)
    extent = surface.extent()
    if symmetry is not None:
        worst = asymmetry(surface, symmetry)
        if worst > MOST_ASYMMETRY:
            allowed = f"at most {MOST_ASYMMETRY} of its longest edge off itself when turned so"
            raise AssetError(bad_value(f"symmetry of {name}", float(f"{worst:.3g}"), allowed))
    uvs, texels = make_texture(original, surface, parts, settings.texture_side)
    mesh, center = as_mesh(surface, uvs)
    size = float(extent.max())
    largest, mean = (0.0, 0.0) if surface is original.surface else deviation(original, surface)
    off, off95 = color_error(original, parts, surface, uvs, texels)
    return AssetRecord(
        name=name,
        mesh=store_mesh(cache, mesh),
        texture=store_texture(cache, texels),
        triangles_before=sum(len(p.faces) for p in parts),
        triangles=len(mesh.faces),
        extent=_triple(extent, 6),
        center=_triple(center, 6),
        closed=mesh.closed,
        symmetry=symmetry,
        licence=licence,
        sources=tuple(AssetSource(_relative(f, folder), _sha256(f)) for f in files),
        settings=settings,
        deviation=(round(largest / size, 6), round(mean / size, 6)),
        color_error=(round(off, 4), round(off95, 4)),
    )


def _is_current(
    known: AssetRecord,
    cache: Path,
    folder: Path,
    path: Path,
    settings: ImportSettings,
    licence: str,
    symmetry: Symmetry | None,
) -> bool:
    """True if importing the model again cannot change its record: told by hashes, without reading the model."""
    if (known.settings, known.licence, known.symmetry) != (settings, licence, symmetry):
        return False
    # With "plain", a picture that was missing may have come: only reading the model tells.
    if settings.missing_texture == "plain" or known.sources[0].file != _relative(path, folder):
        return False
    files = [(folder / s.file, s.sha256) for s in known.sources]
    if not all(file.is_file() and _sha256(file) == digest for file, digest in files):
        return False
    return is_stored(mesh_path(cache, known.mesh)) and is_stored(texture_path(cache, known.texture))


def _publish(cache: Path, records: Mapping[str, AssetRecord]) -> None:
    try:
        write_manifest(cache, records.values())
    except OSError as e:
        raise AssetError(f"{cache / MANIFEST} cannot be written: {e.strerror}") from e


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """The cache's folder, made if need be, for one import at a time."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = (cache / ".lock").open("wb")
    except OSError as e:
        raise AssetError(f"the cache {cache} cannot be written: {e.strerror}") from e
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise AssetError(f"another import is writing to {cache}: wait for it, or take another cache") from e
        yield


def _relative(file: Path, folder: Path) -> str:
    return Path(os.path.relpath(file, folder)).as_posix()


def _sha256(file: Path) -> str:
    return hashlib.sha256(read_file(file)).hexdigest()


def _triple(values: NDArray[np.float64], digits: int) -> Triple:
    x, y, z = (round(float(v), digits) + 0.0 for v in values)
    return (x, y, z)
