# Kernels are Warp's dialect of Python: annotations are calls, and `int(0)` makes a variable that a loop may change.
# mypy: ignore-errors
# ruff: noqa: UP018, RUF046
"""The rasteriser's two kernels, one source for CPU and CUDA.

`setup_triangles` turns each triangle of each frame into functions that are affine in the pixel's column j and row i
(homogeneous rasterisation, Olano and Greer 1997). With the camera-frame corners p0, p1, p2 and a pixel's ray
r = ((j + .5 - cx) / fx, (i + .5 - cy) / fy, 1), the weights are b_k = r . cross(p_{k+1}, p_{k+2}) / det[p0 p1 p2]: all
three are >= 0 exactly where the ray meets the triangle in front of the camera, whatever its winding, and their sum is
1 / z. So a triangle that reaches behind the camera needs no clipping, and `u / z`, `v / z` and `light / z` are affine
too. `draw` keeps the largest 1 / z per pixel, against the ground plane's, and writes the channels asked for.

Work is cut by run-time arguments: on the CPU one task draws a whole frame (one task per pixel would cost more in calls
than in work), on CUDA one task takes a few rows. A pixel belongs to one task, so there are no atomics, and the result
does not depend on the order of tasks. Arrays are flat; the inner loops read them through `data`, without strides.
"""

import warp as wp

from actors.warp_native import (
    ground_row,
    raster_row,
    read_f32,
    read_i32,
    texel,
    write_f32,
    write_i32,
    write_rgb,
)

wp.set_module_options({"enable_backward": False})

NEAR = 0.01  # metres; nothing nearer than this is drawn
GROUND_DEPTH = 50.0  # metres along the optical axis; the ground ends here, beyond is sky
COEFS = 21  # floats per triangle and frame: 3 x 3 weights, then 1/z, u/z, v/z, light/z
_NEAR = wp.constant(wp.float64(NEAR))
_MAX_INVERSE = wp.constant(1.0 / NEAR)
_MIN_INVERSE = wp.constant(1.0 / GROUND_DEPTH)
_SKY = wp.constant(wp.uint32((225 << 16) | (205 << 8) | 185))


@wp.func
def _corner(corners: wp.array(dtype=wp.float32), at: int, cam: wp.array(dtype=wp.float64), c: int) -> wp.vec3d:
    x, y, z = wp.float64(corners[at]), wp.float64(corners[at + 1]), wp.float64(corners[at + 2])
    return wp.vec3d(
        cam[c] * x + cam[c + 1] * y + cam[c + 2] * z + cam[c + 3],
        cam[c + 4] * x + cam[c + 5] * y + cam[c + 6] * z + cam[c + 7],
        cam[c + 8] * x + cam[c + 9] * y + cam[c + 10] * z + cam[c + 11],
    )


@wp.func
def _put_affine(
    out: wp.array(dtype=wp.float32), at: int, f: wp.vec3d, intr: wp.array(dtype=wp.float64), k: int, slack: wp.float64
):
    """Store f . r as (constant, per column, per row); the constant grows by `slack` times the terms' size."""
    half = wp.float64(0.5)
    dj = f[0] / intr[k]
    di = f[1] / intr[k + 1]
    c0 = dj * (half - intr[k + 2])
    c1 = di * (half - intr[k + 3])
    grow = slack * (wp.abs(c0) + wp.abs(c1) + wp.abs(f[2]))
    out[at] = wp.float32(f[2] + c0 + c1 + grow)
    out[at + 1] = wp.float32(dj)
    out[at + 2] = wp.float32(di)


