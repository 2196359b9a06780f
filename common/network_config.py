"""Settings of the policy network, and the checks that need only these."""

from __future__ import annotations

import dataclasses

from common.errors import ConfigError, bad_value
from common.settings import fixed

CONV_STRIDE = 8
FOUNDATION_PATCH = {"dinov2_b": 14, "dinov3_b": 16, "cradio_b": 16}
_BACKBONES = "conv_small|vit_tiny|vit_small|dinov2_b|dinov3_b|cradio_b"


@dataclasses.dataclass
class NetworkConfig:
    """The policy network: backbone, probabilistic matching, fusion, geometry block and heads."""

    backbone: str = fixed("conv_small", "image backbone; conv_small is the quick start's whole encoder", _BACKBONES)
    pretrained: str = fixed("", "foundation weights: a folder, or hub:ORG/NAME to allow a download; empty: random")
    freeze_backbone: bool = fixed(True, "a foundation backbone does not learn")
    patch: int = fixed(8, "side of a token of vit_tiny and vit_small [px], even", "> 1")
    vit_layers: int = fixed(12, "layers of vit_tiny and vit_small", "> 0")
    widths: list[int] = fixed([24, 40, 56], "channels of the three strided convolutions of conv_small")
    match_dim: int = fixed(48, "channels of the projected features that conv_small matches", "> 0")
    match_grid: int = fixed(8, "side of the training token grid; images are a patch (conv_small: 8) as large", "> 0")
    match_layers: int = fixed(4, "self- and cross-attention layers before matching (not conv_small)", "> 0")
    fuse_layers: int = fixed(2, "self-attention layers over matches and fine features (not conv_small)", "> 0")
    transformer_width: int = fixed(192, "channels of both transformers (not conv_small)", "> 0")
    transformer_heads: int = fixed(4, "attention heads of both; width / heads is a multiple of 4", "> 0")
    fine_width: int = fixed(32, "channels of the fine convolutional features (not conv_small)", "> 0")
    pool_queries: int = fixed(4, "learned queries that pool the matching features into z (not conv_small)", "> 0")
    matching: str = fixed(
        "probabilistic", "what is read of the scores: phi_P, phi_S, phi_M", "probabilistic|raw_score|explicit"
    )
    anchors: int = fixed(9, "displacement anchors per axis (K of CNSv2 eq. 16)", "> 0")
    feature_dim: int = fixed(256, "size of z, the feature that enters the terminal MLP", "> 0")
    geometry_block: bool = fixed(True, "add the least-squares flow model and mask moments to the feature")
    policy_hidden: list[int] = fixed([256, 256], "hidden layers of the terminal MLP")
    value_hidden: list[int] = fixed([256, 256], "hidden layers of the value network")
    diffusion: bool = fixed(True, "train the diffusion head beside the regression head")
    diffusion_hidden: int = fixed(256, "width of the noise predictor", "> 0")
    diffusion_levels: int = fixed(50, "noise levels of the DDIM schedule", "> 1")
    initial_log_std: float = fixed(-2.302585, "log of the state-independent action std when RL starts")


def token_stride(network: NetworkConfig) -> int:
    """Side of a token [px]: images are multiples of it, training images `match_grid` of it."""
    if network.backbone == "conv_small":
        return CONV_STRIDE
    return FOUNDATION_PATCH.get(network.backbone, network.patch)


def image_side(network: NetworkConfig) -> int:
    """Side of the square training images [px]."""
    return token_stride(network) * network.match_grid


def check_network(network: NetworkConfig) -> None:
    """Check the settings of the network against each other; bounds of single ones are checked elsewhere.

    Raises:
        ConfigError: naming the first setting that does not fit, its value and what is allowed.
    """
    foundation = network.backbone in FOUNDATION_PATCH
    if network.pretrained and not foundation:
        allowed = f"empty for backbone = {network.backbone}; {sorted(FOUNDATION_PATCH)} take weights"
        raise ConfigError(bad_value("network.pretrained", network.pretrained, allowed))
    if network.pretrained.startswith("hub:") and network.pretrained.count("/") != 1:
        raise ConfigError(bad_value("network.pretrained", network.pretrained, "hub:ORG/NAME"))
    if not foundation and not network.freeze_backbone:
        allowed = f"True for backbone = {network.backbone}, which learns from scratch all the same"
        raise ConfigError(bad_value("network.freeze_backbone", False, allowed))
    if network.patch % 2:
        raise ConfigError(bad_value("network.patch", network.patch, "an even number of pixels"))
    width, heads = network.transformer_width, network.transformer_heads
    if width % heads or (width // heads) % 4:
        allowed = f"a multiple of 4 x transformer_heads = {4 * heads}"
        raise ConfigError(bad_value("network.transformer_width", width, allowed))
