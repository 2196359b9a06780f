"""A module that never learns, and stands in a network's weights by its content hash alone.

Its parameters would be most of a network's bytes and the same in every process, so they are neither broadcast nor kept
in checkpoints; the hash is, and whoever loads such weights must have the same frozen parameters.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.identity import weights_sha256

DIGEST = "frozen_sha256"


class Frozen(nn.Module):
    """Runs `module` without gradients and in evaluation mode, whatever mode the network around it is in."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module.requires_grad_(False).eval()
        arrays = {name: np.atleast_1d(t.detach().cpu().numpy()) for name, t in module.state_dict().items()}
        digest = np.frombuffer(bytes.fromhex(weights_sha256(arrays)), dtype=np.uint8).copy()
        self.frozen_sha256: Tensor
        self.register_buffer(DIGEST, torch.from_numpy(digest))

    def train(self, mode: bool = True) -> Frozen:
        """Stay in evaluation mode."""
        return super().train(False)

    def forward(self, *args: Any) -> Any:
        """What `module` makes of the arguments, cut from the graph."""
        with torch.no_grad():
            return self.module(*args)


def frozen_prefixes(net: nn.Module) -> tuple[str, ...]:
    """Prefixes of the parameter names that are frozen for good in a network."""
    return tuple(f"{name}.module." for name, module in net.named_modules() if isinstance(module, Frozen))
