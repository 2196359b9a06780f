# Annotations are calls in Warp's dialect of Python.
# mypy: ignore-errors
"""Which triangle is seen at each pixel: a C++ snippet in the manner of `place`.

A mesh's faces come in clusters. A cluster that looks away, is outside the image or (when edges are looked at) is far
from every edge is passed over at once. Of what is left a triangle is drawn by three weights that are affine in the
pixel and >= 0 inside it. On the CPU four or eight numbers are worked on at a time.
"""

import warp as wp

from actors.rasteriser.layout import FOUR, OBJECT_PROLOGUE, PROLOGUE, SAMPLES, Scratch, Tables, Views

wp.set_module_options({"enable_backward": False})

# Pixel-affine weights a, b, c (times w) of a triangle that reaches behind the camera, and w = 1 / z, around (ox, oy).
# Homogeneous rasterisation (Olano and Greer 1997): with the camera-frame corners p0, p1, p2 and a ray r through the
# image plane z = 1, a = r . cross(p1, p2) / det[p0 p1 p2] and so on are all >= 0 exactly where the ray meets the
# triangle in front of the camera, so nothing needs to be clipped.
HOMOGENEOUS = """
    struct Affine { float a, ax, ay, b, bx, by, c, cx, cy, w, wx, wy, k; };
    auto homogeneous = [](const float* m, const float* px, int count, const int* f, const double* in, double ox,
                          double oy, Affine& q) -> bool {
        double p[3][3];
        for (int k = 0; k < 3; ++k) {
            const double x = px[f[k]], y = px[count + f[k]], z = px[2 * count + f[k]];
            for (int r = 0; r < 3; ++r) p[k][r] = m[4 * r] * x + m[4 * r + 1] * y + m[4 * r + 2] * z + m[4 * r + 3];
        }
        double n[3][3];
        for (int k = 0; k < 3; ++k) {
            const double *u = p[(k + 1) % 3], *v = p[(k + 2) % 3];
            n[k][0] = u[1] * v[2] - u[2] * v[1];
            n[k][1] = u[2] * v[0] - u[0] * v[2];
            n[k][2] = u[0] * v[1] - u[1] * v[0];
        }
        const double det = p[0][0] * n[0][0] + p[0][1] * n[0][1] + p[0][2] * n[0][2];
        if (!(det > 1e-16 || det < -1e-16)) return false;
        float* out[3] = {&q.a, &q.b, &q.c};
        const double rx = (ox - in[2]) / in[0], ry = (oy - in[3]) / in[1];
        q.w = q.wx = q.wy = 0.0f;
        for (int k = 0; k < 3; ++k) {
            const double gx = n[k][0] / det, gy = n[k][1] / det, g = n[k][2] / det;
            out[k][0] = (float)(g + gx * rx + gy * ry);
            out[k][1] = (float)(gx / in[0]);
            out[k][2] = (float)(gy / in[1]);
            q.w += out[k][0]; q.wx += out[k][1]; q.wy += out[k][2];
        }
        q.k = (float)(1.0 / (det * in[0] * in[1]));
        return true;
    };
"""


