# Annotations are calls in Warp's dialect of Python.
# mypy: ignore-errors
"""Where things are in a frame: C++ snippets, compiled into CPU and CUDA kernels alike.

Snippets read flat arrays through `data`, without strides or bounds checks, which is what makes them fast on the CPU;
the kernels of `actors.rasteriser.kernels` and the tables of `actors.rasteriser.tables` see to it that every index is
inside. Column and row of a pixel are (j, i), its centre is (j + 0.5, i + 0.5).
"""

import warp as wp

from actors.rasteriser.layout import OBJECT_PROLOGUE, PROLOGUE, Scratch, Tables, Views

wp.set_module_options({"enable_backward": False})


@wp.func_native(
    PROLOGUE
    + """
    const double* p = V.pose.data + frame * 12;
    const double fx = in[0], fy = in[1], cx = in[2], cy = in[3];
    double r0[3], rj[3], ri[3];
    for (int k = 0; k < 3; ++k) {
        rj[k] = p[4 * k] / fx;
        ri[k] = p[4 * k + 1] / fy;
        r0[k] = p[4 * k + 2] - rj[k] * cx - ri[k] * cy;
    }
    const double level = p[11] == 0.0 ? 1e-12 : p[11];
    const double texels = T.env_f.data[env * ENVF + 6];
    const double g[3] = {-r0[2] / level, -rj[2] / level, -ri[2] / level};
    const double u[4] = {p[3] * texels, r0[0] * texels, rj[0] * texels, ri[0] * texels};
    const double w[4] = {p[7] * texels, r0[1] * texels, rj[1] * texels, ri[1] * texels};
    for (int k = 0; k < 3; ++k) view[k] = (float)g[k];
    for (int k = 0; k < 4; ++k) { view[3 + k] = (float)u[k]; view[7 + k] = (float)w[k]; }
    const double a0 = u[0] * g[0] + u[1], a1 = u[0] * g[1] + u[2], a2 = u[0] * g[2] + u[3];
    const double b0 = w[0] * g[0] + w[1], b1 = w[0] * g[1] + w[2], b2 = w[0] * g[2] + w[3];
    const double det = a0 * (b1 * g[2] - b2 * g[1]) - a1 * (b0 * g[2] - b2 * g[0]) + a2 * (b0 * g[1] - b1 * g[0]);
    view[11] = (float)(det < 0.0 ? -det : det);
    for (int k = 0; k < 3; ++k) {
        const double* q = T.shadow_pose.data + env * 12 + 4 * k;
        view[12 + 4 * k] = (float)(q[0] * p[3] + q[1] * p[7] + q[2] * p[11] + q[3]);
        view[13 + 4 * k] = (float)(q[0] * r0[0] + q[1] * r0[1] + q[2] * r0[2]);
        view[14 + 4 * k] = (float)(q[0] * rj[0] + q[1] * rj[1] + q[2] * rj[2]);
        view[15 + 4 * k] = (float)(q[0] * ri[0] + q[1] * ri[1] + q[2] * ri[2]);
    }
    """
)
def place_view(T: Tables, V: Views, S: Scratch, frame: int):
    """What of a frame's background is affine in the pixel (x, y): writes S.view.

    A ray through (x, y) is, in the world, r0 + rj x + ri y with optical component 1; with the camera at height h it
    meets the ground at z = -h / (its third component). view: 0 the ground's 1/z as constant, per x, per y; 3 and 7 its
    u and v [texels] as c + z (c0 + cx x + cy y); 11 texels^2 per pixel^2 at z = 1, the determinant of the homography
    from pixels to texels; 12, 16, 20 the shadow map's column, row and height like u and v.
    """


