import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from common.networks.geometry_block import token_coordinates
from common.networks.matching import (
    Matching,
    MatchMap,
    anchor_positions,
    anchor_weights,
    dual_softmax,
    kept_weights,
    probabilistic_matching,
    quadratic_bspline,
    scaled_logits,
)


def kappa(a):
    """Eq. 17, one number at a time."""
    a = abs(a)
    return 0.75 - a * a if a < 0.5 else 0.5 * (1.5 - a) ** 2 if a < 1.5 else 0.0


def direct_matching(scores, height, width, anchors):
    """Eq. 16 as printed, by loops over tokens, goal tokens and anchors."""
    cells = 2.0 * height / anchors, 2.0 * width / anchors
    at_y, at_x = (anchor_positions(side, anchors).tolist() for side in (height, width))
    out = np.zeros((len(scores), anchors * anchors, height, width))
    for cy, cx, ay, ax in np.ndindex(height, width, anchors, anchors):
        total, weight = np.zeros(len(scores)), 0.0
        for dy, dx in np.ndindex(height, width):
            k = kappa((dx - cx - at_x[ax]) / cells[1]) * kappa((dy - cy - at_y[ay]) / cells[0])
            total += k * scores[:, cy * width + cx, dy * width + dx]
            weight += k
        out[:, ay * anchors + ax, cy, cx] = total / weight if weight > 0 else 0.0
    return out


@given(st.floats(-20, 20))
def test_bspline_is_eq_17_and_its_translates_sum_to_one(a):
    value = quadratic_bspline(torch.tensor(a, dtype=torch.float64)).item()
    assert value == pytest.approx(kappa(a), abs=1e-12)
    translates = quadratic_bspline(torch.arange(-24, 25, dtype=torch.float64) - a)
    assert translates.sum().item() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(
    ("a", "value"), [(0.0, 0.75), (0.25, 0.6875), (-0.5, 0.5), (1.0, 0.125), (1.5, 0.0), (9.0, 0.0)]
)
def test_bspline_by_hand(a, value):
    assert quadratic_bspline(torch.tensor(a)).item() == value


@pytest.mark.parametrize(
    ("height", "width", "anchors"), [(4, 4, 5), (5, 5, 9), (4, 4, 12), (3, 6, 5), (5, 2, 4), (1, 4, 3)]
)
def test_separable_form_equals_the_double_sum(height, width, anchors):
    torch.manual_seed(0)
    tokens = height * width
    scores = torch.rand(2, tokens, tokens, dtype=torch.float64).softmax(dim=2)
    weights = [anchor_weights(side, anchors, torch.float64) for side in (height, width)]
    wanted = direct_matching(scores.numpy(), height, width, anchors)
    np.testing.assert_allclose(probabilistic_matching(scores, *weights).numpy(), wanted, atol=1e-14)
    # A module built for another grid computes this grid's weights.
    got = MatchMap(7, anchors).probabilistic(scores.float(), height, width)
    np.testing.assert_allclose(got.numpy(), wanted, atol=1e-6)


def test_weights_of_another_grid_are_computed_once_and_can_be_trained_with():
    kept_weights.cache_clear()
    with torch.inference_mode():
        first = MatchMap(4, 5).weights_of(6)
    assert MatchMap(3, 5).weights_of(6) is first and not first.is_inference()
    scores = torch.rand(1, 36, 36, requires_grad=True)
    MatchMap(4, 5).probabilistic(scores, 6, 6).sum().backward()
    assert scores.grad.any()


def test_scores_are_eq_14():
    torch.manual_seed(0)
    current, goal = torch.randn(2, 3, 16, dtype=torch.float64), torch.randn(2, 3, 16, dtype=torch.float64)
    scores = dual_softmax(scaled_logits(current, goal))[0]
    for n, i in np.ndindex(2, 3):
        e = [np.exp(sum(current[n, i, c].item() * goal[n, j, c].item() for c in range(16)) / 4.0) for j in range(3)]
        np.testing.assert_allclose(scores[n, i].numpy(), np.array(e) / sum(e), rtol=1e-12)


def test_an_anchor_without_a_neighbour_is_zero():
    # From the left column nothing lies four tokens further left.
    p = Matching(8, 9).probabilistic(torch.full((1, 64, 64), 1.0 / 64)).view(9, 9, 8, 8)
    assert torch.isfinite(p).all()
    assert not p[:, 0, :, 0].any() and p[4, 8, 4, 0] > 0


def seen_whole(at, grid, anchors):
    """Which anchors (K,) of an axis have every neighbour inside the image, seen from position `at`."""
    position, radius = anchor_positions(grid, anchors).numpy(), 1.5 * 2.0 * grid / anchors
    return (at + position - radius >= -1.0) & (at + position + radius <= grid)


