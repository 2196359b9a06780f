import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.correspondence import match_grid
from common.geometry import intrinsics_from_fov, inverse_pose, look_at, make_pose, project, so3_exp, transform_points

SIZE, GRID = 32, 8
INTRINSICS = intrinsics_from_fov(np.deg2rad(50.0), SIZE, SIZE)[None]


def plane_depth(world_T_cam):
    """z-depth of the plane z = 0 at every pixel centre."""
    j, i = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    fx, fy, cx, cy = INTRINSICS[0]
    rays = np.stack([(j - cx) / fx, (i - cy) / fy, np.ones_like(j)], axis=-1) @ world_T_cam[:3, :3].T
    depth = -world_T_cam[2, 3] / rays[..., 2]
    return np.where(depth > 0, depth, np.inf).astype(np.float32)


def views(turn, shift):
    goal = look_at([0.3, -0.2, 0.8], [0.0, 0.0, 0.0])
    return goal @ make_pose(so3_exp(turn), shift), goal


def test_equal_views_match_themselves():
    pose = look_at([0.3, -0.2, 0.8], [0.0, 0.0, 0.0])[None]
    depth = plane_depth(pose[0])[None]
    match = match_grid(depth, depth, pose, pose, INTRINSICS, GRID).astype(float)
    centres = (np.arange(GRID) + 0.5) / GRID + 0.5 / SIZE
    assert np.abs(match[0, :, :, 0] - centres[None, :]).max() < 1e-3
    assert np.abs(match[0, :, :, 1] - centres[:, None]).max() < 1e-3


@settings(max_examples=40)
@given(
    st.tuples(*[st.floats(-0.3, 0.3)] * 3),
    st.tuples(*[st.floats(-0.15, 0.15)] * 3),
)
def test_matches_are_the_projection_of_the_same_surface_point(turn, shift):
    current, goal = views(turn, shift)
    depth = plane_depth(current)
    match = match_grid(depth[None], plane_depth(goal)[None], current[None], goal[None], INTRINSICS, GRID)[0]
    step = SIZE // GRID
    for a in range(GRID):
        for b in range(GRID):
            if np.isnan(match[a, b]).any():
                continue
            i, j = a * step + step // 2, b * step + step // 2
            z = float(depth[i, j])
            fx, fy, cx, cy = INTRINSICS[0]
            point = np.array([[(j + 0.5 - cx) / fx * z, (i + 0.5 - cy) / fy * z, z]])
            world = transform_points(current, point)
            assert abs(world[0, 2]) < 1e-5
            uv = project(transform_points(inverse_pose(goal), world), INTRINSICS[0])[0] / SIZE
            assert np.abs(uv - match[a, b]).max() < 2e-3


def test_hidden_and_outside_points_have_no_match():
    current, goal = views((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    depth = plane_depth(current)
    nearer = depth * 0.5
    assert np.isnan(match_grid(depth[None], nearer[None], current[None], goal[None], INTRINSICS, GRID)).all()
    away = goal @ make_pose(so3_exp([0.0, np.pi, 0.0]), [0.0, 0.0, 0.0])
    assert np.isnan(match_grid(depth[None], depth[None], current[None], away[None], INTRINSICS, GRID)).all()


def test_sky_has_no_match():
    current, goal = views((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    sky = np.full((1, SIZE, SIZE), np.inf, np.float32)
    assert np.isnan(match_grid(sky, plane_depth(goal)[None], current[None], goal[None], INTRINSICS, GRID)).all()
