"""A network's parameters as named numpy arrays: what is broadcast, hashed and stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.errors import CheckpointError
from common.identity import weights_sha256
from common.networks.frozen import DIGEST, frozen_prefixes

Weights = dict[str, NDArray[Any]]


def get_weights(net: nn.Module) -> Weights:
    """Copies of all parameters and persistent buffers by name; of a frozen backbone, its content hash alone."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in _own_state(net).items()}


def _own_state(net: nn.Module) -> dict[str, Tensor]:
    frozen = frozen_prefixes(net)
    return {name: tensor for name, tensor in net.state_dict().items() if not name.startswith(frozen)}


def set_weights(net: nn.Module, weights: Mapping[str, NDArray[Any]]) -> None:
    """Load named arrays in place.

    Raises:
        CheckpointError: naming what is missing, unknown or of another shape or dtype, or that the weights go with
            another frozen backbone; then nothing was loaded.
    """
    state = _own_state(net)
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
        if name.endswith(DIGEST) and not torch.equal(have, tensor.cpu()):
            seen, allowed = bytes(have.tolist()).hex()[:12], bytes(tensor.tolist()).hex()[:12]
            raise CheckpointError(
                f"network weights {name} = {seen}: allowed is {allowed}, the frozen backbone that this network was "
                f"built with (network.pretrained)"
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
