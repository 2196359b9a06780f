"""A disk that fills up slows writers, then stops them with a named cause, and what they hold is kept."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from records import make_episode

import replay.disk_space
from common.errors import StoreError
from replay.disk_space import DiskFullError, DiskLimits
from replay.store import open_store

LIMITS = DiskLimits(slow_free_bytes=1_000_000, stop_free_bytes=200_000, max_delay_s=8.0)


def test_the_delay_grows_from_nothing_to_its_maximum() -> None:
    delays = [LIMITS.delay(free) for free in (2_000_000, 1_000_000, 800_000, 600_000, 200_000, 0)]
    assert delays == [0.0, 0.0, 2.0, 4.0, 8.0, 8.0]
    assert DiskLimits(5, 5).delay(5) == 0.0


def test_writers_are_slowed_then_stopped_and_go_on_when_there_is_space(tmp_path: Path, monkeypatch) -> None:
    store = open_store(tmp_path / "s", "a", create=True)
    w = store.writer("w", max_episodes=1, disk=LIMITS)
    nbytes = make_episode().nbytes()
    left, slept = 2_000_000, []
    disk = lambda path: SimpleNamespace(f_bavail=left + nbytes, f_frsize=1)
    monkeypatch.setattr(os, "statvfs", disk)
    monkeypatch.setattr(replay.disk_space.time, "sleep", slept.append)
    assert len(w.append(make_episode(env=0))) == 1
    left = 600_000
    assert len(w.append(make_episode(env=1))) == 1
    assert slept == [4.0] and w.waits() == {"disk": 4.0}
    left = 199_999
    with pytest.raises(
        DiskFullError, match=r"disk of store .* is full: .* stop_free_bytes = 200000: free space or prune"
    ):
        w.append(make_episode(env=2))
    assert len(os.listdir(store.root / "data")) == 2
    left = 2_000_000
    assert len(w.flush()) == 1
    assert store.refresh() == {"w": 3}


def test_the_real_disk_is_asked(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s", "a", create=True)
    w = store.writer("w", max_episodes=1, disk=DiskLimits(2**62, 2**61))
    with pytest.raises(StoreError, match="is full"):
        w.append(make_episode())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"stop_free_bytes": -1}, "stop_free_bytes = -1"),
        ({"slow_free_bytes": 10, "stop_free_bytes": 11}, "slow_free_bytes = 10: allowed is at least stop_free_bytes"),
        ({"max_delay_s": float("inf")}, "max_delay_s = inf"),
    ],
)
def test_bad_limits_are_named(changed: dict[str, float], message: str) -> None:
    with pytest.raises(StoreError, match=message):
        DiskLimits(**changed)
