"""The settings of the replay store within a run; a resumed run may change all of them but the data it trains from."""

from __future__ import annotations

import dataclasses

from common.errors import ConfigError, bad_value
from common.settings import fixed, free


@dataclasses.dataclass
class ReplayConfig:
    """The replay store."""

    url: str = free("", "path on the driver's machine, or URL of an object store (s3://...); empty is DIR/store")
    train_from: str = fixed("", "existing store that imitation draws from, and only reads; empty: what it collects")
    segment_episodes: int = free(64, "episodes per committed segment at most", "> 0")
    segment_bytes: int = free(64_000_000, "bytes per committed segment at most", "> 0")
    ram_bytes: int = free(2_000_000_000, "RAM that small columns and masks may be cached in", ">= 0")
    send_timeout_s: float = free(
        120.0, "collectors of other machines send episodes to the store's for this long, then their task fails", "> 0"
    )
    prefetch: int = free(2, "batches drawn ahead while the learner computes (imitation); 0 draws none ahead", ">= 0")
    samples_per_insert: float = free(
        0.0,
        "how often a collected row is drawn on average (imitation); 0 collects one round per learning round",
        ">= 0",
    )
    error_band: float = free(
        0.0,
        "rows drawn by which samples_per_insert may be off; 0 is twice the narrowest band that cannot block",
        ">= 0",
    )
    min_rows: int = free(1, "rows collected before the first is drawn (imitation)", "> 0")
    keep_rows: int = free(0, "delete all but the newest rows that hold this many; 0 keeps everything", ">= 0")
    max_bytes: int = free(0, "delete the oldest data beyond this many bytes, but none in use; 0 keeps all", ">= 0")
    grace_s: float = free(3600.0, "what is deleted stays readable for other processes for this long", ">= 0")
    slow_free_bytes: int = free(2_000_000_000, "commits wait a little where less than this is free on the disk", ">= 0")
    stop_free_bytes: int = free(500_000_000, "the run stops rather than leaving less than this free", ">= 0")


def check_replay(config: ReplayConfig) -> None:
    """Check the settings against each other.

    Raises:
        ConfigError: naming the first setting that contradicts another.
    """
    if config.slow_free_bytes < config.stop_free_bytes:
        allowed = f"at least replay.stop_free_bytes = {config.stop_free_bytes}"
        raise ConfigError(bad_value("replay.slow_free_bytes", config.slow_free_bytes, allowed))
    if config.error_band and not config.samples_per_insert:
        allowed = "0 where replay.samples_per_insert is 0"
        raise ConfigError(bad_value("replay.error_band", config.error_band, allowed))