@wp.func_native(
    PROLOGUE
    + OBJECT_PROLOGUE
    + SAMPLES
    + HOMOGENEOUS
    + FOUR
    + """
#if !defined(__CUDA_ARCH__)
    const Eight COLUMNS = {0.0f, 1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f, 7.0f};
    const Four SAMPLE_X = load(DX), SAMPLE_Y = load(DY);
#endif
    const int count = mesh[3];
    const float* P = screen + 4 * box[5];
    const bool cull = mesh[4] && !box[4], ahead = box[6];
    // Centres are at half pixels, samples up to `reach` beside them; a hair more for rounding.
    const float reach = edges ? 0.3755f : 0.0005f, most = V.shadow ? 1e30f : MOST;
    const float w_max = (float)width, h_max = (float)height;
    float* nearest = edges ? S.sample_near.data : S.nearest.data;
    int* winner = edges ? S.sample_winner.data : S.winner.data;
#if defined(__CUDA_ARCH__)
    unsigned long long* keys = (unsigned long long*)(edges ? S.sample_keys.data : S.keys.data);
#endif
    // The eye in the object's frame: m is [s R | t], so it stands at -R^T t / s.
    float eye[3], square = 0.0f;
    for (int k = 0; k < 3; ++k) square += m[4 * k] * m[4 * k];
    for (int k = 0; k < 3; ++k) eye[k] = -(m[k] * m[3] + m[4 + k] * m[7] + m[8 + k] * m[11]) / square;
    const float scale = of[55], fx = (float)in[0], fy = (float)in[1], px = (float)in[2], py = (float)in[3];
    for (int cluster = first; cluster < last && cluster * CLUSTER < count; ++cluster) {
    if (ahead) {
        const float* q = T.clusters.data + 8 * (mesh[5] + cluster);
        const float ex = q[0] - eye[0], ey = q[1] - eye[1], ez = q[2] - eye[2];
        // Every face looks away if the way to the centre runs along the axis of their normals, whatever their spread.
        if (cull && q[7] < 1.0f) {
            const float way = ex * q[4] + ey * q[5] + ez * q[6] - q[3];
            if (way > 0.0f && way * way >= q[7] * q[7] * (ex * ex + ey * ey + ez * ez)) continue;
        }
        const float r = q[3] * scale, z = m[8] * q[0] + m[9] * q[1] + m[10] * q[2] + m[11];
        if (z > 1.01f * r + NEAR) {
            // A sphere of radius r reaches at most r (1 + |x / z|) / (z - r) from its centre's x / z in the image.
            const float inverse = 1.0f / z, wide = r / (z - r);
            const float x = (m[0] * q[0] + m[1] * q[1] + m[2] * q[2] + m[3]) * inverse;
            const float y = (m[4] * q[0] + m[5] * q[1] + m[6] * q[2] + m[7]) * inverse;
            const float dx = fx * wide * (1.0f + (x < 0.0f ? -x : x)) + 1.0f, cx = fx * x + px;
            const float dy = fy * wide * (1.0f + (y < 0.0f ? -y : y)) + 1.0f, cy = fy * y + py;
            if ((cx + dx < 0.0f) | (cx - dx > w_max) | (cy + dy < 0.0f) | (cy - dy > h_max)) continue;
            if (edges) {
                const int c0 = (int)(cx - dx > 0.0f ? cx - dx : 0.0f) / TILE;
                const int r0 = (int)(cy - dy > 0.0f ? cy - dy : 0.0f) / TILE;
                const int c1 = (int)(cx + dx < w_max - 1.0f ? cx + dx : w_max - 1.0f) / TILE;
                const int r1 = (int)(cy + dy < h_max - 1.0f ? cy + dy : h_max - 1.0f) / TILE;
                bool any = false;
                for (int i = r0; i <= r1; ++i)
                    for (int j = c0; j <= c1; ++j) any |= S.tiles.data[tiles_at + i * tiles_wide + j] != 0;
                if (!any) continue;
            }
        }
    }
    const int t0 = cluster * CLUSTER, t1 = t0 + CLUSTER < count ? t0 + CLUSTER : count;
    const int* f = T.faces.data + 4 * (mesh[2] + t0);
    for (int t = t0; t < t1; ++t, f += 4) {
        const Four A = load(P + 4 * f[0]), B = load(P + 4 * f[1]), C = load(P + 4 * f[2]);
        const float area = (B.x - A.x) * (C.y - A.y) - (C.x - A.x) * (B.y - A.y);
        // Rows run downwards, so a triangle wound counter-clockwise as seen has a negative area.
        if (ahead & cull & (area >= 0.0f)) continue;
        const Four lo = lower(lower(A, B), C), hi = upper(upper(A, B), C);
        const bool front = lo.z > 0.0f;
        int x0 = 0, x1 = width, y0 = 0, y1 = height;
        if (front) {
            if ((cull & (area >= 0.0f)) | ((area <= 1e-12f) & (area >= -1e-12f))) continue;
            float left = lo.x + 0.5f - reach, top = lo.y + 0.5f - reach;
            float right = hi.x + 0.5f + reach, bottom = hi.y + 0.5f + reach;
            left = left > 0.0f ? left : 0.0f; top = top > 0.0f ? top : 0.0f;
            right = right < w_max ? right : w_max; bottom = bottom < h_max ? bottom : h_max;
            if (!((left < right) & (top < bottom))) continue;
            x0 = (int)left; y0 = (int)top; x1 = (int)right; y1 = (int)bottom;
            if ((x0 >= x1) | (y0 >= y1)) continue;
        } else if (V.shadow | (hi.z <= 0.0f)) continue;
        if (edges) {
            bool any = false;
            if ((x1 - x0 == 1) & (y1 - y0 == 1)) {
                const int* pre = S.marks.data + marks_at + y0 * (width + 1) + x0;
                any = pre[0] != pre[1];
            } else if ((x1 - x0 <= 3) & (y1 - y0 <= 3)) {
                any = S.near_edge.data[pixel_at + ((y0 + y1) >> 1) * width + ((x0 + x1) >> 1)] != 0;
            } else {
                for (int i = y0; i < y1 && !any; ++i) {
                    const int* pre = S.marks.data + marks_at + i * (width + 1);
                    any = pre[x0] != pre[x1];
                }
            }
            if (!any) continue;
        }
        Affine q;
        if (front) {
            const float ox = (float)x0 + 0.5f, oy = (float)y0 + 0.5f, s = 1.0f / area;
#if defined(__CUDA_ARCH__)
            const float ax = A.x - ox, bx = B.x - ox, cx = C.x - ox, ay = A.y - oy, by = B.y - oy, cy = C.y - oy;
            q.a = (bx * cy - cx * by) * s; q.ax = (by - cy) * s; q.ay = (cx - bx) * s;
            q.b = (cx * ay - ax * cy) * s; q.bx = (cy - ay) * s; q.by = (ax - cx) * s;
            q.c = (ax * by - bx * ay) * s; q.cx = (ay - by) * s; q.cy = (bx - ax) * s;
#else
            // The same for a, b and c side by side.
            const Four X = (Four){A.x, B.x, C.x, 0.0f} - ox, Y = (Four){A.y, B.y, C.y, 0.0f} - oy;
            const Four E = (X.yzxw * Y.zxyw - X.zxyw * Y.yzxw) * s;
            const Four EX = (Y.yzxw - Y.zxyw) * s, EY = (X.zxyw - X.yzxw) * s;
            q.a = E.x; q.ax = EX.x; q.ay = EY.x;
            q.b = E.y; q.bx = EX.y; q.by = EY.y;
            q.c = E.z; q.cx = EX.z; q.cy = EY.z;
#endif
            q.w = A.z * q.a + B.z * q.b + C.z * q.c;
            q.wx = A.z * q.ax + B.z * q.bx + C.z * q.cx;
            q.wy = A.z * q.ay + B.z * q.by + C.z * q.cy;
        } else if (!homogeneous(m, T.positions.data + 3 * mesh[0], mesh[1], f, in, 0.5, 0.5, q)) continue;
        // A ten-thousandth of a pixel outwards, so that rounding opens no crack between neighbours.
        const float s0 = -1e-4f * ((q.ax < 0.0f ? -q.ax : q.ax) + (q.ay < 0.0f ? -q.ay : q.ay));
        const float s1 = -1e-4f * ((q.bx < 0.0f ? -q.bx : q.bx) + (q.by < 0.0f ? -q.by : q.by));
        const float s2 = -1e-4f * ((q.cx < 0.0f ? -q.cx : q.cx) + (q.cy < 0.0f ? -q.cy : q.cy));
        const int id = (object << BITS) | t;
        const int n = x1 - x0;
#if !defined(__CUDA_ARCH__)
        if ((n == 1) & (y1 - y0 == 1)) {
            // Most triangles of a fine mesh: no loops, few branches.
            const int at = pixel_at + y0 * width + x0;
            if (!edges) {
                const float old = nearest[at];
                const bool in_it = (q.a >= s0) & (q.b >= s1) & (q.c >= s2) & (q.w > old) & (q.w <= most);
                nearest[at] = in_it ? q.w : old;
                winner[at] = in_it ? id : winner[at];
                continue;
            }
            const int slot_at = 4 * (at - x0 + S.marks.data[marks_at + y0 * (width + 1) + x0]);
            const Four v = q.w + q.wx * SAMPLE_X + q.wy * SAMPLE_Y, old = load(nearest + slot_at);
            const Mask4 in_it = (q.a + q.ax * SAMPLE_X + q.ay * SAMPLE_Y >= s0)
                              & (q.b + q.bx * SAMPLE_X + q.by * SAMPLE_Y >= s1)
                              & (q.c + q.cx * SAMPLE_X + q.cy * SAMPLE_Y >= s2) & (v > old) & (v <= most);
            Mask4 ids;
            __builtin_memcpy(&ids, winner + slot_at, sizeof ids);
            ids = in_it ? (Mask4)id : ids;
            store(nearest + slot_at, in_it ? v : old);
            __builtin_memcpy(winner + slot_at, &ids, sizeof ids);
            continue;
        }
#endif
        for (int i = y0; i < y1; ++i) {
            const float y = (float)(i - y0);
            const float a = q.a + q.ay * y, b = q.b + q.by * y, c = q.c + q.cy * y, w = q.w + q.wy * y;
            const int row = pixel_at + i * width + x0;
            if (edges) {
                const int* pre = S.marks.data + marks_at + i * (width + 1) + x0;
                for (int k = 0; k < n; ++k) {
                    if (pre[k] == pre[k + 1]) continue;
                    const int at = 4 * (row - x0 + pre[k]);
#if defined(__CUDA_ARCH__)
                    for (int r = 0; r < 4; ++r) {
                        const float x = (float)k + DX[r], d = DY[r], v = w + q.wx * x + q.wy * d;
                        if ((a + q.ax * x + q.ay * d >= s0) & (b + q.bx * x + q.by * d >= s1)
                            & (c + q.cx * x + q.cy * d >= s2) & (v > 0.0f) & (v <= most))
                            atomicMax(keys + at + r, ((unsigned long long)__float_as_uint(v) << 32)
                                                     | (0x7fffffffu - (unsigned)id));
                    }
#else
                    const Four x = (float)k + SAMPLE_X, v = w + q.wx * x + q.wy * SAMPLE_Y;
                    const Four old = load(nearest + at);
                    const Mask4 in_it = (a + q.ax * x + q.ay * SAMPLE_Y >= s0) & (b + q.bx * x + q.by * SAMPLE_Y >= s1)
                                      & (c + q.cx * x + q.cy * SAMPLE_Y >= s2) & (v > old) & (v <= most);
                    store(nearest + at, in_it ? v : old);
                    Mask4 ids;
                    __builtin_memcpy(&ids, winner + at, sizeof ids);
                    ids = in_it ? (Mask4)id : ids;
                    __builtin_memcpy(winner + at, &ids, sizeof ids);
#endif
                }
                continue;
            }
#if defined(__CUDA_ARCH__)
            for (int k = 0; k < n; ++k) {
                const float x = (float)k, v = w + q.wx * x;
                if ((a + q.ax * x >= s0) & (b + q.bx * x >= s1) & (c + q.cx * x >= s2) & (v > 0.0f) & (v <= most))
                    atomicMax(keys + row + k, ((unsigned long long)__float_as_uint(v) << 32)
                                              | (0x7fffffffu - (unsigned)id));
            }
#else
            // Eight pixels at a time; what is beyond the triangle's box is read and written back as it is.
            for (int k = 0; k < n; k += 8) {
                const Eight x = (float)k + COLUMNS, v = w + q.wx * x;
                Eight old;
                Mask8 ids;
                __builtin_memcpy(&old, nearest + row + k, sizeof old);
                const Mask8 in_it = (a + q.ax * x >= s0) & (b + q.bx * x >= s1) & (c + q.cx * x >= s2) & (v > old)
                                  & (v <= most) & (x < (float)n);
                __builtin_memcpy(&ids, winner + row + k, sizeof ids);
                old = in_it ? v : old;
                ids = in_it ? (Mask8)id : ids;
                __builtin_memcpy(nearest + row + k, &old, sizeof old);
                __builtin_memcpy(winner + row + k, &ids, sizeof ids);
            }
#endif
        }
    }
    }
    """
)
def raster(T: Tables, V: Views, S: Scratch, frame: int, object: int, first: int, last: int, edges: int):
    """Triangles of clusters [first, last) of an object into the visibility buffers: the largest 1/z at each point wins.

    Points are the pixels' centres, or with `edges` the four samples of the pixels that S.marks tells. The first of
    equals wins; on CUDA the order of tasks cannot be seen, because a key orders by 1/z first and triangle second.
    """
