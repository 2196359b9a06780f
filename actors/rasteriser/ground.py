# Annotations are calls in Warp's dialect of Python.
# mypy: ignore-errors
"""Rows of ground and sky, and rows of ids and depths: C++ snippets in the manner of `place`.

Texels and colours are packed as 0x00BBGGRR. A texture's levels lie one after the other, each half as wide as the one
before, down to one texel. Bilinear weights are 1/256ths; light is a whole number per colour, 256 where the texel's own
colour is to be seen. Which level is looked at follows the area of texels under a pixel, which for a plane seen through
a pinhole is a constant times z^3.
"""

import warp as wp

from actors.rasteriser.layout import PROLOGUE, SKY, Images, Scratch, Tables, Views

wp.set_module_options({"enable_backward": False})

# What all that is coloured shares: the ground's light, levels of textures, light on a texel, and shadows.
COLOR = f"""
    constexpr unsigned SKY = {SKY[0] | SKY[1] << 8 | SKY[2] << 16}u, PAIR = 0xff00ffu;
    const float* light = T.env_f.data + env * ENVF;
    const unsigned lit_r = (unsigned)(light[0] + 0.5f), lit_g = (unsigned)(light[1] + 0.5f),
        lit_b = (unsigned)(light[2] + 0.5f);
    const int dark_r = (int)(light[3] - light[0]), dark_g = (int)(light[4] - light[1]),
        dark_b = (int)(light[5] - light[2]);
    const bool shadows = T.env_i.data[env * ENVI + 2] != 0;
    const int* ground_texture = T.textures.data + TEXTURE * T.env_i.data[env * ENVI + 1];
    const float* g = view;
    // log2 of a positive number in 256ths, linear between powers of two.
    auto log2_256 = [](float x) -> int {{
        union {{ float f; int i; }} bits;
        bits.f = x;
        return (bits.i - 0x3f800000) >> 15;
    }};
    // First texel of level l of a texture with 2^lg texels per side.
    auto level_at = [](int lg, int l) -> int {{ return ((4 << 2 * lg) - (4 << 2 * (lg - l))) / 3; }};
    // A blend of texels (red and blue in one number, each times 256; green likewise) under light.
    auto lit = [](unsigned rb, unsigned gg, unsigned lr, unsigned lg, unsigned lb) -> unsigned {{
        unsigned r8 = ((rb & 0xffffu) * lr + 0x8000u) >> 16, b8 = ((rb >> 16) * lb + 0x8000u) >> 16;
        unsigned g8 = (gg * lg + 0x8000u) >> 16;
        r8 = r8 > 255u ? 255u : r8; g8 = g8 > 255u ? 255u : g8; b8 = b8 > 255u ? 255u : b8;
        return r8 | (g8 << 8) | (b8 << 16);
    }};
    // How much of the shadow map around (s, t) is nearer to the light than d, in 256ths: four comparisons, blended.
    auto covered = [&](float s, float t, float d) -> int {{
        const float edge = (float)(SIDE - 2);
        if (!((s >= 1.0f) & (s < edge) & (t >= 1.0f) & (t < edge))) return 0;
        const float fs = s - 0.5f, ft = t - 0.5f;
        const int c = (int)fs, r = (int)ft;
        const float a = fs - (float)c, b = ft - (float)r;
        const float* q = T.shadow.data + (env * SIDE + r) * SIDE + c;
        const float above = (q[0] > d ? 1.0f - a : 0.0f) + (q[1] > d ? a : 0.0f);
        const float below = (q[SIDE] > d ? 1.0f - a : 0.0f) + (q[SIDE + 1] > d ? a : 0.0f);
        return (int)((above * (1.0f - b) + below * b) * 256.0f + 0.5f);
    }};
    // How much of the ground around (s, t) is in the shadow, in 256ths.
    auto ground_covered = [&](float s, float t) -> int {{
        const float edge = (float)(SIDE - 2);
        if (!((s >= 1.0f) & (s < edge) & (t >= 1.0f) & (t < edge))) return 0;
        const float fs = s - 0.5f, ft = t - 0.5f;
        const int c = (int)fs, r = (int)ft;
        const int a = (int)((fs - (float)c) * 256.0f), b = (int)((ft - (float)r) * 256.0f);
        const int w11 = (a * b + 128) >> 8, w01 = a - w11, w10 = b - w11, w00 = 256 - a - b + w11;
        const unsigned char* q = T.ground_shadow.data + (env * SIDE + r) * SIDE + c;
        return w00 * q[0] + w01 * q[1] + w10 * q[SIDE] + w11 * q[SIDE + 1];
    }};
    auto covered_at = [&](float x, float y, float z, float bias) -> int {{
        return covered(g[12] + z * (g[13] + g[14] * x + g[15] * y), g[16] + z * (g[17] + g[18] * x + g[19] * y),
                       g[20] + z * (g[21] + g[22] * x + g[23] * y) + bias);
    }};
"""


