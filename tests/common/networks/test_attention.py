import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.networks.attention import Attention, AxialRope, CrossLayer, SelfLayer, axial_angles, rotate


def turns(height, width, head_dim, span):
    angles = axial_angles(height, width, head_dim, span)
    return angles.cos(), angles.sin()


def test_angles_by_hand():
    """A 2 x 3 grid of a network trained at 6 tokens per side: rows 3 apart, columns 2 apart; 100^0 and 100^-1/2."""
    angles = axial_angles(2, 3, 8, 6)
    assert angles.shape == (6, 4)
    torch.testing.assert_close(angles[0], torch.tensor([1.5, 0.15, 1.0, 0.1]))
    torch.testing.assert_close(angles[5], torch.tensor([4.5, 0.45, 5.0, 0.5]))


def test_rotation_turns_each_pair_by_its_angle():
    x, turn = torch.randn(1, 1, 6, 8), turns(2, 3, 8, 6)
    angles, got = axial_angles(2, 3, 8, 6), rotate(x, turn)
    for t in range(6):
        for i in range(4):
            a, b, angle = x[0, 0, t, i].item(), x[0, 0, t, i + 4].item(), angles[t, i].item()
            assert got[0, 0, t, i].item() == pytest.approx(a * math.cos(angle) - b * math.sin(angle), abs=1e-5)
            assert got[0, 0, t, i + 4].item() == pytest.approx(a * math.sin(angle) + b * math.cos(angle), abs=1e-5)


@given(st.data())
def test_scores_depend_on_relative_offsets_alone(data):
    """The same query and key at two pairs of places with one offset; another offset gives another score."""
    sides = [data.draw(st.integers(2, 9)) for _ in range(2)]
    (y1, x1), (y2, x2) = ([data.draw(st.integers(0, side - 1)) for side in sides] for _ in range(2))
    dy = data.draw(st.integers(-min(y1, y2), sides[0] - 1 - max(y1, y2)))
    dx = data.draw(st.integers(-min(x1, x2), sides[1] - 1 - max(x1, x2)))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    query, key = (torch.randn(16, generator=generator) for _ in range(2))
    turn = turns(*sides, 16, 8)

    def score(y, x, v, u):
        q, k = (rotate(a.expand(1, 1, sides[0] * sides[1], 16), turn)[0, 0] for a in (query, key))
        return q[y * sides[1] + x] @ k[v * sides[1] + u]

    torch.testing.assert_close(score(y1, x1, y2, x2), score(y1 + dy, x1 + dx, y2 + dy, x2 + dx), atol=2e-4, rtol=1e-4)
    if (y1, x1) != (y2, x2):
        assert (score(y1, x1, y2, x2) - score(y1, x1, y1, x1)).abs() > 1e-7


def test_a_finer_grid_puts_the_same_place_at_the_same_angle():
    coarse, fine = axial_angles(4, 4, 8, 4).view(4, 4, 4), axial_angles(8, 12, 8, 4).view(8, 12, 4)
    torch.testing.assert_close(fine.view(4, 2, 4, 3, 4).mean(dim=(1, 3)), coarse)


def test_the_training_grid_is_kept_and_others_follow_the_same_rule():
    rope = AxialRope(4, 8)
    assert rope(4, 4)[0] is rope.cos
    for sides in ((4, 4), (8, 2)):
        for got, wanted in zip(rope(*sides), turns(*sides, 8, 4), strict=True):
            torch.testing.assert_close(got, wanted)
    assert not rope.state_dict()


@pytest.mark.parametrize("turned", [False, True])
def test_attention_is_the_softmax_of_products(turned):
    torch.manual_seed(0)
    attention, x = Attention(8, 2), torch.randn(1, 6, 8)
    context = x if turned else torch.randn(1, 5, 8)
    turn = turns(2, 3, 4, 3) if turned else None
    q = attention.query(x)[0]
    k, v = attention.key_value(context)[0].chunk(2, dim=1)
    mixed = torch.zeros(6, 8)
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        queries, keys = (rotate(a[:, part], turn) if turn else a[:, part] for a in (q, k))
        mixed[:, part] = (queries @ keys.T / 2.0).softmax(dim=1) @ v[:, part]
    torch.testing.assert_close(attention(x, context, turn)[0], attention.out(mixed))


def test_cross_layer_exchanges_the_two_images_and_no_others():
    torch.manual_seed(0)
    layer, both, turn = CrossLayer(16, 2), torch.randn(4, 6, 16), turns(2, 3, 8, 3)
    out = layer(both, turn)
    swapped = layer(both[[2, 3, 0, 1]], turn)
    torch.testing.assert_close(swapped[[2, 3, 0, 1]], out)
    changed = both.clone()
    changed[2] += 1.0 + torch.randn(6, 16)  # the goal of pair 0
    moved = (layer(changed, turn) - out).abs().amax(dim=(1, 2))
    assert moved[0] > 1e-3 and moved[2] > 1e-3 and moved[1] < 1e-5 and moved[3] < 1e-5


def test_self_layer_keeps_what_it_is_given_and_adds_to_it():
    torch.manual_seed(0)
    layer, x = SelfLayer(16, 2), torch.randn(2, 6, 16)
    y = layer.norm1(x)
    wanted = x + layer.attention(y, y, turns(2, 3, 8, 3))
    torch.testing.assert_close(layer(x, turns(2, 3, 8, 3)), wanted + layer.mlp(layer.norm2(wanted)))
