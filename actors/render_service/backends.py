"""What a render server draws with. Each is imported only when it is asked for: Isaac's Python has no Warp kernels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from common.errors import ConfigError, bad_value
from common.protocols import Renderer

BACKENDS = ("warp", "isaacsim")


@dataclasses.dataclass(frozen=True)
class Backend:
    """A renderer, and what is known of it.

    Attributes:
        renderer: that draws, made in the thread that will use it.
        name: of `BACKENDS`.
        version: of the library that draws.
        fixed_size: (height, width) of the one size it renders, or None.
        device_bytes: what it holds on its device; 0 where it does not know.
        recycle_advised: whether a fresh process would do better.
        idle: called now and then while nothing is asked for.
        closes: False where closing it ends the process with an exit code of its own.
    """

    renderer: Renderer
    name: str
    version: str
    fixed_size: tuple[int, int] | None = None
    device_bytes: Callable[[], int] = lambda: 0
    recycle_advised: Callable[[], bool] = lambda: False
    idle: Callable[[], None] = lambda: None
    closes: bool = True


def open_backend(name: str, max_envs: int, device: str, size: tuple[int, int] | None, tiles: int = 1) -> Backend:
    """Start a backend in this thread.

    Args:
        name: one of `BACKENDS`.
        max_envs: room for environments 0 .. max_envs-1.
        device: Warp's name of the device; of Isaac Sim only "cuda:K".
        size: (height, width) of the one size that Isaac Sim renders; Warp renders any.
        tiles: frames that Isaac Sim draws at a time, which must be under one light; Warp draws all at once.

    Raises:
        ConfigError: if the backend has no such device or size.
        ImportError: if its library is not installed.
        ServofleetError, RuntimeError: if it cannot start here.
    """
    return _open_warp(max_envs, device) if name == "warp" else _open_isaacsim(max_envs, device, size, tiles)


def _open_warp(max_envs: int, device: str) -> Backend:
    import warp

    from actors.rasteriser.renderer import WarpRenderer

    renderer = WarpRenderer(max_envs, device)
    return Backend(renderer, "warp", str(warp.__version__), None, renderer.nbytes)


def _open_isaacsim(max_envs: int, device: str, size: tuple[int, int] | None, tiles: int) -> Backend:
    from actors.isaac.folders import cache_root, claim_folder
    from actors.isaac.renderer import IsaacConfig, IsaacRenderer
    from actors.isaac.version import installed_version

    if device != "cuda:0":
        # Vulkan does not see CUDA's masks: the process, or its container, must be given the one GPU.
        raise ConfigError(bad_value("--device", device, "cuda:0: give the process one GPU by NVIDIA_VISIBLE_DEVICES"))
    if size is None:
        raise ConfigError(bad_value("--size", "", "HEIGHTxWIDTH, the one size that Isaac Sim renders"))
    version = installed_version()
    folder = claim_folder(cache_root(), version)  # with the shaders that an earlier process compiled
    renderer = IsaacRenderer(IsaacConfig(max_envs=max_envs, size=size, folder=folder, tiles=tiles))
    return Backend(
        renderer,
        "isaacsim",
        version,
        size,
        recycle_advised=lambda: bool(renderer.recycling_reason()),
        closes=False,
    )
