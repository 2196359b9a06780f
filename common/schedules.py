"""What changes over a phase, as pure functions of how far the phase is: learning rates and the share of DAgger rows."""

from __future__ import annotations

import math

from common.learning_config import ImitationConfig, PPOConfig, SelfImitationConfig


def learning_rate(settings: ImitationConfig | PPOConfig | SelfImitationConfig, seen: float, total: float) -> float:
    """The rate of the gradient step that comes after `seen` of a phase's `total` samples.

    It is counted in samples, so that it does not depend on how they were batched: a linear rise over the first
    `lr_warmup` of them, then constant, or a straight line or half a cosine from the peak to `lr_final` of it.
    """
    if seen < settings.lr_warmup:
        # Not from zero: the first step is to teach something.
        return settings.lr * (seen + 1) / (settings.lr_warmup + 1)
    if settings.lr_schedule == "constant":
        return settings.lr
    progress = min(1.0, (seen - settings.lr_warmup) / max(1, total - settings.lr_warmup))
    fall = 0.5 * (1.0 + math.cos(math.pi * progress)) if settings.lr_schedule == "cosine" else 1.0 - progress
    return settings.lr * (settings.lr_final + (1.0 - settings.lr_final) * fall)


def first_dagger_round(settings: ImitationConfig, rounds: int) -> int:
    """The first of `rounds` rounds that collects DAgger episodes and learns from them."""
    return math.ceil(settings.dagger_start * rounds)


def dagger_share(settings: ImitationConfig, round: int, rounds: int) -> float:
    """Share of DAgger rows in the batches of a round, 0 .. `settings.dagger_share`.

    Nothing before `dagger_start` of the phase, all of it from `dagger_full` on, a straight line in between; where
    `dagger_full` is not after `dagger_start`, a step.
    """
    first, full = first_dagger_round(settings, rounds), math.ceil(settings.dagger_full * rounds)
    if round < first or settings.dagger_envs == 0:
        return 0.0
    if round >= full:
        return settings.dagger_share
    return settings.dagger_share * (round - first + 1) / (full - first + 1)
