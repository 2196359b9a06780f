"""The renderer that a collector draws with, as the `renderer` settings say."""

from __future__ import annotations

from collections.abc import Callable

from common.config import RendererConfig
from common.errors import ConfigError, bad_value
from common.protocols import Renderer


def make_renderer(config: RendererConfig, max_envs: int, name: str, size: int) -> Renderer:
    """Make the renderer of one collector; a supervised one starts its server and waits for it.

    Args:
        config: of the renderer.
        max_envs: room for environments 0 .. max_envs-1.
        name: of the collector, unique among those of its machine.
        size: side of the images [px], for a backend that renders one size.

    Raises:
        ConfigError: if the server at an address draws with another backend than the configured one.
        RendererError: if there is no server, or it cannot start.
    """
    if config.place == "embedded":
        from actors.rasteriser.renderer import WarpRenderer

        return WarpRenderer(max_envs=max_envs, device=config.device or "cpu", pool_bytes=config.pool_bytes)
    # Collectors that draw by themselves need no gRPC.
    from actors.render_service.supervised_renderer import FixedServer, SupervisedRenderer
    from actors.render_service.supervisor_command import supervise

    connect = _connector(config, name)
    if config.place == "remote":
        return SupervisedRenderer(FixedServer(config.address), connect)
    return SupervisedRenderer(supervise(config, name, max_envs, size=size), connect)


def drawn_by(renderer: Renderer) -> str:
    """Name and version of what draws in a server, as in "warp-1.19.0"; "" of a renderer of this process."""
    hello = getattr(getattr(renderer, "client", None), "hello", None)
    return "" if hello is None else f"{hello.backend}-{hello.backend_version}"


def waits_for_server(renderer: Renderer) -> bool:
    """Whether a call of another thread waits for a server to start, which has a limit of its own."""
    return bool(getattr(renderer, "waiting", False))


def _connector(config: RendererConfig, name: str) -> Callable[[str], Renderer]:
    """Connects to the servers of one collector, which must all draw with the same."""
    first = ""

    def connect(address: str) -> Renderer:
        from actors.render_service.client import RemoteRenderer

        nonlocal first
        client = RemoteRenderer(
            address, client=name, call_timeout_s=config.call_timeout_s, connect_s=config.warm_start_s
        )
        seen = f"{client.hello.backend}-{client.hello.backend_version}"
        error = ""
        if client.hello.backend != config.backend:
            error = bad_value("renderer.backend", config.backend, f"{client.hello.backend!r}, the server's")
        elif first and seen != first:
            error = bad_value("renderer of the new server", seen, f"{first!r}, as the episodes say")
        if error:
            client.close()
            raise ConfigError(error)
        first = seen
        return client

    return connect
