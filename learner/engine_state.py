"""The whole state of a learner, out of it and into a fresh one: what its coming updates depend on besides their data.

Functions of the learner alone, so that they run where it lives, in this process or in an actor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from common.networks.servo_net import Weights, get_weights, set_weights
from learner.checked_updates import CheckedUpdates
from learner.imitation import ImitationLearner, averaged_weights
from learner.learner_state import (
    Arrays,
    load_optimizer_state,
    load_random_state,
    optimizer_state,
    random_state,
)
from learner.optimisers import load_scaler_state, scaler_state

_COUNTERS = ("rows_learned", "gradient_steps", "samples", "skipped", "skipped_in_row", "overflows")


def read_state(learner: CheckedUpdates) -> tuple[Arrays, dict[str, Any]]:
    """Named arrays: weights, optimiser, averages, generators; and the JSON-ready rest."""
    moments, settings = optimizer_state(learner.optimizer, _names(learner))
    generators, rest = random_state(torch.device(learner.device))
    arrays = {f"weights/{k}": v for k, v in get_weights(learner.net).items()}
    arrays |= {f"optimizer/{k}": v for k, v in moments.items()}
    arrays |= {f"random/{k}": v for k, v in generators.items()}
    if isinstance(learner, ImitationLearner):
        arrays |= {f"average/{k}": v.cpu().numpy().copy() for k, v in learner.average.items()}
        # What the other learners draw from their generator is nothing.
        arrays["random/diffusion"] = learner.generator.get_state().cpu().numpy().copy()
    counters = {name: getattr(learner, name) for name in _COUNTERS}
    state = {"optimizer": settings, "random": rest, "counters": counters, "scaler": scaler_state(learner.scaler)}
    return arrays, state


def load_state(learner: CheckedUpdates, arrays: Arrays, state: Mapping[str, Any]) -> None:
    """Inverse of `read_state`, into a learner that has not stepped.

    Raises:
        CheckpointError: if the state is of another network, phase or precision, or this learner has stepped.
    """
    load_optimizer_state(learner.optimizer, _names(learner), part(arrays, "optimizer/"), state["optimizer"])
    load_scaler_state(learner.scaler, state["scaler"])
    set_weights(learner.net, part(arrays, "weights/"))
    for name in _COUNTERS:
        setattr(learner, name, int(state["counters"][name]))
    load_random_state(part(arrays, "random/"), state["random"], torch.device(learner.device))
    if isinstance(learner, ImitationLearner):
        for name, array in part(arrays, "average/").items():
            learner.average[name].copy_(torch.from_numpy(array.copy()))
        learner.generator.set_state(torch.from_numpy(arrays["random/diffusion"].copy()))


def acting_weights(learner: CheckedUpdates) -> Weights:
    """What acts and is handed on, by parameter name: in imitation the averages of what trains."""
    weights = get_weights(learner.net)
    return averaged_weights(learner, weights) if isinstance(learner, ImitationLearner) else weights


def enter_with(learner: CheckedUpdates, weights: Weights, log_std: float | None) -> None:
    """Begin a phase with the weights of the one before, and with its own exploration unless `log_std` is None."""
    set_weights(learner.net, weights)
    if log_std is not None:
        with torch.no_grad():
            learner.net.log_std.fill_(log_std)
    if isinstance(learner, ImitationLearner):
        learner.restart_average()


def part(arrays: Mapping[str, Any], prefix: str) -> Arrays:
    """Entries whose name begins with `prefix`, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _names(learner: CheckedUpdates) -> dict[torch.nn.Parameter, str]:
    return {parameter: name for name, parameter in learner.net.named_parameters()}
