"""The forecast of disk use against stores that were written."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from records import make_episode

from common.episode import KINDS, Kind
from common.errors import StoreError
from replay.capacity import episode_bytes, measured_growth
from replay.store import open_store


@pytest.mark.parametrize("kind", KINDS)
def test_the_forecast_is_what_a_store_takes(tmp_path: Path, kind: Kind) -> None:
    store = open_store(tmp_path / "s", "a", create=True)
    w = store.writer("w", max_episodes=16)
    for env in range(16):
        w.append(make_episode(kind, env=env, rows=20, size=48))
    w.close()
    taken = sum(p.stat().st_size for p in store.root.rglob("*") if p.is_file())
    lengths = {"height": 48, "width": 48, "grid": 6, "feature": 24}
    assert 16 * episode_bytes(kind, 20, lengths, segment_episodes=16) == pytest.approx(taken, rel=0.15)


def test_growth_is_episodes_and_bytes_over_the_time_between_commits(tmp_path: Path, monkeypatch) -> None:
    store = open_store(tmp_path / "s", "a", create=True)
    with pytest.raises(StoreError, match="no two commits"):
        measured_growth(store.root)
    w = store.writer("w", max_episodes=1)
    for env, now in enumerate((100.0, 110.0)):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        w.append(make_episode(env=env))
    growth = measured_growth(store.root)
    data = sum(p.stat().st_size for p in store.root.glob("data/**/*") if p.is_file())
    assert (growth.episodes, growth.nbytes, growth.seconds) == (2, data, 10.0)