@wp.func_native(
    PROLOGUE
    + OBJECT_PROLOGUE
    + """
    const double* o = T.object_pose.data + slot * 12;
    const double scale = of[55];
    box[5] = first_vertex;
    if (V.shadow) {
        const double* s = T.shadow_pose.data + env * 12;
        for (int r = 0; r < 3; ++r) {
            for (int k = 0; k < 4; ++k) {
                const double sum = s[4 * r] * o[k] + s[4 * r + 1] * o[4 + k] + s[4 * r + 2] * o[8 + k];
                m[4 * r + k] = (float)(k == 3 ? sum + s[4 * r + 3] : sum * scale);
            }
        }
        box[0] = box[2] = box[4] = box[6] = 0; box[1] = width; box[3] = height;
        return;
    }
    const double* p = V.pose.data + frame * 12;
    double c[3][4];
    for (int r = 0; r < 3; ++r) {
        for (int k = 0; k < 4; ++k) {
            double sum = 0.0;
            for (int l = 0; l < 3; ++l) sum += p[4 * l + r] * (o[4 * l + k] - (k == 3 ? p[4 * l + 3] : 0.0));
            c[r][k] = k == 3 ? sum : sum * scale;
            m[4 * r + k] = (float)c[r][k];
        }
    }
    // From inside a closed object, or so near that its front is clipped, the back faces are what is seen.
    bool inside = true;
    for (int k = 0; k < 3; ++k) {
        const double eye = -(c[0][k] * c[0][3] + c[1][k] * c[1][3] + c[2][k] * c[2][3]) / (scale * scale);
        const double margin = 2.0 * NEAR / scale;
        inside = inside && eye > of[52 + k] - margin && eye < of[56 + k] + margin;
    }
    box[4] = inside ? 1 : 0;
    double lo_x = 1e9, hi_x = -1e9, lo_y = 1e9, hi_y = -1e9;
    bool front = true, seen = false;
    for (int corner = 0; corner < 8; ++corner) {
        double q[3];
        const double x = of[52 + 4 * (corner & 1)], y = of[53 + 4 * (corner >> 1 & 1)], z = of[54 + 4 * (corner >> 2)];
        for (int r = 0; r < 3; ++r) q[r] = c[r][0] * x + c[r][1] * y + c[r][2] * z + c[r][3];
        if (q[2] < 2.0 * NEAR) { front = false; continue; }
        seen = true;
        const double sx = in[0] * q[0] / q[2] + in[2], sy = in[1] * q[1] / q[2] + in[3];
        lo_x = sx < lo_x ? sx : lo_x; hi_x = sx > hi_x ? sx : hi_x;
        lo_y = sy < lo_y ? sy : lo_y; hi_y = sy > hi_y ? sy : hi_y;
    }
    box[6] = front ? 1 : 0;
    const double w = width, h = height;
    // Two pixels more on each side, where edges are looked for.
    if (front) { lo_x -= 2.0; lo_y -= 2.0; hi_x += 3.0; hi_y += 3.0; }
    else { lo_x = lo_y = 0.0; hi_x = w; hi_y = h; }
    box[0] = lo_x < 0.0 ? 0 : lo_x > w ? width : (int)lo_x;
    box[1] = hi_x < 0.0 ? 0 : hi_x > w ? width : (int)hi_x;
    box[2] = lo_y < 0.0 ? 0 : lo_y > h ? height : (int)lo_y;
    box[3] = hi_y < 0.0 ? 0 : hi_y > h ? height : (int)hi_y;
    if ((!seen && !inside) || box[1] <= box[0] || box[3] <= box[2]) box[0] = box[1] = box[2] = box[3] = 0;
    """
)
def place_object(T: Tables, V: Views, S: Scratch, frame: int, object: int, first_vertex: int):
    """Where an object stands in a frame: writes its S.placed_f and S.placed_i; an empty box if it is out of sight.

    `first_vertex` is where its vertices go in S.screen.
    """


