import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.networks.backbone import pool_to_grid
from common.networks.heads import TwistHead, TwistPrediction, sigma, sigma_inverse
from common.networks.losses import masked_mean, matching_loss, regression_loss, segmentation_loss


def prediction(log_norm, direction):
    log_norm, direction = torch.tensor(log_norm), torch.tensor(direction)
    unit = direction / direction.norm(dim=1, keepdim=True)
    return TwistPrediction(sigma(log_norm)[:, None] * unit, log_norm, direction)


@given(st.floats(-10, 10))
def test_sigma_is_eq_22_and_has_an_inverse(x):
    y = sigma(torch.tensor(x, dtype=torch.float64))
    assert y.item() == pytest.approx(math.exp(x - 1) if x <= 1 else x, rel=1e-12)
    assert sigma_inverse(y).item() == pytest.approx(x, abs=1e-9)


def test_sigma_has_a_finite_gradient_everywhere():
    for function, values in ((sigma, [-200.0, 0.0, 1.0, 200.0]), (sigma_inverse, [0.005, 1.0, 200.0])):
        x = torch.tensor(values, requires_grad=True)
        function(x).sum().backward()
        assert torch.isfinite(x.grad).all()


def test_twist_head_has_the_norm_and_direction_it_says():
    torch.manual_seed(0)
    out = TwistHead(8, [16])(torch.randn(5, 8))
    torch.testing.assert_close(out.twist.norm(dim=1), sigma(out.log_norm))
    torch.testing.assert_close(torch.cosine_similarity(out.twist, out.direction), torch.ones(5))


def test_regression_loss_by_hand():
    """Targets of norm 0.5 and 2; predicted log-norms 0 and 1; cosines 0 and 0.6."""
    predicted = prediction([0.0, 1.0], [[1.0, 0, 0, 0, 0, 0], [0.6, 0.8, 0, 0, 0, 0]])
    target = torch.tensor([[0, 0, 0.5, 0, 0, 0], [2.0, 0, 0, 0, 0, 0]])
    loss = regression_loss(predicted, target, torch.tensor([True, True]))
    assert loss.norm.item() == pytest.approx((abs(1 + math.log(0.5) - 0) + abs(2 - 1)) / 2)
    assert loss.direction.item() == pytest.approx((1.0 + 0.4) / 2)
    only = regression_loss(predicted, target, torch.tensor([False, True]))
    assert (only.norm.item(), only.direction.item()) == (pytest.approx(1.0), pytest.approx(0.4))


def test_zero_targets_count_by_a_clamped_norm_and_no_direction():
    predicted = prediction([0.0, 0.0], [[1.0, 0, 0, 0, 0, 0]] * 2)
    for leaf in (predicted.log_norm, predicted.direction):
        leaf.requires_grad_()
    target = torch.tensor([[0.0] * 6, [0.0029, 0, 0, 0, 0, 0]])
    loss = regression_loss(predicted, target, torch.tensor([True, True]))
    assert loss.norm.item() == pytest.approx(-1 - math.log(0.005), rel=1e-6)
    assert loss.direction.item() == 0.0
    (loss.norm + loss.direction).backward()
    assert torch.isfinite(predicted.log_norm.grad).all() and not predicted.direction.grad.any()


def test_rows_that_do_not_count_cannot_spoil_the_gradient():
    predicted = prediction([0.0, 0.0], [[1.0, 0, 0, 0, 0, 0]] * 2)
    predicted.log_norm.requires_grad_()
    predicted.direction.requires_grad_()
    target = torch.tensor([[math.nan] * 6, [0.1] * 6])
    loss = regression_loss(predicted, target, torch.tensor([False, True]))
    (loss.norm + loss.direction).backward()
    assert torch.isfinite(predicted.log_norm.grad).all() and torch.isfinite(predicted.direction.grad).all()


def test_nothing_to_learn_from_is_zero_loss():
    predicted = prediction([0.0], [[1.0, 0, 0, 0, 0, 0]])
    loss = regression_loss(predicted, torch.ones(1, 6), torch.tensor([False]))
    assert loss.norm.item() == loss.direction.item() == 0.0
    assert masked_mean(torch.tensor([1.0, 3.0]), torch.tensor([True, True])).item() == 2.0


def test_masks_are_pooled_by_area():
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[0, :4, 8:] = True
    assert pool_to_grid(mask, 2).tolist() == [[[0.0, 0.5], [0.0, 0.0]]]
    right, wrong = (segmentation_loss(torch.full((1, 2, 2), v), mask | True) for v in (9.0, -9.0))
    assert right.item() < 1e-3 and wrong.item() == pytest.approx(9.0, abs=1e-3)


def test_matching_loss_by_hand():
    """One visible match halfway between goal tokens 1 and 2 of the second row of a 4 x 4 grid, a quarter up."""
    match = torch.full((1, 4, 4, 2), math.nan)
    x, y = 2.0 / 4, (1.5 + 0.25) / 4
    match[0, 3, 1] = torch.tensor([x, y])
    torch.manual_seed(0)
    logits = torch.randn(1, 16, 16)
    logp = logits.log_softmax(2)[0, 3 * 4 + 1].view(4, 4)
    expected = -(0.75 * 0.5 * (logp[1, 1] + logp[1, 2]) + 0.25 * 0.5 * (logp[2, 1] + logp[2, 2]))
    assert matching_loss(logits, match).item() == pytest.approx(expected.item(), rel=1e-5)
    assert matching_loss(logits, torch.full_like(match, math.nan)).item() == 0.0


def test_matches_at_the_rim_belong_to_the_outermost_token():
    match = torch.full((1, 4, 4, 2), math.nan)
    match[0, 0, 0] = torch.tensor([0.999, 0.01])
    logits = torch.zeros(1, 16, 16)
    logits[0, 0, 3] = 20.0
    assert matching_loss(logits, match).item() < 1e-6
