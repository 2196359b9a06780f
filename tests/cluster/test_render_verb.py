import json

import numpy as np
import pytest
from PIL import Image

from cluster.cli import main


def render(*arguments):
    return main(["render", "--count", "3", "--side", "40", *map(str, arguments)])


def test_scenes_become_one_picture_and_its_path_is_printed(capsys, tmp_path):
    path = tmp_path / "sheet.png"
    assert render(path, "--kinds", "sym_diff,asym_same") == 0
    assert capsys.readouterr().out == f"{path}\n"
    first = np.array(Image.open(path))
    assert first.std() > 20 and first.shape[1] > 2 * 4 * 40
    # The same seed gives the same picture over the old one, another seed another; settings count.
    assert render(path, "--kinds", "sym_diff,asym_same", "seed=0") == 0
    assert np.array_equal(first, Image.open(path))
    assert render(path, "--kinds", "sym_diff,asym_same", "--seed", 1) == 0
    other = np.array(Image.open(path))
    assert not np.array_equal(first, other)
    assert render(path, "--kinds", "sym_diff,asym_same", "seed=1") == 0
    assert np.array_equal(other, Image.open(path))
    assert render("scenes.difficulty=hard", path, "--kinds", "sym_diff,asym_same") == 0
    assert not np.array_equal(first, Image.open(path))


def test_json_says_what_is_in_it(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert render("--json", "--kinds", "sym_same", "scenes.shapes=[cone]") == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"path": "scenes.png", "scenes": [{"kind": "sym_same", "target": "cone", "objects": 1}] * 3}
    assert (tmp_path / "scenes.png").read_bytes().startswith(b"\x89PNG")


def test_a_file_that_is_no_picture_is_not_overwritten(capsys, tmp_path):
    path = tmp_path / "thesis.png"
    path.write_text("not a picture")
    assert render(path) == 2
    assert f"picture = '{path}': allowed is a new file or a PNG" in capsys.readouterr().err
    assert path.read_text() == "not a picture" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{}/a.jpg"], "allowed is a name that ends in .png"),
        (["{}/nowhere/a.png"], "allowed is a file in a folder that exists"),
        (["{}/a.png", "{}/b.png"], "one file name; settings are name=value"),
        (["{}/a.png", "--kinds", "sym_dif"], "kinds = 'sym_dif': allowed is one or more of ('sym_diff',"),
        (["{}/a.png", "scenes.dificulty=hard"], "did you mean scenes.difficulty"),
        (["{}/a.png", "scenes.shapes=[teapot]"], "scenes.shapes = 'teapot'"),
    ],
)
def test_bad_usage_is_one_line_and_writes_nothing(capsys, tmp_path, arguments, message):
    assert render(*(a.format(tmp_path) for a in arguments)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err
    assert list(tmp_path.iterdir()) == []


def test_numbers_below_one_are_bad_usage(capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        main(["render", "--count", "0"])
    assert ended.value.code == 2 and "allowed is >= 1" in capsys.readouterr().err