@wp.func_native(
    PROLOGUE
    + OBJECT_PROLOGUE
    + """
    const int count = mesh[1];
    const float* __restrict__ px = T.positions.data + 3 * mesh[0];
    const float* __restrict__ py = px + count;
    const float* __restrict__ pz = py + count;
    float* __restrict__ out = screen + 4 * box[5];
    const float m0 = m[0], m1 = m[1], m2 = m[2], m3 = m[3], m4 = m[4], m5 = m[5], m6 = m[6], m7 = m[7];
    const float m8 = m[8], m9 = m[9], m10 = m[10], m11 = m[11];
    const int end = last < count ? last : count;
    if (V.shadow) {
        for (int k = first; k < end; ++k) {
            out[4 * k] = m0 * px[k] + m1 * py[k] + m2 * pz[k] + m3;
            out[4 * k + 1] = m4 * px[k] + m5 * py[k] + m6 * pz[k] + m7;
            out[4 * k + 2] = m8 * px[k] + m9 * py[k] + m10 * pz[k] + m11;
            out[4 * k + 3] = 0.0f;
        }
    } else {
        const float fx = (float)in[0], fy = (float)in[1], cx = (float)in[2], cy = (float)in[3];
        for (int k = first; k < end; ++k) {
            const float x = m0 * px[k] + m1 * py[k] + m2 * pz[k] + m3;
            const float y = m4 * px[k] + m5 * py[k] + m6 * pz[k] + m7;
            const float z = m8 * px[k] + m9 * py[k] + m10 * pz[k] + m11;
            const bool front = z >= NEAR;
            const float w = 1.0f / (front ? z : 1.0f);
            out[4 * k] = fx * x * w + cx;
            out[4 * k + 1] = fy * y * w + cy;
            out[4 * k + 2] = front ? w : -1.0f;
            out[4 * k + 3] = 0.0f;
        }
    }
    """
)
def project_vertices(T: Tables, V: Views, S: Scratch, frame: int, object: int, first: int, last: int):
    """Project vertices [first, last) of an object into S.screen; for shadow maps w is the height towards the light."""


@wp.func_native(
    PROLOGUE
    + """
    for (int i = y0; i < y1; ++i) {
        const float base = view[0] + view[2] * ((float)i + 0.5f) + 0.5f * view[1], step = view[1];
        const int row = pixel_at + i * width;
        if (V.smooth) {
            for (int j = x0; j < x1; ++j) S.near_edge.data[row + j] = 0;
            for (int j = x0 / TILE; j <= x1 / TILE; ++j) S.tiles.data[tiles_at + i / TILE * tiles_wide + j] = 0;
        }
        for (int j = x0; j < x1; ++j) {
            const float w = base + step * (float)j;
            const float ground = ((w > LEAST) & (w <= MOST) & !V.shadow) ? w * GROUND_FIRST : 0.0f;
#if defined(__CUDA_ARCH__)
            S.keys.data[row + j] = ((unsigned long long)__float_as_uint(ground) << 32) | 0x80000000ull;
#else
            S.nearest.data[row + j] = ground;
            S.winner.data[row + j] = -1;
#endif
        }
    }
    """
)
def clear(T: Tables, V: Views, S: Scratch, frame: int, x0: int, x1: int, y0: int, y1: int):
    """Fill a part of the visibility buffers with the ground's 1/z (0 where there is none) and no triangle."""


@wp.func_native(
    PROLOGUE
    + """
    // On the ground, column and row are q00 x + q01 y + q03 and q10 x + q11 y + q13. Solved for x and y: the height
    // there is affine in column and row.
    const double* q = T.shadow_pose.data + env * 12;
    const double det = q[0] * q[5] - q[1] * q[4], inverse = det < 1e-9 && det > -1e-9 ? 0.0 : 1.0 / det;
    const double dc = (q[8] * q[5] - q[9] * q[4]) * inverse, dr = (q[9] * q[0] - q[8] * q[1]) * inverse;
    const double base = q[11] - dc * q[3] - dr * q[7];
    const int from = (place * SIDE + row) * SIDE, to = (env * SIDE + row) * SIDE;
    for (int k = 0; k < SIDE; ++k) {
        const float height_there = S.nearest.data[from + k];
        const float ground = (float)(base + dc * (k + 0.5) + dr * (row + 0.5));
        T.shadow.data[to + k] = height_there;
        T.ground_shadow.data[to + k] = (height_there > ground) & (height_there > 0.0f) & (inverse != 0.0);
    }
    """
)
def store_shadow_row(T: Tables, V: Views, S: Scratch, frame: int, row: int):
    """Keep a row of a drawn shadow map, and which of its texels of the ground lie under something.

    A light along the ground (its rays never meet it) leaves no shadow there.
    """
