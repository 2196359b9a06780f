"""A network small enough to act in milliseconds, and how many environments it acts in."""

import numpy as np

from common.config import NetworkConfig

NETWORK = NetworkConfig(
    widths=[8, 12, 16],
    match_dim=12,
    match_grid=4,
    anchors=5,
    feature_dim=24,
    policy_hidden=[16],
    value_hidden=[16],
    diffusion_hidden=16,
    diffusion_levels=10,
)
N, SIDE = 5, 32
IDS = np.arange(N)
