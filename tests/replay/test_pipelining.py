"""Several commits under way: bounded, in order, without gaps; a failure surfaces late and loses nothing; age."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from records import assert_same, make_episode

import replay.writer
from common.episode import Episode
from common.errors import StoreError
from replay.storage import Storage
from replay.store import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "s", "a", create=True)


class Gate:
    """Holds the writing of segments back until they are let through, one by one, by the env of their episode."""

    def __init__(self) -> None:
        self.entered: list[int] = []
        self.failing: set[int] = set()
        self._open = {env: threading.Event() for env in range(8)}
        self._real = replay.writer.write_segment

    def write(self, storage: Storage, segment: str, episodes: list[Episode], pool: ThreadPoolExecutor) -> Any:
        env = episodes[0].meta.id.env
        self.entered.append(env)
        assert self._open[env].wait(30)
        if env in self.failing:
            raise OSError(errno.EIO, "Input/output error", "image")
        return self._real(storage, segment, episodes, pool)

    def let(self, *envs: int) -> None:
        for env in envs:
            self._open[env].set()


@pytest.fixture
def gate(monkeypatch) -> Iterator[Gate]:
    gate = Gate()
    monkeypatch.setattr(replay.writer, "write_segment", gate.write)
    yield gate
    gate.let(*range(8))


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_two_segments_are_written_at_once_and_a_third_waits(store: Store, gate: Gate) -> None:
    w = store.writer("w", max_episodes=1, in_flight=2)
    assert w.append(make_episode(env=0)) == [] and w.append(make_episode(env=1)) == []
    wait_until(lambda: sorted(gate.entered) == [0, 1])
    third = threading.Thread(target=w.append, args=(make_episode(env=2),))
    third.start()
    third.join(0.2)
    assert third.is_alive() and len(gate.entered) == 2
    gate.let(0)
    third.join(30)
    assert not third.is_alive()
    gate.let(1, 2)
    # The append of the third had an ack to hand out; what it did not, flush does.
    assert [a.seq for a in w.flush()][-1] == 2
    assert w.flush() == [] and store.refresh() == {"w": 3}
    assert w.close() == []


def test_records_come_in_the_order_of_appending_also_where_a_later_segment_is_ready_first(store, gate: Gate) -> None:
    w = store.writer("w", max_episodes=1, in_flight=3)
    for env in range(3):
        assert w.append(make_episode(env=env)) == []
    gate.let(2, 1)
    wait_until(lambda: len(list((store.root / "data").glob("*/zarr.json"))) == 2)
    time.sleep(0.05)
    assert store.refresh() == {}
    gate.let(0)
    acks = w.flush()
    assert [(a.seq, int(a.episode_id[-6:])) for a in acks] == [(0, 0), (1, 1), (2, 2)]
    assert store.refresh() == {"w": 3}
    for entry in store.select():
        assert_same(store.read_episode(entry), make_episode(env=entry.seq))
        assert entry.segment == f"data/w-{entry.seq:08d}.zarr"


def test_a_failure_surfaces_in_the_next_call_and_loses_neither_episodes_nor_acks(store: Store, gate: Gate) -> None:
    w = store.writer("w", max_episodes=1, in_flight=2)
    gate.failing.add(0)
    w.append(make_episode(env=0))
    w.append(make_episode(env=1))
    gate.let(0, 1)
    wait_until(lambda: store.refresh() == {"w": 1})  # the second took the first number
    with pytest.raises(StoreError, match="cannot be written by 'w': Input/output error"):
        w.append(make_episode(env=2))
    gate.failing.clear()
    gate.let(2)
    acks = w.flush()
    assert sorted(int(a.episode_id[-6:]) for a in acks) == [0, 1, 2]
    assert store.refresh() == {"w": max(a.seq for a in acks) + 1}
    assert len(store.select()) == 3
    for entry in store.select():
        assert_same(store.read_episode(entry), make_episode(env=int(entry.id[-6:])))


def test_without_flight_every_call_waits_for_its_commits(store: Store) -> None:
    w = store.writer("w", max_episodes=2)
    w.append(make_episode(env=0))
    assert [a.seq for a in w.append(make_episode(env=1))] == [0, 0]


def test_old_episodes_are_committed_by_append_and_by_poll(store: Store, monkeypatch) -> None:
    now = 100.0
    monkeypatch.setattr(replay.writer.time, "monotonic", lambda: now)
    w = store.writer("w", max_age_s=5.0)
    assert w.append(make_episode("dagger", env=0)) == []
    now = 104.0
    assert w.append(make_episode("pairs", env=1)) == [] and w.poll() == []
    now = 105.5
    (ack,) = w.poll()
    assert "dagger" in ack.episode_id
    now = 109.5
    assert ["pairs" in a.episode_id for a in w.append(make_episode("dagger", env=2))] == [True]
    assert len(w.close()) == 1


def test_hashing_begins_when_an_episode_is_appended(store: Store, monkeypatch) -> None:
    hashed = threading.Event()
    real = Episode.sha256
    monkeypatch.setattr(Episode, "sha256", lambda self: (hashed.set(), real(self))[1])
    w = store.writer("w")
    w.append(make_episode())
    assert hashed.wait(30)
    (ack,) = w.close()
    assert ack.sha256 == real(make_episode())


@pytest.mark.parametrize(("name", "value"), [("in_flight", 0), ("max_age_s", 0.0), ("max_age_s", float("nan"))])
def test_bad_settings_are_named(store: Store, name: str, value: float) -> None:
    with pytest.raises(StoreError, match=f"{name} = {value}: allowed is "):
        store.writer("w", **{name: value})
