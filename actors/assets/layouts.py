"""Where the data sets keep their models: which files of a folder to import, and under which names.

| layout | model file | name |
|---|---|---|
| gso | NAME/meshes/model.obj, its picture in NAME/materials/textures | NAME |
| ycb | NAME/google_16k/textured.obj, or NAME/model.obj as simulators ship it | NAME |
| omniobject3d | CATEGORY/NAME/Scan/Scan.obj | NAME |
| flat | every *.obj, *.glb and *.ply of the folder itself | the file's stem |

"auto" takes every sub-folder by the first layout that fits it, and then the models of the folder itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from actors.assets.formats import SUFFIXES
from common.errors import AssetError, ConfigError, bad_value

Layout = Literal["auto", "gso", "ycb", "omniobject3d", "flat"]
_IN_FOLDER = {
    "gso": ("meshes/model.obj",),
    "ycb": ("google_16k/textured.obj", "model.obj"),
    "omniobject3d": ("Scan/Scan.obj",),
}


def find_models(folder: Path, layout: Layout = "auto") -> dict[str, Path]:
    """Name -> model file, sorted by name.

    Raises:
        ConfigError: if the layout is unknown or `folder` is no folder.
        AssetError: if there is no model, or two models have one name.
    """
    if layout not in get_args(Layout):
        raise ConfigError(bad_value("layout", layout, f"one of {get_args(Layout)}"))
    if not folder.is_dir():
        raise ConfigError(bad_value("folder of models", str(folder), "an existing folder"))
    layouts = ("gso", "ycb", "omniobject3d", "flat") if layout == "auto" else (layout,)
    found: list[tuple[str, Path]] = []
    for name in ("gso", "ycb"):
        if name in layouts:
            taken = {n for n, _ in found}
            found += [m for m in _in_folders(folder, _IN_FOLDER[name]) if m[0] not in taken]
    if "omniobject3d" in layouts:
        # The folder may be the data set or one category of it.
        for parent in (folder, *_folders(folder)):
            found += _in_folders(parent, _IN_FOLDER["omniobject3d"])
    if "flat" in layouts:
        files = sorted(p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in SUFFIXES)
        found += [(p.stem, p) for p in files]
    if not found:
        raise AssetError(f"no models of layout {layout} in {folder}: looked for {_looked_for(layouts)}")
    models: dict[str, Path] = {}
    for name, path in sorted(found):
        if name in models:
            raise AssetError(
                f"two models are named {name}: {models[name].relative_to(folder)} and {path.relative_to(folder)}"
            )
        models[name] = path
    return models


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _in_folders(parent: Path, files: tuple[str, ...]) -> list[tuple[str, Path]]:
    """The first of `files` in every sub-folder that has one."""
    out = []
    for folder in _folders(parent):
        there = [folder / f for f in files if (folder / f).is_file()]
        out += [(folder.name, there[0])] if there else []
    return out


def _looked_for(layouts: tuple[str, ...]) -> str:
    prefix = {"gso": "NAME", "ycb": "NAME", "omniobject3d": "CATEGORY/NAME"}
    patterns = [f"{prefix[name]}/{f}" for name in layouts if name in prefix for f in _IN_FOLDER[name]]
    return ", ".join(patterns + (["*.obj, *.glb, *.ply"] if "flat" in layouts else []))
