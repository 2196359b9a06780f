"""The library of imported models: lazy, bounded, and sure of what it reads."""

import numpy as np
import pytest

from actors.assets.files import mesh_path
from actors.assets.importing import import_models
from actors.assets.layouts import find_models
from actors.assets.library import open_assets
from actors.assets.manifest import ImportSettings
from actors.scenes.mesh import Mesh, check_mesh
from common.errors import AssetError
from common.scene import Symmetry
from tests.actors.models_for_tests import box_arrays, colored, write, write_globe, write_obj

UP = Symmetry((0.0, 0.0, 1.0), ((np.pi, 0.0, 0.0),))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_globe(folder / "globe.obj", rings=8, segments=12)
    write(folder / "ball.ply", colored(subdivisions=1))
    write_obj(folder / "box.obj", [(*box_arrays((0.1, 0.2, 0.3)), None, "m", (1, 0, 0), None)], mtl="box.mtl")
    settings = ImportSettings(texture_side=64)
    models = find_models(folder)
    outcomes = list(import_models(folder, models, folder / "out", settings, "CC0", {"globe": UP}))
    assert {o.status for o in outcomes} == {"imported"}
    return folder / "out"


def test_entries_say_what_a_sampler_asks(cache):
    library = open_assets(cache)
    assert [e.mesh for e in library.entries] == sorted(e.mesh for e in library.entries)
    entries = {e.name: e for e in library.entries}
    assert set(entries) == {"globe", "ball", "box"} and {e.licence for e in entries.values()} == {"CC0"}
    assert entries["globe"].symmetry == UP and entries["box"].symmetry == Symmetry()
    assert entries["box"].extent == (0.1, 0.2, 0.3) and entries["box"].triangles == 12 and entries["box"].closed
    assert library.sha256 == open_assets(cache).sha256 and len(library.sha256) == 64


def test_every_hash_gives_a_mesh_or_texels(cache):
    library = open_assets(cache)
    assert len(library) == len(list(library)) == 6
    for entry in library.entries:
        mesh, texels = library[entry.mesh], library[entry.texture]
        assert isinstance(mesh, Mesh) and entry.mesh in library
        check_mesh(mesh, entry.name)
        assert np.allclose(mesh.extent(), entry.extent, atol=1e-6) and mesh.closed == entry.closed
        assert np.allclose(mesh.vertices.max(axis=0), -mesh.vertices.min(axis=0))
        assert isinstance(texels, np.ndarray) and texels.dtype == np.uint8 and texels.shape[2] == 3
    with pytest.raises(KeyError):
        library["0" * 64]
    assert "0" * 64 not in library


def test_files_are_read_when_asked_for_and_kept_within_bounds(cache, monkeypatch):
    read = []
    real = open_assets.__globals__["AssetLibrary"].__getitem__.__globals__["load_asset"]
    monkeypatch.setattr("actors.assets.library.load_asset", lambda file: read.append(file.stem) or real(file))
    library = open_assets(cache)
    keys = list(library)
    assert not read and library[keys[0]] is library[keys[0]] and read == [keys[0]]
    small = open_assets(cache, cache_bytes=10)
    _ = small[keys[0]], small[keys[0]]
    assert read == [keys[0]] * 3


def test_a_damaged_or_missing_file_is_named_when_it_is_asked_for(cache, tmp_path):
    library = open_assets(cache)
    entry = next(e for e in library.entries if e.name == "ball")
    file = mesh_path(cache, entry.mesh)
    data = file.read_bytes()
    try:
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(AssetError, match=f"{entry.mesh}.safetensors is damaged"):
            library[entry.mesh]
        file.unlink()
        with pytest.raises(AssetError, match=f"{entry.mesh}.safetensors cannot be read"):
            open_assets(cache)[entry.mesh]
    finally:
        file.write_bytes(data)
    assert isinstance(library[entry.mesh], Mesh)


def test_what_is_no_cache_is_refused(tmp_path):
    with pytest.raises(AssetError, match=r"manifest\.json cannot be read"):
        open_assets(tmp_path)
