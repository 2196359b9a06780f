"""Pretrained vision transformers (DINOv2, DINOv3, C-RADIO) through `transformers`, which is imported only here.

Nothing is fetched unless the configuration says so with `hub:ORG/NAME`. Weights are read from safetensors, and no code
of a model's repository is ever run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.config import NetworkConfig
from common.errors import ConfigError, bad_value
from common.network_config import FOUNDATION_PATCH

# transformers' classes, and mean and std of the images that the models were trained on; C-RADIO normalises itself.
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_NONE = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
_MODELS = {
    "dinov2_b": ("dinov2", "Dinov2Config", "Dinov2Model", _IMAGENET),
    "dinov3_b": ("dinov3_vit", "DINOv3ViTConfig", "DINOv3ViTModel", _IMAGENET),
    "cradio_b": ("radio", "RadioConfig", "RadioModel", _NONE),
}
_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
_EXTRA = {
    "dinov2_b": {"image_size": 518},
    "dinov3_b": {"intermediate_size": 3072, "num_register_tokens": 4},
    "cradio_b": {},
}
_RANDOM_SEED = 0


class FoundationModel(nn.Module):
    """A pretrained transformer as a map from images to patch tokens.

    Attributes:
        width: channels of a token.
    """

    def __init__(self, model: nn.Module, normalisation: tuple[tuple[float, ...], tuple[float, ...]]):
        super().__init__()
        self.model = model
        self.width: int = model.config.hidden_size
        self.patch: int = model.config.patch_size
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in normalisation)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, rgb: Tensor) -> Tensor:
        """Patch tokens (N, T, width) of u8 images (N, H, W, 3), sides multiples of the patch."""
        pixels = (rgb.permute(0, 3, 1, 2).float() * (1.0 / 255.0) - self.mean) / self.std
        tokens = (rgb.shape[1] // self.patch) * (rgb.shape[2] // self.patch)
        # Class, summary and register tokens come first.
        return self.model(pixels).last_hidden_state[:, -tokens:]


def load_foundation(network: NetworkConfig) -> FoundationModel:
    """The model that `network.backbone` and `network.pretrained` name, in float32 on the CPU.

    Without `pretrained`, one of the same shape with random weights that are the same in every process; the folder's
    own config decides the width and depth otherwise, so that larger siblings of the named models work as well.

    Raises:
        ConfigError: if transformers is missing, or the folder does not hold the weights of such a model.
    """
    try:
        import transformers
    except ImportError as error:
        allowed = "a backbone without pretrained weights, or install servofleet[foundation] (transformers)"
        raise ConfigError(bad_value("network.backbone", network.backbone, allowed)) from error
    _, config_class, model_class, normalisation = _MODELS[network.backbone]
    if network.pretrained:
        model = _pretrained(network, transformers, getattr(transformers, model_class))
    else:
        patch = FOUNDATION_PATCH[network.backbone]
        config = getattr(transformers, config_class)(**_BASE, **_EXTRA[network.backbone], patch_size=patch)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_RANDOM_SEED)
            model = getattr(transformers, model_class)(config)
    # A parameter that only masked pre-training uses would never get a gradient.
    if getattr(model.embeddings, "mask_token", None) is not None:
        model.embeddings.register_parameter("mask_token", None)
    return FoundationModel(model, normalisation)


def _pretrained(network: NetworkConfig, transformers: Any, model_class: Any) -> nn.Module:
    kind = _MODELS[network.backbone][0]
    hub = network.pretrained.startswith("hub:")
    place = network.pretrained.removeprefix("hub:")
    if not hub and not Path(place).is_dir():
        raise ConfigError(bad_value("network.pretrained", place, "a folder on this machine, or hub:ORG/NAME"))
    offline = {"local_files_only": not hub, "trust_remote_code": False}
    try:
        config = transformers.AutoConfig.from_pretrained(place, **offline)
    except (OSError, ValueError) as error:
        allowed = f"a model that transformers can read; it says: {str(error).splitlines()[0]}"
        raise ConfigError(bad_value("network.pretrained", network.pretrained, allowed)) from error
    patch = FOUNDATION_PATCH[network.backbone]
    if (config.model_type, config.patch_size) != (kind, patch):
        found = f"{network.pretrained} ({config.model_type}, patch {config.patch_size})"
        allowed = f"a {kind} model of patch {patch} for backbone = {network.backbone}"
        raise ConfigError(bad_value("network.pretrained", found, allowed))
    try:
        model, report = model_class.from_pretrained(
            place, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **offline
        )
    except (OSError, ValueError, RuntimeError) as error:
        allowed = f"a model with whole safetensors weights; transformers says: {str(error).splitlines()[0]}"
        raise ConfigError(bad_value("network.pretrained", network.pretrained, allowed)) from error
    missing = sorted(report["missing_keys"])
    if missing:
        allowed = f"weights of every parameter; {len(missing)} are missing, such as {missing[0]}"
        raise ConfigError(bad_value("network.pretrained", network.pretrained, allowed))
    return model
