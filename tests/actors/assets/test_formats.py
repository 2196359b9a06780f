"""Models from files: what is read, and what is refused by name."""

import io
import json
import struct

import numpy as np
import pytest
import trimesh
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from actors.assets.formats import GREY, open_picture, read_parts
from common.errors import AssetError
from tests.actors.models_for_tests import (
    box_arrays,
    color_of,
    colored,
    globe,
    globe_arrays,
    globe_picture,
    painted_box,
    png,
    write,
    write_globe,
    write_obj,
)


def only(path, **options):
    (part,), files = read_parts(path, **options)
    return part, [f.name for f in files]


def glb_header(data):
    length = struct.unpack_from("<I", data, 12)[0]
    return json.loads(data[20 : 20 + length]), data[20 + length :]


def with_header(header, rest):
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    return struct.pack("<4sIII4s", b"glTF", 2, 20 + len(text) + len(rest), len(text), b"JSON") + text + rest


def shown_at(part, points):
    """Colours of a part's picture at its vertices."""
    texels = np.asarray(part.image, dtype=float)
    pixel = np.clip((part.uvs[points] * part.image.size).astype(int), 0, np.array(part.image.size) - 1)
    return texels[pixel[:, 1], pixel[:, 0]]


@pytest.mark.parametrize("suffix", [".obj", ".glb"])
def test_a_picture_lies_where_its_coordinates_say(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    part, _ = only(write_globe(path) if suffix == ".obj" else write(path, globe()))
    # Between the poles and off the seam every texel around a vertex is the globe's.
    inner = np.flatnonzero(np.abs(part.vertices[:, 2]) < 0.09)
    wanted = color_of(part.vertices[inner] / 0.1)
    assert np.abs(shown_at(part, inner) - wanted).max() < 8.0
    assert len(part.faces) == 2 * 48 * 23


def test_an_obj_names_its_files_and_a_picture_in_a_sister_folder_is_found(tmp_path):
    path = write_globe(tmp_path / "meshes" / "model.obj", with_picture=False)
    textures = tmp_path / "materials" / "textures"
    textures.mkdir(parents=True)
    globe_picture().save(textures / "skin.png")
    part, files = only(path)
    assert part.image is not None and files == ["model.obj", "model.mtl", "skin.png"]


def test_a_picture_may_stand_behind_options_and_have_blanks_in_its_name(tmp_path):
    parts = [(*globe_arrays(), "skin", (0.5, 0.5, 0.5), "-s 1 1 1 my skin.png")]
    path = write_obj(tmp_path / "model.obj", parts, {"my skin.png": globe_picture()})
    assert only(path)[0].image is not None


def test_a_missing_picture_is_named_or_replaced_by_the_material_colour(tmp_path):
    path = write_globe(tmp_path / "model.obj", with_picture=False)
    with pytest.raises(AssetError, match=r"model\.mtl names the texture skin\.png, which is missing"):
        read_parts(path)
    part, files = only(path, missing_texture="plain")
    assert part.image is None and part.color == (128, 64, 0) and files == ["model.obj", "model.mtl"]


def test_a_missing_picture_of_an_unused_material_does_no_harm(tmp_path):
    path = write_globe(tmp_path / "model.obj")
    with (tmp_path / "model.mtl").open("a") as f:
        f.write("newmtl other\nmap_Kd nowhere.png\n")
    assert only(path)[0].image is not None


def test_a_missing_material_file_is_named_or_the_model_is_grey(tmp_path):
    path = write_globe(tmp_path / "model.obj")
    (tmp_path / "model.mtl").unlink()
    with pytest.raises(AssetError, match=r"names the material file model\.mtl, which is missing"):
        read_parts(path)
    assert only(path, missing_texture="plain")[0].color == GREY


@pytest.mark.parametrize("data", [b"", b"no picture", png(np.full((64, 64, 3), 9))[:-30]])
def test_an_unreadable_picture_is_named(tmp_path, data):
    path = write_globe(tmp_path / "model.obj", with_picture=False)
    (tmp_path / "skin.png").write_bytes(data)
    with pytest.raises(AssetError, match=r"picture skin\.png cannot be read"):
        read_parts(path)


def test_coordinates_that_the_loader_drops_are_not_passed_over(tmp_path):
    path = write_globe(tmp_path / "model.obj")
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for i, line in enumerate(lines) if not line.startswith("vt ") or i % 7))
    with pytest.raises(AssetError, match="lack valid texture coordinates"):
        read_parts(path)


def test_a_mesh_without_coordinates_is_plain(tmp_path):
    parts = [(*box_arrays((0.1, 0.1, 0.1)), None, "skin", (0.2, 0.4, 0.6), "skin.png")]
    part, _ = only(write_obj(tmp_path / "model.obj", parts, {"skin.png": globe_picture()}))
    assert part.image is None and part.color == (51, 102, 153)


def test_vertex_colours_of_a_ply_and_materials_of_a_glb(tmp_path):
    part, _ = only(write(tmp_path / "a.ply", colored()))
    assert np.array_equal(part.colors, np.round(color_of(part.vertices / 0.1)).astype(np.uint8))
    scene = trimesh.Scene([painted_box((0.1, 0.1, 0.1), (55, 0, 255)), globe(), colored()])
    parts, files = read_parts(write(tmp_path / "a.glb", scene))
    assert [f.name for f in files] == ["a.glb"]
    looks = {"image" if p.image else "colors" if p.colors is not None else p.color for p in parts}
    # glTF's colours are linear: 55 of 255 is shown as 128.
    assert looks == {"image", "colors", (128, 0, 255)}
    (painted,) = [p.colors for p in parts if p.colors is not None]
    linear = (np.round(color_of(colored().vertices / 0.1)) / 255) ** (1 / 2.2)
    assert np.abs(painted / 255 - linear).max() < 0.04


