# Annotations are calls in Warp's dialect of Python.
# mypy: ignore-errors
"""The rasteriser's inner loops as C++ snippets, compiled into the kernels on CPU and CUDA alike.

They read flat arrays through `data`, without strides or bounds checks, which is what makes them fast on the CPU; the
kernels of `actors.warp_kernels` see to it that every index is inside. Texels and colours are packed as 0x00BBGGRR.
"""

import warp as wp

wp.set_module_options({"enable_backward": False})


@wp.func_native("return a.data[i];")
def read_f32(a: wp.array(dtype=wp.float32), i: int) -> float:
    """a[i]."""


@wp.func_native("return a.data[i];")
def read_i32(a: wp.array(dtype=wp.int32), i: int) -> int:
    """a[i]."""


@wp.func_native("a.data[i] = v;")
def write_f32(a: wp.array(dtype=wp.float32), i: int, v: float):
    """a[i] = v."""


@wp.func_native("a.data[i] = v;")
def write_i32(a: wp.array(dtype=wp.int32), i: int, v: int):
    """a[i] = v."""


@wp.func_native(
    """
    unsigned char* p = a.data + i;
    p[0] = (unsigned char)c; p[1] = (unsigned char)(c >> 8); p[2] = (unsigned char)(c >> 16);
    """
)
def write_rgb(a: wp.array(dtype=wp.uint8), i: int, c: wp.uint32):
    """The three bytes from a[i] on become the colour c."""


@wp.func_native(
    """
    const int fu = (int)(u * 256.0f) - (u < 0.0f) - 128, fv = (int)(v * 256.0f) - (v < 0.0f) - 128;
    const unsigned mask = (unsigned)size - 1u;
    const unsigned x0 = (unsigned)(fu >> 8) & mask, x1 = (x0 + 1u) & mask;
    const unsigned y0 = ((unsigned)(fv >> 8) & mask) * (unsigned)size;
    const unsigned y1 = (y0 + (unsigned)size) & (mask * (unsigned)size);
    const unsigned a = (unsigned)fu & 255u, b = (unsigned)fv & 255u;
    const unsigned w11 = (a * b + 128u) >> 8, w01 = a - w11, w10 = b - w11, w00 = 256u - a - b + w11;
    const unsigned* t = texels.data + offset;
    const unsigned c00 = t[y0 + x0], c01 = t[y0 + x1], c10 = t[y1 + x0], c11 = t[y1 + x1];
    const unsigned m = 0xff00ffu;
    const unsigned rb = (c00 & m) * w00 + (c01 & m) * w01 + (c10 & m) * w10 + (c11 & m) * w11;
    const unsigned g = (c00 >> 8 & 255u) * w00 + (c01 >> 8 & 255u) * w01 + (c10 >> 8 & 255u) * w10
                     + (c11 >> 8 & 255u) * w11;
    unsigned r8 = ((rb & 0xffffu) * (unsigned)light + 0x8000u) >> 16;
    unsigned b8 = ((rb >> 16) * (unsigned)light + 0x8000u) >> 16;
    unsigned g8 = (g * (unsigned)light + 0x8000u) >> 16;
    r8 = r8 > 255u ? 255u : r8; g8 = g8 > 255u ? 255u : g8; b8 = b8 > 255u ? 255u : b8;
    return r8 | (g8 << 8) | (b8 << 16);
    """
)
def texel(texels: wp.array(dtype=wp.uint32), offset: int, size: int, u: float, v: float, light: int) -> wp.uint32:
    """Lit colour at (u, v) [texels] of the texture that starts at `offset`; `size` texels per side, a power of two.

    Bilinear, wrapping. Weights are 1/256ths and add up to 256, red and blue share one multiplication, and `light` is
    256 where the texel's own colour is to be seen.
    """


@wp.func_native(
    """
    float* nearest = near_buffer.data + at;
    int* winner = tri_buffer.data + at;
    for (int j = x0; j < x1; ++j) {
        const float x = (float)j, inverse = rz + zj * x;
        const bool inside = (r0 + aj0 * x >= 0.0f) & (r1 + aj1 * x >= 0.0f) & (r2 + aj2 * x >= 0.0f);
        if (inside & (inverse > nearest[j]) & (inverse <= limit)) {
            nearest[j] = inverse;
            winner[j] = t;
        }
    }
    """
)
def raster_row(
    near_buffer: wp.array(dtype=wp.float32),
    tri_buffer: wp.array(dtype=wp.int32),
    at: int,
    x0: int,
    x1: int,
    t: int,
    r0: float,
    aj0: float,
    r1: float,
    aj1: float,
    r2: float,
    aj2: float,
    rz: float,
    zj: float,
    limit: float,
):
    """One row of triangle t: pixels [x0, x1) whose three weights r + aj * x are >= 0 and whose 1/z is the largest yet.

    `at` is the row's start in the buffers; `limit` the largest 1/z that is drawn.
    """


