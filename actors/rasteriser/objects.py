# Annotations are calls in Warp's dialect of Python.
# mypy: ignore-errors
"""Colours of the objects' and of the edge pixels of a row: a C++ snippet in the manner of `place`.

What is to be coloured is a fragment: a triangle at a point, or the ground at one. A row's fragments are gathered, lit
and painted up to 64 at a time, in loops that the compiler can vectorise, and then put into their pixels.
"""

import warp as wp

from actors.rasteriser.ground import BLEND, COLOR
from actors.rasteriser.layout import FOUR, OBJECT_PROLOGUE, PROLOGUE, SAMPLES, Images, Scratch, Tables, Views
from actors.rasteriser.raster import HOMOGENEOUS

wp.set_module_options({"enable_backward": False})

# What a fragment looks like before its texture: fills the arrays of `object_row` at index k.
_FRAGMENT = (
    """
    auto ground_fragment = [&](int k, float x, float y) {
        const float w = g[0] + g[1] * x + g[2] * y;
        const bool hit = (w > LEAST) & (w <= MOST);
        const float z = 1.0f / (hit ? w : LEAST);
        texture_at[k] = ground_texture[0]; texture_lg[k] = ground_texture[1];
        u[k] = g[3] + z * (g[4] + g[5] * x + g[6] * y); v[k] = g[7] + z * (g[8] + g[9] * x + g[10] * y);
        ratio[k] = g[11] * z * z * z;
        const int c = !shadows ? 0 : ground_covered(g[12] + z * (g[13] + g[14] * x + g[15] * y),
                                                    g[16] + z * (g[17] + g[18] * x + g[19] * y));
        red[k] = lit_r + ((dark_r * c) >> 8);
        green[k] = lit_g + ((dark_g * c) >> 8);
        blue[k] = lit_b + ((dark_b * c) >> 8);
        shine[k] = hit ? 0u : SKY | 0x80000000u;
        owner[k] = -1;
    };
    auto object_fragment = [&](int k, int id, float x, float y) {
        const int object = id >> BITS;
        """
    + OBJECT_PROLOGUE
    + """
        const int* f = T.faces.data + 4 * (mesh[2] + (id & ((1 << BITS) - 1)));
        const int* texture = T.textures.data + TEXTURE * T.object_i.data[slot * OBJI + 1];
        const float* P = screen + 4 * box[5];
        const Four P0 = load(P + 4 * f[0]), P1 = load(P + 4 * f[1]), P2 = load(P + 4 * f[2]);
        const float* A = T.attributes.data + 8 * (mesh[0] + f[0]);
        const float* B = T.attributes.data + 8 * (mesh[0] + f[1]);
        const float* C = T.attributes.data + 8 * (mesh[0] + f[2]);
        const float side = (float)(1 << texture[1]);
        float p0, p1, p2, z, r, facing;
        if ((P0.z > 0.0f) & (P1.z > 0.0f) & (P2.z > 0.0f)) {
            const float ax = P0.x - x, bx = P1.x - x, cx = P2.x - x, ay = P0.y - y, by = P1.y - y, cy = P2.y - y;
            p0 = bx * cy - cx * by; p1 = cx * ay - ax * cy; p2 = ax * by - bx * ay;
            facing = p0 + p1 + p2;
            p0 *= P0.z; p1 *= P1.z; p2 *= P2.z;
            const float inverse = 1.0f / (p0 + p1 + p2);
            p0 *= inverse; p1 *= inverse; p2 *= inverse;
            z = facing * inverse;
            r = P0.z * P1.z * P2.z * z * z * inverse;
        } else {
            Affine q;
            homogeneous(m, T.positions.data + 3 * mesh[0], mesh[1], f, in, x, y, q);
            z = 1.0f / q.w;
            p0 = q.a * z; p1 = q.b * z; p2 = q.c * z;
            r = q.k * z * z * z;
            facing = q.k;
        }
        const Four normal = load(A) * p0 + load(B) * p1 + load(C) * p2;
        r *= ((B[4] - A[4]) * (C[5] - A[5]) - (C[4] - A[4]) * (B[5] - A[5])) * side * side;
        ratio[k] = r < 0.0f ? -r : r;
        u[k] = (p0 * A[4] + p1 * B[4] + p2 * C[4]) * side;
        v[k] = (p0 * A[5] + p1 * B[5] + p2 * C[5]) * side;
        texture_at[k] = texture[0]; texture_lg[k] = texture[1];
        // The side that is looked at is the lit one; f[3] says whether the normals are on the winding's side.
        const float turn = (facing < 0.0f) == (f[3] > 0) ? 1.0f : -1.0f;
        nx[k] = normal.x * turn; ny[k] = normal.y * turn; nz[k] = normal.z * turn;
        px[k] = x; py[k] = y; depth[k] = z; owner[k] = object;
    };
    """
)