def test_a_glb_tints_its_picture_by_a_linear_factor(tmp_path):
    part, _ = only(write(tmp_path / "a.glb", globe(factor=[1.0, 55 / 255, 0.0, 1.0])))
    plain, tinted = np.asarray(globe_picture(), dtype=float), np.asarray(part.image, dtype=float)
    assert np.array_equal(tinted[..., 0], plain[..., 0]) and tinted[..., 2].max() == 0
    assert abs(tinted[..., 1].max() - 128) <= 1


def test_transforms_of_a_glb_are_applied(tmp_path):
    scene = trimesh.Scene()
    scene.add_geometry(painted_box((0.1, 0.1, 0.1), (9, 9, 9)), transform=trimesh.transformations.scale_matrix(3.0))
    part, _ = only(write(tmp_path / "a.glb", scene))
    assert np.allclose(np.ptp(part.vertices, axis=0), 0.3)


def test_a_textured_ply_finds_its_picture(tmp_path):
    path = write(tmp_path / "a.ply", globe())
    path.write_bytes(path.read_bytes().replace(b"format binary", b"comment TextureFile skin.png\nformat binary", 1))
    data = path.read_bytes()
    head, body = data.split(b"comment TextureFile skin.png\n", 1)
    first, rest = body.split(b"\n", 1)
    path.write_bytes(head + first + b"\ncomment TextureFile skin.png\n" + rest)
    with pytest.raises(AssetError, match=r"a\.ply names the texture skin\.png"):
        read_parts(path)
    globe_picture().save(tmp_path / "skin.png")
    part, files = only(path)
    assert part.image is not None and files == ["a.ply", "skin.png"]


def broken(tmp_path, kind):
    good = write(tmp_path / "a.glb", globe(rings=4, segments=6)).read_bytes()
    header, rest = glb_header(good)
    if kind == "short":
        return good[:-100]
    if kind == "no glb":
        return b"glTF but not really, only text of some length"
    if kind == "extension":
        return with_header({**header, "extensionsRequired": ["KHR_draco_mesh_compression"]}, rest)
    if kind == "picture":
        view = header["bufferViews"][header["images"][0]["bufferView"]]
        start = 8 + view.get("byteOffset", 0)
        return with_header(header, rest[: start + 20] + b"\0" * 40 + rest[start + 60 :])
    return with_header({**header, "images": [{"uri": "elsewhere.png"}]}, rest)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("short", "cut short"),
        ("no glb", "is not a GLB file"),
        ("extension", "KHR_draco_mesh_compression, which is not supported"),
        ("picture", r"picture 0 of a\.glb cannot be read"),
        ("outside", "keeps picture 0 outside the file"),
    ],
)
def test_a_broken_glb_is_refused_by_what_is_wrong(tmp_path, kind, message):
    (tmp_path / "a.glb").write_bytes(broken(tmp_path, kind))
    with pytest.raises(AssetError, match=message):
        read_parts(tmp_path / "a.glb")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.obj", "v 0 0 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "not finite"),
        ("a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", "cannot be read"),
        ("a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\n", "no triangles"),
        ("a.obj", "", "size of"),
        ("a.ply", "ply\nformat ascii 1.0\nelement vertex 9\n", "cannot be read|no triangles"),
        ("a.stl", "solid", "model file"),
    ],
)
def test_a_broken_text_is_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(AssetError, match=message):
        read_parts(tmp_path / name)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(AssetError, match=r"a\.obj cannot be read: No such file"):
        read_parts(tmp_path / "a.obj")


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    small = globe(rings=4, segments=6)
    write(folder / "a.glb", small)
    write(folder / "a.ply", colored(subdivisions=0))
    write_obj(
        folder / "a.obj", [(*globe_arrays(rings=4, segments=6), "s", (1, 1, 1), "s.png")], {"s.png": globe_picture(8)}
    )
    return folder


@pytest.mark.parametrize("name", ["a.glb", "a.ply", "a.obj", "model.mtl", "s.png"])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.floats(0.0, 1.0), flips=st.lists(st.tuples(st.floats(0.0, 0.9999), st.integers(0, 7)), max_size=4))
def test_damaged_bytes_give_a_model_or_one_clear_error(samples, tmp_path, name, cut, flips):
    for file in samples.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    data = bytearray((samples / name).read_bytes())
    if not flips:
        data = data[: int(cut * len(data))]
    for at, bit in flips:
        data[int(at * len(data))] ^= 1 << bit
    (tmp_path / name).write_bytes(bytes(data))
    path = tmp_path / (name if name.startswith("a.") else "a.obj")
    try:
        parts, _ = read_parts(path)
    except AssetError as e:
        assert "\n" not in str(e)
    else:
        assert all(np.isfinite(p.vertices).all() and p.faces.max() < len(p.vertices) for p in parts)


@given(st.binary(max_size=200))
def test_no_bytes_make_a_picture_by_accident(data):
    try:
        picture = open_picture(data, "x")
    except AssetError as e:
        assert "picture x cannot be read" in str(e)
    else:
        assert picture.mode == "RGB"


def test_transparency_is_dropped():
    buffer = io.BytesIO()
    Image.new("RGBA", (4, 4), (10, 20, 30, 0)).save(buffer, format="PNG")
    assert np.asarray(open_picture(buffer.getvalue(), "x"))[0, 0].tolist() == [10, 20, 30]
