"""The manifest: strict, and the same for the same models."""

import dataclasses
import json

import pytest

from actors.assets.manifest import MANIFEST, AssetRecord, AssetSource, ImportSettings, read_manifest, write_manifest
from common.errors import AssetError
from common.scene import Symmetry


def record(name="cup", mesh="a" * 64):
    symmetry = Symmetry((0.0, 0.0, 1.0), ((3.0, 0.0, 0.0),)) if name == "cup" else None
    sources = (AssetSource(f"{name}.obj", "c" * 64),)
    return AssetRecord(
        name, mesh, "b" * 64, 90, 50, (0.1, 0.1, 0.2), (0.0, 0.5, 0.0), True, symmetry, "CC-BY", sources,
        ImportSettings(), (0.01, 0.001), (0.02, 0.05),
    )  # fmt: skip


def test_records_come_back_whatever_their_order(tmp_path):
    write_manifest(tmp_path, [record("pot"), record("cup")])
    first = read_manifest(tmp_path)
    assert first[0] == (record("cup"), record("pot"))
    write_manifest(tmp_path, [record("cup"), record("pot")])
    assert read_manifest(tmp_path) == first
    write_manifest(tmp_path, [record("cup")])
    assert read_manifest(tmp_path)[1] != first[1]


@pytest.mark.parametrize("mesh", ["../../etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "\n"])
def test_a_hash_is_nothing_but_a_hash(tmp_path, mesh):
    write_manifest(tmp_path, [record(mesh=mesh)])
    with pytest.raises(AssetError, match="64 hexadecimal digits"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(AssetRecord)])
def test_every_field_must_be_there_and_of_its_type(tmp_path, name):
    write_manifest(tmp_path, [record()])
    raw = json.loads((tmp_path / MANIFEST).read_text())
    for change in ("lost", "wrong"):
        asset = dict(raw["assets"][0])
        asset.pop(name) if change == "lost" else asset.update({name: {"x": 1}})
        (tmp_path / MANIFEST).write_text(json.dumps({**raw, "assets": [asset]}))
        with pytest.raises(AssetError, match=name):
            read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 2, "assets": []}', '{"version": 1}', "[" * 5000, "\xff"])
def test_what_is_no_manifest_is_refused(tmp_path, text):
    (tmp_path / MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(AssetError, match=r"manifest\.json"):
        read_manifest(tmp_path)


def test_a_cache_without_a_manifest_is_none(tmp_path):
    with pytest.raises(AssetError, match=r"manifest\.json cannot be read"):
        read_manifest(tmp_path)
