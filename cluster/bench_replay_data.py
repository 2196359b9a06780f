"""The episodes that `servofleet bench replay` stores: pictures with ramps, masks with one disc, small fields."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from common.episode import FIELDS, Episode, EpisodeMeta
from common.identity import EpisodeId
from common.rng import Purpose, philox

SIDE = 128  # of an image [px]
ROWS = 81  # of an episode: 80 actions and the final observation
SEGMENT_EPISODES = 8
SEED = 20261121


def episode(number: int, side: int = SIDE) -> Episode:
    """The DAgger episode with this number; the same whenever it is made. Images u8 (81, side, side, 3)."""
    lengths = {"height": side, "width": side, "grid": side // 8}
    rng = philox(SEED, Purpose.SAMPLER, env=number)
    groups: dict[str, dict[str, NDArray[np.generic]]] = {"step": {}, "episode": {}}
    for field in FIELDS.values():
        if "dagger" in field.kinds:
            shape = ((ROWS,) if field.level == "step" else ()) + tuple(
                d if isinstance(d, int) else lengths[d] for d in field.dims
            )
            groups[field.level][field.name] = _values(rng, field.dtype, shape)
    meta = EpisodeMeta(
        id=EpisodeId("bench", 0, "dagger", 0, number),
        kind="dagger",
        phase="il",
        policy="learned",
        policy_version=None,
        target_id=1,
        scene="{}",
        scene_seed=number,
        collector="bench",
    )
    return Episode(meta, groups["step"], groups["episode"])


def episodes(count: int, first: int = 0, side: int = SIDE) -> Iterator[Episode]:
    """`count` episodes, one after the other."""
    return (episode(first + i, side) for i in range(count))


def _values(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> NDArray[np.generic]:
    if dtype == "uint8":
        # Smooth ramps with a little noise: as hard to compress as a rendered picture, not as hard as noise.
        ramp = np.linspace(0, 200, shape[-2], dtype=np.float32)[:, None] + np.zeros(shape[-1], np.float32)
        noise = rng.integers(0, 24, shape, dtype=np.uint8)
        return noise + (ramp[None, :, :] * np.linspace(0.3, 1.0, shape[-3])[:, None, None]).astype(np.uint8)
    if dtype == "bool":
        if len(shape) < 2:
            return np.ones(shape, bool)
        y, x = np.mgrid[: shape[-2], : shape[-1]]
        disc: NDArray[np.bool_] = (y - shape[-2] // 2) ** 2 + (x - shape[-1] // 2) ** 2 < int(rng.integers(20, 2000))
        return np.ascontiguousarray(np.broadcast_to(disc, shape))
    return np.asarray(rng.standard_normal(shape, dtype=np.float32)).astype(dtype)
