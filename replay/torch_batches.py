"""Batches as torch tensors: the same memory, or memory that a GPU copies from without waiting."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from replay.drawing import Batch

if TYPE_CHECKING:
    import torch


def to_torch(batch: Batch, pin: bool | None = None) -> dict[str, torch.Tensor]:
    """The arrays of a batch as tensors of the same dtypes: pixels uint8, masks bool.

    Args:
        batch: of a sampler.
        pin: copy into page-locked memory, from which ``tensor.to(device, non_blocking=True)`` runs beside the
            computation; None where there is CUDA. Without it nothing is copied.

    Raises:
        RuntimeError: if it is to be pinned and there is no CUDA.
    """
    import torch

    if pin is None:
        pin = _has_cuda()
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in batch.items()}
    return {name: t.pin_memory() for name, t in tensors.items()} if pin else tensors


@cache
def _has_cuda() -> bool:
    """Asked once: what is asked of the driver takes longer than a batch."""
    import torch

    return torch.cuda.is_available()
