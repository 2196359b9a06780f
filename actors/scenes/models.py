"""What can stand in a scene: procedural shapes and imported meshes, split so that evaluation sees new ones."""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from actors.scenes.mesh_library import Split, mesh_library
from actors.scenes.resting import Rests, convex_hull, resting_poses
from actors.scenes.shapes import build_mesh, symmetry_of
from common.errors import ConfigError, bad_value
from common.protocols import F64
from common.rng import Purpose, philox
from common.scene import Shape, Symmetry, Texture
from common.scene_config import SceneConfig

if TYPE_CHECKING:
    from actors.assets.image_folder import ImageFolder
    from actors.assets.library import AssetEntry, AssetLibrary

_HELDOUT = 4  # one imported mesh or picture in so many is held out
_SIZES = (0.12, 0.30)  # largest extent of imported meshes [m], as procedural shapes have it


@dataclasses.dataclass(frozen=True)
class Model:
    """Something that can stand in a scene.

    Attributes:
        shape: recipe of its mesh.
        texture: its own look, or None where the scene sampler draws one.
        symmetry: of the shape, where it was declared on import; None: what `symmetry_of` says.
        meshes: where the mesh of an imported shape is read from, by content hash.
    """

    shape: Shape
    texture: Texture | None = None
    symmetry: Symmetry | None = None
    meshes: Mapping[str, Any] | None = dataclasses.field(default=None, compare=False, repr=False)

    def symmetry_in(self, texture: Texture) -> Symmetry:
        """Symmetry of the model in this texture; a declared one is the look's in its own texture and in plain ones."""
        if self.symmetry is not None and texture in (self.texture, Texture("plain", texture.colors)):
            return self.symmetry
        return symmetry_of(self.shape, texture)


@dataclasses.dataclass(frozen=True)
class Stock:
    """What the scenes of a split are made of.

    Attributes:
        models: what can stand in them.
        images: content hashes of the pictures that grounds may show.
        assets: imported meshes and pictures by content hash, of both splits; what a renderer loads.
    """

    models: tuple[Model, ...]
    images: tuple[str, ...] = ()
    assets: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)


def open_stock(config: SceneConfig, seed: int, count: int, split: Split) -> Stock:
    """Everything that the configuration names for the scenes of a split.

    Args:
        config: kinds of shapes, folders of imported meshes and pictures.
        seed: of the run or the suite.
        count: of models.
        split: the two splits share no shape, no imported mesh and no picture.

    Raises:
        ConfigError: if there is nothing to draw, or nothing imported falls to the split.
        AssetError: if a folder cannot be read.
    """
    meshes, images = open_imports(config)
    assets: Mapping[str, Any] = collections.ChainMap(*(m for m in (meshes, images) if m is not None))  # type: ignore[arg-type]
    return Stock(model_library(config, seed, count, split, meshes), split_images(images, split), assets)


@functools.lru_cache(maxsize=4096)
def hull_of(model: Model) -> F64:
    """Corners f64 (V, 3) of the model's convex hull in the object frame [m]; the same array for the same model."""
    if model.shape.kind == "mesh":
        assert model.meshes is not None
        (scale,) = model.shape.params
        points = model.meshes[model.shape.asset].vertices.astype(np.float64) * scale
    else:
        points = build_mesh(model.shape).vertices.astype(np.float64)
    corners = np.asarray(points[np.sort(convex_hull(points).vertices)])
    corners.setflags(write=False)
    return corners


@functools.lru_cache(maxsize=4096)
def rests_of(model: Model) -> Rests:
    """The poses that the model can rest in."""
    return resting_poses(hull_of(model))


def model_library(
    config: SceneConfig, seed: int, count: int, split: Split, assets: AssetLibrary | None = None
) -> tuple[Model, ...]:
    """Models to draw scenes from: procedural shapes, then imported meshes in random sizes.

    Args:
        config: kinds of shapes, and the folder and share of imported meshes.
        seed: of the run or the suite.
        count: how many.
        split: the two splits share no shape and no imported mesh, whatever their seeds.
        assets: the imported meshes, if they are open already.

    Raises:
        ConfigError: if there is nothing to draw, or no imported mesh in this split.
        AssetError: if the folder of imported meshes cannot be read.
    """
    assets = open_imports(config)[0] if assets is None else assets
    imported = 0 if assets is None else round(config.asset_share * count)
    shapes = mesh_library(seed, count - imported, config.shapes, split) if count > imported else ()
    models = [Model(shape) for shape in shapes]
    if assets is not None and imported:
        entries = split_entries(assets.entries, split)
        if not entries:
            allowed = f"a library with {split} meshes; by their names all {len(assets.entries)} are of the other split"
            raise ConfigError(bad_value("scenes.assets", config.assets, allowed))
        models += [_sized(entries[i % len(entries)], assets, seed, i, split) for i in range(imported)]
    return tuple(models)


def split_entries(entries: Sequence[AssetEntry], split: Split) -> list[AssetEntry]:
    """The imported meshes of a split, chosen by a hash of their names, so that a new one moves none of the others.

    A mesh that was imported under several names goes by the first in the alphabet.
    """
    names: dict[str, str] = {}
    for entry in entries:
        names[entry.mesh] = min(entry.name, names.get(entry.mesh, entry.name))
    return [e for e in entries if _side(names[e.mesh]) == split]


def open_imports(config: SceneConfig) -> tuple[AssetLibrary | None, ImageFolder | None]:
    """The imported meshes and the pictures that the configuration names, or None where it names none.

    Opened once per process: all pictures are read for that, and a library that was imported to stays readable.

    Raises:
        AssetError: if a folder cannot be read.
    """
    return _opened(config.assets, config.images)


@functools.lru_cache(maxsize=2)
def _opened(assets: str, images: str) -> tuple[AssetLibrary | None, ImageFolder | None]:
    meshes, pictures = None, None
    # Imported here: who has no imports need not load what reads them.
    if assets:
        from actors.assets.library import open_assets

        meshes = open_assets(assets)
    if images:
        from actors.assets.image_folder import open_images

        pictures = open_images(images)
    return meshes, pictures


def split_images(images: ImageFolder | None, split: Split) -> tuple[str, ...]:
    """Content hashes of the pictures of a split; the two splits share none.

    Raises:
        ConfigError: if the split has none.
    """
    if images is None:
        return ()
    hashes = tuple(h for h in images.hashes if _side(h) == split)
    if not hashes:
        raise ConfigError(bad_value("scenes.images", f"{len(images.hashes)} pictures", f"some that fall to {split}"))
    return hashes


def _side(key: str) -> Split:
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return "heldout" if int.from_bytes(digest, "big") % _HELDOUT == 0 else "train"


def _sized(entry: AssetEntry, assets: AssetLibrary, seed: int, index: int, split: Split) -> Model:
    rng = philox(seed, Purpose.MESH_LIBRARY, env=index, step=2 if split == "train" else 3)
    scale = float(f"{rng.uniform(*_SIZES) / max(entry.extent):.6g}")
    shape = Shape("mesh", (scale,), entry.mesh)
    return Model(shape, Texture("image", asset=entry.texture), entry.symmetry, assets)
