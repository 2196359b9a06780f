"""The production renderer: `common.protocols.Renderer` over Isaac Sim, in a process of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actors.isaac.app import App, AppConfig, start
from actors.isaac.camera import usd_camera
from actors.isaac.canary import check_canary
from actors.isaac.frames import instance_ids, label_names, metres
from actors.isaac.freshness import STAMPS, Freshness
from actors.isaac.pictures import PictureFiles
from actors.isaac.requests import Pass, check_reach, check_size, passes
from actors.isaac.stage import REACH, Room, Stage, label_of
from actors.isaac.tiles import Tiles
from actors.isaac.translate import SceneEdits, translate, translate_light
from actors.render_requests import KnownAssets, check_cameras, check_channels, check_env_ids, check_reset, count_frames
from actors.scenes.checks import assets_of, check_scene
from common.errors import SceneError, bad_value
from common.processes import rss_bytes
from common.protocols import F32, F64, I32, I64, U8, Channel, Frames
from common.scene import SceneSpec


@dataclasses.dataclass(frozen=True)
class IsaacConfig:
    """The renderer's settings; those of its process are `AppConfig`'s.

    Attributes:
        max_envs: scenes held at once.
        size: (height, width) of every image that this process will render.
        folder: of this process alone: Kit's caches, textures.
        tiles: frames drawn at a time, which must be under one light. All tiles are drawn in every pass, so where every
            scene has a light of its own, more than one only costs.
        slots: most objects in a scene.
        subframes: updates after a frame shows the right state, for the denoiser to forget the last one.
        max_updates: updates to wait for the right state before the frame counts as stale; less than 50.
        allow_offsets: render principal points off the centre; see `actors.isaac.camera.usd_camera`.
        allow_unsupported_gpu: start on a GPU without ray-tracing cores.
        cpu_threads: of Kit; 0 is every processor this process may use.
        recycle_resets: scenes built before the process asks to be replaced.
        recycle_growth: memory, as a share of that after the start, before it asks.
    """

    max_envs: int
    size: tuple[int, int]
    folder: Path
    tiles: int = 1
    slots: int = 12
    subframes: int = 4
    max_updates: int = 20
    allow_offsets: bool = False
    allow_unsupported_gpu: bool = False
    cpu_threads: int = 0
    recycle_resets: int = 2000
    recycle_growth: float = 1.3

    def __post_init__(self) -> None:
        for name in ("max_envs", "slots", "recycle_resets"):
            if getattr(self, name) < 1:
                raise SceneError(bad_value(f"isaac.{name}", getattr(self, name), ">= 1"))
        if min(self.size) < 16 or max(self.size) > 4096:
            raise SceneError(bad_value("isaac.size", self.size, "(height, width), each 16 .. 4096"))
        if not 1 <= self.tiles <= 1024:
            raise SceneError(bad_value("isaac.tiles", self.tiles, "1 .. 1024"))
        if not 0 <= self.subframes <= 200:
            raise SceneError(bad_value("isaac.subframes", self.subframes, "0 .. 200"))
        if not 1 <= self.max_updates < STAMPS:
            raise SceneError(bad_value("isaac.max_updates", self.max_updates, f"1 .. {STAMPS - 1}"))


class IsaacRenderer:
    """`common.protocols.Renderer` over Isaac Sim. One per process; belongs to the main thread, which starts it.

    Attributes:
        unexplained: pixels so far whose label nothing explained; they are background in `instance_id`.
        resets: scenes built so far.
    """

    def __init__(self, config: IsaacConfig) -> None:
        """Start Isaac Sim, build the stage, and draw a lit cube to see that drawing works.

        Raises:
            IsaacError: if Isaac Sim cannot be started here (see `actors.isaac.app.start`), or draws something else.
        """
        self._config = config
        self._app: App | None = start(
            AppConfig(config.folder / "kit", config.cpu_threads, config.allow_unsupported_gpu)
        )
        self._assets = KnownAssets()
        self._scenes: dict[int, tuple[SceneSpec, SceneEdits]] = {}
        self._frames: I64 = np.zeros(config.max_envs, dtype=np.int64)
        self.unexplained = self.resets = 0
        api = self._app.api
        api.attach_renderer()
        room = Room(config.max_envs, config.slots, config.tiles)
        self._stage = Stage(api, room, PictureFiles(config.folder / "pictures"))
        self._pictures = Tiles(self._app, self._stage.camera_paths, config.size)
        api.play()
        self._freshness = Freshness(self._app, self._stage, self._pictures, config.subframes, config.max_updates)
        check_canary(self, config.size)
        self._scenes.clear()
        self.unexplained = self.resets = 0
        self._baseline = rss_bytes()

    def load(self, assets: Mapping[str, Any]) -> None:
        """Make imported meshes and pictures known, as `actors.rasteriser.renderer.WarpRenderer.load` does.

        Raises:
            SceneError: if a mesh of a plain dict is malformed; then nothing was loaded.
        """
        self._assets.load(assets)

    def reset(self, env_ids: I64, scenes: Sequence[SceneSpec]) -> None:
        """Build `scenes[i]` in environment `env_ids[i]`; see `common.protocols.Renderer.reset`."""
        self._open()
        ids = check_reset(env_ids, scenes, self._config.max_envs).tolist()
        made = []
        for env, scene in zip(ids, scenes, strict=True):
            try:
                made.append(self._translate(scene))
            except SceneError as e:
                raise SceneError(f"environment {env}: {e}") from e
        for env, scene, edits in zip(ids, scenes, made, strict=True):
            self._stage.apply(env, edits)
            self._scenes[env] = scene, edits
        self._frames[ids] = 0
        self.resets += len(ids)

    def render(
        self, env_ids: I64, world_T_cam: F64, intrinsics: F64, size: tuple[int, int], channels: Sequence[Channel]
    ) -> Frames:
        """Render environment `env_ids[i]` from `world_T_cam[i]`; see `common.protocols.Renderer.render`.

        Raises:
            SceneError: as the protocol says; also for another size than the configured one, pixels that are not square,
                and cameras beyond the reach of their cell.
            StaleFrameError: if no frame of these poses came within `max_updates`.
            IsaacError: if what came back is not what the manifest says.
        """
        self._open()
        ids = check_env_ids(env_ids, self._config.max_envs)
        poses, intr = np.array(world_T_cam, dtype=np.float64), np.array(intrinsics, dtype=np.float64)
        for env in ids.tolist():
            if env not in self._scenes:
                raise SceneError(f"environment {env} has no scene: reset it first")
        check_size(size, self._config.size)
        check_channels(channels)
        check_cameras(poses, intr, len(ids))
        check_reach(poses)
        lenses = [usd_camera(row, self._config.size, self._config.allow_offsets) for row in intr]
        shape = (len(ids), *self._config.size)
        rgb = np.zeros((*shape, 3), dtype=np.uint8) if "rgb" in channels else None
        instance = np.zeros(shape, dtype=np.int32) if "instance_id" in channels else None
        depth = np.zeros(shape, dtype=np.float32) if "depth" in channels else None
        for batch in passes([self._scenes[env][0].light for env in ids.tolist()], self._stage.room.cameras):
            self._stage.show({int(ids[row]) for row in batch.rows})
            self._stage.light(translate_light(batch.light))
            for camera, row in enumerate(batch.rows):
                self._stage.aim(camera, int(ids[row]), poses[row], lenses[row])
            self._read(batch, ids, self._freshness.settle(), rgb, instance, depth)
        return Frames(rgb, instance, depth, count_frames(self._frames, ids), poses)

    def recycling_reason(self) -> str:
        """Why this process should be replaced by a fresh one, "" if it need not; Kit's memory creeps."""
        if self.resets >= self._config.recycle_resets:
            return f"{self.resets} resets, of {self._config.recycle_resets}"
        grown = rss_bytes() / self._baseline
        if grown > self._config.recycle_growth:
            return f"memory is {grown:.2f} of that after the start, {self._config.recycle_growth:g} is allowed"
        return ""

    @property
    def version(self) -> str:
        """Version of Isaac Sim."""
        return self._open().version

    @property
    def latency(self) -> int:
        """Updates until a change of the stage is seen, as found out so far."""
        return self._freshness.latency

    def prim_count(self) -> int:
        """Prims on the stage; the same at any time after the start."""
        return self._stage.prim_count()

    def close(self) -> None:
        """End Isaac Sim, and with it usually this process: the last call that is made."""
        app, self._app = self._app, None
        if app is not None:
            self._pictures.close()
            app.close()

    def _open(self) -> App:
        if self._app is None:
            raise SceneError("the renderer is closed: start another process")
        return self._app

    def _translate(self, scene: SceneSpec) -> SceneEdits:
        found: dict[str, Any] = {}
        self._assets.find(assets_of(scene), found)
        check_scene(scene, found)
        self._assets.check_new(found)
        for obj in scene.objects:
            if np.abs(obj.pose()[:3, 3]).max() > REACH:
                at = obj.pose()[:3, 3].tolist()
                raise SceneError(bad_value(f"object {obj.instance_id}: position", at, f"within {REACH:g} m"))
        return translate(scene, found, self._config.slots)

    def _read(
        self, batch: Pass, ids: I64, depths: F32, rgb: U8 | None, instance: I32 | None, depth: F32 | None
    ) -> None:
        """Put a pass's pictures into the rows that asked for them."""
        if depth is not None:
            for camera, row in enumerate(batch.rows):
                depth[row] = metres(depths[camera])
        if rgb is not None:
            tiles, _ = self._pictures.read("rgb")
            for camera, row in enumerate(batch.rows):
                rgb[row] = tiles[camera, ..., :3]
        if instance is not None:
            tiles, info = self._pictures.read("labels")
            names = label_names(info)
            for camera, row in enumerate(batch.rows):
                env = int(ids[row])
                labels = {label_of(env, slot): k for slot, k in self._scenes[env][1].instances.items()}
                instance[row], unknown = instance_ids(tiles[camera, ..., 0], names, labels)
                self.unexplained += unknown
