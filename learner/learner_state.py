"""Everything a learner's next update depends on, as named arrays and JSON: optimiser and random generators.

Arrays are at least one-dimensional, because not every file format keeps scalars apart.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from common.errors import CheckpointError
from learner.optimisers import HOW

Arrays = dict[str, NDArray[Any]]


def optimizer_state(
    optimizer: torch.optim.Optimizer, names: Mapping[nn.Parameter, str]
) -> tuple[Arrays, dict[str, Any]]:
    """Moments as arrays by "<parameter>/<key>", settings of the parameter groups as JSON."""
    arrays = {
        f"{names[parameter]}/{key}": np.atleast_1d(value.detach().cpu().numpy()).copy()
        for parameter, entries in optimizer.state.items()
        for key, value in entries.items()
    }
    groups = [
        {k: v for k, v in group.items() if k not in ("params", *HOW)} | {"params": [names[p] for p in group["params"]]}
        for group in optimizer.param_groups
    ]
    return arrays, {"groups": groups}


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, names: Mapping[nn.Parameter, str], arrays: Arrays, state: Mapping[str, Any]
) -> None:
    """Inverse of `optimizer_state`, into an optimiser of the same parameters that has not stepped yet.

    Raises:
        CheckpointError: if the parameters differ.
    """
    groups = state["groups"]
    mine = [[names[p] for p in group["params"]] for group in optimizer.param_groups]
    if mine != [group["params"] for group in groups]:
        raise CheckpointError("optimiser state is of other parameters than those this phase trains")
    if optimizer.state:
        raise CheckpointError("optimiser state must be loaded into a fresh learner; this one has stepped")
    for group, saved in zip(optimizer.param_groups, groups, strict=True):
        # JSON turns tuples (the betas) into lists.
        group.update({k: tuple(v) if isinstance(v, list) else v for k, v in saved.items() if k not in ("params", *HOW)})
    by_name = {name: parameter for parameter, name in names.items()}
    for key, array in arrays.items():
        name, entry = key.rsplit("/", 1)
        parameter = by_name[name]
        value = torch.from_numpy(array.copy())
        if entry == "step":
            # Step counters are scalars that live on the CPU unless the optimiser is fused.
            value = value.reshape(())
            optimizer.state[parameter][entry] = value.to(parameter.device) if optimizer.defaults["fused"] else value
        else:
            # In the memory format of the parameter, which fused optimisers expect.
            moment = torch.empty_like(parameter, requires_grad=False)
            optimizer.state[parameter][entry] = moment.copy_(value.reshape(parameter.shape))


def random_state(device: torch.device) -> tuple[Arrays, dict[str, Any]]:
    """State of the global generators of torch (CPU and, if used, `device`), numpy and python."""
    kind, keys, position, has_gauss, cached = np.random.get_state()
    version, words, gauss = random.getstate()
    arrays = {
        "torch": torch.get_rng_state().numpy().copy(),
        "numpy": np.asarray(keys).copy(),
        "python": np.asarray(words, dtype=np.uint32),
    }
    if device.type == "cuda":
        arrays["cuda"] = torch.cuda.get_rng_state(device).numpy().copy()
    numpy_rest = [str(kind), int(position), int(has_gauss), float(cached)]
    return arrays, {"numpy": numpy_rest, "python": [version, gauss]}


def load_random_state(arrays: Arrays, state: Mapping[str, Any], device: torch.device) -> None:
    """Inverse of `random_state`."""
    torch.set_rng_state(torch.from_numpy(arrays["torch"].copy()))
    kind, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, arrays["numpy"], position, has_gauss, cached))
    version, gauss = state["python"]
    random.setstate((version, tuple(int(w) for w in arrays["python"]), gauss))
    if device.type == "cuda":
        if "cuda" not in arrays:
            raise CheckpointError(
                "learner state was saved without a GPU: allowed is a resume on the same kind of device"
            )
        torch.cuda.set_rng_state(torch.from_numpy(arrays["cuda"].copy()), device)


def seed_everything(seed: int) -> None:
    """Seed the global generators of torch, numpy and python."""
    torch.manual_seed(seed % 2**63)
    np.random.seed(seed % 2**32)
    random.seed(seed)
