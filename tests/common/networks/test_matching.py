import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.networks.matching import Matching, anchor_positions, dual_softmax, quadratic_bspline


def kappa(a):
    """Eq. 17, one number at a time."""
    a = abs(a)
    return 0.75 - a * a if a < 0.5 else 0.5 * (1.5 - a) ** 2 if a < 1.5 else 0.0


def direct_matching(scores, grid, anchors):
    """Eq. 16 as printed, by loops over tokens, goal tokens and anchors."""
    cell = 2.0 * grid / anchors
    positions = anchor_positions(grid, anchors).tolist()
    out = np.zeros((len(scores), anchors * anchors, grid, grid))
    for cy, cx, ay, ax in np.ndindex(grid, grid, anchors, anchors):
        total, weight = np.zeros(len(scores)), 0.0
        for dy, dx in np.ndindex(grid, grid):
            k = kappa((dx - cx - positions[ax]) / cell) * kappa((dy - cy - positions[ay]) / cell)
            total += k * scores[:, cy * grid + cx, dy * grid + dx]
            weight += k
        out[:, ay * anchors + ax, cy, cx] = total / weight if weight > 0 else 0.0
    return out


@given(st.floats(-20, 20))
def test_bspline_is_eq_17_and_its_translates_sum_to_one(a):
    value = quadratic_bspline(torch.tensor(a, dtype=torch.float64)).item()
    assert value == pytest.approx(kappa(a), abs=1e-12)
    translates = quadratic_bspline(torch.arange(-24, 25, dtype=torch.float64) - a)
    assert translates.sum().item() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(("grid", "anchors"), [(4, 5), (5, 9), (4, 12)])
def test_separable_form_equals_the_double_sum(grid, anchors):
    torch.manual_seed(0)
    scores = torch.rand(2, grid**2, grid**2).softmax(dim=2)
    fast = Matching(grid, anchors).probabilistic(scores)
    np.testing.assert_allclose(fast.numpy(), direct_matching(scores.double().numpy(), grid, anchors), atol=1e-6)


def test_an_anchor_without_a_neighbour_is_zero():
    # From the left column nothing lies four tokens further left.
    p = Matching(8, 9).probabilistic(torch.full((1, 64, 64), 1.0 / 64)).view(9, 9, 8, 8)
    assert torch.isfinite(p).all()
    assert not p[:, 0, :, 0].any() and p[4, 8, 4, 0] > 0


@pytest.mark.parametrize("shift", [(1, 0), (0, 2), (2, 1)])
def test_moving_both_patches_moves_the_features_and_leaves_the_anchors(shift):
    """Inside the image, so that the same goal tokens are neighbours."""
    grid, anchors = 12, 24
    matching = Matching(grid, anchors)

    def one(current, goal):
        scores = torch.zeros(1, grid**2, grid**2)
        scores[0, current[1] * grid + current[0], goal[1] * grid + goal[0]] = 1.0
        return matching.probabilistic(scores)[0]

    sx, sy = shift
    here = one((4, 5), (6, 4))[:, 5, 4]
    there = one((4 + sx, 5 + sy), (6 + sx, 4 + sy))[:, 5 + sy, 4 + sx]
    assert here.sum() > 0
    torch.testing.assert_close(here, there)
    assert not torch.allclose(here, one((4, 5), (6 + sx, 4 + sy))[:, 5, 4])


def test_dual_softmax_is_high_only_for_mutual_matches():
    logits = torch.tensor([[[9.0, 0.0, 0.0], [9.0, 0.0, 0.0], [0.0, 0.0, 9.0]]])
    rows, mutual = dual_softmax(logits)
    torch.testing.assert_close(rows.sum(2), torch.ones(1, 3))
    assert mutual[0, 2, 2] > 0.99 and mutual[0, 0, 0] < 0.51
    torch.testing.assert_close(mutual, rows * logits.softmax(1))
