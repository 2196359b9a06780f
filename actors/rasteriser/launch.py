"""Runs the rasteriser's kernels over a batch of frames, in pieces that fit the scratch memory."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import warp as wp

from actors.rasteriser import kernels
from actors.rasteriser.layout import (
    CLUSTER,
    PLACED_FLOATS,
    PLACED_INTS,
    SHADOW_SIDE,
    TILE,
    VIEW_FLOATS,
    Images,
    Scratch,
    Tables,
    Views,
)
from common.protocols import F64, I64, Channel

_SCRATCH_BYTES = 2_000_000_000  # where every frame has its own
_CUDA_COLUMNS = 8  # pixels per task
_SPARE_IMAGES = 3  # per channel and shape
MAX_FRAMES = 1 << 20  # of one launch where frames share it
_DTYPES = {"rgb": (wp.uint8, 3), "instance_id": (wp.int32, 1), "depth": (wp.float32, 1)}
Largest = tuple[int, int, int, int]


class Launcher:
    """Scratch memory on one device and the launches that use it."""

    def __init__(self, device: Any, antialias: bool, mipmaps: bool, in_steps: bool | None = None) -> None:
        """On a Warp device; for the switches see `actors.rasteriser.renderer.WarpRenderer`.

        `in_steps`: draw in many small tasks; by default so on CUDA, where it is the fast way, and not on the CPU.
        """
        self._device, self._cuda = device, bool(device.is_cuda)
        self._in_steps = self._cuda if in_steps is None else in_steps
        self._antialias, self._mipmaps = antialias, mipmaps
        self._buffers: dict[str, Any] = {}
        self._spare: dict[tuple[Any, ...], list[Any]] = {}

    def draw(
        self,
        tables: Tables,
        env_ids: I64,
        largest: Largest,
        poses: F64,
        intrinsics: F64,
        size: tuple[int, int],
        channels: Sequence[Channel],
    ) -> dict[str, Any]:
        """Warp arrays of the channels asked for.

        Args:
            tables: of the scenes.
            env_ids: (N,).
            largest: see `actors.rasteriser.tables.SceneTables.largest`.
            poses: (N, 4, 4) world_T_cam.
            intrinsics: (N, 4).
            size: (height, width).
            channels: which to draw.
        """
        n, (height, width) = len(env_ids), size
        out = {c: self._image(c, n, size) for c in _DTYPES if c in channels}
        views = self._views(env_ids, size)
        views.smooth, views.mipmaps = int(self._antialias and "rgb" in channels), int(self._mipmaps)
        rows = np.ascontiguousarray(poses[:, :3], dtype=np.float64).reshape(n, 12)
        piece = self._piece(n, tables.objects, largest[1], height * width, views.smooth)
        for start in range(0, n, piece):
            part = slice(start, min(start + piece, n))
            views.frame_env = wp.array(env_ids[part].astype(np.int32), device=self._device)
            views.pose = wp.array(rows[part].ravel(), device=self._device)
            views.intr = wp.array(np.ascontiguousarray(intrinsics[part]).ravel(), device=self._device)
            images = self._images({c: a[part] for c, a in out.items()})
            scratch = self._scratch(part.stop - start, tables.objects, largest[1], size, views.smooth)
            if self._in_steps:
                self._draw_steps(tables, views, scratch, images, part.stop - start, largest)
            else:
                self._launch(kernels.draw_frame, part.stop - start, [tables, views, scratch, images])
        return out

    def draw_shadows(self, tables: Tables, env_ids: I64, largest: Largest) -> None:
        """Shadow maps of these environments, from their tables."""
        size = (SHADOW_SIDE, SHADOW_SIDE)
        views = self._views(env_ids, size)
        views.shadow = 1
        piece = self._piece(len(env_ids), tables.objects, largest[1], SHADOW_SIDE**2, 0)
        for start in range(0, len(env_ids), piece):
            part = env_ids[start : start + piece]
            n = len(part)
            views.frame_env = wp.array(part.astype(np.int32), device=self._device)
            # No camera: the light's own view stands in the tables.
            views.pose = wp.array(np.tile(np.eye(4)[:3].ravel(), n), device=self._device)
            views.intr = wp.array(np.ones(4 * n), device=self._device)
            scratch = self._scratch(n, tables.objects, largest[1], size, 0)
            if not self._in_steps:
                self._launch(kernels.draw_shadow, n, [tables, views, scratch])
                continue
            self._visible(tables, views, scratch, n, largest)
            self._launch(kernels.store_shadow, (n, SHADOW_SIDE), [tables, views, scratch])

    def nbytes(self) -> int:
        """Bytes of scratch."""
        return sum(int(a.capacity) for a in self._buffers.values())

    def close(self) -> None:
        """Free the scratch."""
        self._buffers, self._spare = {}, {}

    def _draw_steps(
        self, tables: Tables, views: Views, scratch: Scratch, images: Images, n: int, largest: Largest
    ) -> None:
        """The steps of `kernels.draw_frame` as launches of small tasks."""
        objects, _, _, triangles = largest
        clusters = -(-triangles // CLUSTER)
        scene = [tables, views, scratch]
        self._visible(tables, views, scratch, n, largest)
        if views.smooth:
            self._launch(kernels.mark, (n, views.height), scene)
            self._launch(kernels.raster_triangles, (n, objects, clusters), [*scene, 1])
            if self._cuda:
                count = n * views.height * views.width * 4
                self._launch(kernels.unpack, count, [scratch.sample_keys, scratch.sample_near, scratch.sample_winner])
        groups = -(-views.width // _CUDA_COLUMNS)
        self._launch(kernels.shade, (n, views.height, groups), [*scene, images, _CUDA_COLUMNS])

    def _visible(self, tables: Tables, views: Views, scratch: Scratch, n: int, largest: Largest) -> None:
        objects, _, vertices, triangles = largest
        scene = [tables, views, scratch]
        self._launch(kernels.place, n, scene)
        self._launch(kernels.project, (n, objects, vertices), scene)
        self._launch(kernels.clear_rows, (n, views.height), scene)
        self._launch(kernels.raster_triangles, (n, objects, -(-triangles // CLUSTER)), [*scene, 0])
        if self._cuda:
            count = n * views.height * views.width
            self._launch(kernels.unpack, count, [scratch.keys, scratch.nearest, scratch.winner])

    def _launch(self, kernel: Any, dim: Any, inputs: list[Any]) -> None:
        wp.launch(kernel, dim=dim, inputs=inputs, device=self._device)

    def _views(self, env_ids: I64, size: tuple[int, int]) -> Views:
        views = Views()
        views.height, views.width = size
        views.smooth = views.mipmaps = views.shadow = 0
        return views

    def _image(self, channel: str, n: int, size: tuple[int, int]) -> Any:
        dtype, values = _DTYPES[channel]
        shape = (n, *size, values) if values > 1 else (n, *size)
        if self._cuda:
            return wp.empty(shape, dtype=dtype, device=self._device)
        # Fresh memory costs the CPU a page fault every 4 kB, a tenth of a frame's time; so images that nobody holds any
        # more are written again. Three references: the list's, the loop's and the call's own.
        spare = self._spare.setdefault((channel, *shape), [])
        for image in spare:
            if sys.getrefcount(image) == 3:
                return image
        image = wp.empty(shape, dtype=dtype, device=self._device)
        if len(spare) < _SPARE_IMAGES:
            spare.append(image)
        return image

    def _images(self, out: dict[str, Any]) -> Images:
        images = Images()
        images.want_rgb, images.want_id, images.want_depth = (int(c in out) for c in _DTYPES)
        for channel, array in out.items():
            setattr(images, channel, array.flatten())
        return images

    def _piece(self, n: int, objects: int, vertices: int, pixels: int, edges: int) -> int:
        """Frames that go through at once; on the CPU they share one frame's scratch."""
        if not self._in_steps:
            return max(1, min(n, MAX_FRAMES))
        per_frame = 16 * vertices + 72 * objects + pixels * (16 + (69 if edges else 0)) + 4 * VIEW_FLOATS
        return max(1, min(n, _SCRATCH_BYTES // per_frame))

    def _scratch(self, n: int, objects: int, vertices: int, size: tuple[int, int], edges: int) -> Scratch:
        frames, (height, width) = (n if self._in_steps else 1), size
        pixels = height * width
        samples = 4 * pixels if edges else 1
        scratch = Scratch()
        scratch.per_frame, scratch.vertices = int(self._in_steps), vertices
        lengths: dict[str, tuple[int, Any]] = {
            "view": (frames * VIEW_FLOATS, wp.float32),
            "placed_f": (frames * objects * PLACED_FLOATS, wp.float32),
            "placed_i": (frames * objects * PLACED_INTS, wp.int32),
            "screen": (frames * 4 * vertices, wp.float32),
            # The CPU reads eight pixels at a time.
            "nearest": (frames * pixels + 8, wp.float32),
            "winner": (frames * pixels + 8, wp.int32),
            "marks": (frames * height * (width + 1) if edges else 1, wp.int32),
            "near_edge": (frames * pixels if edges else 1, wp.uint8),
            "tiles": (frames * (height // TILE + 1) * (width // TILE + 1) if edges else 1, wp.uint8),
            "sample_near": (frames * samples, wp.float32),
            "sample_winner": (frames * samples, wp.int32),
            "keys": (frames * pixels if self._cuda else 1, wp.uint64),
            "sample_keys": (frames * samples if self._cuda else 1, wp.uint64),
        }
        for name, (length, dtype) in lengths.items():
            if name not in self._buffers or self._buffers[name].size < length:
                self._buffers[name] = wp.empty(length, dtype=dtype, device=self._device)
            setattr(scratch, name, self._buffers[name])
        return scratch
