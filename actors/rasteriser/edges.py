# Annotations are calls in Warp's dialect of Python.
# mypy: ignore-errors
"""Which pixels lie on an edge of what is seen, and so get four samples of colour: a C++ snippet, as in `place`.

Edges are where objects meet or end and where a surface folds or passes behind itself. On a plane 1/z is affine in the
pixel, so its second difference tells a fold or a jump from a slope.
"""

import warp as wp

from actors.rasteriser.layout import PROLOGUE, SAMPLES, Scratch, Tables, Views

wp.set_module_options({"enable_backward": False})

FOLD = 0.8  # change of dz / dx from one pixel to the next, above which a surface counts as folded


@wp.func_native(
    PROLOGUE
    + SAMPLES
    + f"""
    // The second difference of 1/z, relative, is the change of slope times a pixel's width at z = 1.
    const float fold_limit = {FOLD}f / (float)(in[0] < in[1] ? in[0] : in[1]);
    """
    + """
    const float* n = S.nearest.data + pixel_at + row * width;
    const int* t = S.winner.data + pixel_at + row * width;
    const bool inner = (row > y0) & (row + 1 < y1);
    const float* n_up = inner ? n - width : n;
    const float* n_down = inner ? n + width : n;
    const int* t_up = row > y0 ? t - width : t;
    const int* t_down = row + 1 < y1 ? t + width : t;
    int* pre = S.marks.data + marks_at + row * (width + 1);
    int count = 0;
    pre[x0] = 0;
    for (int first = x0; first < x1; first += 64) {
        unsigned char edge[64];
        const int m = x1 - first < 64 ? x1 - first : 64;
        // The first and the last column lack a neighbour; elsewhere the loop is plain, so that it can be vectorised.
        const int k0 = first == x0 ? 1 : 0, k1 = first + m == x1 ? m - 1 : m;
        edge[0] = edge[m - 1] = 0;
        for (int k = k0; k < k1; ++k) {
            const int j = first + k, o = t[j] >> BITS;
            const int other = (o ^ t[j - 1] >> BITS) | (o ^ t[j + 1] >> BITS) | (o ^ t_up[j] >> BITS)
                            | (o ^ t_down[j] >> BITS);
            const float w = n[j], dx = n[j - 1] + n[j + 1] - 2.0f * w, dy = n_up[j] + n_down[j] - 2.0f * w;
            const float limit = fold_limit * w, ex = dx < 0.0f ? -dx : dx, ey = dy < 0.0f ? -dy : dy;
            edge[k] = (unsigned char)((other != 0) | ((o >= 0) & ((ex > limit) | ((ey > limit) & inner))));
        }
        for (int k = 0; k < m; k += m - 1 > 0 ? m - 1 : 1) {
            const int j = first + k, l = j > x0 ? j - 1 : j, r = j + 1 < x1 ? j + 1 : j, o = t[j] >> BITS;
            if (l == j || r == j)
                edge[k] = (o != t[l] >> BITS) | (o != t[r] >> BITS) | (o != t_up[j] >> BITS) | (o != t_down[j] >> BITS);
        }
        for (int k = 0; k < m; ++k) {
#if !defined(__CUDA_ARCH__)
            unsigned long long eight = 1ull;
            if (k + 8 <= m) __builtin_memcpy(&eight, edge + k, 8);
            if (!eight) {
                for (int l = 1; l <= 8; ++l) pre[first + k + l] = count;
                k += 7;
                continue;
            }
#endif
            if (edge[k]) {
                const int at = 4 * (pixel_at + row * width + count);
                for (int s = 0; s < 4; ++s) {
                    const float w = view[0] + view[1] * ((float)(first + k) + 0.5f + DX[s])
                                  + view[2] * ((float)row + 0.5f + DY[s]);
                    const float ground = ((w > LEAST) & (w <= MOST)) ? w * GROUND_FIRST : 0.0f;
#if defined(__CUDA_ARCH__)
                    S.sample_keys.data[at + s] = ((unsigned long long)__float_as_uint(ground) << 32) | 0x80000000ull;
#else
                    S.sample_near.data[at + s] = ground;
                    S.sample_winner.data[at + s] = -1;
#endif
                }
                ++count;
                S.tiles.data[tiles_at + row / TILE * tiles_wide + (first + k) / TILE] = 1;
                for (int i = row > 0 ? row - 1 : 0; i <= row + 1 && i < height; ++i)
                    for (int j = first + k > 0 ? first + k - 1 : 0; j <= first + k + 1 && j < width; ++j)
                        S.near_edge.data[pixel_at + i * width + j] = 1;
            }
            pre[first + k + 1] = count;
        }
    }
    """
)
def mark_edges(T: Tables, V: Views, S: Scratch, frame: int, row: int, x0: int, x1: int, y0: int, y1: int):
    """Count the edge pixels of a row from the left, and clear their samples.

    S.marks of a row holds, for each column, how many edge pixels are left of it: pixel j is one if marks[j + 1] is not
    marks[j], and its samples are then the marks[j]-th of the row. S.near_edge tells the pixels that have an edge pixel
    among them or their eight neighbours, S.tiles the tiles that have one: small triangles and clusters elsewhere are
    passed over. Outside columns [x0, x1) and rows [y0, y1) no object is drawn, and nothing is written.
    """
