"""Ground-truth correspondences between two views of a scene, from their depth and poses."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.geometry import inverse_pose, project, transform_points, unproject
from common.protocols import F32, F64


def match_grid(
    depth: F32, goal_depth: F32, world_T_cam: F64, goal_world_T_cam: F64, intrinsics: F64, grid: int
) -> NDArray[np.float16]:
    """Where the surface point at each grid cell centre of the current image appears in the goal image.

    Args:
        depth: (N, H, W) [m] current depth, +inf where nothing is hit.
        goal_depth: (N, H, W) [m].
        world_T_cam, goal_world_T_cam: (N, 4, 4).
        intrinsics: (N, 4) pixels of the images.
        grid: cells per side; must divide H and W.

    Returns:
        f16 (N, grid, grid, 2): (x, y) in units of the goal image's sides, NaN where the point is outside the goal
        image, behind its camera or occluded (its depth differs from the goal's by over 3 %).
    """
    n, height, width = depth.shape
    rows = (np.arange(grid) + 0.5) * height / grid
    cols = (np.arange(grid) + 0.5) * width / grid
    v, u = np.meshgrid(rows, cols, indexing="ij")
    # A cell's centre lies on a pixel corner; the pixel right below it stands for it, at its own centre.
    i, j = v.astype(int).ravel(), u.astype(int).ravel()
    z = depth[:, i, j].astype(np.float64)
    pixels = np.broadcast_to(np.stack([j + 0.5, i + 0.5], axis=-1), (n, grid * grid, 2))
    seen = np.isfinite(z)
    points = unproject(pixels, np.where(seen, z, 1.0), intrinsics)
    goal_T_cam = inverse_pose(goal_world_T_cam) @ world_T_cam
    in_goal = transform_points(goal_T_cam, points)
    front = in_goal[..., 2] > 1e-6
    in_goal[..., 2] = np.where(front, in_goal[..., 2], 1.0)
    uv = project(in_goal, intrinsics)
    inside = (uv >= 0.0).all(-1) & (uv[..., 0] < width) & (uv[..., 1] < height)
    gj = np.clip(uv[..., 0], 0, width - 1).astype(int)
    gi = np.clip(uv[..., 1], 0, height - 1).astype(int)
    expected = goal_depth[np.arange(n)[:, None], gi, gj]
    visible = np.abs(expected - in_goal[..., 2]) < 0.03 * in_goal[..., 2]
    ok = seen & front & inside & visible
    out = np.where(ok[..., None], uv / np.array([width, height]), np.nan)
    return out.reshape(n, grid, grid, 2).astype(np.float16)
