import numpy as np
import pytest

from actors.scenes.pose_presets import PRESETS, PoseRange, draw_pose, is_same_view, preset, sphere_center
from common.errors import ConfigError
from common.geometry import make_pose, rotation_angle, so3_exp
from common.rng import Purpose, philox
from tests.actors.scenes_for_tests import one_cube

DRAWS = 400
CENTER = np.array([0.03, -0.02, 0.1])


def taken_apart(pose, center=CENTER):
    """Radius [m], azimuth, elevation, and the turns about z, y and x [deg], worked out from a pose."""
    way = pose[:3, 3] - center
    radius = np.linalg.norm(way)
    azimuth, elevation = np.arctan2(way[1], way[0]), np.arcsin(way[2] / radius)
    forward = -way / radius
    down = np.array([np.cos(azimuth) * np.sin(elevation), np.sin(azimuth) * np.sin(elevation), -np.cos(elevation)])
    turn = np.stack([np.cross(down, forward), down, forward], axis=1).T @ pose[:3, :3]
    z, y, x = np.arctan2(turn[1, 0], turn[0, 0]), -np.arcsin(turn[2, 0]), np.arctan2(turn[2, 1], turn[2, 2])
    return np.array([radius, *np.rad2deg([azimuth, elevation, z, y, x])])


@pytest.mark.parametrize("which", ["desired", "initial"])
@pytest.mark.parametrize("name", PRESETS)
def test_every_range_is_kept_and_filled(name, which):
    within = getattr(preset(name), which)
    drawn = np.stack([taken_apart(draw_pose(philox(2, Purpose.CAMERA, env=i), within, CENTER)) for i in range(DRAWS)])
    limits = [
        within.radius,
        (-180.0, 180.0),
        within.elevation,
        *((-half, half) for half in (within.yaw, within.pitch, within.roll)),
    ]
    for column, (low, high) in zip(drawn.T, limits, strict=True):
        assert low - 1e-5 <= column.min() and column.max() <= high + 1e-5
        assert np.ptp(column) > 0.9 * (high - low)
    # The belt of a sphere is filled evenly: it is the sine of the elevation that is uniform.
    low, high = np.sin(np.deg2rad(within.elevation))
    level = np.sort((np.sin(np.deg2rad(drawn[:, 2])) - low) / (high - low))
    # Kolmogorov: a uniform sample strays further than 1.95 / sqrt(n) once in a thousand.
    assert np.abs(level - (np.arange(DRAWS) + 0.5) / DRAWS).max() < 1.95 / np.sqrt(DRAWS)
    # Turns are independent of each other: no one follows from another.
    assert np.abs(np.corrcoef(drawn.T) - np.eye(6)).max() < 0.2


@pytest.mark.parametrize(
    ("name", "which", "wanted"),
    [
        ("cns_train", "desired", PoseRange((0.5, 0.9), (70.0, 90.0), 15.0, 5.0, 5.0)),
        ("cns_train", "initial", PoseRange((0.5, 0.9), (30.0, 90.0), 60.0, 10.0, 10.0)),
        ("cns_eval", "desired", PoseRange((0.5, 0.9), (70.0, 90.0), 15.0, 5.0, 5.0)),
        ("cns_eval", "initial", PoseRange((0.5, 0.9), (70.0, 90.0), 15.0, 5.0, 5.0)),
    ],
)
def test_the_published_numbers_stay_as_published(name, which, wanted):
    assert getattr(preset(name), which) == wanted


def test_angles_turn_in_the_cameras_own_frame_z_first():
    """Hand-worked: from above the origin on the x side, with every turn at its largest."""

    class Largest:
        def uniform(self, low, high, size=None):
            return 0.0 if low == -np.pi else (high if size is None else np.full(size, high))

    within = PoseRange((1.0, 1.0), (0.0, 0.0), 90.0, 20.0, 30.0)
    pose = draw_pose(Largest(), within, np.zeros(3))
    np.testing.assert_allclose(pose[:3, 3], [1.0, 0.0, 0.0], atol=1e-9)
    base = np.array([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])  # right, down and forward, in columns
    turns = [so3_exp([0, 0, np.pi / 2]), so3_exp([0, np.deg2rad(20.0), 0]), so3_exp([np.deg2rad(30.0), 0, 0])]
    np.testing.assert_allclose(pose[:3, :3], base @ turns[0] @ turns[1] @ turns[2], atol=1e-8)


def test_centers():
    scene = one_cube(0.2, x=0.3)
    np.testing.assert_array_equal(sphere_center(preset("cns_eval"), scene), np.zeros(3))
    np.testing.assert_allclose(sphere_center(preset("symservo"), scene), [0.3, 0.0, 0.1])


def test_only_what_is_near_in_both_is_the_same_view():
    a = make_pose(so3_exp([0.3, 0.2, 0.1]), [0.1, 0.2, 0.5])

    def moved(degrees, metres):
        return a @ make_pose(so3_exp([0.0, np.deg2rad(degrees), 0.0]), [metres, 0.0, 0.0])

    assert is_same_view(a, moved(0.9, 0.0019))
    assert not is_same_view(a, moved(1.1, 0.0)) and not is_same_view(a, moved(0.0, 0.0021))


def test_poses_are_rigid_and_rounded():
    pose = draw_pose(philox(0, Purpose.CAMERA), preset("cnsv2").initial, CENTER)
    np.testing.assert_array_equal(pose, np.round(pose, 9))
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-8)
    assert rotation_angle(pose[:3, :3]) > 0.0


def test_an_unknown_preset_is_refused():
    with pytest.raises(ConfigError, match=r"scenes\.poses = 'cns': allowed is one of \['quickstart', 'cns_train'"):
        preset("cns")
