"""Writers, readers, pruner, merger and verifier of one store are killed again and again: nothing committed is lost,
nothing torn is read.
"""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
from fleet import SLOTS, Fleet
from replay_worker import number_of, read_log, sha256_of

from replay.graveyard import Graveyard
from replay.merge import merge
from replay.pins import unpin
from replay.repair import repair
from replay.retention import sweep
from replay.store import open_store
from replay.verify import find_faults

pytestmark = pytest.mark.faults


def campaign(base: Path, kills: int, seed: int) -> Fleet:
    print(f"seed of this campaign: {seed}")  # shown where it fails
    open_store(base / "store", "a", create=True).close()
    with Fleet(base, seed) as fleet:
        for _ in range(kills):
            fleet.kill_one()
        fleet.wait_for_all()
    return fleet


def assert_nothing_was_seen(fleet: Fleet) -> None:
    for slot, (role, _) in SLOTS.items():
        lines = read_log(fleet.log(slot))
        wrong = [" ".join(words) for words in lines if words[0] in ("bad", "crash")]
        assert wrong == [], f"{slot}: {wrong[0]}"
        assert lines, f"{slot} did nothing in {fleet.starts[slot]} lives ({role})"


def assert_acked_episodes_stand(fleet: Fleet) -> int:
    """Every acknowledged episode can be read with its content, unless a tombstone names the record of that ack."""
    graveyard = Graveyard(fleet.root)
    graveyard.read()
    store = open_store(fleet.root)
    store.refresh()
    shown = {number_of(e.id): e for e in store.select()}
    acked = [words for slot in ("a", "a-too", "b") for words in read_log(fleet.log(slot))]
    for env, sha256, writer, seq in acked:
        if not graveyard.holds(writer, int(seq)):
            entry = shown.get(int(env))
            assert entry is not None, f"episode {env} was acknowledged as {writer}/{seq} and is lost"
            assert entry.sha256 == sha256 == store.read_episode(entry).sha256() == sha256_of(int(env))
    assert all(e.sha256 == sha256_of(env) for env, e in shown.items())
    store.close()
    return len(acked)


def assert_index_equals_one_built_anew(fleet: Fleet) -> None:
    kept = open_store(fleet.root, index_path=fleet.base / "reader.sqlite")
    fresh = open_store(fleet.root)
    assert kept.refresh() == fresh.refresh()
    for table in ("records", "copies", "episodes"):
        ask = f"SELECT * FROM {table} ORDER BY writer, seq"
        assert sorted(kept.index.rows(ask)) == sorted(fresh.index.rows(ask)), table
    kept.close()
    fresh.close()


def assert_only_leftovers_are_faults(fleet: Fleet) -> None:
    assert find_faults(fleet.root) == []
    assert {f.kind for f in find_faults(fleet.root, lease_s=0.0)} <= {"orphan", "temp"}
    unpin(fleet.root, "checkpoint")
    store = open_store(fleet.root, "a")
    sweep(store, grace_s=0.0, lease_s=0.0)
    store.close()
    assert {f.kind for f in find_faults(fleet.root, lease_s=0.0)} <= {"temp"}
    assert repair(fleet.root, lease_s=0.0).lost == ()
    assert find_faults(fleet.root, lease_s=0.0) == []


def assert_merges_can_be_finished(fleet: Fleet) -> None:
    store = open_store(fleet.root)
    store.refresh()
    ids = {e.id for e in store.select()}
    store.close()
    unfinished = [p for p in fleet.base.glob("merged-*") if not (p / "done").exists()]
    for out in [*unfinished[:2], fleet.base / "merged-new"]:
        merge([fleet.root], out)
        result = open_store(out)
        result.refresh()
        assert ids <= {e.id for e in result.select()}
        assert all(e.sha256 == sha256_of(number_of(e.id)) for e in result.select())
        result.close()


def run(base: Path, kills: int) -> Fleet:
    fleet = campaign(base, kills, secrets.randbits(32))
    print(dict(fleet.kills))
    assert sum(fleet.kills.values()) == kills
    assert_nothing_was_seen(fleet)
    acked = assert_acked_episodes_stand(fleet)
    print(f"{acked} episodes acknowledged")
    assert acked > kills
    assert_index_equals_one_built_anew(fleet)
    assert_merges_can_be_finished(fleet)
    assert_only_leftovers_are_faults(fleet)
    assert_acked_episodes_stand(fleet)
    return fleet


def test_twenty_four_kills(tmp_path: Path) -> None:
    run(tmp_path, 24)


@pytest.mark.slow
def test_more_than_two_hundred_kills(tmp_path: Path) -> None:
    fleet = run(tmp_path, 240)
    assert set(fleet.kills) == {role for role, _ in SLOTS.values()}
