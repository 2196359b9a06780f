"""What a run deletes of its own store while it trains: what its settings no longer keep and no checkpoint needs."""

from __future__ import annotations

from common.replay_config import ReplayConfig
from replay.retention import Retention, Swept, plan_prune, prune, sweep
from replay.store import Store


def policy_of(settings: ReplayConfig) -> Retention:
    """The policy that replay.keep_rows and replay.max_bytes ask for."""
    return Retention(newest_rows=settings.keep_rows or None, max_bytes=settings.max_bytes or None)


def retain(store: Store, settings: ReplayConfig) -> Swept | None:
    """Take out what the policy does not keep, and delete what was taken out longer than replay.grace_s ago.

    Pins decide what a checkpoint needs: call this when the last checkpoint's are there.

    Args:
        store: of the run, refreshed since the pins were made.
        settings: of the store.

    Returns:
        What was deleted; None where everything is kept.

    Raises:
        StoreError: if a pin cannot be read, or the storage refuses.
    """
    policy = policy_of(settings)
    if policy.keeps_everything:
        return None
    prune(store, plan_prune(store, policy))
    return sweep(store, grace_s=settings.grace_s)
