import numpy as np
import pytest
import torch

from common.networks.geometry_block import (
    NUM_FEATURES,
    GeometryBlock,
    expected_displacement,
    fit_flow,
    mask_moments,
    quadratic_basis,
    token_coordinates,
)

XY = token_coordinates(8)
BASIS = quadratic_basis(XY)


def affine_flow(matrix, offset):
    return (XY @ torch.tensor(matrix).T + torch.tensor(offset))[None]


def test_coordinates_run_along_rows_from_minus_one_to_one():
    assert (
        XY[0].tolist() == [-0.875, -0.875] and XY[1].tolist() == [-0.625, -0.875] and XY[63].tolist() == [0.875, 0.875]
    )


def test_fit_recovers_an_affine_flow():
    matrix, offset = [[0.1, -0.2], [0.3, 0.05]], [0.2, -0.1]
    coefficients, residual = fit_flow(BASIS, affine_flow(matrix, offset), torch.rand(1, 64) + 0.1, ridge=1e-6)
    expected = torch.zeros(6, 2)
    expected[0], expected[1], expected[2] = torch.tensor(offset), *torch.tensor(matrix).T
    torch.testing.assert_close(coefficients[0], expected, atol=1e-3, rtol=0)
    assert residual.item() < 2e-3


def test_fit_minimises_the_weighted_square_error():
    torch.manual_seed(0)
    flow, weights = torch.randn(3, 64, 2), torch.rand(3, 64)
    coefficients, _ = fit_flow(BASIS, flow, weights, ridge=0.0)
    for i in range(3):
        root = weights[i].sqrt()[:, None].double().numpy()
        reference = np.linalg.lstsq(root * BASIS.double().numpy(), root * flow[i].double().numpy(), rcond=None)[0]
        np.testing.assert_allclose(coefficients[i].numpy(), reference, atol=1e-3)


def test_outliers_without_weight_do_not_count():
    flow = affine_flow([[0.1, 0.0], [0.0, 0.1]], [0.0, 0.0])
    spoiled = flow.clone()
    spoiled[0, ::4] = 5.0
    weights = torch.ones(1, 64)
    weights[0, ::4] = 0.0
    torch.testing.assert_close(fit_flow(BASIS, spoiled, weights)[0], fit_flow(BASIS, flow, weights)[0])


@pytest.mark.parametrize("weights", [torch.zeros(1, 64), torch.eye(64)[:1]])
def test_fit_is_finite_with_hardly_any_tokens(weights):
    flow = torch.ones(1, 64, 2).requires_grad_()
    weights = weights.clone().requires_grad_()
    coefficients, residual = fit_flow(BASIS, flow, weights)
    (coefficients.sum() + residual.sum()).backward()
    for tensor in (coefficients, residual, flow.grad, weights.grad):
        assert torch.isfinite(tensor).all()


def test_expected_displacement_of_certain_matches():
    """Every token one column to the right; the last column nowhere."""
    mutual = torch.zeros(1, 64, 64)
    for t in range(64):
        if t % 8 < 7:
            mutual[0, t, t + 1] = 0.9
    displacement, confidence = expected_displacement(mutual, XY)
    inside = torch.arange(64) % 8 < 7
    torch.testing.assert_close(displacement[0, inside], torch.tensor([0.25, 0.0]).expand(56, 2))
    torch.testing.assert_close(confidence[0], 0.9 * inside.float())


def test_moments_of_a_box():
    mask = torch.zeros(8, 8)
    mask[2:4, 4:8] = 1.0
    m, cx, cy, mxx, mxy, myy = mask_moments(mask.view(1, 64), XY)[0].tolist()
    assert m == pytest.approx(8 / 64)
    assert (cx, cy) == (pytest.approx(0.5), pytest.approx(-0.25))
    # Variances of four and of two tokens in a row, 0.25 apart.
    assert (mxx, mxy, myy) == (pytest.approx(5 / 64), pytest.approx(0.0, abs=1e-6), pytest.approx(1 / 64))


def test_features_are_forty_and_say_nothing_moved_when_nothing_did():
    block = GeometryBlock(8, 16, 32)
    mask = (torch.rand(2, 64) > 0.5).float()
    features = block.features(torch.zeros(2, 64, 2), torch.ones(2, 64), mask, mask)
    assert features.shape == (2, NUM_FEATURES)
    torch.testing.assert_close(features[:, :24], torch.zeros(2, 24))
    torch.testing.assert_close(features[:, -6:], torch.zeros(2, 6))
    empty = block(torch.zeros(2, 64, 2), torch.zeros(2, 64), torch.zeros(2, 64), torch.zeros(2, 64))
    assert torch.isfinite(empty).all()
