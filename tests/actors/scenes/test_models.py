import dataclasses
import itertools

import numpy as np
import pytest
import trimesh
from PIL import Image

from actors.assets.importing import import_models
from actors.assets.library import open_assets
from actors.assets.manifest import ImportSettings
from actors.scenes.mesh_library import mesh_library
from actors.scenes.models import (
    Model,
    hull_of,
    model_library,
    open_imports,
    open_stock,
    rests_of,
    split_entries,
    split_images,
)
from actors.scenes.sampling import sample_scene
from actors.scenes.shapes import build_mesh
from actors.scenes.starts import sample_start
from common.config import EnvConfig, SceneConfig
from common.errors import ConfigError
from common.geometry import transform_points
from common.rng import Purpose
from common.scene import SceneSpec, Shape, Symmetry, Texture

CONFIG = SceneConfig()
NAMES = [f"thing{i}" for i in range(12)]
ROUND = Symmetry(axis_continuous=(0.0, 0.0, 1.0), rotations=((np.pi, 0.0, 0.0),))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Boxes of all sizes, and two cylinders that are said to be round."""
    folder = tmp_path_factory.mktemp("models")
    files, rng = {}, np.random.default_rng(0)
    for i, name in enumerate(NAMES):
        files[name] = folder / f"{name}.ply"
        if i < 2:
            mesh = trimesh.creation.cylinder(radius=0.03 + 0.01 * i, height=0.2, sections=32)
        else:
            mesh = trimesh.creation.box(rng.uniform(0.05, 2.0, size=3))
        mesh.export(files[name])
    done = list(
        import_models(folder, files, folder / "cache", ImportSettings(), symmetries=dict.fromkeys(NAMES[:2], ROUND))
    )
    assert [o.status for o in done] == ["imported"] * len(NAMES), done
    return folder / "cache"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(24):
        Image.fromarray(np.full((8, 8, 3), 10 * i, np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def config(cache, pictures):
    return dataclasses.replace(CONFIG, assets=str(cache), images=str(pictures))


def test_without_imports_models_are_the_mesh_library():
    for split in ("train", "heldout"):
        library = model_library(CONFIG, 3, 24, split)
        assert library == tuple(Model(shape) for shape in mesh_library(3, 24, CONFIG.shapes, split))
    stock = open_stock(CONFIG, 3, 24, "train")
    assert stock.models == model_library(CONFIG, 3, 24, "train") and stock.images == () and len(stock.assets) == 0


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_imported_meshes_come_in_their_share(config, share):
    library = model_library(dataclasses.replace(config, asset_share=share), 0, 40, "train")
    kinds = [m.shape.kind for m in library]
    assert len(kinds) == 40 and kinds.count("mesh") == round(40 * share)


def test_imported_models_have_random_sizes_and_their_own_look(config):
    library = [m for m in model_library(config, 0, 80, "train") if m.shape.kind == "mesh"]
    assert library == [m for m in model_library(config, 0, 80, "train") if m.shape.kind == "mesh"]
    assert len({m.shape for m in library}) == len(library)
    sizes = [np.ptp(hull_of(m), axis=0).max() for m in library]
    # However large the files' units make them.
    assert min(sizes) > 0.1199 and max(sizes) < 0.3001 and np.ptp(sizes) > 0.1
    entries = {e.mesh: e for e in open_assets(config.assets).entries}
    for m in library:
        entry = entries[m.shape.asset]
        assert m.texture == Texture("image", asset=entry.texture) and m.symmetry == entry.symmetry
        np.testing.assert_allclose(np.ptp(hull_of(m), axis=0), np.array(entry.extent) * m.shape.params[0], rtol=1e-4)


def test_no_imported_mesh_is_in_both_splits(config, cache):
    entries = open_assets(cache).entries
    train, heldout = split_entries(entries, "train"), split_entries(entries, "heldout")
    assert len(train) + len(heldout) == len(entries) == 12 and len(train) > len(heldout) > 0
    assert not {e.mesh for e in train} & {e.mesh for e in heldout}
    shapes = {
        split: {m.shape.asset for seed in range(3) for m in model_library(config, seed, 80, split)} - {""}
        for split in ("train", "heldout")
    }
    assert shapes == {"train": {e.mesh for e in train}, "heldout": {e.mesh for e in heldout}}
    # The split of a mesh does not hang on what else there is.
    for entry in train:
        assert split_entries([entry], "train") == [entry]


def test_a_mesh_of_several_names_is_in_one_split(cache):
    one = open_assets(cache).entries[0]
    alone = [dataclasses.replace(one, name=f"copy{i}") for i in range(40)]
    assert {len(split_entries([e], "train")) for e in alone} == {0, 1}
    assert sorted(len(split_entries(alone, s)) for s in ("train", "heldout")) == [0, 40]
    # Whatever the order of the records is.
    for a, b in itertools.pairwise(alone):
        assert len(split_entries([a, b], "train")) == len(split_entries([b, a], "train"))


def test_splits_of_pictures_share_none(config):
    images = open_imports(config)[1]
    train, heldout = split_images(images, "train"), split_images(images, "heldout")
    assert set(train) | set(heldout) == set(images.hashes) and not set(train) & set(heldout)
    assert len(train) > len(heldout) > 0
    stock = open_stock(config, 0, 8, "heldout")
    assert stock.images == heldout
    assert stock.assets[heldout[0]].shape[2] == 3 and stock.assets[stock.models[-1].shape.asset].faces.shape[1] == 3


def test_a_split_without_anything_is_refused_by_name(config, cache, tmp_path):
    only = split_entries(open_assets(cache).entries, "train")[0]
    box = trimesh.creation.box([0.1, 0.1, 0.1])
    box.export(tmp_path / "box.ply")
    list(import_models(tmp_path, {only.name: tmp_path / "box.ply"}, tmp_path / "cache", ImportSettings()))
    with pytest.raises(ConfigError, match=r"scenes\.assets = .*heldout"):
        model_library(CONFIG, 0, 8, "heldout", open_assets(tmp_path / "cache"))
    assert model_library(CONFIG, 0, 8, "train", open_assets(tmp_path / "cache"))
    (tmp_path / "pictures").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "pictures" / "a.png")
    images = open_imports(dataclasses.replace(CONFIG, images=str(tmp_path / "pictures")))[1]
    refused = [split for split in ("train", "heldout") if not _has(images, split)]
    assert len(refused) == 1


def _has(images, split):
    try:
        return bool(split_images(images, split))
    except ConfigError as e:
        assert str(e).startswith("scenes.images = '1 pictures'")
        return False


def test_symmetry_is_declared_or_the_shapes(config):
    library = [m for m in model_library(config, 0, 80, "train") if m.shape.kind == "mesh"]
    plain, other = Texture("plain", ((0.1, 0.2, 0.3),)), Texture("noise", ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    for m in library:
        assert m.symmetry_in(m.texture) == m.symmetry_in(plain) == m.symmetry
        assert not m.symmetry_in(other).is_symmetric
    cube = Model(Shape("cube", (0.2,)))
    assert len(cube.symmetry_in(plain).rotations) == 23 and not cube.symmetry_in(other).is_symmetric


def test_the_hull_holds_the_mesh_and_rests_are_those_of_its_size(config):
    for m in [*model_library(CONFIG, 0, 8, "train"), *model_library(config, 0, 8, "train")]:
        corners = hull_of(m)
        mesh = build_mesh(m.shape) if m.shape.kind != "mesh" else m.meshes[m.shape.asset]
        points = mesh.vertices.astype(np.float64) * (m.shape.params[0] if m.shape.kind == "mesh" else 1.0)
        for direction in np.random.default_rng(0).normal(size=(30, 3)):
            np.testing.assert_allclose((corners @ direction).max(), (points @ direction).max(), atol=1e-9)
        assert hull_of(m) is corners and not corners.flags.writeable
        assert 0.0 < rests_of(m).heights.min() < np.linalg.norm(np.ptp(corners, axis=0)) / 2


@pytest.mark.parametrize("kind", ["sym_diff", "asym_same", "any"])
def test_scenes_of_imported_models_stand_on_the_ground_under_pictures(config, kind):
    stock = open_stock(config, 0, 40, "train")
    drawn = dataclasses.replace(config, min_objects=3, max_objects=3, image_share=1.0)
    imported = 0
    for env in range(12):
        key = {"seed": 0, "purpose": Purpose.SCENE, "round": 0, "env": env}
        for scene in sample_scene(drawn, stock.models, kind=kind, images=stock.images, **key):
            assert SceneSpec.from_json(scene.to_json()) == scene
            assert scene.ground.kind == "image" and scene.ground.asset in stock.images
            for thing in scene.objects:
                mesh = stock.assets[thing.shape.asset] if thing.shape.kind == "mesh" else build_mesh(thing.shape)
                size = thing.shape.params[0] if thing.shape.kind == "mesh" else 1.0
                points = transform_points(thing.pose(), mesh.vertices.astype(np.float64) * size)
                assert abs(points[:, 2].min()) < 1e-6
                imported += thing.shape.kind == "mesh"
        assert scene.target().symmetry.is_symmetric or kind != "sym_diff"
    assert imported > 10


def test_a_start_with_imported_models_can_be_drawn(config):
    stock = open_stock(config, 0, 40, "heldout")
    start = sample_start(
        config,
        EnvConfig(),
        [m for m in stock.models if m.shape.kind == "mesh"],
        {"any": 1.0},
        seed=0,
        purpose=Purpose.SCENE,
        round=0,
        env=0,
        meshes=stock.assets,
        images=stock.images,
    )
    assert start.scene.target().shape.kind == "mesh" and start.d_star > 0.0
