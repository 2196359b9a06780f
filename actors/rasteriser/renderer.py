"""The embedded renderer: a batched rasteriser in NVIDIA Warp, for the CPU and for CUDA.

Objects with procedural or imported meshes, mip-mapped textures, Blinn-Phong materials under one directional light and
ambient light in spherical harmonics, soft-edged shadows, and a ground plane z = 0 that ends `layout.GROUND_DEPTH`
metres away. Edges in rgb are smoothed with four samples; instance ids and depths are those of the pixels' centres.
"""

from __future__ import annotations

import contextlib
from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
import warp as wp
from numpy.typing import NDArray

from actors.rasteriser import kernels as warp_kernels
from actors.rasteriser.frames import DeviceFrames
from actors.rasteriser.launch import Launcher
from actors.rasteriser.layout import Tables
from actors.rasteriser.tables import SceneTables
from actors.scenes.checks import assets_of, check_asset, check_scene, is_rigid
from common.errors import SceneError, bad_value
from common.protocols import F64, I64, Channel, Frames
from common.scene import SceneSpec

MAX_SIDE = 4096
POOL_BYTES = 256_000_000  # of meshes, and of textures, before those that no environment shows are dropped


class WarpRenderer:
    """`common.protocols.Renderer` over Warp kernels. Not thread-safe; one thread computes, whatever the machine has."""

    def __init__(
        self,
        max_envs: int,
        device: str = "cpu",
        *,
        antialias: bool = True,
        mipmaps: bool = True,
        pool_bytes: int = POOL_BYTES,
    ) -> None:
        """Room for environments 0 .. max_envs-1 on a Warp device ("cpu", "cuda:0"); loads the kernels.

        Args:
            max_envs: how many scenes are held at once.
            device: Warp's name of it.
            antialias: smooth edges in rgb.
            mipmaps: average texels that are smaller than a pixel.
            pool_bytes: of meshes, and of textures, before those that no environment shows are dropped.

        Raises:
            SceneError: if `max_envs` is not positive.
        """
        if max_envs < 1:
            raise SceneError(bad_value("max_envs", max_envs, ">= 1"))
        # A machine without a GPU driver is nothing to warn of where the CPU is asked for.
        quiet = wp.LOG_ERROR if device == "cpu" else wp.LOG_WARNING
        wp.config.log_level = max(wp.config.log_level, quiet)
        wp.init()
        self._device = wp.get_device(device)
        wp.load_module(warp_kernels, device=self._device)
        self._max_envs = max_envs
        self._assets: ChainMap[str, Any] = ChainMap()
        self._scenes: SceneTables | None = SceneTables(max_envs, self._device, pool_bytes, pool_bytes)
        self._launcher = Launcher(self._device, antialias, mipmaps)
        self._frames: I64 = np.zeros(max_envs, dtype=np.int64)
        self._checked: set[str] = set()

    def load(self, assets: Mapping[str, Any]) -> None:
        """Make imported meshes and pictures known: content hash -> `actors.scenes.mesh.Mesh` or texels u8 (S, S, 3).

        A mapping may read what it holds when it is asked for it; what a scene names is checked when the scene is built.

        Raises:
            SceneError: if a mesh of a plain dict is malformed; then nothing was loaded.
        """
        if isinstance(assets, dict):
            for name, asset in assets.items():
                check_asset(name, asset)
            self._checked.update(assets)
        self._assets.maps.insert(0, assets)  # type: ignore[arg-type]

    def reset(self, env_ids: I64, scenes: Sequence[SceneSpec]) -> None:
        """Build `scenes[i]` in environment `env_ids[i]`; see `common.protocols.Renderer.reset`."""
        tables = self._open()
        ids = self._check_ids(env_ids)
        if len(scenes) != len(ids):
            raise SceneError(bad_value("len(scenes)", len(scenes), f"len(env_ids) = {len(ids)}"))
        if len(np.unique(ids)) != len(ids):
            raise SceneError(bad_value("env_ids", ids.tolist(), "each environment once"))
        found: dict[str, Any] = {}
        for env, scene in zip(ids.tolist(), scenes, strict=True):
            try:
                self._find(assets_of(scene), found)
                check_scene(scene, found)
                self._check_new_assets(found)
            except SceneError as e:
                raise SceneError(f"environment {env}: {e}") from e
        for env, scene in zip(ids.tolist(), scenes, strict=True):
            tables.write(env, scene, found)
        shaded = np.array([e for e, s in zip(ids.tolist(), scenes, strict=True) if s.light.shadow > 0.0], np.int64)
        if len(shaded):
            tables.need_shadows()
            self._launcher.draw_shadows(tables.fill(Tables()), shaded, tables.largest(shaded))
        self._frames[ids] = 0

    def render(
        self, env_ids: I64, world_T_cam: F64, intrinsics: F64, size: tuple[int, int], channels: Sequence[Channel]
    ) -> Frames:
        """Render environment `env_ids[i]` from `world_T_cam[i]`; see `common.protocols.Renderer.render`."""
        return self.render_on_device(env_ids, world_T_cam, intrinsics, size, channels).to_host()

    def render_on_device(
        self, env_ids: I64, world_T_cam: F64, intrinsics: F64, size: tuple[int, int], channels: Sequence[Channel]
    ) -> DeviceFrames:
        """Like `render`, but what comes back stays on the device; nothing waits for it.

        Raises:
            SceneError: as `render`.
        """
        tables = self._open()
        ids = self._check_ids(env_ids)
        poses = np.array(world_T_cam, dtype=np.float64)
        intr = np.array(intrinsics, dtype=np.float64)
        height, width = int(size[0]), int(size[1])
        self._check_view(ids, poses, intr, (height, width), channels)
        images = self._launcher.draw(
            tables.fill(Tables()), ids, tables.largest(ids), poses, intr, (height, width), channels
        )
        return DeviceFrames(images.get("rgb"), images.get("instance_id"), images.get("depth"), self._count(ids), poses)

    def nbytes(self) -> int:
        """Bytes of scenes, meshes, textures and scratch on the device."""
        return self._open().nbytes() + self._launcher.nbytes()

    def close(self) -> None:
        """Free what is held; the renderer cannot be used afterwards."""
        self._scenes = None
        self._launcher.close()

    def _open(self) -> SceneTables:
        if self._scenes is None:
            raise SceneError("the renderer is closed: make a new one")
        return self._scenes

    def _find(self, names: set[str], found: dict[str, Any]) -> None:
        """Read assets once, for the check and the drawing: a second read of a lazy mapping might fail half way."""
        for name in sorted(names - set(found)):
            with contextlib.suppress(KeyError):  # what is missing is for the scene's check to name
                found[name] = self._assets[name]

    def _check_new_assets(self, found: Mapping[str, Any]) -> None:
        """Check assets the first time that any scene names them: those of a lazy mapping are not seen before."""
        for name in sorted(set(found) - self._checked):
            check_asset(name, found[name])
            self._checked.add(name)

    def _check_ids(self, env_ids: I64) -> I64:
        ids = np.asarray(env_ids)
        if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
            raise SceneError(bad_value("env_ids", f"{ids.dtype} {ids.shape}", "integers (N,)"))
        if len(ids) and (ids.min() < 0 or ids.max() >= self._max_envs):
            raise SceneError(bad_value("env_ids", ids.tolist(), f"0 .. {self._max_envs - 1}"))
        return ids.astype(np.int64)

    def _check_view(self, ids: I64, poses: F64, intr: F64, size: tuple[int, int], channels: Sequence[Channel]) -> None:
        n = len(ids)
        missing = ids[~self._open().ready[ids]]
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

    def _count(self, ids: I64) -> I64:
        """Frame numbers, counting on where an environment occurs more than once."""
        out = np.empty(len(ids), dtype=np.int64)
        for i, env in enumerate(ids.tolist()):
            out[i] = self._frames[env]
            self._frames[env] += 1
        return out


def _worst(array: NDArray[Any]) -> object:
    """What to show of a bad array: its first row that is not finite or not positive, else its shape."""
    if array.ndim >= 2 and not np.isfinite(array).all():
        bad = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
        return f"row {int(np.argmax(bad))}: {array[np.argmax(bad)].ravel().tolist()}"
    return f"shape {array.shape}"
