"""The import as a whole: each model by itself, nothing half-written, the same cache for the same models."""

import fcntl
import json
from contextlib import closing

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.assets.files import is_stored, mesh_path, texture_path
from actors.assets.importing import check_settings, import_models, read_symmetries
from actors.assets.layouts import find_models
from actors.assets.library import open_assets
from actors.assets.manifest import MANIFEST, ImportSettings, read_manifest
from actors.assets.quality import sample_texture
from common.errors import AssetError, ConfigError
from common.scene import Symmetry
from tests.actors.models_for_tests import (
    box_arrays,
    color_of,
    colored,
    globe,
    globe_arrays,
    globe_picture,
    write,
    write_globe,
    write_obj,
)

SMALL = ImportSettings(max_triangles=400, texture_side=64)


def run(folder, cache, options=SMALL, **more):
    """Name -> outcome of an import."""
    return {o.name: o for o in import_models(folder, find_models(folder), cache, options, **more)}


def statuses(outcomes):
    return {name: o.status for name, o in outcomes.items()}


def whole(cache):
    """All files of a cache are what their names say, no temporary one is left; returns name -> content."""
    files = {p: p.read_bytes() for p in cache.rglob("*") if p.is_file() and p.name != ".lock"}
    assert all(p.name == MANIFEST or is_stored(p) for p in files), sorted(files)
    for record in read_manifest(cache)[0]:
        assert mesh_path(cache, record.mesh) in files and texture_path(cache, record.texture) in files
    return files


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "models"
    write_globe(folder / "globe" / "model.obj", rings=12, segments=16)
    write(folder / "ball.ply", colored(subdivisions=1))
    return folder


@pytest.mark.parametrize("kind", ["obj", "glb", "ply"])
def test_an_imported_globe_looks_like_the_globe(tmp_path, kind):
    models = tmp_path / "models"
    if kind == "obj":
        write_globe(models / "globe.obj")
    elif kind == "glb":
        write(models / "globe.glb", globe())
    else:
        write(models / "globe.ply", colored(subdivisions=4))
    assert statuses(run(models, tmp_path / "out", ImportSettings(800, 256))) == {"globe": "imported"}
    (record,), _ = read_manifest(tmp_path / "out")
    assert record.triangles <= 800 < record.triangles_before and record.closed
    assert record.deviation[0] < 0.012 and record.color_error[0] < 0.01 and record.color_error[1] < 0.04
    library = open_assets(tmp_path / "out")
    mesh, texels = library[record.mesh], library[record.texture]
    weights = np.random.default_rng(0).dirichlet(np.ones(3), size=(len(mesh.faces), 4))
    points = np.einsum("fkc,fcx->fkx", weights, mesh.vertices[mesh.faces].astype(float)).reshape(-1, 3)
    shown = sample_texture(
        texels, np.einsum("fkc,fcx->fkx", weights, mesh.uvs[mesh.faces].astype(float)).reshape(-1, 2)
    )
    direction = points / np.linalg.norm(points, axis=1, keepdims=True)
    if kind == "glb":  # y is up in the file, z in the mesh; vertices were written as they are
        direction = direction[:, [0, 2, 1]] * [1, 1, -1]
    away = np.abs(direction[:, 2]) < 0.9
    error = np.abs(shown - color_of(direction))[away].mean(axis=1)
    assert error.mean() < 3.0 and np.quantile(error, 0.99) < 20.0


def test_one_bad_file_is_reported_and_the_others_are_imported(folder, tmp_path):
    (folder / "short.glb").write_bytes(write(tmp_path / "x.glb", globe()).read_bytes()[:-50])
    write_obj(folder / "nan.obj", [(np.full((3, 3), np.nan), [[0, 1, 2]], None, "m", (1, 1, 1), None)], mtl="nan.mtl")
    write_obj(folder / "big.obj", [(*box_arrays((90, 90, 90)), None, "m", (1, 1, 1), None)], mtl="big.mtl")
    write_globe(folder / "bare" / "model.obj", with_picture=False)
    outcomes = run(folder, tmp_path / "out")
    failed = {name: o.error for name, o in outcomes.items() if o.status == "failed"}
    assert set(failed) == {"short", "nan", "big", "bare"} and all("\n" not in e for e in failed.values())
    assert "cut short" in failed["short"] and "not finite" in failed["nan"]
    assert "millimetres" in failed["big"] and "skin.png, which is missing" in failed["bare"]
    assert outcomes["bare"].file == "bare/model.obj"
    assert {e.name for e in open_assets(tmp_path / "out").entries} == {"ball", "globe"}
    whole(tmp_path / "out")


