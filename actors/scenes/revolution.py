"""Surfaces of revolution about z, with texture coordinates laid two ways.

Ordinarily every point shows a texel of its own: u goes around the axis, v along the profile. In a symmetric layout u is
constant, and v is folded in the middle where the profile is its own mirror image.

A profile is a polyline of points (radius, z) [m] that runs with the body on its left: up along the outside. It begins
and ends on the axis, or, of a ring, in the same point.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from actors.scenes.mesh import F64, Mesh, recorded_mesh

_CREASE = np.cos(np.deg2rad(40.0))  # of the largest angle between segments that still meet in a smooth edge
_FOLDED_U = 1.0 / 16.0  # off the borders of cells, where there are eight per texture or fewer
_STRAIGHT = 1e-9  # sine of an angle that is none
_SAME = 1e-8  # metres, well under what the vertices are rounded to in float32


@dataclasses.dataclass(frozen=True)
class Profile:
    """A profile with its normals.

    Attributes:
        points: f64 (P, 2).
        normals: f64 (P - 1, 2, 2) outward unit normals at the start and the end of every segment.
        mirrored: the profile is its own mirror image in z = 0; a ring then begins on z = 0.
    """

    points: F64
    normals: F64
    mirrored: bool


def creased_profile(points: F64) -> Profile:
    """Profile with smooth edges where it bends by less than 40 degrees and sharp ones elsewhere.

    A smooth edge's normal is the mean of both segments', weighted by their lengths: long straight parts stay straight.

    Args:
        points: f64 (P, 2); an end off the axis is closed by a flat cap, unless the last point is the first. Moved along
            z so that the middle of its height is 0.
    """
    points = _simplified(capped(points))
    mirrored = _is_mirrored(points)
    if mirrored and points[0, 0] > 0.0:
        points = _started_at_middle(points)
    step = np.diff(points, axis=0)
    length = np.linalg.norm(step, axis=1, keepdims=True)
    flat = np.stack([step[:, 1], -step[:, 0]], axis=1) / length
    # The neighbours of the first and the last segment: across the axis, or across the joint of a ring.
    ring = points[0, 0] > 0.0
    before = flat[-1:] if ring else flat[:1] * [-1.0, 1.0]
    after = flat[:1] if ring else flat[-1:] * [-1.0, 1.0]
    sides, sizes = np.concatenate([before, flat, after]), np.concatenate([length[-1:], length, length[:1]])
    if not ring:
        sizes[0], sizes[-1] = length[0], length[-1]
    smooth = sides[:-1] * sizes[:-1] + sides[1:] * sizes[1:]
    smooth /= np.maximum(np.linalg.norm(smooth, axis=1, keepdims=True), 1e-300)
    bends = (np.sum(sides[:-1] * sides[1:], axis=1) < _CREASE)[:, None]
    start, end = np.where(bends[:-1], flat, smooth[:-1]), np.where(bends[1:], flat, smooth[1:])
    return Profile(points, np.stack([start, end], axis=1), mirrored)


def smooth_profile(points: F64, mirrored: bool) -> Profile:
    """Profile that is smooth but for flat caps, with the normals that `capped_mesh` has."""
    outward = _gradient_normals(points)
    profile = capped(points)
    normals = np.stack([outward[:-1], outward[1:]], axis=1)
    bottom, top = np.array([[[0.0, -1.0]] * 2]), np.array([[[0.0, 1.0]] * 2])
    parts = [bottom] * int(points[0, 0] > 0.0) + [normals] + [top] * int(points[-1, 0] > 0.0)
    return Profile(profile, np.concatenate(parts), mirrored)


def capped(points: F64) -> F64:
    """A polyline (P, 2) with caps to the axis where it needs them, its middle height moved to 0."""
    out = points - [0.0, (points[:, 1].max() + points[:, 1].min()) / 2.0]
    if np.array_equal(points[0], points[-1]):
        return np.asarray(out)
    first = [[[0.0, out[0, 1]]]] if points[0, 0] > 0.0 else []
    last = [[[0.0, out[-1, 1]]]] if points[-1, 0] > 0.0 else []
    return np.concatenate([*first, out, *last])


def profile_mesh(profile: Profile, segments: int, symmetric: bool) -> Mesh:
    """Surface of revolution with the texture wound around it once, v along the whole profile, or laid symmetrically.

    Args:
        profile: what turns about z.
        segments: around the axis.
        symmetric: u is constant; v is folded if the profile is its own mirror image.
    """
    points, normals = profile.points, profile.normals
    ring = points[0, 0] > 0.0
    if symmetric and profile.mirrored:
        points, normals = _with_middle(points, normals)
    along = _arc_length(points)
    v = along / along[-1]
    if symmetric and profile.mirrored:
        v = np.abs(2.0 * v - 1.0)
    # Once around a ring the pattern goes on where it began; anywhere else it stays off the border.
    if not ring or (symmetric and profile.mirrored):
        v = 0.01 + 0.98 * v
    rows: list[tuple[F64, F64, float]] = []
    lower, upper = [], []
    for i in range(len(points) - 1):
        if not rows or i == 0 or not np.array_equal(normals[i, 0], normals[i - 1, 1]):
            rows.append((points[i], normals[i, 0], v[i]))
        rows.append((points[i + 1], normals[i, 1], v[i + 1]))
        lower.append(len(rows) - 2)
        upper.append(len(rows) - 1)
    at, normal, height = (np.array([row[k] for row in rows]) for k in range(3))
    turn, cos, sin = _turns(segments)
    u = np.full_like(turn, _FOLDED_U) if symmetric else turn
    index = np.arange(at.shape[0] * (segments + 1)).reshape(-1, segments + 1)
    low, high = index[lower], index[upper]
    below = np.stack([low[:, :-1], low[:, 1:], high[:, 1:]], axis=-1)[at[lower, 0] > 0.0]
    above = np.stack([low[:, :-1], high[:, 1:], high[:, :-1]], axis=-1)[at[upper, 0] > 0.0]
    uv = np.stack(np.broadcast_arrays(u, height[:, None]), axis=-1)
    faces = np.concatenate([below.reshape(-1, 3), above.reshape(-1, 3)])
    vertices, directions = _turned(at, cos, sin), _turned(normal, cos, sin)
    return recorded_mesh(vertices.reshape(-1, 3), faces, directions.reshape(-1, 3), uv.reshape(-1, 2))


def capped_mesh(points: F64, segments: int) -> Mesh:
    """Surface of revolution of (radius, z) points from the bottom up, closed by flat caps where the radius is not 0.

    The side takes the lower 70 % of the texture, the caps two squares above it.
    """
    rings = len(points)
    turn, cos, sin = _turns(segments)
    height = points[:, 1:]
    side = _turned(points, cos, sin)
    v = 0.68 * (height - height[0]) / (height[-1] - height[0]) + 0.01
    uv = np.stack(np.broadcast_arrays(turn, v), axis=-1)
    index = np.arange(rings * (segments + 1)).reshape(rings, segments + 1)
    low, high = index[:-1], index[1:]
    lower = np.stack([low[:, :-1], low[:, 1:], high[:, 1:]], axis=-1)[points[:-1, 0] > 0.0]
    upper = np.stack([low[:, :-1], high[:, 1:], high[:, :-1]], axis=-1)[points[1:, 0] > 0.0]
    normal = _turned(_gradient_normals(points), cos, sin)
    vertices, normals, uvs = [side.reshape(-1, 3)], [normal.reshape(-1, 3)], [uv.reshape(-1, 2)]
    faces = [lower.reshape(-1, 3), upper.reshape(-1, 3)]
    for end, sign, corner in ((0, -1.0, 0.02), (-1, 1.0, 0.52)):
        if points[end, 0] == 0.0:
            continue
        start = sum(len(p) for p in vertices)
        rim = side[end, :-1]
        vertices.append(rim)
        normals.append(np.tile([0.0, 0.0, sign], (segments, 1)))
        disc = rim[:, :2] / points[end, 0] * 0.5 + 0.5
        uvs.append(np.stack([corner + 0.46 * disc[:, 0], 0.71 + 0.28 * disc[:, 1]], axis=1))
        fan = np.arange(1, segments - 1)
        disc_faces = start + np.stack([np.zeros_like(fan), fan, fan + 1], axis=1)
        faces.append(disc_faces if sign > 0.0 else disc_faces[:, ::-1])
    return recorded_mesh(np.concatenate(vertices), np.concatenate(faces), np.concatenate(normals), np.concatenate(uvs))


def arc(radius: float, first: float, last: float, count: int) -> F64:
    """Points (count + 1, 2) on a circle about the origin, angles [rad] from the r axis towards z."""
    angle = np.linspace(first, last, count + 1)
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _gradient_normals(points: F64) -> F64:
    tangent = np.gradient(points, axis=0)
    outward = np.stack([tangent[:, 1], -tangent[:, 0]], axis=1)
    return np.asarray(outward / np.linalg.norm(outward, axis=1, keepdims=True))


def _turns(segments: int) -> tuple[F64, F64, F64]:
    """Turns 0..1, their cosines and sines, (segments + 1,); the last cosine and sine are exactly the first."""
    turn = np.linspace(0.0, 1.0, segments + 1)
    cos, sin = np.cos(2 * np.pi * turn), np.sin(2 * np.pi * turn)
    cos[-1], sin[-1] = cos[0], sin[0]
    return turn, cos, sin


def _turned(points: F64, cos: F64, sin: F64) -> F64:
    """(radius, z) rows (P, 2) turned about z, (P, segments + 1, 3)."""
    flat = np.broadcast_to(points[:, 1:], (len(points), len(cos)))
    return np.stack([points[:, :1] * cos, points[:, :1] * sin, flat], axis=-1)


def _arc_length(points: F64) -> F64:
    return np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])


def _simplified(points: F64) -> F64:
    """Without points on straight lines, which would hide a mirror image; a ring begins where it bends."""
    ring = points[0, 0] > 0.0
    if ring:
        points = points[:-1]
    before = points - np.roll(points, 1, axis=0)
    after = np.roll(points, -1, axis=0) - points
    sine = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    bends = np.abs(sine) > _STRAIGHT * np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    if not ring:
        bends[[0, -1]] = True
        return points[bends]
    return np.concatenate([points[bends], points[bends][:1]])


def _is_mirrored(points: F64) -> bool:
    """Whether a simplified profile is its own mirror image in z = 0."""
    image = points[::-1] * [1.0, -1.0]
    if points[0, 0] == 0.0:
        return bool(np.abs(image - points).max() < _SAME)
    image = image[:-1]
    return any(np.abs(np.roll(image, k, axis=0) - points[:-1]).max() < _SAME for k in range(len(image)))


def _started_at_middle(points: F64) -> F64:
    """A mirrored ring, begun where it crosses z = 0 on the way up; that is on the outside."""
    up = np.flatnonzero((points[:-1, 1] <= _SAME) & (points[1:, 1] > _SAME))[0]
    low, high = points[up], points[up + 1]
    first = low + (high - low) * (-low[1] / (high[1] - low[1]))
    first[1] = 0.0
    rest = np.concatenate([points[up + 1 : -1], points[: up + 1]])
    rest = rest[np.abs(rest - first).max(axis=1) > _SAME]
    return np.concatenate([first[None], rest, first[None]])


def _with_middle(points: F64, normals: F64) -> tuple[F64, F64]:
    """A mirrored profile with a point half way along, where its texture is folded."""
    along = _arc_length(points)
    half = along[-1] / 2.0
    if np.abs(along - half).min() < _SAME:
        return points, normals
    k = int(np.searchsorted(along, half)) - 1
    middle = (points[k] + points[k + 1]) / 2.0
    normal = normals[k].mean(axis=0)
    normal /= np.linalg.norm(normal)
    first, second = np.stack([normals[k, 0], normal]), np.stack([normal, normals[k, 1]])
    split = np.concatenate([normals[:k], first[None], second[None], normals[k + 1 :]])
    return np.insert(points, k + 1, middle, axis=0), split