# One pass over the fragments or pixels [0, n): the four texels a00 .. a11 become a blend by the weights wu and wv; the
# first pass leaves it in rb and gg, the second mixes it in by the fraction of lod.
BLEND = """
            for (int k = 0; k < n; ++k) {
                const unsigned a = wu[k], b = wv[k], t00 = a00[k], t01 = a01[k], t10 = a10[k], t11 = a11[k];
                const unsigned w11 = (a * b + 128u) >> 8, w01 = a - w11, w10 = b - w11, w00 = 256u - a - b + w11;
                a00[k] = (t00 & PAIR) * w00 + (t01 & PAIR) * w01 + (t10 & PAIR) * w10 + (t11 & PAIR) * w11;
                a01[k] = (t00 >> 8 & 255u) * w00 + (t01 >> 8 & 255u) * w01 + (t10 >> 8 & 255u) * w10
                       + (t11 >> 8 & 255u) * w11;
            }
            if (pass == 0) {
                for (int k = 0; k < n; ++k) { rb[k] = a00[k]; gg[k] = a01[k]; }
            } else {
                for (int k = 0; k < n; ++k) {
                    const unsigned f = (unsigned)lod[k] & 255u;
                    const unsigned both = (rb[k] >> 8 & PAIR) * (256u - f) + (a00[k] >> 8 & PAIR) * f;
                    const unsigned middle = (gg[k] >> 8) * (256u - f) + (a01[k] >> 8) * f;
                    // One level alone keeps its fractions, whatever its neighbours in this run need.
                    rb[k] = f ? both : rb[k];
                    gg[k] = f ? middle : gg[k];
                }
            }
"""


