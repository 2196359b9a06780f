# Warp reads the structs' annotations itself.
# mypy: ignore-errors
"""Sizes, limits and argument records that the rasteriser's tables, kernels and C++ snippets share."""

import warp as wp

NEAR = 0.01  # metres; nothing nearer than this is drawn
GROUND_DEPTH = 50.0  # metres along the optical axis; the ground ends here, beyond is sky
SKY = (185, 205, 225)
OBJECT_BITS = 24  # a drawn triangle is named (object << OBJECT_BITS) | triangle; -1 is the background
CLUSTER = 32  # faces that are looked at or passed over together
CLUSTER_FLOATS = 8  # of a cluster: centre, radius, axis of its normals, sine of their spread
TILE = 8  # pixels of a side of the tiles that edges are noted in
SHADOW_SIDE = 192  # texels of a shadow map's side: 3 mm for objects over half a metre; more would miss the caches

MESH_INTS = 6  # of a mesh: first vertex, vertices, first face, faces, closed, first cluster
TEXTURE_INTS = 2  # of a texture: first texel, log2 of its side
OBJECT_INTS = 3  # of an object: mesh, texture, instance id
OBJECT_FLOATS = 64  # of an object: see `actors.rasteriser.tables`
ENV_INTS = 3  # of an environment: objects, ground texture, has shadows
ENV_FLOATS = 7  # of an environment: lit ground RGB, shaded ground RGB (256 is 1), texels per metre
VIEW_FLOATS = 24  # of a frame: see `actors.rasteriser.place.place_view`
PLACED_FLOATS = 12  # of an object in a frame: rows of cam_T_obj, scaled
PLACED_INTS = 7  # of an object in a frame: columns [x0, x1), rows [y0, y1), back faces count, first vertex, all ahead


@wp.struct
class Tables:
    """What scenes are made of; E environments, O object slots each.

    meshes (M, MESH_INTS); positions three planes x, y, z per mesh [m]; attributes (V, 8) normal, 0, u, v, 0, 0; faces
    (F, 4) corners and +-1 for normals on the winding's side or not; clusters (C, CLUSTER_FLOATS); textures
    (X, TEXTURE_INTS); texels packed 0x00BBGGRR; env_i (E, ENV_INTS); env_f (E, ENV_FLOATS); object_i
    (E, O, OBJECT_INTS); object_f (E, O, OBJECT_FLOATS); object_pose (E, O, 12) rows of world_T_obj; shadow_pose (E, 12)
    world to shadow map as column, row, height towards the light; shadow (E, SHADOW_SIDE, SHADOW_SIDE) heights, 0 where
    there is nothing; ground_shadow (E, SHADOW_SIDE, SHADOW_SIDE) whether the ground there is in the shadow.
    """

    objects: int
    meshes: wp.array(dtype=wp.int32)
    positions: wp.array(dtype=wp.float32)
    attributes: wp.array(dtype=wp.float32)
    faces: wp.array(dtype=wp.int32)
    clusters: wp.array(dtype=wp.float32)
    textures: wp.array(dtype=wp.int32)
    texels: wp.array(dtype=wp.uint32)
    env_i: wp.array(dtype=wp.int32)
    env_f: wp.array(dtype=wp.float32)
    object_i: wp.array(dtype=wp.int32)
    object_f: wp.array(dtype=wp.float32)
    object_pose: wp.array(dtype=wp.float64)
    shadow_pose: wp.array(dtype=wp.float64)
    shadow: wp.array(dtype=wp.float32)
    ground_shadow: wp.array(dtype=wp.uint8)


@wp.struct
class Views:
    """What is asked for: N frames of height x width.

    frame_env (N,), pose (N, 12) rows of world_T_cam, intr (N, 4) fx, fy, cx, cy; smooth: edges of rgb get four samples;
    mipmaps: small texels are averaged; shadow: 1 for shadow maps, seen from the light in parallel projection.
    """

    width: int
    height: int
    smooth: int
    mipmaps: int
    shadow: int
    frame_env: wp.array(dtype=wp.int32)
    pose: wp.array(dtype=wp.float64)
    intr: wp.array(dtype=wp.float64)


@wp.struct
class Scratch:
    """What is worked out on the way, per frame; on the CPU frames come one after the other and share one place.

    per_frame: 1, or 0 where shared; vertices: room of `screen`; view (VIEW_FLOATS,); placed_f, placed_i per object;
    screen (vertices, 4) projected x, y [px] and w = 1 / z, -1 if nearer than NEAR; nearest, winner (H, W) largest
    1/z and its triangle; marks (H, W + 1), near_edge (H, W) and tiles (H / TILE, W / TILE), see
    `actors.rasteriser.edges`; sample_near, sample_winner (H, W, 4). On CUDA, where tasks meet at a pixel, keys and
    sample_keys take (1/z, triangle) as one atomic number.
    """

    per_frame: int
    vertices: int
    view: wp.array(dtype=wp.float32)
    placed_f: wp.array(dtype=wp.float32)
    placed_i: wp.array(dtype=wp.int32)
    screen: wp.array(dtype=wp.float32)
    nearest: wp.array(dtype=wp.float32)
    winner: wp.array(dtype=wp.int32)
    marks: wp.array(dtype=wp.int32)
    near_edge: wp.array(dtype=wp.uint8)
    tiles: wp.array(dtype=wp.uint8)
    sample_near: wp.array(dtype=wp.float32)
    sample_winner: wp.array(dtype=wp.int32)
    keys: wp.array(dtype=wp.uint64)
    sample_keys: wp.array(dtype=wp.uint64)