def test_a_second_import_changes_nothing(folder, tmp_path):
    cache = tmp_path / "out"
    run(folder, cache)
    before, stamps = whole(cache), {p: p.stat().st_mtime_ns for p in cache.rglob("*")}
    assert set(statuses(run(folder, cache)).values()) == {"unchanged"}
    del stamps[cache / ".lock"]
    assert whole(cache) == before and all(p.stat().st_mtime_ns == t for p, t in stamps.items())


def test_two_caches_of_the_same_models_are_the_same(folder, tmp_path):
    for name in ("a", "b"):
        run(folder, tmp_path / name)
    assert open_assets(tmp_path / "a").sha256 == open_assets(tmp_path / "b").sha256


def test_a_changed_source_setting_or_symmetry_replaces_one_model(folder, tmp_path):
    cache = tmp_path / "out"
    run(folder, cache)
    globe_picture(64).rotate(90).save(folder / "globe" / "skin.png")
    assert statuses(run(folder, cache)) == {"globe": "replaced", "ball": "unchanged"}
    assert (
        statuses(run(folder, cache, symmetries={"ball": Symmetry(rotations=((0.0, 0.0, np.pi),))}))["ball"]
        == "replaced"
    )
    assert statuses(run(folder, cache, ImportSettings(300, 64)))["globe"] == "replaced"
    assert len(whole(cache)) == 1 + 2 * len(read_manifest(cache)[0]) + 3  # older files stay for those who read them


def test_a_lost_or_damaged_file_is_made_again(folder, tmp_path):
    cache = tmp_path / "out"
    run(folder, cache)
    before = whole(cache)
    records = {r.name: r for r in read_manifest(cache)[0]}
    mesh_path(cache, records["ball"].mesh).unlink()
    texture_path(cache, records["globe"].texture).write_bytes(b"damaged")
    run(folder, cache)
    assert whole(cache) == before


def test_a_picture_that_arrives_later_is_taken(tmp_path):
    models, plain = tmp_path / "models", ImportSettings(400, 64, missing_texture="plain")
    write_globe(models / "globe.obj", with_picture=False, rings=8, segments=12)
    run(models, tmp_path / "out", plain)
    assert statuses(run(models, tmp_path / "out", plain)) == {"globe": "unchanged"}
    globe_picture(64).save(models / "skin.png")
    assert statuses(run(models, tmp_path / "out", plain)) == {"globe": "replaced"}


def test_a_model_that_breaks_keeps_its_old_import(folder, tmp_path):
    cache = tmp_path / "out"
    run(folder, cache)
    (folder / "ball.ply").write_bytes(b"ply\n")
    assert statuses(run(folder, cache))["ball"] == "failed"
    assert {e.name for e in open_assets(cache).entries} == {"ball", "globe"}