@wp.func_native(
    PROLOGUE
    + COLOR
    + """
#if defined(__CUDA_ARCH__)
    constexpr int LANES = 4;
#else
    constexpr int LANES = 64;
#endif
    const float y = (float)row + 0.5f;
    const float base = g[0] + g[2] * y, ub = g[4] + g[6] * y, vb = g[8] + g[10] * y;
    const float gj = g[1], u0 = g[3], uj = g[5], v0 = g[7], vj = g[9], area = g[11];
    const float slope = (g[1] < 0.0f ? -g[1] : g[1]) + (g[2] < 0.0f ? -g[2] : g[2]) + 1e-20f;
    const int lg = ground_texture[1];
    const unsigned* t = T.texels.data + ground_texture[0];
    float z[LANES];
    int fu[LANES], fv[LANES], lod[LANES];
    unsigned a00[LANES], a01[LANES], a10[LANES], a11[LANES], wu[LANES], wv[LANES], rb[LANES], gg[LANES];
    for (int first = x0; first < x1; first += LANES) {
        const int n = x1 - first < LANES ? x1 - first : LANES;
        const float px = (float)first + 0.5f, w_first = base + gj * px, w_last = base + gj * (px + (float)(n - 1));
        const float w_least = w_first < w_last ? w_first : w_last, w_most = w_first < w_last ? w_last : w_first;
        unsigned char* p = I.rgb.data + 3 * ((frame * height + row) * width + first);
        for (int k = 0; k < n; ++k) {
            const float x = px + (float)k, w = base + gj * x;
            z[k] = 1.0f / (((w > LEAST) & (w <= MOST)) ? w : LEAST);
            const float u = (u0 + z[k] * (ub + uj * x)) * 256.0f, v = (v0 + z[k] * (vb + vj * x)) * 256.0f;
            fu[k] = (int)u - (u < 0.0f);
            fv[k] = (int)v - (v < 0.0f);
        }
        const float z_most = w_least > LEAST ? 1.0f / w_least : 1.0f / LEAST;
        const bool small = V.mipmaps && lg > 0 && area * z_most * z_most * z_most > 1.0f;
        if (small) {
            for (int k = 0; k < n; ++k) {
                const int l = log2_256(area * z[k] * z[k] * z[k] + 1e-30f) >> 1;
                lod[k] = l < 0 ? 0 : l > 256 * lg ? 256 * lg : l;
            }
        }
        for (int pass = 0; pass < (small ? 2 : 1); ++pass) {
            if (small) {
                for (int k = 0; k < n; ++k) {
                    int l = (lod[k] >> 8) + pass;
                    l = l > lg ? lg : l;
                    const int side = 1 << (lg - l), mask = side - 1, cu = (fu[k] >> l) - 128, cv = (fv[k] >> l) - 128;
                    const int c0 = (cu >> 8) & mask, c1 = (c0 + 1) & mask, r0 = ((cv >> 8) & mask) * side;
                    const int r1 = (r0 + side) & (mask * side), level = level_at(lg, l);
                    a00[k] = level + r0 + c0; a01[k] = level + r0 + c1;
                    a10[k] = level + r1 + c0; a11[k] = level + r1 + c1;
                    wu[k] = (unsigned)cu & 255u; wv[k] = (unsigned)cv & 255u;
                }
            } else {
                const int side = 1 << lg, mask = side - 1;
                for (int k = 0; k < n; ++k) {
                    const int cu = fu[k] - 128, cv = fv[k] - 128;
                    const int c0 = (cu >> 8) & mask, c1 = (c0 + 1) & mask, r0 = ((cv >> 8) & mask) * side;
                    const int r1 = (r0 + side) & (mask * side);
                    a00[k] = r0 + c0; a01[k] = r0 + c1; a10[k] = r1 + c0; a11[k] = r1 + c1;
                    wu[k] = (unsigned)cu & 255u; wv[k] = (unsigned)cv & 255u;
                }
            }
            for (int k = 0; k < n; ++k) {
                a00[k] = t[a00[k]]; a01[k] = t[a01[k]]; a10[k] = t[a10[k]]; a11[k] = t[a11[k]];
            }
    """
    + BLEND
    + """
        }
        int shaded = 0;
        if (shadows) {
            const float edge = (float)(SIDE - 2);
            for (int k = 0; k < n; ++k) {
                const float x = px + (float)k;
                const float s = g[12] + z[k] * (g[13] + g[14] * x + g[15] * y);
                const float r = g[16] + z[k] * (g[17] + g[18] * x + g[19] * y);
                const int inside = (s >= 1.0f) & (s < edge) & (r >= 1.0f) & (r < edge);
                const float fs = inside ? s - 0.5f : 1.0f, fr = inside ? r - 0.5f : 1.0f;
                const int c0 = (int)fs, r0 = (int)fr;
                shaded |= inside;
                fu[k] = r0 * SIDE + c0;
                wu[k] = (unsigned)(int)((fs - (float)c0) * 256.0f);
                wv[k] = (unsigned)(int)((fr - (float)r0) * 256.0f);
                lod[k] = inside;
            }
        }
        if (shaded) {
            // As `ground_covered`, which is for one point.
            const unsigned char* map = T.ground_shadow.data + env * SIDE * SIDE;
            for (int k = 0; k < n; ++k) {
                const unsigned char* q = map + fu[k];
                a00[k] = q[0]; a01[k] = q[1]; a10[k] = q[SIDE]; a11[k] = q[SIDE + 1];
            }
            for (int k = 0; k < n; ++k) {
                const unsigned a = wu[k], b = wv[k];
                const unsigned w11 = (a * b + 128u) >> 8, w01 = a - w11, w10 = b - w11, w00 = 256u - a - b + w11;
                const int c = lod[k] * (int)(a00[k] * w00 + a01[k] * w01 + a10[k] * w10 + a11[k] * w11);
                rb[k] = lit(rb[k], gg[k], lit_r + ((dark_r * c) >> 8), lit_g + ((dark_g * c) >> 8),
                            lit_b + ((dark_b * c) >> 8));
            }
        } else {
            for (int k = 0; k < n; ++k) rb[k] = lit(rb[k], gg[k], lit_r, lit_g, lit_b);
        }
        if ((w_least < LEAST + slope) | (w_most > MOST)) {
            for (int k = 0; k < n; ++k) {
                const float w = base + gj * (px + (float)k);
                float alpha = V.smooth ? (w - LEAST) / slope + 0.5f : w > LEAST ? 1.0f : 0.0f;
                alpha = alpha < 0.0f ? 0.0f : alpha > 1.0f ? 1.0f : alpha;
                const unsigned f = w > MOST ? 0u : (unsigned)(alpha * 256.0f + 0.5f), c = rb[k];
                rb[k] = (((c & PAIR) * f + (SKY & PAIR) * (256u - f)) >> 8 & PAIR)
                      | ((((c >> 8 & 255u) * f + (SKY >> 8 & 255u) * (256u - f)) >> 8) << 8);
            }
        }
        for (int k = 0; k < n; ++k) {
            const unsigned c = rb[k];
            p[3 * k] = (unsigned char)c;
            p[3 * k + 1] = (unsigned char)(c >> 8);
            p[3 * k + 2] = (unsigned char)(c >> 16);
        }
    }
    """
)
def ground_row(T: Tables, V: Views, S: Scratch, I: Images, frame: int, row: int, x0: int, x1: int):  # noqa: E741
    """Ground and sky of columns [x0, x1) of a row.

    64 pixels at a time, in loops that the compiler can vectorise: where each looks, the four texels around it (of two
    levels where texels are smaller than pixels), their blend, its light, and its bytes. The horizon is smoothed by how
    much of the pixel the ground covers.
    """