@wp.struct
class Images:
    """What comes out: rgb u8 (N, H, W, 3), instance_id (N, H, W), depth (N, H, W) [m]; empty if not wanted."""

    want_rgb: int
    want_id: int
    want_depth: int
    rgb: wp.array(dtype=wp.uint8)
    instance_id: wp.array(dtype=wp.int32)
    depth: wp.array(dtype=wp.float32)


# The snippets' own names for these, and where a frame's parts of the scratch begin.
PROLOGUE = f"""
    constexpr float NEAR = {NEAR}f, LEAST = {1.0 / GROUND_DEPTH}f, MOST = {1.0 / NEAR}f;
    constexpr int BITS = {OBJECT_BITS}, MESH = {MESH_INTS}, TEXTURE = {TEXTURE_INTS}, OBJI = {OBJECT_INTS},
        OBJF = {OBJECT_FLOATS}, ENVI = {ENV_INTS}, ENVF = {ENV_FLOATS}, SIDE = {SHADOW_SIDE},
        CLUSTER = {CLUSTER}, TILE = {TILE};
    // Of a ground and a face that lies in it, the ground is seen, whatever rounding says.
    constexpr float GROUND_FIRST = 1.000002f;
    const int place = frame * S.per_frame, env = V.frame_env.data[frame], width = V.width, height = V.height;
    const int pixel_at = place * width * height, marks_at = place * (width + 1) * height;
    const int tiles_wide = width / TILE + 1, tiles_at = place * tiles_wide * (height / TILE + 1);
    float* view = S.view.data + place * {VIEW_FLOATS};
    float* placed_f = S.placed_f.data + place * T.objects * {PLACED_FLOATS};
    int* placed_i = S.placed_i.data + place * T.objects * {PLACED_INTS};
    float* screen = S.screen.data + place * 4 * S.vertices;
    const double* in = V.intr.data + frame * 4;
"""

# An object's rows of the tables.
OBJECT_PROLOGUE = f"""
    const int slot = env * T.objects + object;
    const int* mesh = T.meshes.data + MESH * T.object_i.data[slot * OBJI];
    const float* of = T.object_f.data + slot * OBJF;
    float* m = placed_f + object * {PLACED_FLOATS};
    int* box = placed_i + object * {PLACED_INTS};
"""

# Sample points of an edge pixel, relative to its centre: no two share a column or a row, so that a nearly upright or
# nearly level edge gets five grey levels instead of three.
SAMPLES = """
    const float DX[4] = {-0.125f, 0.375f, 0.125f, -0.375f}, DY[4] = {-0.375f, -0.125f, 0.375f, 0.125f};
"""

# Four numbers that are loaded, compared and added at once.
FOUR = """
#if defined(__CUDA_ARCH__)
    struct Four {
        float x, y, z, w;
        __device__ Four operator+(Four o) const { return {x + o.x, y + o.y, z + o.z, w + o.w}; }
        __device__ Four operator*(float s) const { return {x * s, y * s, z * s, w * s}; }
    };
    auto load = [](const float* p) -> Four { return {p[0], p[1], p[2], p[3]}; };
    auto lower = [](Four a, Four b) -> Four {
        return {fminf(a.x, b.x), fminf(a.y, b.y), fminf(a.z, b.z), fminf(a.w, b.w)};
    };
    auto upper = [](Four a, Four b) -> Four {
        return {fmaxf(a.x, b.x), fmaxf(a.y, b.y), fmaxf(a.z, b.z), fmaxf(a.w, b.w)};
    };
    auto all = [](float s) -> Four { return {s, s, s, s}; };
#else
    typedef float Four __attribute__((ext_vector_type(4)));
    typedef float Eight __attribute__((ext_vector_type(8)));
    typedef int Mask4 __attribute__((ext_vector_type(4)));
    typedef int Mask8 __attribute__((ext_vector_type(8)));
    auto load = [](const float* p) -> Four { Four v; __builtin_memcpy(&v, p, sizeof v); return v; };
    auto store = [](float* p, Four v) { __builtin_memcpy(p, &v, sizeof v); };
    auto lower = [](Four a, Four b) -> Four { return a < b ? a : b; };
    auto upper = [](Four a, Four b) -> Four { return a > b ? a : b; };
    auto all = [](float s) -> Four { return (Four)s; };
#endif
"""
