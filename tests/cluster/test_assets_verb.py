"""`servofleet assets import`: exit codes, the report and what goes to which stream."""

import argparse
import json
import sys
import typing

import pytest

from actors.assets.formats import MissingTexture
from actors.assets.importing import import_models
from actors.assets.layouts import Layout
from actors.assets.library import open_assets
from actors.assets.manifest import ImportSettings
from cluster.assets_verb import add_arguments
from cluster.cli import main
from common.scene import Symmetry
from tests.actors.models_for_tests import box_arrays, colored, write, write_obj


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "models"
    write(folder / "ball.ply", colored(subdivisions=0))
    write_obj(folder / "box[1].obj", [(*box_arrays((0.1, 0.2, 0.3)), None, "m", (1, 0, 0), None)], mtl="box.mtl")
    return folder


def run(capsys, *arguments):
    """Exit code, stdout and stderr."""
    code = main(["assets", "import", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_models_are_imported_with_what_was_asked_for(models, tmp_path, capsys):
    symmetry = tmp_path / "symmetry.json"
    symmetry.write_text(json.dumps({"box[1]": {"axis_continuous": None, "rotations": [[0, 0, 3.14159265]]}}))
    cache = tmp_path / "out"
    options = ["--licence", "CC0", "--symmetry", symmetry, "--texture-side", 16, "--scale", 2, "--json"]
    code, out, err = run(capsys, models, "--out", cache, *options)
    report = json.loads(out)
    assert code == 0 and err == ""
    assert (report["imported"], report["failed"], report["assets"], report["triangles"]) == (2, [], 2, 32)
    entries = {e.name: e for e in open_assets(cache).entries}
    assert report["manifest_sha256"] == open_assets(cache).sha256
    assert entries["box[1]"].symmetry == Symmetry(rotations=((0.0, 0.0, 3.14159265),))
    assert entries["box[1]"].extent == (0.2, 0.4, 0.6) and entries["ball"].licence == "CC0"


def test_a_refused_model_makes_the_exit_code_unless_allowed(models, tmp_path, capsys):
    (models / "bad[red].glb").write_bytes(b"glTF")
    code, out, _ = run(capsys, models, "--out", tmp_path / "out")
    assert code == 1
    # Brackets in names are no markup.
    assert out.count("bad[red].glb") == 2 and "is not a GLB file" in out
    assert "2 imported, 0 replaced, 0 unchanged, 1 refused; 2 models" in out
    code, out, _ = run(capsys, models, "--out", tmp_path / "out", "--allow-errors", "--json")
    report = json.loads(out)
    assert code == 0 and report["unchanged"] == 2
    assert [f["file"] for f in report["failed"]] == ["bad[red].glb"] and "GLB" in report["failed"][0]["error"]


def test_a_second_import_says_that_nothing_changed(models, tmp_path, capsys):
    run(capsys, models, "--out", tmp_path / "out")
    code, out, _ = run(capsys, models, "--out", tmp_path / "out")
    assert code == 0 and "2 unchanged, 0 refused (nothing changed)" in out


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--texture-side", "100"], 2, "texture_side = 100"),
        (["--max-triangles", "1"], 2, "max_triangles = 1"),
        (["--symmetry", "nowhere.json"], 2, "nowhere.json cannot be read"),
        (["--layout", "gso"], 1, "no models of layout gso"),
    ],
)
def test_bad_usage_is_one_line(models, tmp_path, capsys, options, code, message):
    found, out, err = run(capsys, models, "--out", tmp_path / "out", *options)
    assert found == code and out == "" and message in err and err.count("\n") == 1


def test_a_folder_that_is_none_and_an_unknown_layout_are_bad_usage(tmp_path, capsys):
    assert run(capsys, tmp_path / "none", "--out", tmp_path / "out")[0] == 2
    with pytest.raises(SystemExit) as ended:
        main(["assets", "import", str(tmp_path), "--out", "x", "--layout", "other"])
    assert ended.value.code == 2


def test_ctrl_c_leaves_a_cache_that_can_be_used(models, tmp_path, capsys, monkeypatch):
    def stopped(*args, **kwargs):
        steps = import_models(*args, **kwargs)
        try:
            yield next(steps)
            raise KeyboardInterrupt
        finally:
            steps.close()

    monkeypatch.setattr("actors.assets.importing.import_models", stopped)
    assert run(capsys, models, "--out", tmp_path / "out")[0] == 130
    assert [e.name for e in open_assets(tmp_path / "out").entries] == ["ball"]


def test_choices_and_defaults_are_those_of_the_import():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    choices = {a.dest: a.choices for a in parser._actions}
    assert tuple(choices["layout"]) == typing.get_args(Layout)
    assert tuple(choices["missing_texture"]) == typing.get_args(MissingTexture)
    assert tuple(choices["up"]) == typing.get_args(typing.get_type_hints(ImportSettings)["up"])
    given = vars(parser.parse_args(["import", "x", "--out", "y"]))
    settings = ImportSettings()
    assert all(given[name] == getattr(settings, name) for name in vars(settings))


def test_the_command_line_starts_without_the_loaders(capsys):
    import subprocess

    code = "import sys, cluster.cli; sys.exit(any(m in sys.modules for m in ('trimesh', 'scipy', 'PIL')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