@wp.func_native(
    """
    const float* g = ground.data + frame * 12;
    const float y = (float)row, base = g[0] + g[2] * y, ub = g[4] + g[6] * y, vb = g[8] + g[10] * y;
    const float gj = g[1], u0 = g[3], uj = g[5], v0 = g[7], vj = g[9];
    const unsigned light = (unsigned)g[11], m = 0xff00ffu, mask = (unsigned)size - 1u;
    const unsigned* t = texels.data + offset;
    unsigned at00[64], at01[64], at10[64], at11[64], wu[64], wv[64], seen[64];
    for (int first = 0; first < width; first += 64) {
        const int n = width - first < 64 ? width - first : 64;
        for (int k = 0; k < n; ++k) {
            const float x = (float)(first + k), inverse = base + gj * x;
            const bool hit = (inverse > least) & (inverse <= most);
            const float z = 1.0f / (hit ? inverse : 1.0f);
            const float u = (u0 + z * (ub + uj * x)) * 256.0f, v = (v0 + z * (vb + vj * x)) * 256.0f;
            const int fu = (int)u - (u < 0.0f ? 129 : 128), fv = (int)v - (v < 0.0f ? 129 : 128);
            const unsigned c0 = (unsigned)(fu >> 8) & mask, c1 = (c0 + 1u) & mask;
            const unsigned r0 = ((unsigned)(fv >> 8) & mask) * (unsigned)size;
            const unsigned r1 = (r0 + (unsigned)size) & (mask * (unsigned)size);
            at00[k] = r0 + c0; at01[k] = r0 + c1; at10[k] = r1 + c0; at11[k] = r1 + c1;
            wu[k] = (unsigned)fu & 255u; wv[k] = (unsigned)fv & 255u; seen[k] = hit ? 0xffffffffu : 0u;
        }
        for (int k = 0; k < n; ++k) {
            at00[k] = t[at00[k]]; at01[k] = t[at01[k]]; at10[k] = t[at10[k]]; at11[k] = t[at11[k]];
        }
        for (int k = 0; k < n; ++k) {
            const unsigned a = wu[k], b = wv[k], t00 = at00[k], t01 = at01[k], t10 = at10[k], t11 = at11[k];
            const unsigned w11 = (a * b + 128u) >> 8, w01 = a - w11, w10 = b - w11, w00 = 256u - a - b + w11;
            const unsigned rb = (t00 & m) * w00 + (t01 & m) * w01 + (t10 & m) * w10 + (t11 & m) * w11;
            const unsigned gg = (t00 >> 8 & 255u) * w00 + (t01 >> 8 & 255u) * w01 + (t10 >> 8 & 255u) * w10
                              + (t11 >> 8 & 255u) * w11;
            unsigned r8 = ((rb & 0xffffu) * light + 0x8000u) >> 16;
            unsigned b8 = ((rb >> 16) * light + 0x8000u) >> 16;
            unsigned g8 = (gg * light + 0x8000u) >> 16;
            r8 = r8 > 255u ? 255u : r8; g8 = g8 > 255u ? 255u : g8; b8 = b8 > 255u ? 255u : b8;
            at00[k] = ((r8 | (g8 << 8) | (b8 << 16)) & seen[k]) | (sky & ~seen[k]);
        }
        unsigned char* p = rgb.data + 3 * (at + first);
        for (int k = 0; k < n; ++k) {
            const unsigned c = at00[k];
            p[3 * k] = (unsigned char)c;
            p[3 * k + 1] = (unsigned char)(c >> 8);
            p[3 * k + 2] = (unsigned char)(c >> 16);
        }
    }
    """
)
def ground_row(
    rgb: wp.array(dtype=wp.uint8),
    at: int,
    row: int,
    width: int,
    frame: int,
    ground: wp.array(dtype=wp.float32),
    texels: wp.array(dtype=wp.uint32),
    offset: int,
    size: int,
    least: float,
    most: float,
    sky: wp.uint32,
):
    """The background of row `row` of `frame`: the ground's lit texels where `least` < 1/z <= `most`, else sky.

    `at` is the row's first pixel in rgb, `ground` what `actors.warp_kernels.draw` describes, the texture as for
    `texel`. 64 pixels at a time, in loops that the compiler can vectorise: where each looks, the four texels around it,
    their blend, and its bytes.
    """
