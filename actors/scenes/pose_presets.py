"""The ranges that published visual servoing draws its cameras from, and how a pair of cameras is drawn from them.

A camera stands on a sphere about a centre: radius and azimuth uniform, the sine of the elevation uniform (even over
the sphere's belt). Its optical axis points at the centre and its y axis down the sphere, so that two azimuths differ by
a turn in the image where both look steeply down. Then it is turned by Rz Ry Rx in its own frame, each angle uniform.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from common.errors import ConfigError, bad_value
from common.geometry import inverse_pose, look_at, rotation_angle, so3_exp
from common.protocols import F64
from common.scene import SceneSpec

SAME_ANGLE = np.deg2rad(1.0)  # a pair that differs by less than this and by less than SAME_SHIFT is no task
SAME_SHIFT = 0.002  # metres


@dataclasses.dataclass(frozen=True)
class PoseRange:
    """Where one of the two cameras may be.

    Attributes:
        radius: from the centre [m].
        elevation: above the horizon as seen from the centre [deg].
        yaw: largest turn about the optical axis (z), either way [deg].
        pitch: largest turn about the image's vertical axis (y) [deg].
        roll: largest turn about the image's horizontal axis (x) [deg].
    """

    radius: tuple[float, float]
    elevation: tuple[float, float]
    yaw: float
    pitch: float
    roll: float


@dataclasses.dataclass(frozen=True)
class PosePreset:
    """Ranges of both cameras, about the world's origin ("scene": scenes are laid out around it) or the target."""

    desired: PoseRange
    initial: PoseRange
    center: Literal["scene", "target"]


_CNS_DESIRED = PoseRange((0.5, 0.9), (70.0, 90.0), 15.0, 5.0, 5.0)

CNS_TRAIN = PosePreset(_CNS_DESIRED, PoseRange((0.5, 0.9), (30.0, 90.0), 60.0, 10.0, 10.0), "scene")
"""Training pairs of CNS (ICRA 2024, as its released code has them): the desired camera looks steeply down."""

CNS_EVAL = PosePreset(_CNS_DESIRED, _CNS_DESIRED, "scene")
"""The simulated benchmark of CNS (V-A): both cameras look steeply down, rotations up to 180 deg about the axis.

The 150 published pairs were picked by hand from such draws and hold more small rotations (mean 76 deg) than the draws
themselves (91 deg); within each of their sections S, M and L the errors are alike.
"""

_UPPER = PoseRange((0.5, 1.2), (15.0, 90.0), 180.0, 10.0, 10.0)

CNSV2 = PosePreset(_UPPER, _UPPER, "scene")
"""CNSv2 III-H: desired and current poses uniform in the upper hemisphere.

The paper gives no numbers. Chosen here: radii about its unit scene (d* = 1 m); not below 15 deg, where the objects of a
scene hide each other; any turn about the optical axis; the centre up to 10 deg off the axis in each direction.
"""

SYMSERVO = PosePreset(
    PoseRange((0.5, 0.9), (25.0, 80.0), 30.0, 5.0, 5.0),
    PoseRange((0.5, 0.9), (25.0, 80.0), 90.0, 10.0, 10.0),
    "target",
)
"""Sym-Servo IV-A: random initial and desired poses about one symmetric object, in the upper hemisphere.

The paper gives no numbers. Chosen here: radii of CNS; neither straight from above, where a body of revolution shows
nothing of its sides, nor along the ground; the desired camera nearly upright, the initial one rolled up to a quarter
turn.
"""

PRESETS = {"cns_train": CNS_TRAIN, "cns_eval": CNS_EVAL, "cnsv2": CNSV2, "symservo": SYMSERVO}


def preset(name: str) -> PosePreset:
    """The preset of that name.

    Raises:
        ConfigError: if there is none.
    """
    if name not in PRESETS:
        raise ConfigError(bad_value("scenes.poses", name, f"one of {['quickstart', *PRESETS]}"))
    return PRESETS[name]


def sphere_center(chosen: PosePreset, scene: SceneSpec) -> F64:
    """What the preset's spheres are about in a scene, (3,) [m] in the world."""
    return np.zeros(3) if chosen.center == "scene" else scene.target().pose()[:3, 3]


def draw_pose(rng: np.random.Generator, within: PoseRange, center: F64) -> F64:
    """One world_T_cam (4, 4), in numbers of few digits (equal on every machine)."""
    radius = rng.uniform(*within.radius)
    azimuth = rng.uniform(-np.pi, np.pi)
    up = rng.uniform(*np.sin(np.deg2rad(within.elevation)))
    side = np.sqrt(1.0 - up * up)
    about_z, about_y, about_x = np.deg2rad([within.yaw, within.pitch, within.roll]) * rng.uniform(-1.0, 1.0, size=3)
    pose = look_at(center + radius * np.array([side * np.cos(azimuth), side * np.sin(azimuth), up]), center)
    turns = so3_exp([[0.0, 0.0, about_z], [0.0, about_y, 0.0], [about_x, 0.0, 0.0]])
    pose[:3, :3] = pose[:3, :3] @ turns[0] @ turns[1] @ turns[2]
    return np.asarray(np.round(pose, 9))


def is_same_view(a: F64, b: F64) -> bool:
    """True if two poses (4, 4) are closer than 1 deg and 2 mm: nothing is left to servo."""
    relative = inverse_pose(a) @ b
    near = np.linalg.norm(relative[:3, 3]) < SAME_SHIFT
    return bool(near and rotation_angle(relative[:3, :3]) < SAME_ANGLE)
