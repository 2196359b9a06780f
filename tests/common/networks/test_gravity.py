import math

import pytest
import torch

from common.networks.gravity import gravity_centres
from common.networks.servo_net import Encoding


def encoding(logits, height, width):
    n = len(logits)
    seg = torch.zeros(n, height, width)
    return Encoding(torch.zeros(n, 4), logits, seg, seg, torch.zeros(n, height * width, 2), torch.zeros(n, 1))


def eq_25(logits, height, width):
    """Eq. 25 as printed, one pair, by loops over tokens."""
    tokens = range(height * width)
    at = [(2 * (t % width + 0.5) / width - 1, 2 * (t // width + 0.5) / height - 1) for t in tokens]
    e = [[math.exp(v) for v in row] for row in logits.tolist()]
    to_goal = [[e[i][j] / sum(e[i]) for j in tokens] for i in tokens]
    to_current = [[e[i][j] / sum(e[k][j] for k in tokens) for j in tokens] for i in tokens]
    c = [sum(to_goal[i][j] * to_current[i][j] for j in tokens) for i in tokens]
    mapped = [[sum(to_goal[i][j] * at[j][k] for j in tokens) for k in range(2)] for i in tokens]
    current = [sum(c[i] * at[i][k] for i in tokens) / sum(c) for k in range(2)]
    goal = [sum(c[i] * mapped[i][k] for i in tokens) / sum(c) for k in range(2)]
    return current, goal, sum(c) / len(c)


@pytest.mark.parametrize(("height", "width"), [(3, 3), (2, 5), (4, 3)])
def test_gravity_centres_are_eq_25(height, width):
    torch.manual_seed(height)
    logits = 3.0 * torch.randn(2, height * width, height * width)
    got = gravity_centres(encoding(logits, height, width))
    for n in range(2):
        current, goal, confidence = eq_25(logits[n].double(), height, width)
        torch.testing.assert_close(got.current[n], torch.tensor(current))
        torch.testing.assert_close(got.goal[n], torch.tensor(goal))
        assert got.confidence[n].item() == pytest.approx(confidence, rel=1e-5)


def test_a_certain_shift_moves_the_centre_by_it():
    """Tokens of columns 0 and 1 of a 4 x 4 grid go two columns right; the others match nothing in particular."""
    logits = torch.zeros(1, 16, 16)
    for t in range(16):
        if t % 4 < 2:
            logits[0, t, t + 2] = 40.0
    got = gravity_centres(encoding(logits, 4, 4))
    moved = got.goal - got.current
    torch.testing.assert_close(moved, torch.tensor([[1.0, 0.0]]), atol=0.15, rtol=0)
    identity = gravity_centres(encoding(60.0 * torch.eye(16)[None], 4, 4))
    torch.testing.assert_close(identity.goal, identity.current)
    assert identity.confidence.item() == pytest.approx(1.0)


def test_low_precision_logits_and_no_match_at_all_stay_finite():
    flat = gravity_centres(encoding(torch.zeros(1, 64, 64, dtype=torch.bfloat16), 8, 8))
    torch.testing.assert_close(flat.current, torch.zeros(1, 2), atol=1e-6, rtol=0)
    assert flat.confidence.dtype == torch.float32 and flat.confidence.item() == pytest.approx(1 / 64)
    # Every token wants goal token 0, which wants token 1: the dual scores underflow but for one.
    one_sided = torch.zeros(1, 16, 16)
    one_sided[0, :, 0] = 200.0
    one_sided[0, 1, 0] = 400.0
    got = gravity_centres(encoding(one_sided, 4, 4))
    assert torch.isfinite(got.current).all() and torch.isfinite(got.goal).all()
    torch.testing.assert_close(got.current[0], torch.tensor([-0.25, -0.75]))
    torch.testing.assert_close(got.goal[0], torch.tensor([-0.75, -0.75]))
