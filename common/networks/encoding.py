"""What an encoder makes of a pair of images, whichever encoder it is."""

from __future__ import annotations

import dataclasses

from torch import Tensor


@dataclasses.dataclass
class Encoding:
    """What the encoder makes of current and goal images; N pairs, token grids of G_y x G_x, T = G_y * G_x tokens.

    Attributes:
        z: f32 (N, feature_dim), the feature that enters the terminal MLP.
        match_logits: f32 (N, T, T), [current token, goal token].
        seg_logits: f32 (N, G_y, G_x) of the current image.
        goal_seg_logits: f32 (N, G_y, G_x) of the goal image.
        displacement: f32 (N, T, 2) expected displacement of each token, (x, y), the image being 2 x 2.
        confidence: f32 (N, T) how mutual the match is, 0 .. 1.
    """

    z: Tensor
    match_logits: Tensor
    seg_logits: Tensor
    goal_seg_logits: Tensor
    displacement: Tensor
    confidence: Tensor
