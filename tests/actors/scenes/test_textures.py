import hashlib

import numpy as np
import pytest

from actors.scenes.textures import SIDE, build_texture, check_texture
from common.errors import SceneError
from common.scene import Texture

RED, GREEN, BLUE = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


def test_plain_is_one_texel():
    assert build_texture(Texture("plain", ((1.0, 0.5, 0.0),))).tolist() == [[[255, 128, 0]]]


def test_checker_alternates():
    texels = build_texture(Texture("checker", (RED, GREEN), 2.0))
    half = SIDE // 2
    assert (texels[:half, :half] == [255, 0, 0]).all() and (texels[half:, half:] == [255, 0, 0]).all()
    assert (texels[:half, half:] == [0, 255, 0]).all()


@pytest.mark.parametrize("kind", ["checker", "noise", "stripes"])
@pytest.mark.parametrize("colors", [(RED, BLUE), (RED, GREEN, BLUE, (1.0, 1.0, 1.0))])
def test_textures_are_mixtures_of_their_colours_and_use_them_all(kind, colors):
    texels = build_texture(Texture(kind, colors, 4.0, 7))
    assert texels.shape == (SIDE, SIDE, 3) and texels.dtype == np.uint8
    palette = np.array(colors) * 255.0
    nearest = np.abs(texels.reshape(-1, 1, 3) - palette).sum(axis=-1).argmin(axis=1)
    assert (np.bincount(nearest, minlength=len(colors)) > 0.02 * SIDE * SIDE).all()
    if len(colors) == 2:
        # Between red and blue there is no green, and red + blue is full.
        assert texels[..., 1].max() == 0
        assert np.abs(texels[..., 0].astype(int) + texels[..., 2] - 255).max() <= 1


@pytest.mark.parametrize("kind", ["noise", "stripes"])
@pytest.mark.parametrize("scale", [3.0, 5.0])
def test_textures_tile(kind, scale):
    """The step across the border is no larger than the largest step inside."""
    texels = build_texture(Texture(kind, ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), scale, 3)).astype(int)
    for axis in (0, 1):
        steps = np.abs(np.diff(texels, axis=axis))
        border = np.abs(np.take(texels, 0, axis) - np.take(texels, -1, axis))
        assert border.max() <= steps.max() and border.mean() < 2.0 * steps.mean() + 1.0


def test_the_seed_decides():
    one = build_texture(Texture("noise", (RED, BLUE), 5.0, 1))
    assert not np.array_equal(one, build_texture(Texture("noise", (RED, BLUE), 5.0, 2)))
    build_texture.cache_clear()
    assert np.array_equal(one, build_texture(Texture("noise", (RED, BLUE), 5.0, 1)))


def test_texels_are_the_recorded_ones():
    """Recorded scenes name textures by recipe: the recipe must go on giving these bytes, on every machine."""
    digest = hashlib.sha256()
    for kind in ("plain", "checker", "noise", "stripes"):
        for colors in ((RED, BLUE), (RED, GREEN, BLUE)):
            digest.update(build_texture(Texture(kind, colors, 6.0, 42)).tobytes())
    assert digest.hexdigest()[:16] == "56c29821b0f0af97"


def test_the_cache_is_bounded_and_read_only():
    assert build_texture.cache_info().maxsize == 512
    with pytest.raises(ValueError, match="read-only"):
        build_texture(Texture())[0, 0, 0] = 1


@pytest.mark.parametrize(
    ("texture", "message"),
    [
        (Texture("dots", (RED,)), "kind"),
        (Texture("plain", ()), "colors"),
        (Texture("plain", ((0.0, 1.0),)), "colors"),
        (Texture("plain", ((0.0, 1.0, 1.1),)), "0..1"),
        (Texture("plain", ((0.0, float("nan"), 1.0),)), "0..1"),
        (Texture("noise", (RED,), 0.5), "scale"),
        (Texture("noise", (RED,), 1000.0), "scale"),
        (Texture("noise", (RED,), 4.0, -1), "seed"),
        (Texture("noise", (RED,), asset="ab"), r"texture\.asset = 'ab'"),
        (Texture("plain", asset="ab"), r"texture\.asset = 'ab'"),
        (Texture("image"), r"texture\.asset = ''"),
        (Texture("image", asset="ab"), "pictures are among the assets"),
    ],
)
def test_bad_textures_are_named(texture, message):
    with pytest.raises(SceneError, match=message):
        build_texture(texture)


def test_a_picture_needs_its_name_and_nothing_else():
    check_texture(Texture("image", (), 0.0, -1, "ab"))
    with pytest.raises(SceneError, match=r"ground\.asset"):
        check_texture(Texture("image"), "ground")
