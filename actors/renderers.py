"""The renderer that a collector draws with, as the `renderer` settings say."""

from __future__ import annotations

import functools

from common.config import RendererConfig
from common.errors import ConfigError, bad_value
from common.protocols import Renderer


def make_renderer(config: RendererConfig, max_envs: int, name: str) -> Renderer:
    """Make the renderer of one collector; a supervised one starts its server and waits for it.

    Args:
        config: of the renderer.
        max_envs: room for environments 0 .. max_envs-1.
        name: of the collector, unique among those of its machine.

    Raises:
        ConfigError: if the server at an address draws with another backend than the configured one.
        RendererError: if there is no server, or it cannot start.
    """
    if config.place == "embedded":
        from actors.rasteriser.renderer import WarpRenderer

        return WarpRenderer(max_envs=max_envs)
    # Collectors that draw by themselves need no gRPC.
    from actors.render_service.supervised_renderer import FixedServer, SupervisedRenderer
    from actors.render_service.supervisor_command import supervise

    connect = functools.partial(_connect, config, name)
    if config.place == "remote":
        return SupervisedRenderer(FixedServer(config.address), connect)
    return SupervisedRenderer(supervise(config, name, max_envs), connect)


def waits_for_server(renderer: Renderer) -> bool:
    """Whether a call of another thread waits for a server to start, which has a limit of its own."""
    return bool(getattr(renderer, "waiting", False))


def _connect(config: RendererConfig, name: str, address: str) -> Renderer:
    from actors.render_service.client import RemoteRenderer

    client = RemoteRenderer(address, call_timeout_s=config.call_timeout_s, connect_s=config.warm_start_s, client=name)
    if client.hello.backend != config.backend:
        client.close()
        raise ConfigError(bad_value("renderer.backend", config.backend, f"{client.hello.backend!r}, the server's"))
    return client
