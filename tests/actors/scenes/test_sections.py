import numpy as np
import pytest

from actors.env import EpisodeStart
from actors.scenes.pose_presets import draw_pose, preset
from actors.scenes.sections import initial_errors, section_statistics, sections
from common.errors import SceneError
from common.geometry import look_at, make_pose, so3_exp
from common.rng import Purpose, philox
from tests.actors.scenes_for_tests import one_cube

SCENE = one_cube()
GOAL = look_at([0.5, 0.1, 0.6], [0.0, 0.0, 0.1], 0.2)


def a_start(degrees, metres=0.1):
    start = GOAL @ make_pose(so3_exp([0.0, np.deg2rad(degrees), 0.0]), [0.0, metres, 0.0])
    return EpisodeStart(SCENE, SCENE, start, GOAL, 0.7)


def test_sections_by_hand():
    degrees, metres = [90.0, 5.0, 170.0, 40.0, 20.0, 60.0], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    starts = [a_start(d, m) for d, m in zip(degrees, metres, strict=True)]
    assert sections(starts) == {"S": [1, 4], "M": [3, 5], "L": [0, 2]}
    table = section_statistics(starts)
    assert list(table) == ["S", "M", "L", "A"] and [t.count for t in table.values()] == [2, 2, 2, 6]
    np.testing.assert_allclose([t.re_deg for t in table.values()], [12.5, 50.0, 130.0, 385.0 / 6.0])
    np.testing.assert_allclose([t.te_mm for t in table.values()], [350.0, 500.0, 200.0, 350.0])
    np.testing.assert_allclose(table["M"].re_range_deg, [40.0, 60.0])
    angle, way = initial_errors(starts)
    np.testing.assert_allclose(np.rad2deg(angle), degrees)
    np.testing.assert_allclose(way, metres)


def test_equal_errors_keep_their_order_and_the_rest_goes_to_the_first():
    starts = [a_start(30.0, 0.1 + i) for i in range(8)]
    assert sections(starts) == {"S": [0, 1, 2], "M": [3, 4, 5], "L": [6, 7]}


def test_three_sections_need_three_starts():
    with pytest.raises(SceneError, match=r"len\(starts\) = 2: allowed is >= 3"):
        sections([a_start(1.0), a_start(2.0)])


# CNS V-A and its published scenes: range and mean of the rotation error [deg], mean translation error [mm]; 50 each.
PUBLISHED = {"S": (2.74, 42.85, 24.06, 173.8), "M": (45.0, 92.1, 67.38, 248.8), "L": (94.1, 179.9, 136.46, 321.2)}


def test_cns_poses_have_the_published_errors():
    """The published suite was picked by hand and holds more small rotations; within its sections, draws are like it."""
    chosen, rng = preset("cns_eval"), philox(9, Purpose.CAMERA)
    pairs = [[draw_pose(rng, r, np.zeros(3)) for r in (chosen.initial, chosen.desired)] for _ in range(1500)]
    starts = [EpisodeStart(SCENE, SCENE, start, goal, 0.7) for start, goal in pairs]
    rotation, translation = initial_errors(starts)
    rotation, translation = np.rad2deg(rotation), 1000.0 * translation
    means = []
    for low, high, angle, way in PUBLISHED.values():
        inside = (rotation >= low) & (rotation <= high)
        for ours, published in ((rotation[inside], angle), (translation[inside], way)):
            # Two in a hundred such tests fail for a suite of 50 drawn by the same rule; the draws here are fixed.
            assert abs(ours.mean() - published) < 2.33 * ours.std() / np.sqrt(50)
        means.append([rotation[inside].mean(), translation[inside].mean()])
    # All three together, as many of each: 75.96 deg and 247.9 mm.
    assert (np.abs(np.mean(means, axis=0) - [75.96, 247.9]) < [2.5, 12.0]).all()
    # Without the picking a third of all draws is beyond 120 deg: azimuths are uniform, and here they turn the image.
    table = section_statistics(starts)
    assert table["A"].re_deg == pytest.approx(91.0, abs=4.0) and table["L"].re_range_deg[0] == pytest.approx(120, abs=6)
