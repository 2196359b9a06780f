"""Sections of a suite by difficulty, as in CNS V-A: small, medium and large initial rotation errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from actors.env import EpisodeStart
from common.errors import SceneError, bad_value
from common.geometry import inverse_pose, rotation_angle
from common.protocols import F64

NAMES = ("S", "M", "L")


@dataclasses.dataclass(frozen=True)
class SectionStatistics:
    """Initial errors of one section.

    Attributes:
        count: episodes.
        re_deg: mean rotation error [deg].
        re_range_deg: smallest and largest rotation error [deg].
        te_mm: mean translation error [mm].
    """

    count: int
    re_deg: float
    re_range_deg: tuple[float, float]
    te_mm: float


def initial_errors(starts: Sequence[EpisodeStart]) -> tuple[F64, F64]:
    """Angle [rad] and length [m] of the start camera's pose in the desired camera's frame, each (N,).

    The plain errors of CNS: of a symmetric object's equal views the recorded one is meant.
    """
    goals, poses = np.stack([s.goal_world_T_cam for s in starts]), np.stack([s.world_T_cam for s in starts])
    relative = inverse_pose(goals) @ poses
    return rotation_angle(relative[:, :3, :3]), np.linalg.norm(relative[:, :3, 3], axis=1)


def sections(starts: Sequence[EpisodeStart]) -> dict[str, list[int]]:
    """Indices of the starts in each section: sorted by rotation error and cut into three equal parts.

    Where three does not divide the number, the first parts are one longer. Equal errors keep the order of the suite.

    Raises:
        SceneError: if there are fewer than three starts.
    """
    if len(starts) < len(NAMES):
        raise SceneError(bad_value("len(starts)", len(starts), f">= {len(NAMES)}, one per section"))
    order = np.argsort(initial_errors(starts)[0], kind="stable")
    parts = np.array_split(order, len(NAMES))
    return {name: part.tolist() for name, part in zip(NAMES, parts, strict=True)}


def section_statistics(starts: Sequence[EpisodeStart]) -> dict[str, SectionStatistics]:
    """Initial errors of the sections S, M and L and of all starts together (A), for the head of a table.

    Raises:
        SceneError: if there are fewer than three starts.
    """
    angle, way = initial_errors(starts)
    parts = sections(starts) | {"A": list(range(len(starts)))}
    return {
        name: SectionStatistics(
            len(part),
            float(np.rad2deg(angle[part].mean())),
            (float(np.rad2deg(angle[part].min())), float(np.rad2deg(angle[part].max()))),
            float(1000.0 * way[part].mean()),
        )
        for name, part in parts.items()
    }
