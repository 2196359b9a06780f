"""The renderer that a collector draws with, as the `renderer` settings say."""

from __future__ import annotations

from common.config import RendererConfig
from common.errors import ConfigError, bad_value
from common.protocols import Renderer


def make_renderer(config: RendererConfig, max_envs: int, name: str) -> Renderer:
    """Make the renderer of one collector; a supervised one starts its server and waits for it.

    Args:
        config: of the renderer.
        max_envs: room for environments 0 .. max_envs-1.
        name: of the collector, unique within the run.

    Raises:
        ConfigError: if the settings ask for a renderer that there is not.
    """
    if config.place == "embedded":
        from actors.rasteriser.renderer import WarpRenderer

        return WarpRenderer(max_envs=max_envs)
    raise ConfigError(bad_value("renderer.place", config.place, "embedded"))
