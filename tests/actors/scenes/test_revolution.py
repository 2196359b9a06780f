import numpy as np
import pytest

from actors.scenes.revolution import arc, capped, creased_profile, profile_mesh

CYLINDER = np.array([[0.1, 0.0], [0.1, 0.2]])
RING = np.array([[0.1, 0.0], [0.2, 0.0], [0.2, 0.1], [0.1, 0.1], [0.1, 0.0]])


def test_caps_are_added_where_the_ends_are_off_the_axis():
    np.testing.assert_allclose(capped(CYLINDER), [[0, -0.1], [0.1, -0.1], [0.1, 0.1], [0, 0.1]])
    np.testing.assert_allclose(capped(np.array([[0.1, 0.0], [0.0, 0.2]])), [[0, -0.1], [0.1, -0.1], [0, 0.1]])
    np.testing.assert_allclose(capped(RING), RING - [0.0, 0.05])


@pytest.mark.parametrize(("degrees", "smooth"), [(35.0, True), (45.0, False)])
def test_edges_are_smooth_up_to_forty_degrees(degrees, smooth):
    lean = np.deg2rad(degrees)
    points = np.array([[0.2, 0.0], [0.2, 0.1], [0.2 - 0.1 * np.sin(lean), 0.1 + 0.1 * np.cos(lean)]])
    profile = creased_profile(points)
    below, above = profile.normals[1, 1], profile.normals[2, 0]
    if smooth:
        half = [np.cos(lean / 2), np.sin(lean / 2)]
        np.testing.assert_allclose([below, above], [half, half], atol=1e-12)
    else:
        np.testing.assert_allclose([below, above], [[1, 0], [np.cos(lean), np.sin(lean)]], atol=1e-12)


def test_long_straight_parts_stay_straight():
    profile = creased_profile(np.array([[0.2, 0.0], [0.2, 1.0], [0.199, 1.002]]))
    assert profile.normals[1, 1, 0] > 0.9999 > profile.normals[2, 1, 0]


def test_a_ball_is_smooth_at_its_poles_and_a_cone_is_not():
    ball = arc(0.1, -np.pi / 2, np.pi / 2, 16)
    ball[[0, -1], 0] = 0.0
    normals = creased_profile(ball).normals
    np.testing.assert_allclose(normals[[0, -1], [0, 1]], [[0, -1], [0, 1]], atol=1e-12)
    np.testing.assert_allclose(normals[1:, 0], ball[1:-1] / 0.1, atol=1e-9)
    tip = creased_profile(np.array([[0.1, 0.0], [0.0, 0.1]])).normals[-1, 1]
    np.testing.assert_allclose(tip, np.sqrt([0.5, 0.5]))


@pytest.mark.parametrize(
    ("points", "mirrored"),
    [
        (CYLINDER, True),
        (np.array([[0.1, 0.0], [0.1, 0.03], [0.1, 0.2]]), True),  # a point on a straight line changes nothing
        (np.array([[0.1, 0.0], [0.1, 0.1], [0.1 - 1e-5, 0.2]]), False),
        (RING, True),
        (np.roll(RING[:-1], 2, axis=0)[[0, 1, 2, 3, 0]], True),  # a ring begins anywhere
        (np.array([[0.2, 0.05], [0.2, 0.1], [0.1, 0.1], [0.1, 0.0], [0.2, 0.0], [0.2, 0.05]]), True),
        (np.array([[0.1, 0.0], [0.2, 0.0], [0.2, 0.1], [0.12, 0.1], [0.1, 0.0]]), False),
    ],
)
def test_mirror_images_are_found(points, mirrored):
    profile = creased_profile(points)
    assert profile.mirrored == mirrored
    step = np.diff(profile.points, axis=0)
    assert (np.linalg.norm(step, axis=1) > 1e-6).all()
    # Normals point to the right of the way along the profile: away from the body.
    right = np.stack([step[:, 1], -step[:, 0]], axis=1)
    assert (np.sum(profile.normals * right[:, None], axis=2) > 0.0).all()
    np.testing.assert_allclose(np.linalg.norm(profile.normals, axis=2), 1.0)
    if mirrored and profile.points[0, 0] > 0.0:
        assert profile.points[0, 1] == 0.0 and profile.points[0, 0] == profile.points[:, 0].max()


def test_the_texture_goes_along_the_profile_and_a_ring_closes():
    profile = creased_profile(RING)
    plain, folded = profile_mesh(profile, 12, False), profile_mesh(profile, 12, True)
    assert plain.uvs.min() == 0.0 and plain.uvs.max() == 1.0
    assert len(np.unique(folded.uvs[:, 0])) == 1
    # From the middle of the outside, v = 0.99, down to the middle of the hole, v = 0.01, on either way.
    middle = folded.vertices[:, 2] == 0.0
    radius = np.linalg.norm(folded.vertices[:, :2], axis=1)
    np.testing.assert_allclose(folded.uvs[middle & (radius > 0.15), 1], 0.99, atol=1e-6)
    np.testing.assert_allclose(folded.uvs[middle & (radius < 0.15), 1], 0.01, atol=1e-6)
    assert (middle & (radius < 0.15)).any()
