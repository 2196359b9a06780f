import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from actors.isaac.camera import HORIZONTAL_APERTURE, usd_camera, usd_orientation
from actors.isaac.frames import cut_tiles, grid, instance_ids, label_names, metres
from actors.isaac.pictures import PictureFiles, radiance_hdr
from actors.isaac.requests import passes
from actors.isaac.version import IsaacError
from common.errors import SceneError
from common.geometry import so3_exp
from common.scene import Light
from tests.actors.isaac.fake_usd import rotation


@given(st.integers(1, 60), st.integers(1, 3), st.sampled_from([(2, 3), (3, 2), (1, 4)]))
def test_tiles_are_cut_where_replicator_lays_them(count, channels, size):
    rows, columns = grid(count)
    assert rows * columns >= count and (columns - 1) ** 2 < count <= columns**2
    height, width = size
    tiled = np.zeros((rows * height, columns * width, channels), np.uint8)
    for k in range(count):
        y, x = k // columns * height, k % columns * width
        tiled[y : y + height, x : x + width] = k + 1
    cut = cut_tiles(tiled, count, size, channels, "uint8", "rgb")
    assert cut.shape == (count, height, width, channels)
    assert [np.unique(c).tolist() for c in cut] == [[k + 1] for k in range(count)]
    tiled[:] = 0  # a copy: the renderer may write on
    assert cut.min() == 1


def test_tiles_of_another_size_or_dtype_are_refused():
    with pytest.raises(IsaacError, match="shape of depth"):
        cut_tiles(np.zeros((4, 4), np.float32), 5, (2, 2), 1, "float32", "depth")
    with pytest.raises(IsaacError, match="dtype of depth"):
        cut_tiles(np.zeros((2, 2), np.float64), 1, (2, 2), 1, "float32", "depth")


def test_ids_are_mapped_through_the_record_of_their_own_frame():
    ids = np.array([[0, 4, 7], [9, 9, 5]], dtype=np.uint32)
    info = {"idToLabels": {"4": {"class": "a"}, 7: "b", "0": {"class": "BACKGROUND"}, "5": {"other": "x"}}}
    names = label_names(info)
    assert names == {4: "a", 7: "b", 0: "BACKGROUND", 5: "UNLABELLED"}
    found, unknown = instance_ids(ids, names, {"a": 40, "b": 2})
    assert found.tolist() == [[0, 40, 2], [0, 0, 0]] and found.dtype == np.int32 and unknown == 2
    found, unknown = instance_ids(ids, names, {"a": 40})  # b stands in another environment
    assert found.tolist() == [[0, 40, 0], [0, 0, 0]] and unknown == 3
    for bad in ({}, {"idToLabels": {"x": "a"}}, {"idToLabels": {"1": {"class": 3}}}):
        with pytest.raises(IsaacError, match="idToLabels"):
            label_names(bad)


def test_depth_is_metres_or_infinite():
    fine = np.array([0.5, np.inf], dtype=np.float32)
    assert metres(fine) is fine
    for bad in (np.nan, -1.0, 0.0):
        with pytest.raises(IsaacError, match="depth"):
            metres(np.array([1.0, bad], dtype=np.float32))


def test_focal_length_over_aperture_is_focal_length_over_width():
    lens = usd_camera(np.array([512.0, 512.0, 256.0, 128.0]), (256, 512))
    assert lens.focal_length == HORIZONTAL_APERTURE and lens.apertures == (24.0, 12.0) and lens.offsets == (0.0, 0.0)
    off = np.array([512.0, 512.0, 260.0, 126.0])
    with pytest.raises(SceneError, match="principal point"):
        usd_camera(off, (256, 512))
    moved = usd_camera(off, (256, 512), allow_offsets=True)
    assert moved.offsets == pytest.approx((-4 * 24 / 512, -2 * 24 / 512))
    with pytest.raises(SceneError, match="square pixels"):
        usd_camera(np.array([512.0, 500.0, 256.0, 128.0]), (256, 512))


def test_usd_cameras_look_the_other_way_along_z_and_y():
    turn = so3_exp([0.3, -1.2, 0.5])
    made = rotation(usd_orientation(turn))
    assert np.allclose(made @ [0, 0, -1], turn @ [0, 0, 1]) and np.allclose(made @ [0, 1, 0], turn @ [0, -1, 0])
    assert np.allclose(made @ [1, 0, 0], turn @ [1, 0, 0])


def test_frames_under_one_light_are_drawn_together_up_to_the_tiles():
    day, night = Light(), Light(diffuse=0.1)
    made = passes([day, night, day, day], 2)
    assert [(p.light, p.rows) for p in made] == [(day, (0, 2)), (day, (3,)), (night, (1,))]
    assert passes([], 2) == []


def test_a_picture_is_written_once_and_dropped_only_when_nobody_holds_it(tmp_path):
    (tmp_path / "old.png").write_bytes(b"of an earlier process")
    files = PictureFiles(tmp_path, keep=2)
    assert not list(tmp_path.iterdir())
    texels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    first = files.put("a", texels)
    with Image.open(first) as image:
        assert np.array_equal(np.asarray(image), texels)
    changed = files.put("b", texels)
    assert files.put("a", np.zeros_like(texels)) == first  # the key is the content: not written again
    with Image.open(first) as image:
        assert np.array_equal(np.asarray(image), texels)
    third = files.put("c", texels)
    assert len(files) == 3  # all are held
    files.release(changed)
    files.put("d", texels)
    files.release(first)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "c.png", "d.png"]
    files.release(first)
    files.release(third)
    files.put("e", texels)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.png", "e.png"]
    with pytest.raises(ValueError, match="keep"):
        PictureFiles(tmp_path, keep=0)


def test_skies_keep_their_radiance_to_eight_bits():
    sky = np.array([[[0.0, 0.0, 0.0], [1.0, 0.5, 0.25]], [[37.0, 2.0, 0.1], [1e-3, 2e-3, 3e-3]]], dtype=np.float32)
    data = radiance_hdr(sky)
    head, _, pixels = data.partition(b"-Y 2 +X 2\n")
    assert head.startswith(b"#?RADIANCE\n") and io.BytesIO(pixels).getbuffer().nbytes == 16
    rgbe = np.frombuffer(pixels, np.uint8).reshape(2, 2, 4).astype(np.float64)
    # A reader takes the middle of what a mantissa stands for.
    back = np.where(rgbe[..., 3:] > 0, (rgbe[..., :3] + 0.5) * 2.0 ** (rgbe[..., 3:] - 136), 0.0)
    assert (np.abs(back - sky) <= sky.max(axis=2, keepdims=True) / 200).all()