@wp.kernel
def setup_triangles(
    grain: int,
    capacity: int,
    height: int,
    width: int,
    shade: int,
    frame_env: wp.array(dtype=wp.int32),
    cam: wp.array(dtype=wp.float64),
    intr: wp.array(dtype=wp.float64),
    counts: wp.array(dtype=wp.int32),
    corners: wp.array(dtype=wp.float32),
    uvs: wp.array(dtype=wp.float32),
    cosines: wp.array(dtype=wp.float32),
    lights: wp.array(dtype=wp.float32),
    coefs: wp.array(dtype=wp.float32),
    boxes: wp.array(dtype=wp.int32),
):
    """Pixel-affine functions and bounding boxes of `grain` triangles per task.

    Inputs:
        grain, capacity: triangles per task, and slots per environment and frame.
        height, width: of the image; shade: 1 if u, v and light are needed.
        frame_env: (N,) environment of each frame.
        cam: (N, 12) rows of cam_T_world. intr: (N, 4) fx, fy, cx, cy.
        counts: (E,) triangles per environment.
        corners: (E, capacity, 3, 3) world frame [m]. uvs: (E, capacity, 3, 2) in texels.
        cosines: (E, capacity, 3) of the angle between light and normal, the normal on the winding's side.
        lights: (E, 2) ambient and diffuse.

    Outputs:
        coefs: (N, capacity, COEFS).
        boxes: (N, capacity, 4) columns [x0, x1), rows [y0, y1); empty if x1 <= x0.
    """
    task = wp.tid()
    chunks = (capacity + grain - 1) // grain
    frame = task // chunks
    first = (task - frame * chunks) * grain
    env = frame_env[frame]
    last = wp.min(first + grain, counts[env])
    slack = wp.float64(4.0e-7)
    none = wp.float64(0.0)
    for t in range(first, last):
        tri = env * capacity + t
        slot = frame * capacity + t
        p0 = _corner(corners, tri * 9, cam, frame * 12)
        p1 = _corner(corners, tri * 9 + 3, cam, frame * 12)
        p2 = _corner(corners, tri * 9 + 6, cam, frame * 12)
        n = wp.cross(p1 - p0, p2 - p0)
        det = wp.dot(n, p0)
        zmin = wp.min(p0[2], wp.min(p1[2], p2[2]))
        zmax = wp.max(p0[2], wp.max(p1[2], p2[2]))
        x0, x1, y0, y1 = int(0), int(width), int(0), int(height)
        if zmax < _NEAR or wp.abs(det) < wp.float64(1.0e-16):
            x1 = 0
        elif zmin >= _NEAR:
            fx, fy, cx, cy = intr[frame * 4], intr[frame * 4 + 1], intr[frame * 4 + 2], intr[frame * 4 + 3]
            ua, ub, uc = p0[0] / p0[2], p1[0] / p1[2], p2[0] / p2[2]
            va, vb, vc = p0[1] / p0[2], p1[1] / p1[2], p2[1] / p2[2]
            # A pixel is in if its centre is: half a pixel inwards, a hair outwards against rounding.
            w, h, o = wp.float64(width), wp.float64(height), wp.float64(0.0)
            x0 = int(wp.ceil(wp.clamp(wp.min(ua, wp.min(ub, uc)) * fx + cx - wp.float64(0.501), o, w)))
            x1 = int(wp.floor(wp.clamp(wp.max(ua, wp.max(ub, uc)) * fx + cx + wp.float64(0.501), o, w)))
            y0 = int(wp.ceil(wp.clamp(wp.min(va, wp.min(vb, vc)) * fy + cy - wp.float64(0.501), o, h)))
            y1 = int(wp.floor(wp.clamp(wp.max(va, wp.max(vb, vc)) * fy + cy + wp.float64(0.501), o, h)))
            if y1 <= y0:
                x1 = 0
        boxes[slot * 4] = x0
        boxes[slot * 4 + 1] = x1
        boxes[slot * 4 + 2] = y0
        boxes[slot * 4 + 3] = y1
        if x1 > x0:
            b0, b1, b2 = wp.cross(p1, p2) / det, wp.cross(p2, p0) / det, wp.cross(p0, p1) / det
            at = slot * COEFS
            _put_affine(coefs, at, b0, intr, frame * 4, slack)
            _put_affine(coefs, at + 3, b1, intr, frame * 4, slack)
            _put_affine(coefs, at + 6, b2, intr, frame * 4, slack)
            _put_affine(coefs, at + 9, n / det, intr, frame * 4, none)
            if shade != 0:
                u = (
                    b0 * wp.float64(uvs[tri * 6])
                    + b1 * wp.float64(uvs[tri * 6 + 2])
                    + b2 * wp.float64(uvs[tri * 6 + 4])
                )
                v = (
                    b0 * wp.float64(uvs[tri * 6 + 1])
                    + b1 * wp.float64(uvs[tri * 6 + 3])
                    + b2 * wp.float64(uvs[tri * 6 + 5])
                )
                # The side that faces the camera is lit: det < 0 is the side the winding's normal points to.
                side = wp.where(det < none, float(1.0), float(-1.0))
                ambient, diffuse = lights[env * 2] * 256.0, lights[env * 2 + 1] * 256.0
                l0 = wp.float64(ambient + diffuse * wp.max(side * cosines[tri * 3], 0.0))
                l1 = wp.float64(ambient + diffuse * wp.max(side * cosines[tri * 3 + 1], 0.0))
                l2 = wp.float64(ambient + diffuse * wp.max(side * cosines[tri * 3 + 2], 0.0))
                _put_affine(coefs, at + 12, u, intr, frame * 4, none)
                _put_affine(coefs, at + 15, v, intr, frame * 4, none)
                _put_affine(coefs, at + 18, b0 * l0 + b1 * l1 + b2 * l2, intr, frame * 4, none)


