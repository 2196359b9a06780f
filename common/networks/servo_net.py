"""The policy network: two images -> feature z -> twist, value and pose hypotheses.

Parameter prefixes, which the schedule's phases train by: `encoder.` (everything up to z), `diffusion.`, `policy.` (the
terminal MLP), `log_std`, `value.`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.config import NetworkConfig
from common.errors import ConfigError, bad_value
from common.network_config import image_side, token_stride
from common.networks.backbone import ImageFeatures
from common.networks.conv_encoder import ConvEncoder
from common.networks.encoding import Encoding
from common.networks.heads import PoseDiffusion, TwistHead, TwistPrediction, ValueHead
from common.networks.matching_encoder import MatchingEncoder
from common.networks.weights import Weights, encoder_sha256, get_weights, set_weights

__all__ = [
    "Encoding",
    "ImageFeatures",
    "ServoNet",
    "TwistPrediction",
    "Weights",
    "encoder_sha256",
    "get_weights",
    "initial_weights",
    "restarted_weights",
    "set_weights",
]


def make_encoder(cfg: NetworkConfig) -> ConvEncoder | MatchingEncoder:
    """The encoder of a backbone: the quick start's convolutional one, or the papers' for every transformer."""
    return ConvEncoder(cfg) if cfg.backbone == "conv_small" else MatchingEncoder(cfg)


class ServoNet(nn.Module):
    """The whole policy network; see the module docstring for the parameter prefixes."""

    def __init__(self, cfg: NetworkConfig):
        super().__init__()
        self.cfg = cfg
        self.encoder = make_encoder(cfg)
        self.policy = TwistHead(cfg.feature_dim, cfg.policy_hidden)
        self.diffusion: PoseDiffusion | None = None
        if cfg.diffusion:
            self.diffusion = PoseDiffusion(cfg.feature_dim, cfg.diffusion_hidden, cfg.diffusion_levels)
        self.log_std = nn.Parameter(torch.full((6,), float(cfg.initial_log_std)))
        # Called like a method: value(z) is the value estimate (N,).
        self.value = ValueHead(cfg.feature_dim, cfg.value_hidden)

    def encode_image(self, rgb: Tensor) -> ImageFeatures:
        """Features of u8 images (N, H, W, 3). Goals can be encoded once and gathered.

        conv_small takes the square images it was built for; every other backbone takes any size whose sides are
        multiples of its patch.

        Raises:
            ValueError: if the images are of another type or size.
        """
        stride, side = token_stride(self.cfg), image_side(self.cfg)
        any_size = self.cfg.backbone != "conv_small"
        fits = rgb.shape[1:] == (side, side, 3)
        if any_size and rgb.ndim == 4:
            height, width, channels = rgb.shape[1:]
            fits = channels == 3 and min(height, width) >= stride and height % stride == 0 and width % stride == 0
        if rgb.dtype != torch.uint8 or not fits:
            sides = f"sides multiples of {stride}" if any_size else f"H = W = {side}"
            raise ValueError(f"image = {rgb.dtype} {tuple(rgb.shape)}: allowed is uint8 (N, H, W, 3), {sides}")
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

    def pose_hypotheses(self, z: Tensor, noise: Tensor, steps: int = 10) -> Tensor:
        """K relative poses (N, K, 6) = [t / d*; rotation vector] per feature, drawn by DDIM (Sym-Servo eq. 2-3).

        Args:
            z: (N, feature_dim).
            noise: (N, K, 6) standard normal; the poses are a deterministic function of it.
            steps: noise levels visited.

        Raises:
            ValueError: if the network was built without a diffusion head, or `steps` is not within 1 .. levels.
        """
        if self.diffusion is None:
            raise ValueError("network.diffusion = False: allowed is True where pose hypotheses are asked for")
        return self.diffusion.sample(z, noise, steps)

    def forward(self, rgb: Tensor, goal_rgb: Tensor) -> Encoding:
        """Encode N pairs of u8 images (N, H, W, 3)."""
        return self.fuse(self.encode_image(rgb), self.encode_image(goal_rgb))


def initial_weights(cfg: NetworkConfig, seed: int) -> Weights:
    """Weights of a network that has learned nothing, by the seed alone; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_weights(ServoNet(cfg))


def restarted_weights(cfg: NetworkConfig, seed: int, weights: Weights, prefixes: list[str]) -> Weights:
    """`weights` with those of the given prefixes as `initial_weights` has them.

    Raises:
        ConfigError: if a prefix names no parameter.
    """
    if not prefixes:
        return weights
    fresh = initial_weights(cfg, seed)
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in fresh):
            raise ConfigError(bad_value("restart", prefix, "a prefix of a parameter name"))
    return {name: fresh[name] if name.startswith(tuple(prefixes)) else array for name, array in weights.items()}
