import dataclasses

import numpy as np
import pytest

from actors.env import EpisodeStart
from actors.rasteriser.renderer import WarpRenderer
from actors.scenes.contact_sheet import CAPTION, MARGIN, contact_sheet, depth_colors, depth_range, id_colors
from common.config import EnvConfig
from common.errors import SceneError
from common.geometry import look_at
from common.scene import Shape
from tests.actors.scenes_for_tests import a_scene, an_object, one_cube, standing

SIDE = 48


@pytest.fixture(scope="module")
def renderer():
    made = WarpRenderer(3)
    yield made
    made.close()


def starts():
    """Two scenes of one cube, and one with a second object that is farther away."""
    near, far = Shape("cube", (0.2,)), Shape("cylinder", (0.05, 0.2))
    two = a_scene(an_object(near, standing(near)), an_object(far, standing(far, x=-0.3), instance_id=7))
    current, desired = look_at([0.7, 0.1, 0.5], [-0.05, 0.0, 0.1]), look_at([0.1, 0.7, 0.5], [0.0, 0.0, 0.1])
    return [EpisodeStart(s, s, current, desired, 0.8) for s in (one_cube(), one_cube(), two)]


def cells(sheet, count):
    """The four views of each scene, (count, 4, SIDE, SIDE, 3)."""
    image, width = np.array(sheet), 4 * SIDE
    corners = [
        (CAPTION + i // 2 * (CAPTION + SIDE + MARGIN) + CAPTION, MARGIN + i % 2 * (width + MARGIN))
        for i in range(count)
    ]
    tiles = np.stack([image[y : y + SIDE, x : x + width] for y, x in corners])
    return tiles.reshape(count, SIDE, 4, SIDE, 3).transpose(0, 2, 1, 3, 4)


def test_every_scene_is_shown_as_it_is_rendered(renderer):
    drawn = starts()
    sheet = contact_sheet(renderer, EnvConfig(), drawn, ["a", "b", "c"], SIDE)
    tiles = cells(sheet, 3)
    lens = np.tile([*([0.5 * SIDE / np.tan(np.deg2rad(25.0))] * 2), SIDE / 2, SIDE / 2], (3, 1))
    every = ["rgb", "instance_id", "depth"]
    desired = renderer.render(np.arange(3), np.stack([s.goal_world_T_cam for s in drawn]), lens, (SIDE, SIDE), every)
    start = renderer.render(np.arange(3), np.stack([s.world_T_cam for s in drawn]), lens, (SIDE, SIDE), every)
    assert np.array_equal(tiles[:, 0], desired.rgb) and np.array_equal(tiles[:, 1], start.rgb)
    assert np.array_equal(tiles[:, 2], id_colors(start.instance_id))
    assert np.array_equal(tiles[:, 3], depth_colors(start.depth, *depth_range(start.depth)))
    assert not np.array_equal(desired.rgb, start.rgb)
    assert [len(np.unique(t[2].reshape(-1, 3), axis=0)) for t in tiles] == [2, 2, 3]


def test_captions_say_which_scene_it_is(renderer):
    one = np.array(contact_sheet(renderer, EnvConfig(), starts()[:1], ["cube"], SIDE))
    other = np.array(contact_sheet(renderer, EnvConfig(), starts()[:1], ["lathe"], SIDE))
    assert one.shape == (CAPTION + CAPTION + SIDE + 2 * MARGIN, 4 * SIDE + 2 * MARGIN, 3)
    changed = np.argwhere((one != other).any(axis=-1))
    assert len(changed) and changed[:, 0].min() >= CAPTION and changed[:, 0].max() < 2 * CAPTION


def test_ids_keep_their_colours_and_nothing_is_black():
    colors = id_colors(np.array([[0, 1], [2, 13]], np.int32))
    assert (colors[0, 0] == 0).all() and np.array_equal(colors[0, 1], colors[1, 1])
    assert len(np.unique(id_colors(np.arange(13, dtype=np.int32)), axis=0)) == 13


def test_depth_runs_from_red_to_blue_and_the_sky_is_black():
    depth = np.array([0.5, 1.0, 1.5, 9.0, np.inf], np.float32)
    red, green, blue, beyond, sky = depth_colors(depth, 0.5, 1.5).astype(int)
    assert red[0] > red[2] and green[1] > 200 and blue[2] > blue[0]
    assert np.array_equal(blue, beyond) and (sky == 0).all()
    assert depth_range(np.append(np.linspace(1.0, 2.0, 101), np.inf)) == pytest.approx((1.0, 1.95))
    assert depth_range(np.array([np.inf])) == (0.0, 1.0)


def test_what_cannot_be_drawn_is_said(renderer):
    with pytest.raises(SceneError, match=r"starts, labels = \(0, 0\)"):
        contact_sheet(renderer, EnvConfig(), [], [], SIDE)
    with pytest.raises(SceneError, match=r"\(3, 1\)"):
        contact_sheet(renderer, EnvConfig(), starts(), ["a"], SIDE)
    broken = dataclasses.replace(starts()[0], goal_scene=dataclasses.replace(one_cube(), ground_size=0.0))
    with pytest.raises(SceneError, match="ground_size"):
        contact_sheet(renderer, EnvConfig(), [broken], ["a"], SIDE)
