"""Gravity centres of the matches in both images (CNSv2 eq. 25), which hybrid control steers by."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from common.networks.encoding import Encoding
from common.networks.geometry_block import token_coordinates
from common.networks.matching import dual_softmax


class GravityCentres(NamedTuple):
    """Where the matched parts of N pairs of images lie on average.

    Image coordinates are (x, y) in -1 .. 1 over each side, whatever the resolution. The paper's switch, 0.1 sqrt(N16)
    patches, is a distance of 0.2 in them for a square image.

    Attributes:
        current: f32 (N, 2), centre in the current image.
        goal: f32 (N, 2), centre of where the same tokens go in the goal image.
        confidence: f32 (N,) in 0 .. 1, mean dual-softmax score of the tokens: near 1 if every token has one match.
    """

    current: Tensor
    goal: Tensor
    confidence: Tensor


def gravity_centres(encoding: Encoding) -> GravityCentres:
    """Eq. 25 of encoded pairs, in float32 also under autocast.

    A token counts by its dual-softmax score, the sum over goal tokens of S(c->d) S(d->c); it goes to the mean of the
    goal tokens under S(c->d), as in eq. 15.
    """
    height, width = encoding.seg_logits.shape[-2:]
    xy = token_coordinates(width, height).to(encoding.match_logits.device)
    scores, mutual = dual_softmax(encoding.match_logits.float())
    weight = mutual.sum(dim=2)
    # Only ratios count, so tiny weights are as good as large ones, down to where they underflow.
    share = weight / weight.sum(dim=1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
    current = share @ xy
    goal = torch.einsum("nt,ntk->nk", share, scores @ xy)
    return GravityCentres(current, goal, weight.mean(dim=1))