# The light on fragments [0, n), object by object.
_LIT = (
    """
    auto illuminate = [&](int n) {
        for (int start = 0, stop = 0; start < n; start = stop) {
            const int object = owner[start];
            while (stop < n && owner[stop] == object) ++stop;
            if (object < 0) continue;
            """
    + OBJECT_PROLOGUE
    + """
            const float lx = of[40], ly = of[41], lz = of[42];
            for (int k = start; k < stop; ++k) {
                const float inverse = 1.0f / wp::sqrt(nx[k] * nx[k] + ny[k] * ny[k] + nz[k] * nz[k] + 1e-20f);
                nx[k] *= inverse; ny[k] *= inverse; nz[k] *= inverse;
                const float cosine = nx[k] * lx + ny[k] * ly + nz[k] * lz, most = cosine < 1.0f ? cosine : 1.0f;
                direct[k] = most > 0.0f ? most : 0.0f;
                shine[k] = 0u;
            }
            if (shadows) {
                for (int k = start; k < stop; ++k) {
                    // A surface nearly along the light needs more room before it counts as its own shadow.
                    const float d = direct[k];
                    gloss[k] = of[59] * (1.0f + wp::sqrt(1.0f - d * d) / (d > 0.1f ? d : 0.1f));
                }
                for (int k = start; k < stop; ++k) {
                    if (direct[k] <= 0.0f) continue;
                    gloss[k] = 1.0f - of[60] * (float)covered_at(px[k], py[k], depth[k], gloss[k]) * (1.0f / 256.0f);
                    direct[k] *= gloss[k];
                }
            }
            if (of[51] > 0.0f) {
                for (int k = start; k < stop; ++k) {
                    if (direct[k] <= 0.0f) continue;
                    // Half way between the light and the eye, in the object's frame.
                    const float rx = (px[k] - (float)in[2]) / (float)in[0], ry = (py[k] - (float)in[3]) / (float)in[1];
                    float e[3], length = 1e-20f, half = 1e-20f;
                    for (int q = 0; q < 3; ++q) {
                        e[q] = -(m[q] * rx + m[4 + q] * ry + m[8 + q]);
                        length += e[q] * e[q];
                    }
                    length = 1.0f / wp::sqrt(length);
                    for (int q = 0; q < 3; ++q) { e[q] = e[q] * length + of[40 + q]; half += e[q] * e[q]; }
                    const float h = (nx[k] * e[0] + ny[k] * e[1] + nz[k] * e[2]) / wp::sqrt(half);
                    float bright = h > 0.0f ? wp::pow(h < 1.0f ? h : 1.0f, of[51]) : 0.0f;
                    if (shadows) bright *= gloss[k];
                    for (int q = 0; q < 3; ++q) {
                        const unsigned c = (unsigned)(bright * of[48 + q] + 0.5f);
                        shine[k] |= (c > 255u ? 255u : c) << 8 * q;
                    }
                }
            }
            for (int q = 0; q < 3; ++q) {
                unsigned* channel = q == 0 ? red : q == 1 ? green : blue;
                const float* s = of + q;
                const float constant = s[0], strength = s[44], xx = s[4], yy = s[8], zz = s[12], xy = s[16], xz = s[20];
                const float yz = s[24], x1 = s[28], y1 = s[32], z1 = s[36];
                if (of[43] > 0.0f) {
                    for (int k = start; k < stop; ++k) {
                        const float a = nx[k], b = ny[k], c = nz[k];
                        float l = constant + a * (xx * a + xy * b + xz * c + x1) + b * (yy * b + yz * c + y1)
                                + c * (zz * c + z1);
                        l = (l > 0.0f ? l : 0.0f) + strength * direct[k];
                        channel[k] = (unsigned)(int)((l < 4096.0f ? l : 4096.0f) + 0.5f);
                    }
                } else {
                    for (int k = start; k < stop; ++k) {
                        const float l = constant + strength * direct[k];
                        channel[k] = (unsigned)(int)((l < 4096.0f ? l : 4096.0f) + 0.5f);
                    }
                }
            }
        }
    };
    """
)

