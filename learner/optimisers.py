"""The optimisers of the phases, and which parameters their weight decay spares."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from common.errors import CheckpointError
from common.learning_config import LearnerConfig

# Embeddings are matrices in shape alone: decaying one forgets where a token stood.
_EMBEDDINGS = ("pos_embed", "position_embeddings", "cls_token", "register_tokens", "mask_token")
# How an optimiser computes, not what: left out of states, so that a resumed run may choose again.
HOW = ("fused", "foreach", "capturable", "differentiable")


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay acts on a parameter: on matrices and convolution kernels, not on biases, norms, scalars and
    embeddings.
    """
    return parameter.ndim > 1 and name.rsplit(".", 1)[-1] not in _EMBEDDINGS


def adam(
    named: Sequence[tuple[str, nn.Parameter]],
    *,
    lr: float,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    fused: bool | None = None,
) -> torch.optim.Optimizer:
    """Adam, or AdamW whose decay acts on what `decays` says, if there is decay."""
    if not weight_decay:
        return torch.optim.Adam([p for _, p in named], lr=lr, betas=betas, fused=fused)
    return adamw(named, lr=lr, weight_decay=weight_decay, betas=betas, fused=fused)


def adamw(
    named: Sequence[tuple[str, nn.Parameter]],
    *,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    fused: bool | None,
) -> torch.optim.Optimizer:
    """AdamW with two groups: what decays, and what does not."""
    groups = [
        {"params": [p for n, p in named if decays(n, p)], "weight_decay": weight_decay},
        {"params": [p for n, p in named if not decays(n, p)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=fused)


def use_fused(engine: LearnerConfig, device: torch.device, otherwise: bool | None) -> bool | None:
    """What `fused` of an optimiser should be; `otherwise` is the phase's own choice on a CPU."""
    if engine.fused == "auto":
        return True if device.type == "cuda" else otherwise
    return engine.fused == "on"


def scaler_of(engine: LearnerConfig, device: torch.device) -> torch.amp.GradScaler | None:
    """What keeps small fp16 gradients from vanishing; other precisions need none."""
    return torch.amp.GradScaler(device.type) if engine.precision == "fp16" else None


def scaler_state(scaler: torch.amp.GradScaler | None) -> dict[str, float]:
    """JSON-ready; empty where there is none."""
    if scaler is None:
        return {}
    state = scaler.state_dict()
    return {"scale": float(state["scale"]), "growth_tracker": float(state["_growth_tracker"])}


def load_scaler_state(scaler: torch.amp.GradScaler | None, state: dict[str, float]) -> None:
    """Inverse of `scaler_state`.

    Raises:
        CheckpointError: if one was saved where none is used, or the other way round.
    """
    if (scaler is None) != (not state):
        raise CheckpointError("the gradient scaler's state is of another learner.precision")
    if scaler is not None:
        whole = scaler.state_dict()
        whole |= {"scale": state["scale"], "_growth_tracker": int(state["growth_tracker"])}
        scaler.load_state_dict(whole)
