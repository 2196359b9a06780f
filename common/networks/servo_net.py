"""The policy network: two images -> feature z -> twist, value and pose hypotheses.

Parameter prefixes, which the schedule's phases train by: `encoder.` (everything up to z), `diffusion.`, `policy.` (the
terminal MLP), `log_std`, `value.`.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.config import NetworkConfig
from common.networks.backbone import ConvBackbone, ImageFeatures
from common.networks.geometry_block import GeometryBlock, expected_displacement, token_coordinates
from common.networks.heads import PoseDiffusion, TwistHead, TwistPrediction, ValueHead
from common.networks.matching import Matching, dual_softmax
from common.networks.weights import Weights, encoder_sha256, get_weights, set_weights

__all__ = [
    "Encoder",
    "Encoding",
    "ImageFeatures",
    "ServoNet",
    "TwistPrediction",
    "Weights",
    "encoder_sha256",
    "get_weights",
    "initial_weights",
    "set_weights",
]


@dataclasses.dataclass
class Encoding:
    """What the encoder makes of current and goal images; N pairs, T = G * G tokens.

    Attributes:
        z: f32 (N, feature_dim), the feature that enters the terminal MLP.
        match_logits: f32 (N, T, T), [current token, goal token].
        seg_logits: f32 (N, G, G) of the current image.
        goal_seg_logits: f32 (N, G, G) of the goal image.
        displacement: f32 (N, T, 2) expected displacement of each token, (x, y), the image being 2 x 2.
        confidence: f32 (N, T) how mutual the match is, 0 .. 1.
    """

    z: Tensor
    match_logits: Tensor
    seg_logits: Tensor
    goal_seg_logits: Tensor
    displacement: Tensor
    confidence: Tensor


class Encoder(nn.Module):
    """Backbone, matching, fusion and geometry block."""

    def __init__(self, cfg: NetworkConfig):
        super().__init__()
        grid, channels = cfg.match_grid, cfg.widths[-1]
        self.backbone = ConvBackbone(cfg.widths, cfg.match_dim)
        self.matching = Matching(grid, cfg.anchors)
        self.xy: Tensor
        self.register_buffer("xy", token_coordinates(grid), persistent=False)
        # P, both feature maps, both soft masks, token coordinates, displacement and confidence.
        inputs = cfg.anchors**2 + 2 * channels + 2 + 2 + 3
        self.mix = nn.Conv2d(inputs, 96, 1)
        self.mix_norm = nn.GroupNorm(4, 96)
        self.reduce = nn.Conv2d(96, 128, 3, stride=2, padding=1)
        self.reduce_norm = nn.GroupNorm(4, 128)
        self.squeeze = nn.Conv2d(128, 32, 1)
        self.flat = nn.Linear(32 * ((grid + 1) // 2) ** 2, cfg.feature_dim)
        self.geometry = GeometryBlock(grid, 128, cfg.feature_dim) if cfg.geometry_block else None
        self.out_norm = nn.LayerNorm(cfg.feature_dim)

    def fuse(self, current: ImageFeatures, goal: ImageFeatures) -> Encoding:
        """Encode N pairs of image features."""
        n, _, grid, _ = current.tokens.shape
        logits = self.matching.logits(current.descriptors, goal.descriptors)
        scores, mutual = dual_softmax(logits)
        displacement, confidence = expected_displacement(mutual, self.xy)
        mask, goal_mask = current.seg_logits.sigmoid(), goal.seg_logits.sigmoid()
        maps = [
            # Eq. 16 averages over a cell of anchors; multiplied by its area, a certain match has an entry near one.
            self.matching.probabilistic(scores) * (2.0 * grid / self.matching.anchors) ** 2,
            current.tokens,
            goal.tokens,
            mask[:, None],
            goal_mask[:, None],
            self.xy.T.reshape(1, 2, grid, grid).expand(n, -1, -1, -1),
            displacement.transpose(1, 2).reshape(n, 2, grid, grid),
            confidence.view(n, 1, grid, grid),
        ]
        x = functional.relu(self.mix_norm(self.mix(torch.cat(maps, dim=1))))
        x = functional.relu(self.reduce_norm(self.reduce(x)))
        feature = self.flat(functional.relu(self.squeeze(x)).flatten(1))
        if self.geometry is not None:
            feature = feature + self.geometry(displacement, confidence, mask.flatten(1), goal_mask.flatten(1))
        z = self.out_norm(feature)
        return Encoding(z, logits, current.seg_logits, goal.seg_logits, displacement, confidence)


class ServoNet(nn.Module):
    """The whole policy network; see the module docstring for the parameter prefixes."""

    def __init__(self, cfg: NetworkConfig):
        super().__init__()
        self.cfg = cfg
        self.encoder = Encoder(cfg)
        self.policy = TwistHead(cfg.feature_dim, cfg.policy_hidden)
        self.diffusion: PoseDiffusion | None = None
        if cfg.diffusion:
            self.diffusion = PoseDiffusion(cfg.feature_dim, cfg.diffusion_hidden, cfg.diffusion_levels)
        self.log_std = nn.Parameter(torch.full((6,), float(cfg.initial_log_std)))
        # Called like a method: value(z) is the value estimate (N,).
        self.value = ValueHead(cfg.feature_dim, cfg.value_hidden)

    def encode_image(self, rgb: Tensor) -> ImageFeatures:
        """Features of u8 images (N, H, W, 3), H = W = 8 * match_grid. Goals can be encoded once and gathered."""
        side = 8 * self.cfg.match_grid
        if rgb.dtype != torch.uint8 or rgb.shape[1:] != (side, side, 3):
            raise ValueError(f"image = {rgb.dtype} {tuple(rgb.shape)}: allowed is uint8 (N, {side}, {side}, 3)")
        return self.encoder.backbone(rgb)

    def fuse(self, current: ImageFeatures, goal: ImageFeatures) -> Encoding:
        """Encode N pairs; z is the state of RL and SIL."""
        return self.encoder.fuse(current, goal)

    def regress(self, z: Tensor) -> TwistPrediction:
        """Normalised twist of z (N, feature_dim), with the log-norm and direction that eq. 23 supervises."""
        return self.policy(z)

    def twist(self, z: Tensor) -> Tensor:
        """Normalised twist (N, 6), the policy's deterministic action, of z (N, feature_dim)."""
        return self.policy(z).twist

    def action_dist_inputs(self, z: Tensor) -> Tensor:
        """Mean twist and log-std (N, 12) of the Gaussian that explores."""
        return self.with_log_std(self.twist(z))

    def with_log_std(self, mean: Tensor) -> Tensor:
        """Mean twists (N, 6) and the state-independent log-std, (N, 12)."""
        return torch.cat([mean, self.log_std.expand_as(mean)], dim=1)

    def diffusion_loss(self, z: Tensor, x0: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        """L_diff of Sym-Servo eq. 3, a scalar; arguments as in `PoseDiffusion.errors`.

        Raises:
            ValueError: if the network was built without a diffusion head.
        """
        if self.diffusion is None:
            raise ValueError("network.diffusion = False: allowed is True where a diffusion loss is asked for")
        return self.diffusion.errors(z, x0, level, noise).mean()

    def forward(self, rgb: Tensor, goal_rgb: Tensor) -> Encoding:
        """Encode N pairs of u8 images (N, H, W, 3)."""
        return self.fuse(self.encode_image(rgb), self.encode_image(goal_rgb))


def initial_weights(cfg: NetworkConfig, seed: int) -> Weights:
    """Weights of a network that has learned nothing, by the seed alone; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_weights(ServoNet(cfg))