# The textures, light and highlights of fragments [0, n), packed into `color`.
_TEXTURED = (
    """
    auto paint = [&](int n) {
        bool small = false;
        for (int k = 0; k < n; ++k) {
            const float a = u[k] * 256.0f, b = v[k] * 256.0f;
            fu[k] = (int)a - (a < 0.0f);
            fv[k] = (int)b - (b < 0.0f);
            const int top = 256 * texture_lg[k], l = log2_256(ratio[k] + 1e-30f) >> 1;
            lod[k] = ((V.mipmaps == 0) | (l < 0)) ? 0 : (l > top ? top : l);
            small |= lod[k] > 0;
        }
        for (int pass = 0; pass < (small ? 2 : 1); ++pass) {
            for (int k = 0; k < n; ++k) {
                const int lg = texture_lg[k], next = (lod[k] >> 8) + pass, l = next > lg ? lg : next;
                const int side = 1 << (lg - l), mask = side - 1, cu = (fu[k] >> l) - 128, cv = (fv[k] >> l) - 128;
                const int c0 = (cu >> 8) & mask, c1 = (c0 + 1) & mask, r0 = ((cv >> 8) & mask) * side;
                const int r1 = (r0 + side) & (mask * side), level = texture_at[k] + level_at(lg, l);
                a00[k] = level + r0 + c0; a01[k] = level + r0 + c1;
                a10[k] = level + r1 + c0; a11[k] = level + r1 + c1;
                wu[k] = (unsigned)cu & 255u; wv[k] = (unsigned)cv & 255u;
            }
            for (int k = 0; k < n; ++k) {
                a00[k] = T.texels.data[a00[k]]; a01[k] = T.texels.data[a01[k]];
                a10[k] = T.texels.data[a10[k]]; a11[k] = T.texels.data[a11[k]];
            }
"""
    + BLEND
    + """
        }
        for (int k = 0; k < n; ++k) {
            const unsigned c = lit(rb[k], gg[k], red[k], green[k], blue[k]), s = shine[k];
            unsigned r8 = (c & 255u) + (s & 255u), g8 = (c >> 8 & 255u) + (s >> 8 & 255u);
            unsigned b8 = (c >> 16 & 255u) + (s >> 16 & 255u);
            r8 = r8 > 255u ? 255u : r8; g8 = g8 > 255u ? 255u : g8; b8 = b8 > 255u ? 255u : b8;
            color[k] = s >> 31 ? s & 0xffffffu : r8 | (g8 << 8) | (b8 << 16);
        }
    };
    """
)