@given(st.data())
def test_moving_both_patches_moves_the_features_and_leaves_the_anchors(data):
    """For all anchors that have the same neighbours from both places."""
    sides, anchors = [data.draw(st.integers(6, 14), label="side") for _ in range(2)], data.draw(st.integers(8, 24))
    at, to = ([data.draw(st.integers(0, side - 1)) for side in sides] for _ in range(2))
    shift = [data.draw(st.integers(-min(a, b), side - 1 - max(a, b))) for a, b, side in zip(at, to, sides, strict=True)]
    matching = MatchMap(8, anchors)

    def features(sy, sx):
        (cy, cx), (gy, gx) = at, to
        scores = torch.zeros(1, sides[0] * sides[1], sides[0] * sides[1])
        scores[0, (cy + sy) * sides[1] + cx + sx, (gy + sy) * sides[1] + gx + sx] = 1.0
        p = matching.probabilistic(scores, *sides)[0]
        assert not p.sum(0).flatten().index_fill(0, torch.tensor([(cy + sy) * sides[1] + cx + sx]), 0.0).any()
        return p[:, cy + sy, cx + sx].view(anchors, anchors)

    same = [
        seen_whole(a, side, anchors) & seen_whole(a + s, side, anchors)
        for a, s, side in zip(at, shift, sides, strict=True)
    ]
    keep = torch.from_numpy(same[0][:, None] & same[1][None, :])
    assume(keep.any())
    here, there = features(0, 0), features(*shift)
    torch.testing.assert_close(here[keep], there[keep])


def test_a_match_that_moves_alone_changes_the_features():
    matching, (a, b) = MatchMap(12, 24), (torch.zeros(1, 144, 144) for _ in range(2))
    a[0, 5 * 12 + 4, 4 * 12 + 6] = 1.0
    b[0, 5 * 12 + 4, 4 * 12 + 7] = 1.0
    assert (matching.probabilistic(a) - matching.probabilistic(b)).abs().max() > 0.1


def blurred_shift(height, width, shift):
    """Scores of a match by `shift` (x, y) of the image's sides with a spread of a fifth of them, at any resolution."""
    xy = token_coordinates(width, height)
    away = xy[None, :, :] - xy[:, None, :] - 2.0 * torch.tensor(shift)
    return (-(away**2).sum(2) / (2 * 0.4**2)).softmax(dim=1)[None]


@pytest.mark.parametrize("kind", ["probabilistic", "raw_score", "explicit"])
@pytest.mark.parametrize(("height", "width"), [(12, 12), (16, 16), (8, 16)])
def test_a_finer_grid_reads_the_same_match_alike(kind, height, width):
    """What the quarters of the image read on average, up to an eighth of the largest entry."""
    matching, read = MatchMap(8, 9, kind), {}
    for h, w in ((8, 8), (height, width)):
        p = matching.feature_map(blurred_shift(h, w, (0.1, 0.05)), token_coordinates(w, h), h, w)
        assert p.shape == (1, matching.channels, h, w)
        read[h, w] = torch.nn.functional.adaptive_avg_pool2d(p, 2)[0]
    coarse, fine = read.values()
    assert (fine - coarse).abs().max() < coarse.abs().max() / 8


def test_a_certain_match_has_an_entry_near_one():
    """Anchors lie a token apart where there are 2 G of them, half a token off the integers."""
    for grid in (6, 9):
        p = MatchMap(grid, 2 * grid + 1).feature_map(torch.eye(grid**2)[None], torch.empty(0), grid, grid)
        assert 0.5 < p[0, :, grid // 2, grid // 2].max() < 1.0


def test_raw_scores_are_the_rows_sampled_at_anchors_and_explicit_ones_their_mean():
    torch.manual_seed(0)
    scores, xy = torch.randn(2, 36, 36).softmax(dim=2), token_coordinates(6)
    raw = MatchMap(6, 3, "raw_score").feature_map(scores, xy, 6, 6)
    # Every third of the side of a 6 x 6 grid falls between two tokens.
    row = scores[1, 2 * 6 + 5].view(3, 2, 3, 2).mean(dim=(1, 3)) * 36 / 9
    torch.testing.assert_close(raw[1, :, 2, 5].view(3, 3), row)
    same = MatchMap(6, 6, "raw_score").feature_map(scores, xy, 6, 6)
    torch.testing.assert_close(same[0, :, 1, 3], scores[0, 9])
    flow = MatchMap(6, 3, "explicit").feature_map(scores, xy, 6, 6)
    wanted = sum(scores[1, 17, j] * xy[j] for j in range(36)) - xy[17]
    torch.testing.assert_close(flow[1, :, 2, 5], wanted)


def test_dual_softmax_is_high_only_for_mutual_matches():
    logits = torch.tensor([[[9.0, 0.0, 0.0], [9.0, 0.0, 0.0], [0.0, 0.0, 9.0]]])
    rows, mutual = dual_softmax(logits)
    torch.testing.assert_close(rows.sum(2), torch.ones(1, 3))
    assert mutual[0, 2, 2] > 0.99 and mutual[0, 0, 0] < 0.51
    torch.testing.assert_close(mutual, rows * logits.softmax(1))
