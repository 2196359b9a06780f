# Kernels are Warp's dialect of Python: annotations are calls, and `int(0)` makes a variable that a loop may change.
# mypy: ignore-errors
# ruff: noqa: E741, UP018, RUF046
"""The rasteriser's kernels, one source for CPU and CUDA.

A frame goes through the same steps on both: where things are (`place`), vertices on the image (`project`), the nearest
triangle per pixel (`raster`), which pixels are edges and what their samples see (`mark`, `raster` again), and the
channels asked for (`shade`). On the CPU one task takes a frame through all of them, `draw_frame`: calls and memory
traffic would cost more than the work. On CUDA each step is a launch of many small tasks, and visibility is decided by
atomic maxima over (1/z, triangle), so the order of tasks cannot be seen.
"""

import warp as wp

from actors.rasteriser.edges import mark_edges
from actors.rasteriser.ground import geometry_row, ground_row
from actors.rasteriser.layout import (
    ENV_INTS,
    MESH_INTS,
    OBJECT_INTS,
    PLACED_INTS,
    SHADOW_SIDE,
    Images,
    Scratch,
    Tables,
    Views,
)
from actors.rasteriser.objects import object_row
from actors.rasteriser.place import clear, place_object, place_view, project_vertices, store_shadow_row
from actors.rasteriser.raster import raster

wp.set_module_options({"enable_backward": False})

_ALL = wp.constant(1 << 30)


@wp.func
def _object_count(T: Tables, V: Views, frame: int) -> int:
    return T.env_i[V.frame_env[frame] * ENV_INTS]


@wp.func
def _place(T: Tables, V: Views, S: Scratch, frame: int):
    place_view(T, V, S, frame)
    first_vertex = int(0)
    for o in range(_object_count(T, V, frame)):
        place_object(T, V, S, frame, o, first_vertex)
        mesh = T.object_i[(V.frame_env[frame] * T.objects + o) * OBJECT_INTS]
        first_vertex += T.meshes[mesh * MESH_INTS + 1]


@wp.func
def _box(T: Tables, V: Views, S: Scratch, frame: int) -> wp.vec4i:
    """Columns [x0, x1) and rows [y0, y1) outside of which no object can be."""
    x0, x1, y0, y1 = int(V.width), int(0), int(V.height), int(0)
    for o in range(_object_count(T, V, frame)):
        b = (frame * S.per_frame * T.objects + o) * PLACED_INTS
        if S.placed_i[b + 1] > S.placed_i[b]:
            x0 = wp.min(x0, S.placed_i[b])
            x1 = wp.max(x1, S.placed_i[b + 1])
            y0 = wp.min(y0, S.placed_i[b + 2])
            y1 = wp.max(y1, S.placed_i[b + 3])
    if x1 <= x0:
        x0, x1, y0, y1 = int(0), int(0), int(0), int(0)
    return wp.vec4i(x0, x1, y0, y1)


@wp.func
def _in_sight(T: Tables, S: Scratch, frame: int, object: int) -> bool:
    b = (frame * S.per_frame * T.objects + object) * PLACED_INTS
    return S.placed_i[b + 1] > S.placed_i[b]


@wp.func
def _shade(T: Tables, V: Views, S: Scratch, I: Images, frame: int, row: int, box: wp.vec4i):
    x0, x1 = int(0), int(0)
    if row >= box[2] and row < box[3]:
        x0, x1 = box[0], box[1]
    if I.want_rgb != 0:
        ground_row(T, V, S, I, frame, row, 0, V.width)
        object_row(T, V, S, I, frame, row, x0, x1)
    if I.want_depth != 0 or I.want_id != 0:
        geometry_row(T, V, S, I, frame, row, x0, x1)


