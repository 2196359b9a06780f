"""What all our learners share: passes over a batch, and gradient steps that learn from finite numbers alone.

RLlib builds the learner, owns module and optimiser, and joins several learners (DDP); the loop over minibatches is
ours, because a step must be refused as a whole, be taken in parts, and cost little besides the network.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from torch import Tensor, nn

from common.errors import TrainingError, bad_value
from common.learning_config import LearnerConfig
from common.networks.servo_net import ServoNet
from common.schedules import learning_rate
from learner.learner_state import seed_everything
from learner.optimisers import scaler_of
from learner.passes import Tensors, minibatches, shares, split_rows

Metrics = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Skip:
    """A gradient step that was not taken: why, and the rows of the batch it would have learned from."""

    reason: str
    rows: list[int]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a batch.

    Attributes:
        metrics: numbers of the last step that was taken, ``stopped_by_kl`` and ``compute_s``.
        steps: how many were taken.
        skips: those that were not.
        gave_up: as many steps in a row as `max_skipped` were not taken; the rest of the batch was left alone.
    """

    metrics: Metrics
    steps: int
    skips: list[Skip]
    gave_up: bool


class CheckedUpdates(TorchLearner):
    """Base of our learners; loss, optimiser and preparation of a batch are the subclass's.

    `learner_config_dict` holds `settings` (of the phase's kind), `engine` (LearnerConfig), `samples` of the phase and
    `seed`.

    Attributes:
        rows_learned: rows that gradient steps were taken for; a row counts once per pass over it.
        gradient_steps: number of gradient steps.
        samples: of the phase that were given, however often they were passed over; the schedules count these.
        skipped: gradient steps that were not taken because a number was not finite.
        skipped_in_row: how many of them since the last one that was.
        overflows: steps that fp16's gradient scaler held back; it scales less after each.
        generator: where what the learner draws besides the order of rows comes from.
        terms: parts of the loss by name, as they add up over the parts of the running step.
        shares: by what the running part's means are multiplied (`learner.passes.shares`), None for a whole batch.
        stopped: the rest of the running batch is passed over.
    """

    # A tensor that has one entry per row of a batch.
    ROWS = Columns.OBS

    rows_learned = 0
    gradient_steps = 0
    samples = 0
    skipped = 0
    skipped_in_row = 0
    overflows = 0
    stopped = False
    generator: torch.Generator
    terms: Tensors
    shares: Tensors | None = None

    def build(self) -> None:
        """Build the learner; one in a process of its own is seeded here, as the others are."""
        if self.config.num_learners:
            torch.set_num_threads(self._about["threads"])
            seed_everything(self._about["seed"])
        super().build()
        self.generator = torch.Generator(self.device).manual_seed(self._about["seed"])
        self.scaler = scaler_of(self.engine, torch.device(self.device))
        self._config = self.config.get_config_for_module(DEFAULT_MODULE_ID)
        self._parameters = {p: n for n, p in self.net.named_parameters() if p.requires_grad}

    @property
    def net(self) -> ServoNet:
        """The network that trains."""
        net: ServoNet = self.module[DEFAULT_MODULE_ID].unwrapped().net
        return net

    @property
    def engine(self) -> LearnerConfig:
        """How to compute."""
        engine: LearnerConfig = self._about["engine"]
        return engine

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The phase's one optimiser."""
        (optimizer,) = self._named_optimizers.values()
        return optimizer

    def named_parameters(self, module: Any) -> list[tuple[str, nn.Parameter]]:
        """Parameters that this phase trains, by name, in the order of the network."""
        return [(n, p) for n, p in module.unwrapped().net.named_parameters() if p.requires_grad]

    def get_parameters(self, module: Any) -> Sequence[nn.Parameter]:
        """Parameters that this phase trains, in the order of the network."""
        return [p for _, p in self.named_parameters(module)]

    def prepare(self, batch: Tensors) -> Tensors:
        """What a batch needs once, before its minibatches are taken; on the learner's device."""
        return batch

    def counts(self, batch: Tensors) -> Tensors:
        """How many entries each mean in the loss is over, by name."""
        raise NotImplementedError

    def split(self, batch: Tensors, parts: int) -> list[Tensors]:
        """Cut a minibatch into parts."""
        return split_rows(batch, parts)

    def num_learned(self, batch: Tensors) -> int:
        """Rows of a minibatch that count as learned from."""
        return len(next(iter(batch.values())))

    def after_step(self) -> None:
        """What follows a step that was taken."""

    def rate(self, seen: float) -> float:
        """Learning rate after `seen` samples of the phase."""
        return learning_rate(self._about["settings"], seen, self._about["samples"])

    def learn(
        self, arrays: Mapping[str, NDArray[Any]], *, samples: int, epochs: int = 1, minibatch: int | None = None
    ) -> Outcome:
        """`epochs` passes over a batch in minibatches, or one step on the whole of it.

        Args:
            arrays: named arrays; what is float64 becomes float32.
            samples: of the phase that the batch stands for.
            epochs: passes.
            minibatch: rows per gradient step; None for a batch that is not cut by rows.

        Raises:
            TrainingError: if no gradient reaches a parameter that trains; nothing was changed by this step.
        """
        began, steps = time.perf_counter(), self.gradient_steps
        batch = self.prepare({name: to_device(array, torch.device(self.device)) for name, array in arrays.items()})
        rows = len(batch[self.ROWS])
        self.stopped = gave_up = False
        metrics: Metrics = {}
        skips: list[Skip] = []
        passed, every = 0, np.arange(rows)
        for picked in [every] if minibatch is None else minibatches(rows, minibatch, epochs):
            if self.stopped or gave_up:
                # On with the generator: what follows must not depend on where an update ended.
                continue
            self._set_rate(self.rate(self.samples + samples * min(1.0, passed / (epochs * rows))))
            part = batch if minibatch is None else _take(batch, torch.from_numpy(picked).to(self.device))
            reason, metrics_of_step = self._step(part)
            metrics = metrics_of_step or metrics
            if reason:
                skips.append(Skip(reason, [int(k) for k in picked[self._not_finite(part)]]))
                gave_up = self.skipped_in_row >= self.engine.max_skipped
            passed += len(picked)
        self.samples += samples
        metrics |= {"stopped_by_kl": float(self.stopped), "compute_s": time.perf_counter() - began}
        return Outcome(metrics, self.gradient_steps - steps, skips, gave_up)

    def _step(self, batch: Tensors) -> tuple[str, Metrics]:
        """One gradient step: ("", metrics), or why it was not taken."""
        optimizer = self.optimizer
        optimizer.zero_grad(set_to_none=True)
        self.terms = {}
        parts = self._parts(batch)
        for number, (part, of_whole) in enumerate(parts):
            self.shares = of_whole
            with self._gradients_stay_here(number + 1 < len(parts)):
                loss = self.losses(part)
                self.add_terms({"total_loss": loss})
                self._backward(loss)
        gradients = self._gradients()
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)
        norm = nn.utils.get_total_norm(gradients)
        names = [*self.terms, "grad_norm"]
        numbers = torch.stack([*(t.detach().float() for t in self._over_all(self.terms)), norm.float()]).tolist()
        metrics = dict(zip(names, numbers, strict=True))
        if not np.isfinite([metrics["total_loss"], metrics["grad_norm"]]).all():
            reason = self._refuse(metrics, batch)
            optimizer.zero_grad(set_to_none=True)
            return reason, {}
        if self._config.grad_clip:
            torch._foreach_mul_(gradients, (self._config.grad_clip / (norm + 1e-6)).clamp(max=1.0))
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)
            self.scaler.update()
        self.gradient_steps += 1
        self.rows_learned += self.num_learned(batch)
        self.skipped_in_row = 0
        self.after_step()
        self.look_at(metrics)
        return "", metrics

    def losses(self, batch: Tensors) -> Tensor:
        """The loss of a minibatch or of a part of one; its terms are added to `terms`."""
        forward = self.module[DEFAULT_MODULE_ID].forward_train(batch)
        loss: Tensor = self.compute_loss_for_module(
            module_id=DEFAULT_MODULE_ID, config=self._config, batch=batch, fwd_out=forward
        )
        return loss

    def look_at(self, metrics: Metrics) -> None:
        """Decide from a step's numbers whether the batch goes on."""

    def add_terms(self, terms: Mapping[str, Tensor]) -> None:
        """Take note of what the running part adds to each mean."""
        for name, value in terms.items():
            value = value.detach()
            self.terms[name] = self.terms[name] + value if name in self.terms else value

    def share(self, name: str, value: Tensor) -> Tensor:
        """What a mean over the running part adds to the mean over the whole."""
        return value if self.shares is None else value * self.shares[name]

    def _parts(self, batch: Tensors) -> list[tuple[Tensors, Tensors | None]]:
        learners, each = max(1, self.config.num_learners), self.engine.accumulation
        if learners * each == 1:
            return [(batch, None)]
        whole = self.counts(batch)
        parts = self.split(batch, learners * each)
        mine = parts[self._learner_index * each : (self._learner_index + 1) * each]
        # Gradients are averaged over the learners: the shares of all of them are to add up.
        return [(p, {k: v * learners for k, v in shares(whole, self.counts(p)).items()}) for p in mine]

    def _gradients_stay_here(self, wanted: bool) -> AbstractContextManager[Any]:
        if not wanted or self.config.num_learners < 2:
            return nullcontext()
        context: AbstractContextManager[Any] = self.module[DEFAULT_MODULE_ID].no_sync()
        return context

    def _over_all(self, terms: Tensors) -> list[Tensor]:
        values = list(terms.values())
        if self.config.num_learners < 2:
            return values
        stacked = torch.stack([v.float() for v in values])
        torch.distributed.all_reduce(stacked)
        return list(stacked / self.config.num_learners)

    def _backward(self, loss: Tensor) -> None:
        if not loss.requires_grad:
            raise TrainingError("the loss depends on no parameter that this phase trains")
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def _gradients(self) -> list[Tensor]:
        gradients = []
        for parameter, name in self._parameters.items():
            if parameter.grad is None:
                raise TrainingError(f"no gradient reaches {name}: allowed is a frozen parameter")
            gradients.append(parameter.grad)
        return gradients

    def _refuse(self, metrics: Metrics, batch: Tensors) -> str:
        """Why a step is not taken; "" where fp16 overflowed, which its scaler mends."""
        if self.scaler is not None:
            scale = self.scaler.get_scale()
            self.scaler.update()
            if np.isfinite(metrics["total_loss"]) and scale > 1.0:
                self.overflows += 1
                return ""
            self.scaler.update(scale)
        self.skipped += 1
        self.skipped_in_row += 1
        bad = sorted(name for name, value in batch.items() if _rows_not_finite(name, value) is not None)
        cause = f"the batch is not finite in {bad}" if bad else "the batch is finite, the network is not"
        if np.isfinite(metrics["total_loss"]):
            wrong = (n for p, n in self._parameters.items() if p.grad is not None and not torch.isfinite(p.grad).all())
            return f"gradient of {next(wrong, 'all parameters together')} is not finite; {cause}"
        terms = sorted(n for n, v in metrics.items() if not np.isfinite(v) and n not in ("total_loss", "grad_norm"))
        return f"{bad_value('loss', metrics['total_loss'], 'a finite number')}; not finite: {terms}; {cause}"

    def _not_finite(self, batch: Tensors) -> NDArray[np.bool_]:
        """The rows that are not finite; all of them where the batch is."""
        found = [rows for name, value in batch.items() if (rows := _rows_not_finite(name, value)) is not None]
        size = len(batch[self.ROWS])
        found = [rows for rows in found if len(rows) == size]
        return np.any(found, axis=0) if found else np.ones(size, dtype=np.bool_)

    def _set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    @property
    def _about(self) -> dict[str, Any]:
        about: dict[str, Any] = self.config.learner_config_dict
        return about


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """A tensor on `device`: bytes stay bytes, float64 becomes float32; a GPU copies beside what it computes."""
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    # torch has no read-only tensors, and what lies in an object store or a mapped file is read-only.
    array = np.ascontiguousarray(array) if array.flags.writeable else array.copy()
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _take(batch: Tensors, rows: Tensor) -> Tensors:
    return {name: value.index_select(0, rows) for name, value in batch.items()}


def _rows_not_finite(name: str, value: Tensor) -> NDArray[np.bool_] | None:
    """Which rows are not, bool (rows,); None where all are finite; matches are NaN where there is none."""
    if name == "match" or not value.is_floating_point():
        return None
    finite = torch.isfinite(value).reshape(len(value), -1).all(dim=1)
    return None if bool(finite.all()) else (~finite).cpu().numpy()
