"""The embedded renderer: a batched rasteriser in NVIDIA Warp, for the CPU and for CUDA.

Objects with procedural or imported meshes, bilinear textures, one directional light over ambient light, and an analytic
ground plane z = 0 that ends `warp_kernels.GROUND_DEPTH` metres away. No shadows. One sample per pixel, at its centre.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
import warp as wp
from numpy.typing import NDArray

from actors import warp_kernels
from actors.shapes import Mesh
from actors.warp_scene import ScenePool, build_scene, check_scene, is_rigid
from common.errors import SceneError, bad_value
from common.geometry import inverse_pose
from common.protocols import F64, I64, Channel, Frames
from common.scene import SceneSpec

MAX_SIDE = 4096
_SCRATCH_BYTES = 32_000_000  # of triangle coefficients; larger batches are drawn in pieces
_CUDA_GRAIN, _CUDA_ROWS = 1, 1


class WarpRenderer:
    """`common.protocols.Renderer` over Warp kernels. Not thread-safe; one thread computes, whatever the machine has."""

    def __init__(self, max_envs: int, device: str = "cpu") -> None:
        """Room for environments 0 .. max_envs-1 on a Warp device ("cpu", "cuda:0"); loads the kernels.

        Raises:
            SceneError: if `max_envs` is not positive.
        """
        if max_envs < 1:
            raise SceneError(bad_value("max_envs", max_envs, ">= 1"))
        wp.config.log_level = max(wp.config.log_level, wp.LOG_WARNING)
        wp.init()
        self._device = wp.get_device(device)
        wp.load_module(warp_kernels, device=self._device)
        self._max_envs = max_envs
        self._meshes: dict[str, Mesh] = {}
        self._pool: ScenePool | None = ScenePool(max_envs, self._device)
        self._frames: I64 = np.zeros(max_envs, dtype=np.int64)
        self._scratch: dict[str, Any] = {}

    def load(self, assets: Mapping[str, Any]) -> None:
        """Make imported meshes known: content hash -> `actors.shapes.Mesh`.

        Raises:
            SceneError: if a mesh is malformed; then none was loaded.
        """
        for name, mesh in assets.items():
            if not isinstance(mesh, Mesh):
                raise SceneError(bad_value(f"asset {name}", type(mesh).__name__, "an actors.shapes.Mesh"))
            v, f = len(mesh.vertices), mesh.faces
            shapes = (mesh.vertices.shape, mesh.normals.shape, mesh.uvs.shape, f.shape[1:])
            if shapes != ((v, 3), (v, 3), (v, 2), (3,)) or not len(f) or f.min() < 0 or f.max() >= v:
                raise SceneError(bad_value(f"asset {name}", shapes, "(V, 3), (V, 3), (V, 2), (F, 3) with indices < V"))
            if not all(np.isfinite(a).all() for a in (mesh.vertices, mesh.normals, mesh.uvs)):
                raise SceneError(bad_value(f"asset {name}", "nan or inf", "finite vertices, normals and uvs"))
        self._meshes.update(assets)

    def reset(self, env_ids: I64, scenes: Sequence[SceneSpec]) -> None:
        """Build `scenes[i]` in environment `env_ids[i]`; see `common.protocols.Renderer.reset`."""
        pool = self._open_pool()
        ids = self._check_ids(env_ids)
        if len(scenes) != len(ids):
            raise SceneError(bad_value("len(scenes)", len(scenes), f"len(env_ids) = {len(ids)}"))
        if len(np.unique(ids)) != len(ids):
            raise SceneError(bad_value("env_ids", ids.tolist(), "each environment once"))
        for env, scene in zip(ids.tolist(), scenes, strict=True):
            try:
                check_scene(scene, self._meshes)
            except SceneError as e:
                raise SceneError(f"environment {env}: {e}") from e
        pool.write(ids, [build_scene(scene, self._meshes) for scene in scenes])
        self._frames[ids] = 0

    def render(
        self, env_ids: I64, world_T_cam: F64, intrinsics: F64, size: tuple[int, int], channels: Sequence[Channel]
    ) -> Frames:
        """Render environment `env_ids[i]` from `world_T_cam[i]`; see `common.protocols.Renderer.render`."""
        pool = self._open_pool()
        ids = self._check_ids(env_ids)
        poses = np.array(world_T_cam, dtype=np.float64)
        intr = np.ascontiguousarray(intrinsics, dtype=np.float64)
        height, width = int(size[0]), int(size[1])
        self._check_view(ids, poses, intr, (height, width), channels)
        n = len(ids)
        rgb = np.empty((n, height, width, 3) if "rgb" in channels else 0, np.uint8)
        ids_out = np.zeros((n, height, width) if "instance_id" in channels else 0, np.int32)
        depth = np.empty((n, height, width) if "depth" in channels else 0, np.float32)
        inputs = self._view_inputs(ids, poses, intr)
        piece = max(1, min(n, _SCRATCH_BYTES // (pool.capacity * (warp_kernels.COEFS + 4) * 4)))
        self._make_scratch(piece, height * width)
        for start in range(0, n, piece):
            part = slice(start, start + piece)
            views = {name: array[part] for name, array in inputs.items()}
            self._draw(views, (height, width), channels, (rgb[part], ids_out[part], depth[part]))
        return Frames(
            rgb if "rgb" in channels else None,
            ids_out if "instance_id" in channels else None,
            depth if "depth" in channels else None,
            self._count(ids),
            poses,
        )

    def nbytes(self) -> int:
        """Bytes of scenes and scratch on the device."""
        return self._open_pool().nbytes() + sum(a.size * 4 for a in self._scratch.values())

    def close(self) -> None:
        """Free the pools; the renderer cannot be used afterwards."""
        self._pool = None
        self._scratch = {}

    def _open_pool(self) -> ScenePool:
        if self._pool is None:
            raise SceneError("the renderer is closed: make a new one")
        return self._pool

    def _check_ids(self, env_ids: I64) -> I64:
        ids = np.asarray(env_ids)
        if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
            raise SceneError(bad_value("env_ids", f"{ids.dtype} {ids.shape}", "integers (N,)"))
        if len(ids) and (ids.min() < 0 or ids.max() >= self._max_envs):
            raise SceneError(bad_value("env_ids", ids.tolist(), f"0 .. {self._max_envs - 1}"))
        return ids.astype(np.int64)

    def _check_view(self, ids: I64, poses: F64, intr: F64, size: tuple[int, int], channels: Sequence[Channel]) -> None:
        n = len(ids)
        missing = ids[~self._open_pool().ready[ids]]
        if len(missing):
            raise SceneError(f"environment {missing[0]} has no scene: reset it first")
        if poses.shape != (n, 4, 4) or not np.isfinite(poses).all() or not is_rigid(poses).all():
            raise SceneError(bad_value("world_T_cam", _worst(poses), f"finite rigid poses ({n}, 4, 4)"))
        if intr.shape != (n, 4) or not np.isfinite(intr).all() or (intr[:, :2] <= 0.0).any():
            raise SceneError(bad_value("intrinsics", _worst(intr), f"finite ({n}, 4), focal lengths > 0"))
        if not (1 <= size[0] <= MAX_SIDE and 1 <= size[1] <= MAX_SIDE):
            raise SceneError(bad_value("size", size, f"(height, width), each 1 .. {MAX_SIDE}"))
        unknown = [c for c in channels if c not in get_args(Channel)]
        if unknown or not channels:
            raise SceneError(bad_value("channels", list(channels), f"one or more of {get_args(Channel)}"))

    def _view_inputs(self, ids: I64, poses: F64, intr: F64) -> dict[str, NDArray[Any]]:
        """Per-frame kernel inputs: camera rows, intrinsics, and the ground as functions affine in the pixel.

        With the camera at o and a ray of direction d (d's optical component 1), the ground is hit at z-depth
        1 / (-d_z / o_z), at o + z d. Everything per pixel is therefore a constant plus multiples of column and row.
        """
        pool = self._open_pool()
        rays = poses[:, :3, :3].copy()
        rays[:, :, 0] /= intr[:, None, 0]
        rays[:, :, 1] /= intr[:, None, 1]
        rays[:, :, 2] += rays[:, :, 0] * (0.5 - intr[:, None, 2]) + rays[:, :, 1] * (0.5 - intr[:, None, 3])
        affine = rays[:, :, [2, 0, 1]]
        eye = poses[:, :3, 3]
        ambient, diffuse, light_z, metres = pool.light[ids].T
        level = np.where(eye[:, 2] == 0.0, 1e-12, eye[:, 2])
        texels = pool.ground_side[ids] / metres
        ground = np.empty((len(ids), 12))
        ground[:, 0:3] = -affine[:, 2] / level[:, None]
        ground[:, 3], ground[:, 4:7] = eye[:, 0] * texels, affine[:, 0] * texels[:, None]
        ground[:, 7], ground[:, 8:11] = eye[:, 1] * texels, affine[:, 1] * texels[:, None]
        lit = np.maximum(np.where(level > 0.0, light_z, -light_z), 0.0)
        ground[:, 11] = np.round(256.0 * (ambient + diffuse * lit))
        return {
            "frame_env": ids.astype(np.int32),
            "cam": np.ascontiguousarray(inverse_pose(poses)[:, :3].reshape(-1, 12)),
            "intr": intr,
            "ground": ground.astype(np.float32),
        }

    def _make_scratch(self, frames: int, pixels: int) -> None:
        cuda, capacity = self._device.is_cuda, self._open_pool().capacity
        sizes = {
            "coefs": (frames * capacity * warp_kernels.COEFS, wp.float32),
            "boxes": (frames * capacity * 4, wp.int32),
            "near_buffer": (pixels * (frames if cuda else 1), wp.float32),
            "tri_buffer": (pixels * (frames if cuda else 1), wp.int32),
        }
        for name, (length, dtype) in sizes.items():
            if name not in self._scratch or self._scratch[name].size < length:
                self._scratch[name] = wp.empty(length, dtype=dtype, device=self._device)

    def _draw(
        self,
        inputs: dict[str, NDArray[Any]],
        size: tuple[int, int],
        channels: Sequence[Channel],
        out: tuple[NDArray[Any], NDArray[Any], NDArray[Any]],
    ) -> None:
        pool, (height, width), device = self._open_pool(), size, self._device
        frames, scratch, scene = len(inputs["cam"]), self._scratch, pool.device_arrays
        grain, rows = (_CUDA_GRAIN, _CUDA_ROWS) if device.is_cuda else (pool.capacity, height)
        view = {k: wp.array(v.reshape(-1), device=device, copy=False) for k, v in inputs.items()}
        made = [wp.array(v.reshape(-1), device=device, copy=False) for v in out]
        wp.launch(
            warp_kernels.setup_triangles,
            dim=frames * -(-pool.capacity // grain),
            inputs=[
                grain, pool.capacity, height, width, int("rgb" in channels),
                view["frame_env"], view["cam"], view["intr"], scene["counts"], scene["corners"], scene["uvs"],
                scene["cosines"], scene["lights"], scratch["coefs"], scratch["boxes"],
            ],
            device=device,
        )  # fmt: skip
        wp.launch(
            warp_kernels.draw,
            dim=frames * -(-height // rows),
            inputs=[
                rows, height * width if device.is_cuda else 0, pool.capacity, height, width,
                int("rgb" in channels), int("instance_id" in channels), int("depth" in channels),
                view["frame_env"], scene["counts"], scratch["coefs"], scratch["boxes"], scene["instance"],
                scene["texture"], scene["texels"], view["ground"], scene["ground_texture"],
                scratch["near_buffer"], scratch["tri_buffer"], *made,
            ],
            device=device,
        )  # fmt: skip
        if device.is_cuda:
            for array, on_device in zip(out, made, strict=True):
                array[...] = on_device.numpy().reshape(array.shape)

    def _count(self, ids: I64) -> I64:
        """Frame numbers, counting on where an environment occurs more than once."""
        out = np.empty(len(ids), dtype=np.int64)
        for i, env in enumerate(ids.tolist()):
            out[i] = self._frames[env]
            self._frames[env] += 1
        return out


def _worst(array: NDArray[Any]) -> object:
    """What to show of a bad array: its first row that is not finite, else its shape."""
    if array.ndim >= 2 and not np.isfinite(array).all():
        bad = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
        return f"row {int(np.argmax(bad))}: {array[np.argmax(bad)].ravel().tolist()}"
    return f"shape {array.shape}"
