"""Which files of a data set's folder are its models."""

import pytest

from actors.assets.layouts import find_models
from common.errors import AssetError, ConfigError

FILES = {
    "gso": ["Mug/meshes/model.obj", "Shoe/meshes/model.obj", "Shoe/materials/textures/texture.png"],
    "ycb": ["002_can/google_16k/textured.obj", "YcbBanana/model.obj", "YcbBanana/texture_map.png"],
    "omniobject3d": ["apple/apple_001/Scan/Scan.obj", "apple/apple_002/Scan/Scan.obj", "box/box_001/Scan/Scan.obj"],
    "flat": ["bowl.glb", "vase.PLY", "cup.obj", "cup.mtl", "readme.txt"],
}
NAMES = {
    "gso": ["Mug", "Shoe"],
    "ycb": ["002_can", "YcbBanana"],
    "omniobject3d": ["apple_001", "apple_002", "box_001"],
    "flat": ["bowl", "cup", "vase"],
}


def lay_out(folder, files):
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("")
    return folder


@pytest.mark.parametrize("layout", list(FILES))
def test_every_layout_finds_its_models_also_by_itself(tmp_path, layout):
    lay_out(tmp_path, FILES[layout])
    found = find_models(tmp_path, layout)
    assert list(found) == NAMES[layout] and all(path.is_file() for path in found.values())
    assert find_models(tmp_path) == found
    for other in set(FILES) - {layout}:
        with pytest.raises(AssetError, match="no models of layout"):
            find_models(tmp_path, other)


def test_auto_takes_folders_of_every_layout_side_by_side(tmp_path):
    for files in FILES.values():
        lay_out(tmp_path, files)
    assert sorted(find_models(tmp_path)) == sorted(name for names in NAMES.values() for name in names)


def test_one_category_of_omniobject3d_is_a_data_set_too(tmp_path):
    lay_out(tmp_path, FILES["omniobject3d"])
    assert list(find_models(tmp_path / "apple", "omniobject3d")) == ["apple_001", "apple_002"]


def test_the_better_of_two_ycb_files_is_taken_once(tmp_path):
    lay_out(tmp_path, ["can/google_16k/textured.obj", "can/model.obj"])
    assert find_models(tmp_path)["can"].name == "textured.obj"


def test_hidden_folders_are_left_alone(tmp_path):
    lay_out(tmp_path, [".trash/model.obj", "can/model.obj"])
    assert list(find_models(tmp_path)) == ["can"]


def test_two_models_of_one_name_are_refused(tmp_path):
    lay_out(tmp_path, ["cup.obj", "cup.glb"])
    with pytest.raises(AssetError, match=r"two models are named cup: cup\.glb and cup\.obj"):
        find_models(tmp_path)


def test_bad_usage_is_named(tmp_path):
    with pytest.raises(ConfigError, match="layout = 'other'"):
        find_models(tmp_path, "other")
    with pytest.raises(ConfigError, match="an existing folder"):
        find_models(tmp_path / "none")
