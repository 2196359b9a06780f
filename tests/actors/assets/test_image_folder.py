"""Pictures of a folder as textures."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from actors.assets.image_folder import open_images
from common.errors import AssetError
from tests.actors.models_for_tests import png


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "indoor" / "kitchen").mkdir(parents=True)
    names = ["a.png", "indoor/b.jpg", "indoor/kitchen/c.webp", "d.JPEG"]
    for name in names:
        noise = rng.integers(0, 256, size=(6, 9, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((90, 60), Image.Resampling.BICUBIC).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden.png").write_text("no picture")
    return tmp_path


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_pictures_of_all_kinds_and_folders_are_found_by_content(folder):
    images = open_images(folder, side=32)
    files = ["a.png", "indoor/b.jpg", "indoor/kitchen/c.webp", "d.JPEG"]
    assert images.hashes == tuple(sorted(sha(folder / f) for f in files)) == tuple(images)
    assert len(images) == 4 and sha(folder / "a.png") in images and "0" * 64 not in images
    for texels in images.values():
        assert texels.shape == (32, 32, 3) and texels.dtype == np.uint8 and not texels.flags.writeable


def test_a_copy_counts_once_and_a_name_does_not_matter(folder):
    before = open_images(folder).hashes
    (folder / "copy.png").write_bytes((folder / "a.png").read_bytes())
    (folder / "a.png").rename(folder / "z.png")
    assert open_images(folder).hashes == before


def test_the_middle_square_is_shown(tmp_path):
    texels = np.zeros((20, 60, 3), np.uint8)
    texels[:, 20:40] = [10, 200, 30]
    (tmp_path / "a.png").write_bytes(png(texels))
    (picture,) = open_images(tmp_path, side=16).values()
    assert (picture == [10, 200, 30]).all()


def test_memory_is_bounded_and_pictures_are_decoded_once(folder, monkeypatch):
    decoded = []
    real = open_images.__globals__["open_picture"]
    monkeypatch.setattr(
        "actors.assets.image_folder.open_picture", lambda data, name: decoded.append(name) or real(data, name)
    )
    images = open_images(folder, side=32, cache_bytes=2 * 32 * 32 * 3)
    a, b, c, _ = images.hashes
    assert images[a] is images[a] and len(decoded) == 1
    _ = images[b], images[c], images[a]
    assert len(decoded) == 4


@pytest.mark.parametrize("data", [b"", b"text", png(np.zeros((8, 8, 3)))[:40]])
def test_what_is_visibly_no_picture_is_named_when_the_folder_is_opened(folder, data):
    (folder / "indoor" / "bad.png").write_bytes(data)
    with pytest.raises(AssetError, match=r"picture .*indoor/bad\.png cannot be read"):
        open_images(folder)


def test_a_picture_cut_short_is_named_at_the_latest_when_it_is_read(folder):
    data = (folder / "indoor" / "b.jpg").read_bytes()
    (folder / "indoor" / "b.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(AssetError, match=r"picture .*b\.jpg cannot be read"):
        list(open_images(folder).values())


def test_a_picture_that_changed_is_not_shown_under_its_old_hash(folder):
    images = open_images(folder)
    key = sha(folder / "a.png")
    (folder / "a.png").write_bytes(png(np.zeros((8, 8, 3))))
    with pytest.raises(AssetError, match=r"a\.png has changed"):
        images[key]


def test_bad_usage_is_named(tmp_path, folder):
    for side in (0, 100, 8192):
        with pytest.raises(AssetError, match="side of pictures"):
            open_images(folder, side=side)
    with pytest.raises(AssetError, match="an existing folder"):
        open_images(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AssetError, match="no pictures in"):
        open_images(tmp_path / "empty")
    with pytest.raises(KeyError):
        open_images(folder)["0" * 64]