def test_an_import_that_is_stopped_leaves_what_is_done(folder, tmp_path, monkeypatch):
    cache = tmp_path / "out"
    with closing(import_models(folder, find_models(folder), cache, SMALL)) as steps:
        assert next(steps).name == "ball"
    assert {e.name for e in open_assets(cache).entries} == {"ball"}
    # Ctrl-C in the middle of a model.
    monkeypatch.setattr("actors.assets.importing.store_texture", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(folder, cache)
    monkeypatch.undo()
    assert {e.name for e in open_assets(cache).entries} == {"ball"}
    assert statuses(run(folder, cache)) == {"ball": "unchanged", "globe": "imported"}
    whole(cache)


def interrupted(*args):
    raise KeyboardInterrupt


def test_two_imports_into_one_cache_do_not_mix(folder, tmp_path):
    cache = tmp_path / "out"
    cache.mkdir()
    with (cache / ".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(AssetError, match="another import is writing"):
            run(folder, cache)
    assert run(folder, cache)


def test_a_full_disk_is_one_line(folder, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("actors.assets.importing.store_mesh", full)
    assert {o.error for o in run(folder, tmp_path / "out").values()} == {"[Errno 28] No space left on device"}
    monkeypatch.setattr("actors.assets.importing.write_manifest", full)
    with pytest.raises(AssetError, match=r"manifest\.json cannot be written: No space left"):
        run(folder, tmp_path / "other")


def test_a_symmetry_that_the_shape_contradicts_is_refused(folder, tmp_path):
    write_obj(folder / "box.obj", [(*box_arrays((0.1, 0.2, 0.3)), None, "m", (1, 0, 0), None)], mtl="box.mtl")
    half = Symmetry(rotations=((0.0, 0.0, np.pi),))
    assert statuses(run(folder, tmp_path / "a", symmetries={"box": half}))["box"] == "imported"
    quarter = Symmetry(rotations=((0.0, 0.0, np.pi / 2),))
    outcome = run(folder, tmp_path / "b", symmetries={"box": quarter})["box"]
    assert outcome.status == "failed" and "symmetry of box" in outcome.error
    with pytest.raises(ConfigError, match="symmetry of = 'bx'"):
        run(folder, tmp_path / "c", symmetries={"bx": half})


def test_symmetries_are_read_strictly(tmp_path):
    file = tmp_path / "s.json"
    file.write_text(json.dumps({"cup": {"axis_continuous": [0, 0, 1.0005], "rotations": []}}))
    assert read_symmetries(file) == {"cup": Symmetry((0.0, 0.0, 1.0))}
    for text, message in (
        ("{", "is not JSON"),
        ("[]", "a JSON object of model names"),
        ('{"cup": {"axis_continuous": [0, 0, 2], "rotations": []}}', "a unit vector"),
        ('{"cup": {"axis_continuous": null}}', r"cup\.rotations is missing"),
        ('{"cup": {"axis_continuous": null, "rotations": [[0, 1]]}}', r"cup\.rotations\[0\]"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_symmetries(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_symmetries(tmp_path / "none.json")


@pytest.mark.parametrize(
    "options",
    [{"max_triangles": 3}, {"texture_side": 100}, {"texture_side": 4}, {"scale": 0.0}, {"scale": np.nan}, {"up": "x"}],
)
def test_settings_out_of_range_are_named(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        check_settings(ImportSettings(**options))


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.integers(0, 2), at=st.floats(0.0, 0.9999), bit=st.integers(0, 7), cut=st.booleans())
def test_damaged_files_never_leave_a_half_written_cache(tmp_path_factory, which, at, bit, cut):
    folder = tmp_path_factory.mktemp("fuzz")
    write_obj(
        folder / "a.obj", [(*globe_arrays(rings=4, segments=6), "s", (1, 1, 1), "s.png")], {"s.png": globe_picture(8)}
    )
    write(folder / "b.ply", colored(subdivisions=0))
    write(folder / "c.glb", globe(rings=4, segments=6))
    names = ("a.obj", "b.ply", "c.glb")
    victim = folder / names[which]
    (folder / names[which - 1]).unlink()
    data = bytearray(victim.read_bytes())
    data[int(at * len(data))] ^= 1 << bit
    victim.write_bytes(bytes(data[: int(at * len(data))] if cut else data))
    outcomes = run(folder, folder / "out", ImportSettings(60, 32))
    assert len(outcomes) == 2 and "imported" in statuses(outcomes).values()
    whole(folder / "out")
    library = open_assets(folder / "out")
    assert len(library.entries) == sum(o.status == "imported" for o in outcomes.values())
    assert all(library[key] is not None for key in library)


@pytest.mark.reference
def test_ycb_models_as_simulators_ship_them(reference_data, tmp_path):
    folder = reference_data / "data" / "ycb"
    if not folder.is_dir():
        pytest.skip("no reference data: ../shared/data/ycb does not exist beside this checkout")
    cache = tmp_path / "out"
    found = statuses(run(folder, cache, ImportSettings()))
    assert found.pop("YcbBanana") == "imported" and set(found.values()) == {"failed"}
    (banana,), _ = read_manifest(cache)
    assert (
        banana.closed and banana.triangles == 5000 and banana.extent == pytest.approx((0.196, 0.079, 0.0375), abs=1e-3)
    )
    assert banana.deviation[0] < 0.002 and banana.color_error[1] < 0.02
    models = {"YcbPowerDrill": find_models(folder)["YcbPowerDrill"]}
    (drill,) = import_models(folder, models, cache, ImportSettings(2000, 64, missing_texture="plain"))
    assert drill.status == "imported" and [e.name for e in open_assets(cache).entries].count("YcbPowerDrill") == 1
