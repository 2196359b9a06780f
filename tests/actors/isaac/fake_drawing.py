"""Rough pictures of a fake stage, by USD's own rules."""

import functools

import numpy as np
from PIL import Image

SKY = (120, 150, 200)


def draw_camera(shown, camera, size):
    """rgb u8 (H, W, 4), depth f32 and index of the label i64 (H, W), -1 for none, by USD's conventions."""
    height, width = size
    lens = shown.attributes[camera]
    world_T_cam = shown.world(camera)
    near, far = lens["clippingRange"]
    per_x = width * lens["focalLength"] / lens["horizontalAperture"]
    per_y = height * lens["focalLength"] / lens["verticalAperture"]
    cx = width * (0.5 - lens["horizontalApertureOffset"] / lens["horizontalAperture"])
    cy = height * (0.5 + lens["verticalApertureOffset"] / lens["verticalAperture"])
    rgb = np.zeros((height, width, 4), dtype=np.uint8)
    rgb[...] = (*SKY, 255)
    depth = np.full(size, np.inf, dtype=np.float32)
    owner = np.full(size, -1, dtype=np.int64)
    for path in shown.meshes():
        points = shown.attributes[path].get("points")
        if points is None:
            continue
        local = points @ shown.world(path)[:3, :3].T + shown.world(path)[:3, 3]
        local = (local - world_T_cam[:3, 3]) @ world_T_cam[:3, :3]
        away = -local[:, 2]
        if away.max() < near or away.min() > far:
            continue
        ahead = away > near
        x = per_x * local[ahead, 0] / away[ahead] + cx
        y = -per_y * local[ahead, 1] / away[ahead] + cy
        x0, x1, y0, y1 = (int(np.clip(np.round(v), -1e6, 1e6)) for v in (x.min(), x.max(), y.min(), y.max()))
        if "ground" in path and not ahead.all():  # runs behind the camera: everything from its horizon down
            x0, x1, y1 = 0, width, height
        part = np.s_[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)]
        # The ground is as far as its middle is, or it would hide what stands on it.
        z = float(away[ahead].min()) if "ground" not in path else max(float(away.mean()), 0.1) + 5.0
        closer = depth[part] > z
        depth[part][closer] = z
        rgb[part][closer] = (*mean_color(shown.picture_of(path)), 255)
        owner[part][closer] = shown.labels.index(shown.label_of[path]) if path in shown.label_of else -1
    return rgb, depth, owner


@functools.lru_cache(maxsize=512)
def mean_color(file):
    with Image.open(file) as image:
        return tuple(int(v) for v in np.asarray(image.convert("RGB")).reshape(-1, 3).mean(axis=0))
