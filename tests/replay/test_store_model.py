"""The whole store against a model of a few dictionaries: any order of operations, and the death of any process."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule
from records import make_episode

from common.episode import Episode
from replay.index import Query
from replay.merge import merge
from replay.pins import pin, unpin
from replay.retention import Retention, plan_prune, prune, sweep
from replay.store import Store, open_store
from replay.tombstones import TOMBSTONES
from replay.verify import find_faults
from replay.writer import SegmentWriter

WRITERS = ("v", "w")
Record = tuple[str, int]


def content(env: int, seed: int) -> Episode:
    """Of one id there may be two contents."""
    return make_episode(
        "rollout" if env % 2 else "evaluation", env=env, rows=1 + env % 3, seed=seed, phase=f"p{env % 2}"
    )


class Model:
    """What is known of a store: records in order, tombstones in order, and what each of them means."""

    def __init__(self) -> None:
        self.records: dict[Record, list[tuple[str, str, str]]] = {}  # (id, sha256, phase), by slot
        self.tombstones: list[set[Record]] = []

    def position(self) -> dict[str, int]:
        counts = {w: 1 + max((s for name, s in self.records if name == w), default=-1) for w in WRITERS}
        counts[TOMBSTONES] = len(self.tombstones)
        return {name: count for name, count in counts.items() if count}

    def standing(self, position: dict[str, int], gone: set[Record]) -> set[Record]:
        buried = set().union(*self.tombstones[: position.get(TOMBSTONES, 0)])
        return {r for r in self.records if r[1] < position.get(r[0], 0)} - buried - gone

    def shown(self, position: dict[str, int], gone: set[Record]) -> dict[str, tuple[str, str]]:
        """id -> (sha256, phase) of what a view shows: of several copies, the first by (writer, seq, slot)."""
        out: dict[str, tuple[str, str]] = {}
        for record in sorted(self.standing(position, gone)):
            for episode_id, sha256, phase in self.records[record]:
                out.setdefault(episode_id, (sha256, phase))
        return out


class StoreMachine(RuleBasedStateMachine):
    positions: Bundle[dict[str, int]] = Bundle("positions")

    @initialize()
    def make(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.root, self.index = self.folder / "s", self.folder / "index.sqlite"
        self.store = open_store(self.root, "a", create=True)
        self.model = Model()
        self.view: dict[str, int] = {}
        self.gone: set[Record] = set()  # deleted from the disk
        self.pins: dict[str, dict[str, int]] = {}
        self.buffered: dict[str, list[Episode]] = {w: [] for w in WRITERS}
        self.writers: dict[str, SegmentWriter] = {}
        for name in WRITERS:
            self.start(name)
        self.torn = 0

    def start(self, name: str) -> None:
        self.writers[name] = self.store.writer(name, max_episodes=2, in_flight=1 + (name == "w"))

    def take_acks(self, name: str, acks: list[object]) -> None:
        for ack in acks:
            held = next(e for e in self.buffered[name] if str(e.meta.id) == ack.episode_id and e.sha256() == ack.sha256)  # type: ignore[attr-defined]
            self.buffered[name] = [e for e in self.buffered[name] if e is not held]
            slots = self.model.records.setdefault((ack.writer, ack.seq), [])  # type: ignore[attr-defined]
            slots.append((ack.episode_id, ack.sha256, held.meta.phase))  # type: ignore[attr-defined]

    @rule(name=st.sampled_from(WRITERS), env=st.integers(0, 7), seed=st.integers(0, 1))
    def append(self, name: str, env: int, seed: int) -> None:
        episode = content(env, seed)
        self.buffered[name].append(episode)
        self.take_acks(name, list(self.writers[name].append(episode)))

    @rule(name=st.sampled_from(WRITERS))
    def flush(self, name: str) -> None:
        self.take_acks(name, list(self.writers[name].flush()))
        assert self.buffered[name] == []

    @rule(name=st.sampled_from(WRITERS), again=st.booleans())
    def restart_a_writer(self, name: str, again: bool) -> None:
        """It died with what it had not committed, and left a torn segment; the next one sends it again, or nobody."""
        held = self.buffered[name]
        if self.writers[name]._running:  # what is under way may get through: a real death is `tests/faults`' matter
            self.flush(name)
            held = []
        self.buffered[name] = []
        self.torn += 1
        torn = self.root / "data" / f"{name}-{self.writers[name].seq:08d}.zarr"
        if not torn.exists():
            (torn / "z").mkdir(parents=True)
            (torn / "z" / "c.0.0").write_bytes(b"half")
        self.start(name)
        for episode in held if again else []:
            self.buffered[name].append(episode)
            self.take_acks(name, list(self.writers[name].append(episode)))

    @rule(target=positions)
    def refresh(self) -> dict[str, int]:
        self.settle()
        self.view = self.model.position()
        assert self.store.refresh() == self.view
        return dict(self.view)

    def settle(self) -> None:
        """Commits under way become known to the model."""
        for name in WRITERS:
            if self.writers[name]._running:
                self.flush(name)

    @rule(position=positions)
    def refresh_upto(self, position: dict[str, int]) -> None:
        self.settle()
        assert self.store.refresh(upto=position) == position
        self.view = dict(position)

    @rule(with_index=st.booleans(), lost=st.booleans())
    def open_again(self, with_index: bool, lost: bool) -> None:
        self.settle()
        self.store.close()
        if lost:
            self.index.unlink(missing_ok=True)
        self.store = open_store(self.root, "a", index_path=self.index if with_index else None)
        if not with_index or self.store.position() == {}:
            self.store.refresh(upto=self.view)
        self.view = self.store.position()

    @rule(rows=st.integers(0, 8))
    def take_out(self, rows: int) -> None:
        self.refresh()
        pinned = {r for p in self.pins.values() for r in self.model.standing(p, set())}
        tombstone = prune(self.store, plan := plan_prune(self.store, Retention(newest_rows=rows)))
        going = {(h.writer, h.seq) for h in plan.going}
        assert not going & {r for r in pinned if r in self.model.standing(self.view, self.gone)}
        if tombstone is not None:
            self.model.tombstones.append(going)
            self.refresh()

    @rule()
    def sweep(self) -> None:
        self.settle()
        self.view = self.model.position()
        needed = {
            r
            for p in self.pins.values()
            for k, named in enumerate(self.model.tombstones)
            for r in named
            if k >= p.get(TOMBSTONES, 0) and r[1] < p.get(r[0], 0)
        }
        before = set().union(*self.model.tombstones) - self.gone
        swept = sweep(self.store, grace_s=0.0, lease_s=0.0)
        self.gone |= before - needed
        assert (swept.deleted, swept.pinned) == (len(before - needed), len(before & needed))

    @rule(name=st.sampled_from(("one", "two")), position=consumes(positions))
    def hold(self, name: str, position: dict[str, int]) -> None:
        self.settle()
        if self.model.standing(position, set()) & self.gone:
            return  # it would be refused: `tests/replay/test_retention.py`
        pin(self.root, name, position, "a test")
        self.pins[name] = position

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.pins)))
        unpin(self.root, name)
        del self.pins[name]

    @precondition(lambda self: self.model.records)
    @rule(twice=st.booleans())
    def merge_into_a_new_store(self, twice: bool) -> None:
        self.settle()
        out = Path(tempfile.mkdtemp(dir=self.folder)) / "merged"
        now = self.model.shown(self.model.position(), self.gone)
        for copied in (len(now), 0)[: 1 + twice]:
            assert merge([self.root], out).copied == copied
        self.compare(open_store(out), now, refresh=True)

    @rule()
    def verify(self) -> None:
        assert find_faults(self.root) == []

    @invariant()
    def the_view_shows_what_the_model_does(self) -> None:
        if hasattr(self, "store"):
            self.compare(self.store, self.model.shown(self.view, self.gone))

    def compare(self, store: Store, expected: dict[str, tuple[str, str]], refresh: bool = False) -> None:
        if refresh:
            store.refresh()
        entries = store.select()
        assert [e.id for e in entries] == sorted(expected)
        assert {e.id: (e.sha256, e.meta.phase) for e in entries} == expected
        assert [e.id for e in store.select(Query(phase="p1"))] == sorted(
            i for i, (_, p) in expected.items() if p == "p1"
        )
        for entry in entries[:2] + entries[-1:]:
            assert store.read_episode(entry).sha256() == entry.sha256
        if refresh:
            store.close()

    @invariant()
    def what_pins_hold_can_be_read(self) -> None:
        for position in getattr(self, "pins", {}).values():
            other = open_store(self.root)
            other.refresh(upto=position)
            assert {e.id: e.sha256 for e in other.select()} == {
                i: sha for i, (sha, _) in self.model.shown(position, set()).items()
            }
            assert all(other.read_episode(e).sha256() == e.sha256 for e in other.select())
            other.close()

    def teardown(self) -> None:
        if hasattr(self, "store"):
            for writer in self.writers.values():
                writer.close()
            self.store.close()
            shutil.rmtree(self.folder)


QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much]


def test_the_store_behaves_like_its_model() -> None:
    StoreMachine.TestCase.settings = settings(
        max_examples=8, stateful_step_count=15, deadline=None, suppress_health_check=QUIET
    )
    StoreMachine.TestCase("runTest").runTest()


@pytest.mark.slow
def test_the_store_behaves_like_its_model_for_long() -> None:
    StoreMachine.TestCase.settings = settings(
        max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=QUIET
    )
    StoreMachine.TestCase("runTest").runTest()
