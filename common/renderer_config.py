"""The settings of the renderer within a run: what draws the pictures, in which process, and what is asked of it."""

from __future__ import annotations

import dataclasses
import re

from common.errors import ConfigError, bad_value
from common.settings import fixed, free


@dataclasses.dataclass
class RendererConfig:
    """The renderer. Where it runs may change between starts of a run, for the pictures stay the same; what draws not.

    `embedded` draws in the collector's process, `supervised` in a server that each collector starts and watches,
    `remote` in a server that somebody else keeps at `address`. Budgets, recycling and quarantine are the supervisor's.
    """

    backend: str = fixed("warp", "what draws the pictures", "warp|isaacsim")
    device: str = fixed("", "cpu or cuda:K; empty is the CPU for warp and the first GPU for isaacsim")
    place: str = free(
        "embedded", "in the collectors, in servers of their own, or elsewhere", "embedded|supervised|remote"
    )
    pool_bytes: int = free(
        256_000_000, "of meshes, and of textures, that collectors' own renderers keep when no scene shows them", "> 0"
    )
    address: str = free("", "of the server, where place is remote: unix:///PATH or 127.0.0.1:PORT")
    python: str = free("", "interpreter that runs supervised servers, such as Isaac Sim's; empty: the collectors'")
    args: list[str] = free([], "further arguments of supervised servers: python -m actors.render_service --help")
    pass_env: list[str] = free([], "variables that supervised servers see besides the usual ones")
    folder: str = free("", "folder of the supervised servers' logs; empty: one under the system's temporary folder")
    cold_start_s: float = free(150.0, "a first start on a machine, which compiles, may take this long", "> 0")
    warm_start_s: float = free(60.0, "any other start may take this long", "> 0")
    call_timeout_s: float = free(60.0, "a call that takes longer fails, and its server is taken for hung", "> 0")
    heartbeat_s: float = free(2.0, "seconds between questions after a server's health", "> 0")
    heartbeat_timeout_s: float = free(5.0, "an answer that takes longer is a missed one", "> 0")
    heartbeat_misses: int = free(3, "a server that missed so many in a row is taken for hung", "> 0")
    grace_s: float = free(10.0, "a server asked to end is killed after this long", ">= 0")
    backoff_s: list[float] = free([1.0, 5.0, 20.0], "waits before the restarts after failures in a row; the last stays")
    max_failures: int = free(3, "a server that fails this often within window_s is not started again", "> 0")
    window_s: float = free(1800.0, "failures longer ago than this are forgotten", "> 0")
    recycle_resets: int = free(0, "a server is replaced after so many scenes were built in it; 0 is never", ">= 0")
    recycle_rss_bytes: int = free(0, "a server with more memory than this is replaced; 0 is never", ">= 0")
    recycle_vram_bytes: int = free(0, "a server with more GPU memory than this is replaced; 0 is never", ">= 0")
    keep_logs: int = free(20, "logs kept per supervisor, one per start", "> 0")
    log_bytes: int = free(10_000_000, "a log that grows over this loses its older half", "> 0")


def check_renderer(
    config: RendererConfig,
    *,
    sizes: tuple[int, int],
    collectors: int,
    hang_timeout_s: float,
    task_timeout_s: float,
    start_timeout_s: float,
) -> None:
    """Check the settings against each other and against the fleet's.

    Args:
        config: of the renderer.
        sizes: `env.image_size` and `env.mask_size` [px].
        collectors, hang_timeout_s, task_timeout_s, start_timeout_s: `fleet`'s.

    Raises:
        ConfigError: naming the first setting that contradicts another.
    """
    if config.place == "embedded" and config.backend != "warp":
        allowed = f"supervised or remote where renderer.backend = {config.backend!r}"
        raise ConfigError(bad_value("renderer.place", config.place, allowed))
    if not re.fullmatch(r"(cpu|cuda:\d+)?", config.device):
        raise ConfigError(bad_value("renderer.device", config.device, "cpu, cuda:K or empty"))
    if (config.place == "remote") != bool(config.address):
        allowed = "an address where renderer.place = 'remote', else empty"
        raise ConfigError(bad_value("renderer.address", config.address, allowed))
    if config.place == "remote" and collectors > 1:
        allowed = "0 or 1 where renderer.place = 'remote', for a server serves one client"
        raise ConfigError(bad_value("fleet.collectors", collectors, allowed))
    if config.backend == "isaacsim" and sizes[0] != sizes[1]:
        allowed = f"env.image_size = {sizes[0]} where renderer.backend = 'isaacsim', which renders one size"
        raise ConfigError(bad_value("env.mask_size", sizes[1], allowed))
    if not config.backoff_s or min(config.backoff_s) < 0.0:
        raise ConfigError(bad_value("renderer.backoff_s", config.backoff_s, "one wait or more, each >= 0"))
    if config.place != "embedded" and hang_timeout_s <= config.call_timeout_s:
        allowed = f"> renderer.call_timeout_s = {config.call_timeout_s}"
        raise ConfigError(bad_value("fleet.hang_timeout_s", hang_timeout_s, allowed))
    if config.place != "supervised":
        return
    # A collector builds its renderer when it starts, and waits for a replaced one within a task.
    if start_timeout_s < config.cold_start_s:
        allowed = f">= renderer.cold_start_s = {config.cold_start_s}"
        raise ConfigError(bad_value("fleet.start_timeout_s", start_timeout_s, allowed))
    needed = config.warm_start_s + max(config.backoff_s)
    if task_timeout_s <= needed:
        allowed = f"> renderer.warm_start_s + the longest renderer.backoff_s = {needed}"
        raise ConfigError(bad_value("fleet.task_timeout_s", task_timeout_s, allowed))
