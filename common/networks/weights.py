"""A network's parameters as named numpy arrays: what is broadcast, hashed and stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from common.errors import CheckpointError
from common.identity import weights_sha256

Weights = dict[str, NDArray[Any]]


def get_weights(net: nn.Module) -> Weights:
    """Copies of all parameters and persistent buffers by name."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in net.state_dict().items()}


def set_weights(net: nn.Module, weights: Mapping[str, NDArray[Any]]) -> None:
    """Load named arrays in place.

    Raises:
        CheckpointError: naming what is missing, unknown or of another shape or dtype; then nothing was loaded.
    """
    state = net.state_dict()
    if set(state) != set(weights):
        missing, unknown = sorted(set(state) - set(weights)), sorted(set(weights) - set(state))
        raise CheckpointError(f"network weights do not fit: missing {missing[:3]}, unknown {unknown[:3]}")
    for name, tensor in state.items():
        have = torch.from_numpy(np.array(weights[name]))
        if have.shape != tensor.shape or have.dtype != tensor.dtype:
            raise CheckpointError(
                f"network weights {name} = {have.dtype} {tuple(have.shape)}: "
                f"allowed is {tensor.dtype} {tuple(tensor.shape)}"
            )
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(torch.from_numpy(np.array(weights[name])))


def encoder_sha256(weights: Mapping[str, NDArray[Any]]) -> str:
    """Content hash of the parameters that z depends on (`encoder.*`); heads may change without changing it.

    Raises:
        CheckpointError: if there is no such parameter.
    """
    encoder = {name: array for name, array in weights.items() if name.startswith("encoder.")}
    if not encoder:
        raise CheckpointError(f"network weights = {sorted(weights)[:3]}...: allowed is a set with encoder.* entries")
    return weights_sha256(encoder)
