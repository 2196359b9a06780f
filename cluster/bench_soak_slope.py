"""How fast memory grows: a slope with an interval that knows that neighbouring samples resemble each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.rng import Purpose, philox

F64 = NDArray[np.float64]

_RESAMPLES = 400
_MIN_SAMPLES = 16  # of a process; fewer say nothing of how samples depend on each other
_BLOCKS = 8  # blocks that a process's samples are cut into


@dataclasses.dataclass(frozen=True)
class Slope:
    """Growth per unit of time.

    Attributes:
        value: least squares over all processes, each with a level of its own.
        low, high: 95 % interval.
        samples: how many it was fitted to.
    """

    value: float
    low: float
    high: float
    samples: int

    @property
    def flat(self) -> bool:
        """Whether there may be no growth at all."""
        return self.low <= 0.0


def slope(series: Sequence[tuple[F64, F64]], seed: int = 0) -> Slope | None:
    """Common slope of several processes of one role.

    The interval is that of a moving-block bootstrap of the residuals: a block is an eighth of a process's samples, so
    that what drifts for less than that is noise and no trend.

    Args:
        series: per process times (N,) and values (N,).
        seed: of the bootstrap.

    Returns:
        None where no process has 16 samples.
    """
    kept = [(t - t.mean(), y - y.mean()) for t, y in series if len(t) >= _MIN_SAMPLES]
    if not kept:
        return None
    spread = sum(float(t @ t) for t, _ in kept)
    value = sum(float(t @ y) for t, y in kept) / spread
    drawn = np.zeros(_RESAMPLES)
    for number, (t, y) in enumerate(kept):
        rng = philox(seed, Purpose.BOOTSTRAP, env=number)
        drawn += _resampled(y - value * t, rng) @ t
    low, high = np.percentile(value + drawn / spread, (2.5, 97.5))
    return Slope(value, float(low), float(high), sum(len(t) for t, _ in kept))


def _resampled(residuals: F64, rng: np.random.Generator) -> F64:
    """(400, N): blocks of residuals in another order, each row with mean 0."""
    n = len(residuals)
    length = max(2, n // _BLOCKS)
    count = -(-n // length)
    starts = rng.integers(0, n - length + 1, (_RESAMPLES, count))
    index = (starts[:, :, None] + np.arange(length)).reshape(_RESAMPLES, -1)[:, :n]
    found: F64 = residuals[index]
    # Fitting took two degrees of freedom out of the residuals and blocks take more; without this they vary too little.
    found = found * np.sqrt(n / max(n - 2 * length, 1))
    return found - found.mean(axis=1, keepdims=True)
