"""Cameras in the terms of USD: aperture and focal length instead of pixels, -Z forward instead of +Z."""

from __future__ import annotations

import dataclasses

import numpy as np

from common.errors import SceneError, bad_value
from common.geometry import matrix_to_quaternion
from common.protocols import F64

# Tenths of a scene unit; only ratios to it count.
HORIZONTAL_APERTURE = 24.0
_CV_TO_USD = np.diag([1.0, -1.0, -1.0])
_SQUARE = 1e-6  # of the focal length
_CENTRED = 1e-3  # pixels


@dataclasses.dataclass(frozen=True)
class UsdCamera:
    """What is written to a camera prim, all in tenths of a scene unit.

    Attributes:
        focal_length: of the lens.
        apertures: (horizontal, vertical) of the film.
        offsets: (horizontal, vertical) of the film's middle.
    """

    focal_length: float
    apertures: tuple[float, float]
    offsets: tuple[float, float]


def usd_camera(intrinsics: F64, size: tuple[int, int], allow_offsets: bool = False) -> UsdCamera:
    """A pinhole camera as a camera prim, written directly: the setters of the camera classes disagree about units.

    Args:
        intrinsics: (4,) ``[fx, fy, cx, cy]`` in pixels.
        size: (height, width) in pixels.
        allow_offsets: write a principal point off the centre. Isaac Lab warns that the renderer ignores it.

    Raises:
        SceneError: if the pixels are not square, or the principal point is off the centre and that is not allowed.
    """
    height, width = size
    fx, fy, cx, cy = (float(v) for v in intrinsics)
    if abs(fx - fy) > _SQUARE * fx:
        raise SceneError(bad_value("intrinsics", [fx, fy], "fx = fy: Isaac Sim renders square pixels only"))
    off_x, off_y = cx - 0.5 * width, cy - 0.5 * height
    if max(abs(off_x), abs(off_y)) > _CENTRED and not allow_offsets:
        allowed = f"the image's centre {(0.5 * width, 0.5 * height)}, or allow_offsets once the acceptance suite holds"
        raise SceneError(bad_value("principal point", (cx, cy), allowed))
    pixel = HORIZONTAL_APERTURE / width
    # The film moves the other way than the principal point, and USD's y is up.
    return UsdCamera(fx * pixel, (HORIZONTAL_APERTURE, pixel * height), (-off_x * pixel, off_y * pixel))


def usd_orientation(rotation: F64) -> F64:
    """Quaternions (..., 4) as (w, x, y, z) of USD cameras whose OpenCV orientations are `rotation` (..., 3, 3)."""
    return matrix_to_quaternion(np.asarray(rotation, dtype=np.float64) @ _CV_TO_USD)
