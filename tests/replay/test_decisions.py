"""Pins and sweeps in every order: a pin holds all that it needs, or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import obstore.store
import pytest
from records import make_episode

import replay.pins
import replay.retention
from common.errors import StoreError
from replay.decisions import Named, count_decisions, decide, decided, decision_name, read_decision
from replay.disk_cache import DiskCache
from replay.pins import pin, read_pins, unpin
from replay.repair import repair
from replay.retention import sweep
from replay.storage import open_storage
from replay.storage_object import ObjectStorage
from replay.store import Store, open_store
from replay.tombstones import Buried, publish_tombstone
from replay.verify import find_faults


@pytest.fixture(params=["local", "object"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Records w/0..2, all of them named by a tombstone that the position of the fixture's view does not reach."""
    memory = ObjectStorage(obstore.store.MemoryStore(), "memory://s", DiskCache(tmp_path / "cache", 1 << 30))
    place = open_storage(tmp_path / "s") if request.param == "local" else memory
    store = open_store(place, "a", create=True)
    w = store.writer("w", max_episodes=1)
    for env in range(3):
        w.append(make_episode("rollout", env=env, rows=1, size=8))
    w.close()
    store.refresh()
    segments = [r.segment for r in store.records()]
    publish_tombstone(place, [Buried("w", k, s) for k, s in enumerate(segments)], "a test", {})
    return store


def records(store: Store) -> list[str]:
    return store.storage.listing("commits/w").files


def test_a_number_is_taken_once_and_each_entry_repeats_what_is_not_gone(store: Store) -> None:
    place = store.storage
    assert count_decisions(place) == 0 and decided(place, 0) == frozenset()
    assert decide(place, 0, {Named("w", 0), Named("w", 1)}, "a test")
    assert not decide(place, 0, {Named("w", 2)}, "too late")
    place.delete(["commits/w/00000001.json"])
    assert decide(place, 1, {Named("w", 2)}, "a test")
    assert read_decision(place, 0) == {("w", 0), ("w", 1)} and decided(place, 2) == {("w", 0), ("w", 2)}
    place.replace(decision_name(1), place.read(decision_name(1)).replace(b'"w", 2', b'"w", 9'))
    for act in (lambda: decided(place, 2), lambda: pin(place, "p", {}, "x"), lambda: sweep(store, grace_s=0)):
        with pytest.raises(StoreError, match=r"decision .*00000001\.json is damaged"):
            act()
    assert len(records(store)) == 2


def test_a_pin_written_while_a_sweep_has_read_the_pins_makes_it_begin_again(store: Store, monkeypatch) -> None:
    real = replay.retention.read_pins
    made: list[Any] = []

    def read_then_pin(where: Any) -> Any:
        pins = real(where)
        if not made:
            made.append(pin(where, "mine", {"w": 2}, "in the middle of a sweep"))
        return pins

    monkeypatch.setattr(replay.retention, "read_pins", read_then_pin)
    swept = sweep(store, grace_s=0)
    assert (swept.deleted, swept.pinned) == (1, 2) and records(store) == ["00000000.json", "00000001.json"]
    store.refresh(upto={"w": 2})
    assert [store.read_episode(e).num_rows for e in store.select()] == [1, 1]


def test_a_pin_that_comes_after_the_decision_is_refused_before_anything_is_deleted(store: Store, monkeypatch) -> None:
    refused = []

    def delete(names: Any) -> None:
        assert len(records(store)) == 3
        with pytest.raises(StoreError, match="pin late: record w/0 of its position was deleted") as caught:
            pin(store.storage, "late", {"w": 3}, "after the decision")
        refused.append(caught.value)
        raise KeyboardInterrupt  # and here the sweep is killed

    place = store.storage
    with monkeypatch.context() as patch:
        real = type(place).delete
        patch.setattr(
            type(place), "delete", lambda s, n: delete(n) if not refused and "commits" in n[0] else real(s, n)
        )
        with pytest.raises(KeyboardInterrupt):
            sweep(store, grace_s=0)
    assert len(refused) == 1 and read_pins(place) == []
    # What is decided stays decided: a pin is refused for as long as the next sweep has not ended it.
    with pytest.raises(StoreError, match="pin late"):
        pin(place, "late", {"w": 3}, "after the decision")
    pin(place, "fine", store.refresh(), "knows the tombstone")
    swept = sweep(store, grace_s=0)
    assert swept.deleted == 3 and records(store) == [] and place.listing("data").folders == []


def test_a_refused_pin_leaves_the_older_one_of_its_name(store: Store) -> None:
    place = store.storage
    old = pin(place, "mine", {"w": 1}, "old")
    assert sweep(store, grace_s=0).deleted == 2
    with pytest.raises(StoreError, match="record w/1"):
        pin(place, "mine", {"w": 3}, "new")
    assert read_pins(place) == [old] and records(store) == ["00000000.json"]
    new = pin(place, "mine", {"w": 1, "/tombstones": 0}, "new")
    assert read_pins(place) == [new]
    unpin(place, "mine")
    assert read_pins(place) == [] and sweep(store, grace_s=0).deleted == 1


def test_a_damaged_entry_is_found_and_repaired(store: Store) -> None:
    place = store.storage
    pin(place, "mine", {"w": 3}, "needs all")
    place.replace(decision_name(0), b"{}")
    assert [(f.kind, f.path) for f in find_faults(place)] == [("decision", decision_name(0))]
    done = repair(place)
    assert done.moved == (decision_name(0),) and done.lost == () and find_faults(place) == []
    assert decided(place, 1) == frozenset() and sweep(store, grace_s=0).pinned == 3
