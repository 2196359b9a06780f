"""Light as the rasteriser takes it: per object and for the ground, and the light's own view for shadows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from actors.rasteriser.layout import SHADOW_SIDE
from common.scene import Light, Material

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
_BORDER = 4.0  # texels between the objects and the shadow map's edge


def ambient_form(light: Light) -> F64:
    """Ambient light as quadratic forms in the world normal n, f64 (3, 4, 4): E_k(n) = [n 1] form_k [n 1]^T.

    With the real spherical harmonics up to degree 2 this is exact (Ramamoorthi and Hanrahan 2001, eq. 11).
    """
    form = np.zeros((3, 4, 4))
    if not light.ambient_sh:
        form[:, 3, 3] = light.ambient
        return form
    c = np.array(light.ambient_sh, dtype=np.float64).T * light.ambient
    k0, k1, k2, k3, k4 = 0.282095, 0.488603, 1.092548, 0.315392, 0.546274
    form[:, 0, 0], form[:, 1, 1], form[:, 2, 2] = k4 * c[:, 8], -k4 * c[:, 8], 3.0 * k3 * c[:, 6]
    form[:, 3, 3] = k0 * c[:, 0] - k3 * c[:, 6]
    for (i, j), value in {
        (0, 1): k2 * c[:, 4], (0, 2): k2 * c[:, 7], (1, 2): k2 * c[:, 5],
        (0, 3): k1 * c[:, 3], (1, 3): k1 * c[:, 1], (2, 3): k1 * c[:, 2],
    }.items():  # fmt: skip
        form[:, i, j] = form[:, j, i] = value / 2.0
    return form


def direction_of(light: Light) -> F64:
    """Unit vector from the scene to the light, f64 (3,)."""
    direction = np.array(light.direction, dtype=np.float64)
    return np.asarray(direction / np.linalg.norm(direction))


def object_light(light: Light, form: F64, world_T_obj: F64, material: Material) -> F64:
    """The first 52 floats of an object's row, see `actors.rasteriser.tables.SceneTables`."""
    turn = np.eye(4)
    turn[:3, :3] = world_T_obj[:3, :3]
    q = turn.T @ form @ turn * (256.0 * material.diffuse)
    out = np.zeros((13, 4))
    out[0, :3] = q[:, 3, 3]
    for row, (i, j) in enumerate([(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)], start=1):
        out[row, :3] = q[:, i, j] * (1.0 if i == j else 2.0)
    color = np.array(light.color)
    out[10, :3] = direction_of(light) @ world_T_obj[:3, :3]
    out[10, 3] = float(bool(light.ambient_sh))
    out[11, :3] = 256.0 * material.diffuse * light.diffuse * color
    if material.specular > 0.0:
        out[12, :3] = 255.0 * material.specular * light.diffuse * color
        out[12, 3] = max(2.0 / material.roughness**2 - 2.0, 1.0)
    return out.ravel()


def ground_light(light: Light, form: F64) -> list[float]:
    """RGB of the ground in the light and in the shadow, 256 is 1."""
    up = np.array([0.0, 0.0, 1.0, 1.0])
    ambient = np.maximum(up @ form @ up, 0.0)
    direct = light.diffuse * np.array(light.color) * max(direction_of(light)[2], 0.0)
    bright, dark = ambient + direct, ambient + (1.0 - light.shadow) * direct
    return [float(v) for v in np.round(256.0 * np.concatenate([bright, dark]))]


def shadow_frame(
    light: Light, world_T_obj: F64, scales: Sequence[float], bounds: NDArray[np.float32]
) -> tuple[F64, float]:
    """The light's parallel view of the objects, and the side [m] of a shadow map's texel.

    Args:
        light: whose direction is looked along.
        world_T_obj: (K, 4, 4).
        scales: (K,) factors on the meshes.
        bounds: (K, 6) bounding boxes of the meshes, lowest and highest corner.

    Returns:
        f64 (3, 4) world to (column, row, height towards the light [m]); all heights are positive. Zeros where the light
        casts no shadows.
    """
    if light.shadow == 0.0:
        return np.zeros((3, 4)), 0.0
    towards = direction_of(light)
    side = np.cross(towards, [0.0, 0.0, 1.0] if abs(towards[2]) < 0.9 else [0.0, 1.0, 0.0])
    side /= np.linalg.norm(side)
    # Like a camera's: x to the right, y down, and the optical axis, their cross product, along the light's way.
    axes = np.stack([side, np.cross(-towards, side), towards])
    corner = np.array([[i & 1, i >> 1 & 1, i >> 2] for i in range(8)])
    boxes = np.where(corner[None] == 1, bounds[:, None, 3:], bounds[:, None, :3]) * np.asarray(scales)[:, None, None]
    points = (boxes @ np.swapaxes(world_T_obj[:, :3, :3], 1, 2) + world_T_obj[:, None, :3, 3]).reshape(-1, 3) @ axes.T
    low, high = points.min(axis=0), points.max(axis=0)
    texel = max(float((high - low)[:2].max()), 1e-3) / (SHADOW_SIDE - 2.0 * _BORDER)
    frame = np.zeros((3, 4))
    frame[:2, :3], frame[2, :3] = axes[:2] / texel, axes[2]
    frame[:2, 3], frame[2, 3] = _BORDER - low[:2] / texel, 1.0 - low[2]
    return frame, texel
