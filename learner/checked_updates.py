"""What all our learners share: only trained parameters are optimised, and only finite numbers are learned from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from torch import Tensor, nn

from common.errors import TrainingError, bad_value


class CheckedUpdates(TorchLearner):
    """Base of our learners; the loss is the subclass's.

    Attributes:
        rows_learned: rows that gradient steps were taken for; a row counts once per pass over it.
        gradient_steps: number of gradient steps.
    """

    rows_learned = 0
    gradient_steps = 0

    def get_parameters(self, module: Any) -> Sequence[nn.Parameter]:
        """Parameters that this phase trains, in the order of the network."""
        return [p for p in module.parameters() if p.requires_grad]

    def compute_losses(self, *, fwd_out: dict[str, Any], batch: dict[str, Any]) -> dict[str, Tensor]:
        """The subclass's losses.

        Raises:
            TrainingError: naming the terms, if a loss is not finite; no parameter was changed by this batch.
        """
        losses: dict[str, Tensor] = super().compute_losses(fwd_out=fwd_out, batch=batch)
        for module_id, loss in losses.items():
            if not torch.isfinite(loss):
                # Matches are NaN where there is none.
                bad = sorted(
                    key
                    for key, value in batch[module_id].items()
                    if isinstance(value, Tensor) and key != "match" and not torch.isfinite(value).all()
                )
                cause = f"the batch is not finite in {bad}" if bad else "the batch is finite, the network is not"
                raise TrainingError(f"{bad_value('loss', loss.item(), 'a finite number')}; {cause}")
        return losses

    def postprocess_gradients_for_module(
        self, *, module_id: str, config: Any = None, module_gradients_dict: dict[Any, Tensor]
    ) -> dict[Any, Tensor]:
        """Scale the gradient to a global norm of at most `config.grad_clip`.

        Raises:
            TrainingError: naming a parameter, if the gradient is not finite; no parameter was changed by this batch.
        """
        if not module_gradients_dict:
            raise TrainingError("the loss depends on no parameter that this phase trains")
        missing = [parameter for parameter, gradient in module_gradients_dict.items() if gradient is None]
        if missing:
            raise TrainingError(
                f"no gradient reaches {self._name(module_id, missing[0])}: allowed is a frozen parameter"
            )
        gradients = list(module_gradients_dict.values())
        norm = nn.utils.get_total_norm(gradients)
        if not torch.isfinite(norm):
            for parameter, gradient in module_gradients_dict.items():
                if not torch.isfinite(gradient).all():
                    raise TrainingError(f"gradient of {self._name(module_id, parameter)} is not finite")
            raise TrainingError(bad_value("gradient norm", norm.item(), "a finite number"))
        if config.grad_clip:
            torch._foreach_mul_(gradients, (config.grad_clip / (norm + 1e-6)).clamp(max=1.0))
        self.metrics.log_value((module_id, "grad_norm"), norm.item(), window=1)
        self.gradient_steps += 1
        return module_gradients_dict

    def _name(self, module_id: str, wanted: nn.Parameter) -> str:
        net = self.module[module_id].unwrapped().net
        return next(name for name, parameter in net.named_parameters() if parameter is wanted)
