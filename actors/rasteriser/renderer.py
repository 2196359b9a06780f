"""The embedded renderer: a batched rasteriser in NVIDIA Warp, for the CPU and for CUDA.

Objects with procedural or imported meshes, mip-mapped textures, Blinn-Phong materials under one directional light and
ambient light in spherical harmonics, soft-edged shadows, and a ground plane z = 0 that ends `layout.GROUND_DEPTH`
metres away. Edges in rgb are smoothed with four samples; instance ids and depths are those of the pixels' centres.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import warp as wp

from actors.rasteriser import kernels as warp_kernels
from actors.rasteriser.frames import DeviceFrames
from actors.rasteriser.launch import Launcher
from actors.rasteriser.layout import Tables
from actors.rasteriser.tables import SceneTables
from actors.render_requests import KnownAssets, check_cameras, check_channels, check_env_ids, check_reset, count_frames
from actors.scenes.checks import assets_of, check_scene
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
        self._assets = KnownAssets()
        self._scenes: SceneTables | None = SceneTables(max_envs, self._device, pool_bytes, pool_bytes)
        self._launcher = Launcher(self._device, antialias, mipmaps)
        self._frames: I64 = np.zeros(max_envs, dtype=np.int64)

    def load(self, assets: Mapping[str, Any]) -> None:
        """Make imported meshes and pictures known: content hash -> `actors.scenes.mesh.Mesh` or texels u8 (S, S, 3).

        A mapping may read what it holds when it is asked for it; what a scene names is checked when the scene is built.

        Raises:
            SceneError: if a mesh of a plain dict is malformed; then nothing was loaded.
        """
        self._assets.load(assets)

    def reset(self, env_ids: I64, scenes: Sequence[SceneSpec]) -> None:
        """Build `scenes[i]` in environment `env_ids[i]`; see `common.protocols.Renderer.reset`."""
        tables = self._open()
        ids = check_reset(env_ids, scenes, self._max_envs)
        found: dict[str, Any] = {}
        for env, scene in zip(ids.tolist(), scenes, strict=True):
            try:
                self._assets.find(assets_of(scene), found)
                check_scene(scene, found)
                self._assets.check_new(found)
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
        ids = check_env_ids(env_ids, self._max_envs)
        poses = np.array(world_T_cam, dtype=np.float64)
        intr = np.array(intrinsics, dtype=np.float64)
        height, width = int(size[0]), int(size[1])
        self._check_view(ids, poses, intr, (height, width), channels)
        images = self._launcher.draw(
            tables.fill(Tables()), ids, tables.largest(ids), poses, intr, (height, width), channels
        )
        return DeviceFrames(
            images.get("rgb"), images.get("instance_id"), images.get("depth"), count_frames(self._frames, ids), poses
        )

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

    def _check_view(self, ids: I64, poses: F64, intr: F64, size: tuple[int, int], channels: Sequence[Channel]) -> None:
        missing = ids[~self._open().ready[ids]]
        if len(missing):
            raise SceneError(f"environment {missing[0]} has no scene: reset it first")
        check_cameras(poses, intr, len(ids))
        if not (1 <= size[0] <= MAX_SIDE and 1 <= size[1] <= MAX_SIDE):
            raise SceneError(bad_value("size", size, f"(height, width), each 1 .. {MAX_SIDE}"))
        check_channels(channels)