@wp.func_native(
    PROLOGUE
    + """
    const int at = (frame * height + row) * width, from = pixel_at + row * width;
    const float base = view[0] + view[2] * ((float)row + 0.5f) + 0.5f * view[1], step = view[1];
    if (I.want_depth) {
        float* out = I.depth.data + at;
        const float nothing = 1e38f * 1e38f;
        for (int j = 0; j < width; ++j) {
            const float w = base + step * (float)j;
            const bool hit = (w > LEAST) & (w <= MOST);
            out[j] = hit ? 1.0f / (hit ? w : 1.0f) : nothing;
        }
        for (int j = x0; j < x1; ++j)
            if (S.winner.data[from + j] >= 0) out[j] = 1.0f / S.nearest.data[from + j];
    }
    if (I.want_id) {
        int* out = I.instance_id.data + at;
        for (int j = 0; j < width; ++j) out[j] = 0;
        for (int j = x0; j < x1; ++j) {
            const int id = S.winner.data[from + j];
            if (id >= 0) out[j] = T.object_i.data[(env * T.objects + (id >> BITS)) * OBJI + 2];
        }
    }
    """
)
def geometry_row(T: Tables, V: Views, S: Scratch, I: Images, frame: int, row: int, x0: int, x1: int):  # noqa: E741
    """Instance ids and depths of a row; objects are only among columns [x0, x1)."""
