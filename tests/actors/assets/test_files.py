"""Content-addressed files: what is stored comes back, and what is damaged is named."""

import hashlib

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.assets.files import load_asset, mesh_arrays, mesh_path, store_mesh, store_texture, texture_path
from actors.scenes.mesh import recorded_mesh
from common.errors import AssetError
from tests.actors.models_for_tests import globe_arrays, png


@pytest.fixture(scope="module")
def mesh():
    vertices, faces, uvs = globe_arrays(rings=4, segments=6)
    return recorded_mesh(vertices, faces, vertices / 0.1, uvs)


def named(folder, suffix, data):
    """A file whose name is its hash, whatever it holds."""
    path = folder / f"{hashlib.sha256(data).hexdigest()}{suffix}"
    path.write_bytes(data)
    return path


def test_a_mesh_and_a_texture_come_back(tmp_path, mesh):
    digest = store_mesh(tmp_path, mesh)
    back = load_asset(mesh_path(tmp_path, digest))
    for field, array in mesh_arrays(mesh).items():
        now = getattr(back, field)
        assert np.array_equal(now, array) and now.dtype == array.dtype and not now.flags.writeable
    assert back.closed is mesh.closed is True
    texels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    back = load_asset(texture_path(tmp_path, store_texture(tmp_path, texels)))
    assert np.array_equal(back, texels) and not back.flags.writeable


def test_names_are_hashes_and_nothing_is_left_beside_them(tmp_path, mesh):
    first, again = store_mesh(tmp_path, mesh), store_mesh(tmp_path, mesh)
    (file,) = (tmp_path / "meshes").iterdir()
    assert first == again == file.stem == hashlib.sha256(file.read_bytes()).hexdigest()


def test_storing_mends_a_damaged_file_and_leaves_a_good_one_alone(tmp_path, mesh):
    file = mesh_path(tmp_path, store_mesh(tmp_path, mesh))
    good, inode = file.read_bytes(), file.stat().st_ino
    store_mesh(tmp_path, mesh)
    assert file.stat().st_ino == inode
    file.write_bytes(good[:-1])
    store_mesh(tmp_path, mesh)
    assert file.read_bytes() == good


def test_nothing_half_written_gets_a_name(tmp_path, mesh, monkeypatch):
    def broken(fd):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("common.fsio.os.fsync", broken)
    with pytest.raises(OSError, match="Input/output"):
        store_mesh(tmp_path, mesh)
    assert list((tmp_path / "meshes").iterdir()) == []


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0.0, 0.9999), bit=st.integers(0, 7))
def test_one_flipped_bit_is_noticed_and_named(tmp_path, mesh, at, bit):
    file = mesh_path(tmp_path, store_mesh(tmp_path, mesh))
    data = bytearray(file.read_bytes())
    data[int(at * len(data))] ^= 1 << bit
    file.write_bytes(bytes(data))
    with pytest.raises(AssetError, match=f"{file.name} is damaged"):
        load_asset(file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(AssetError, match="cannot be read: No such file"):
        load_asset(mesh_path(tmp_path, "0" * 64))


def test_a_file_of_another_form_is_refused(tmp_path, mesh):
    arrays = {k: np.array(v) for k, v in mesh_arrays(mesh).items()}
    for change, message in (
        ({"faces": arrays["faces"].astype(np.int64)}, "faces of .* = 'int64': allowed is int32"),
        ({"faces": arrays["faces"] + 10_000}, "is not a mesh: .*faces"),
        ({"normals": arrays["normals"][:-1]}, "is not a mesh: .*normals"),
    ):
        file = named(tmp_path, ".safetensors", safetensors.numpy.save({**arrays, **change}))
        with pytest.raises(AssetError, match=message):
            load_asset(file)
    del arrays["uvs"]
    for data in (safetensors.numpy.save(arrays), b"short", b""):
        with pytest.raises(AssetError, match="is not a mesh"):
            load_asset(named(tmp_path, ".safetensors", data))
    with pytest.raises(AssetError, match="power of two"):
        load_asset(named(tmp_path, ".png", png(np.zeros((12, 12, 3)))))