@wp.kernel
def draw(
    band_rows: int,
    scratch_stride: int,
    capacity: int,
    height: int,
    width: int,
    want_rgb: int,
    want_id: int,
    want_depth: int,
    frame_env: wp.array(dtype=wp.int32),
    counts: wp.array(dtype=wp.int32),
    coefs: wp.array(dtype=wp.float32),
    boxes: wp.array(dtype=wp.int32),
    instance: wp.array(dtype=wp.int32),
    texture: wp.array(dtype=wp.int32),
    texels: wp.array(dtype=wp.uint32),
    ground: wp.array(dtype=wp.float32),
    ground_texture: wp.array(dtype=wp.int32),
    near_buffer: wp.array(dtype=wp.float32),
    tri_buffer: wp.array(dtype=wp.int32),
    rgb: wp.array(dtype=wp.uint8),
    instance_id: wp.array(dtype=wp.int32),
    depth: wp.array(dtype=wp.float32),
):
    """Draw `band_rows` rows of a frame per task.

    Inputs:
        band_rows, scratch_stride: rows per task; pixels between the scratch images of two frames (0 where tasks run one
            after the other and share one image).
        want_rgb, want_id, want_depth: 1 for the channels asked for; the others' arrays are empty.
        frame_env, counts: as for `setup_triangles`. coefs, boxes: what it wrote.
        instance: (E, capacity) instance ids. texture: (E, capacity, 2) offset of the first texel, side in texels.
        texels: packed 0x00BBGGRR.
        ground: (N, 12) affine 1/z, then u and v in texels as constant + z * affine, light.
        ground_texture: (E, 2) as `texture`.
        near_buffer, tri_buffer: scratch, largest 1/z and its triangle.

    Outputs:
        rgb, instance_id, depth: (N, H, W[, 3]); instance_id comes in as zeros.
    """
    task = wp.tid()
    bands = (height + band_rows - 1) // band_rows
    frame = task // bands
    row0 = (task - frame * bands) * band_rows
    row1 = wp.min(row0 + band_rows, height)
    env = frame_env[frame]
    count = counts[env]
    slots = frame * capacity
    scratch = frame * scratch_stride
    g = frame * 12
    g0, gj, gi = ground[g], ground[g + 1], ground[g + 2]

    # The object's box in this band: only there is anything but background.
    x0, x1, y0, y1 = int(width), int(0), int(row1), int(row0)
    for t in range(count):
        b = (slots + t) * 4
        if (
            read_i32(boxes, b + 1) > read_i32(boxes, b)
            and read_i32(boxes, b + 2) < row1
            and read_i32(boxes, b + 3) > row0
        ):
            x0 = wp.min(x0, read_i32(boxes, b))
            x1 = wp.max(x1, read_i32(boxes, b + 1))
            y0 = wp.min(y0, read_i32(boxes, b + 2))
            y1 = wp.max(y1, read_i32(boxes, b + 3))
    y0 = wp.max(y0, row0)
    y1 = wp.min(y1, row1)
    for i in range(y0, y1):
        at = scratch + i * width
        base = g0 + gi * float(i)
        for j in range(x0, x1):
            inverse = base + gj * float(j)
            write_f32(near_buffer, at + j, wp.where(inverse > _MIN_INVERSE and inverse <= _MAX_INVERSE, inverse, 0.0))
            write_i32(tri_buffer, at + j, -1)

    for t in range(count):
        b = (slots + t) * 4
        tx0, tx1 = read_i32(boxes, b), read_i32(boxes, b + 1)
        ty0, ty1 = wp.max(read_i32(boxes, b + 2), row0), wp.min(read_i32(boxes, b + 3), row1)
        if tx1 > tx0 and ty1 > ty0:
            c = (slots + t) * COEFS
            a0, a1, a2 = read_f32(coefs, c), read_f32(coefs, c + 3), read_f32(coefs, c + 6)
            aj0, aj1, aj2 = read_f32(coefs, c + 1), read_f32(coefs, c + 4), read_f32(coefs, c + 7)
            ai0, ai1, ai2 = read_f32(coefs, c + 2), read_f32(coefs, c + 5), read_f32(coefs, c + 8)
            z0, zj, zi = read_f32(coefs, c + 9), read_f32(coefs, c + 10), read_f32(coefs, c + 11)
            for i in range(ty0, ty1):
                y = float(i)
                r0, r1, r2, rz = a0 + ai0 * y, a1 + ai1 * y, a2 + ai2 * y, z0 + zi * y
                at = scratch + i * width
                raster_row(near_buffer, tri_buffer, at, tx0, tx1, t, r0, aj0, r1, aj1, r2, aj2, rz, zj, _MAX_INVERSE)

    g_offset, g_size = ground_texture[env * 2], ground_texture[env * 2 + 1]
    for i in range(row0, row1):
        row = (frame * height + i) * width
        if want_rgb != 0:
            ground_row(rgb, row, i, width, frame, ground, texels, g_offset, g_size, _MIN_INVERSE, _MAX_INVERSE, _SKY)
        y = float(i)
        base = g0 + gi * y
        if want_depth != 0:
            for j in range(width):
                inverse = base + gj * float(j)
                write_f32(
                    depth, row + j, wp.where(inverse > _MIN_INVERSE and inverse <= _MAX_INVERSE, 1.0 / inverse, wp.inf)
                )
        at = scratch + i * width
        last = wp.where(i >= y0 and i < y1, x1, x0)
        for j in range(x0, last):
            tri = read_i32(tri_buffer, at + j)
            if tri >= 0:
                if want_id != 0:
                    write_i32(instance_id, row + j, read_i32(instance, env * capacity + tri))
                z = 1.0 / read_f32(near_buffer, at + j)
                if want_depth != 0:
                    write_f32(depth, row + j, z)
                if want_rgb != 0:
                    x = float(j)
                    c = (slots + tri) * COEFS
                    u = (read_f32(coefs, c + 12) + read_f32(coefs, c + 13) * x + read_f32(coefs, c + 14) * y) * z
                    v = (read_f32(coefs, c + 15) + read_f32(coefs, c + 16) * x + read_f32(coefs, c + 17) * y) * z
                    light = (read_f32(coefs, c + 18) + read_f32(coefs, c + 19) * x + read_f32(coefs, c + 20) * y) * z
                    k = (env * capacity + tri) * 2
                    color = texel(
                        texels, read_i32(texture, k), read_i32(texture, k + 1), u, v, int(wp.max(light, 0.0) + 0.5)
                    )
                    write_rgb(rgb, (row + j) * 3, color)