@wp.func_native(
    PROLOGUE
    + COLOR
    + SAMPLES
    + HOMOGENEOUS
    + FOUR
    + """
#if defined(__CUDA_ARCH__)
    constexpr int LANES = 8;
#else
    constexpr int LANES = 64;
#endif
    float u[LANES], v[LANES], ratio[LANES], nx[LANES], ny[LANES], nz[LANES], px[LANES], py[LANES], depth[LANES];
    float direct[LANES], gloss[LANES];
    int owner[LANES];
    int texture_at[LANES], texture_lg[LANES], fu[LANES], fv[LANES], lod[LANES], column[LANES], weight[LANES];
    unsigned red[LANES], green[LANES], blue[LANES], shine[LANES], color[LANES];
    unsigned a00[LANES], a01[LANES], a10[LANES], a11[LANES], wu[LANES], wv[LANES], rb[LANES], gg[LANES];
    """
    + _FRAGMENT
    + _LIT
    + _TEXTURED
    + """
    // Of a mesh finer than the pixels: triangles that share a vertex, which is split where the surface folds.
    auto neighbours = [&](int a, int b) -> bool {
        if ((a < 0) | (b < 0) | ((a ^ b) >> BITS != 0)) return false;
        const int object = a >> BITS;
        """
    + OBJECT_PROLOGUE
    + """
        const int* f = T.faces.data + 4 * (mesh[2] + (a & ((1 << BITS) - 1)));
        const int* g = T.faces.data + 4 * (mesh[2] + (b & ((1 << BITS) - 1)));
        const float* P = screen + 4 * box[5];
        const Four A = load(P + 4 * f[0]), B = load(P + 4 * f[1]), C = load(P + 4 * f[2]);
        const float area = (B.x - A.x) * (C.y - A.y) - (C.x - A.x) * (B.y - A.y);
        if ((area > 0.5f) | (area < -0.5f)) return false;
        return (f[0] == g[0]) | (f[0] == g[1]) | (f[0] == g[2]) | (f[1] == g[0]) | (f[1] == g[1]) | (f[1] == g[2])
             | (f[2] == g[0]) | (f[2] == g[1]) | (f[2] == g[2]);
    };
    const int* winner = S.winner.data + pixel_at + row * width;
    const int* pre = S.marks.data + marks_at + row * (width + 1);
    unsigned char* out = I.rgb.data + 3 * (frame * height + row) * width;
    const float y = (float)row + 0.5f;
    int j = x0;
    while (j < x1) {
        // Up to LANES fragments: a pixel's centre, or an edge pixel's triangles, each at the middle of its samples.
        int n = 0;
        for (; j < x1 && n + 4 <= LANES; ++j) {
            const float x = (float)j + 0.5f;
            if (V.smooth && pre[j + 1] != pre[j]) {
                const int* ids = S.sample_winner.data + 4 * (pixel_at + row * width + pre[j]);
                unsigned done = 0u;
                for (int s = 0; s < 4; ++s) {
                    if (done >> s & 1u) continue;
                    // Of neighbours in a fine mesh one stands for both, seen at its own samples.
                    float sx = 0.0f, sy = 0.0f;
                    int count = 0, own = 0;
                    for (int r = s; r < 4; ++r) {
                        const bool same = ids[r] == ids[s];
                        if (done >> r & 1u || !(same || neighbours(ids[r], ids[s]))) continue;
                        if (same) { sx += DX[r]; sy += DY[r]; ++own; }
                        ++count;
                        done |= 1u << r;
                    }
                    const float inverse = own == 1 ? 1.0f : own == 2 ? 0.5f : own == 3 ? 1.0f / 3.0f : 0.25f;
                    column[n] = j; weight[n] = count;
                    if (ids[s] < 0) ground_fragment(n, x + sx * inverse, y + sy * inverse);
                    else object_fragment(n, ids[s], x + sx * inverse, y + sy * inverse);
                    ++n;
                }
            } else if (winner[j] >= 0) {
                column[n] = j; weight[n] = 4;
                object_fragment(n, winner[j], x, y);
                ++n;
            }
        }
        illuminate(n);
        paint(n);
        for (int k = 0; k < n;) {
            unsigned c = color[k];
            unsigned char* p = out + 3 * column[k];
            if (weight[k] < 4) {
                unsigned r = 0x20002u, q = 2u;
                for (int left = 4; left > 0; ++k) {
                    r += (color[k] & PAIR) * weight[k];
                    q += (color[k] >> 8 & 255u) * weight[k];
                    left -= weight[k];
                }
                c = (r >> 2 & PAIR) | (q >> 2 & 255u) << 8;
            } else ++k;
            p[0] = (unsigned char)c; p[1] = (unsigned char)(c >> 8); p[2] = (unsigned char)(c >> 16);
        }
    }
    """
)
def object_row(T: Tables, V: Views, S: Scratch, I: Images, frame: int, row: int, x0: int, x1: int):  # noqa: E741
    """Colours of the objects' and of the edge pixels among columns [x0, x1) of a row, over what `ground_row` drew."""