@wp.kernel
def draw_frame(T: Tables, V: Views, S: Scratch, I: Images):
    """One frame per task, all steps: for the CPU."""
    frame = wp.tid()
    _place(T, V, S, frame)
    box = _box(T, V, S, frame)
    clear(T, V, S, frame, box[0], box[1], box[2], box[3])
    count = _object_count(T, V, frame)
    for o in range(count):
        if _in_sight(T, S, frame, o):
            project_vertices(T, V, S, frame, o, 0, _ALL)
            raster(T, V, S, frame, o, 0, _ALL, 0)
    if V.smooth != 0:
        for row in range(box[2], box[3]):
            mark_edges(T, V, S, frame, row, box[0], box[1], box[2], box[3])
        for o in range(count):
            if _in_sight(T, S, frame, o):
                raster(T, V, S, frame, o, 0, _ALL, 1)
    for row in range(V.height):
        _shade(T, V, S, I, frame, row, box)


@wp.kernel
def draw_shadow(T: Tables, V: Views, S: Scratch):
    """One environment's shadow map per task: for the CPU."""
    frame = wp.tid()
    _place(T, V, S, frame)
    clear(T, V, S, frame, 0, V.width, 0, V.height)
    for o in range(_object_count(T, V, frame)):
        project_vertices(T, V, S, frame, o, 0, _ALL)
        raster(T, V, S, frame, o, 0, _ALL, 0)
    for row in range(SHADOW_SIDE):
        store_shadow_row(T, V, S, frame, row)


# ---------------------------------------------------------------- the same steps in many small tasks, for CUDA


@wp.kernel
def place(T: Tables, V: Views, S: Scratch):
    """Tasks: frames."""
    _place(T, V, S, wp.tid())


@wp.kernel
def project(T: Tables, V: Views, S: Scratch):
    """Tasks: frames x objects x vertices of the largest mesh."""
    frame, o, k = wp.tid()
    if o < _object_count(T, V, frame) and _in_sight(T, S, frame, o):
        project_vertices(T, V, S, frame, o, k, k + 1)


@wp.kernel
def clear_rows(T: Tables, V: Views, S: Scratch):
    """Tasks: frames x rows."""
    frame, row = wp.tid()
    clear(T, V, S, frame, 0, V.width, row, row + 1)


@wp.kernel
def raster_triangles(T: Tables, V: Views, S: Scratch, edges: int):
    """Tasks: frames x objects x clusters of the largest mesh."""
    frame, o, c = wp.tid()
    if o < _object_count(T, V, frame) and _in_sight(T, S, frame, o):
        raster(T, V, S, frame, o, c, c + 1, edges)


@wp.kernel
def unpack(keys: wp.array(dtype=wp.uint64), nearest: wp.array(dtype=wp.float32), winner: wp.array(dtype=wp.int32)):
    """Tasks: pixels or samples. Splits what the atomic maxima left into 1/z and triangle."""
    k = wp.tid()
    key = keys[k]
    nearest[k] = wp.cast(wp.uint32(key >> wp.uint64(32)), float)
    low = wp.uint32(key & wp.uint64(0xFFFFFFFF))
    winner[k] = wp.where((low >> wp.uint32(31)) != wp.uint32(0), -1, int(wp.uint32(0x7FFFFFFF) - low))


@wp.kernel
def mark(T: Tables, V: Views, S: Scratch):
    """Tasks: frames x rows."""
    frame, row = wp.tid()
    mark_edges(T, V, S, frame, row, 0, V.width, 0, V.height)


@wp.kernel
def shade(T: Tables, V: Views, S: Scratch, I: Images, columns: int):
    """Tasks: frames x rows x groups of `columns` pixels."""
    frame, row, group = wp.tid()
    x0 = group * columns
    x1 = wp.min(x0 + columns, V.width)
    if I.want_rgb != 0:
        ground_row(T, V, S, I, frame, row, x0, x1)
        object_row(T, V, S, I, frame, row, x0, x1)
    if (I.want_depth != 0 or I.want_id != 0) and group == 0:
        geometry_row(T, V, S, I, frame, row, 0, V.width)


@wp.kernel
def store_shadow(T: Tables, V: Views, S: Scratch):
    """Tasks: environments x rows of the map."""
    frame, row = wp.tid()
    store_shadow_row(T, V, S, frame, row)
