import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.scenes.profile_checks import MAX_POINTS, check_profile
from common.errors import SceneError
from tests.actors.shapes_for_tests import SHAPES

GOOD = {name: shape.params for name, shape in SHAPES.items() if shape.kind == "lathe"}


@pytest.mark.parametrize("name", GOOD)
def test_bodies_pass_and_run_backwards_do_not(name):
    check_profile(GOOD[name])
    backwards = np.array(GOOD[name]).reshape(-1, 2)[::-1]
    with pytest.raises(SceneError, match="body on its left"):
        check_profile(tuple(backwards.ravel().tolist()))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ((), "number of shape.params of a lathe = 0: .*4 .. 128"),
        ((0.1, 0.0, 0.1), "even number"),
        (tuple(np.stack([np.full(65, 0.1), np.arange(65) / 65], axis=1).ravel()), "even number"),
        ((-0.1, 0.0, 0.1, 0.1), "radii"),
        ((0.1, 0.0, 1e-6, 0.1), "0, or 0.0001 of the size"),
        ((0.1, 0.0, 0.0, 0.1, 0.1, 0.2), "only at the two ends"),
        ((0.0, 0.0, 0.1, 0.1, 0.0, 0.0), "three different points"),
        ((0.0, 0.0, 0.1, 0.0, 0.1, 0.1, 0.0, 0.0), "only at the two ends"),
        ((0.1, 0.0, 0.1, 0.0), "three different points"),
        ((0.1, 0.0, 0.2, 0.0, 0.1, 0.0), "three different points"),
        ((0.1, 0.0, 0.1, 0.0, 0.1, 0.1), "apart"),
        ((0.0, 0.0, 0.1, 0.0, 0.1, 0.1, 0.0, 1e-6), "ends at different heights"),
        ((0.1, 0.0, 0.2, 0.0), "ends at different heights"),
        # Crossing itself, running back over itself, touching itself, and a wall as thin as paper.
        ((0.1, 0.0, 0.2, 0.1, 0.1, 0.1, 0.2, 0.0, 0.1, 0.0), "away from itself"),
        ((0.0, 0.0, 0.1, 0.0, 0.2, 0.0, 0.1, 0.0, 0.1, 0.2), "away from itself"),
        ((0.1, 0.0, 0.2, 0.0, 0.2, 0.2, 0.15, 0.0, 0.1, 0.2, 0.1, 0.0), "away from itself"),
        ((0.1, 0.0, 0.2, 0.0, 0.2, 0.2, 0.15, 1e-6, 0.1, 0.2, 0.1, 0.0), "away from itself"),
        ((0.0, 0.0, 0.1, 0.0, 0.1, 0.2, 0.09999, 0.2, 0.09999, 0.01, 0.0, 0.01), "apart"),
        # The cap would cut through the side.
        ((0.1, 0.1, 0.2, 0.0, 0.05, 0.05, 0.2, 0.3), "away from itself"),
    ],
)
def test_bad_profiles_are_named(params, message):
    with pytest.raises(SceneError, match=message):
        check_profile(params)


def test_the_longest_profile_passes():
    points = np.stack([0.1 + 0.01 * (np.arange(MAX_POINTS) % 2), np.arange(MAX_POINTS) / MAX_POINTS], axis=1)
    check_profile(tuple(points.ravel().tolist()))


def crossed(points):
    """Whether two edges of the closed polygon properly cross, one pair at a time."""
    n = len(points)

    def side(a, b, p):
        return (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0])

    for i in range(n):
        for k in range(i + 1, n):
            a, b, c, d = points[i], points[(i + 1) % n], points[k], points[(k + 1) % n]
            if side(a, b, c) * side(a, b, d) < -1e-12 and side(c, d, a) * side(c, d, b) < -1e-12:
                return True
    return False


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=3, max_size=6, unique=True))
def test_what_passes_does_not_cross_itself(corners):
    ring = [(r / 10.0, z / 10.0) for r, z in corners]
    try:
        check_profile(tuple(value for point in [*ring, ring[0]] for value in point))
    except SceneError:
        return
    assert not crossed(ring)
