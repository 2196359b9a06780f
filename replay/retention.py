"""Retention: which records a policy no longer keeps, and deleting them.

Deleting takes two steps, often in two processes. `prune` publishes a tombstone: readers drop the episodes. `sweep`
deletes the files of records whose tombstone is older than a grace period and that no pin needs: the record first, then
the segment, so that a record never names a segment that is gone.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from common.errors import StoreError, bad_value
from replay.decisions import Named, count_decisions, decide, decided
from replay.pins import Pin, read_pins
from replay.record import RECORD_NAME, read_record, record_name
from replay.storage import Storage, refusing
from replay.storage_local import GONE
from replay.store import Store
from replay.tombstones import Buried, Tombstone, publish_tombstone

GRACE_S = 3600.0
LEASE_S = 86400.0

Progress = Callable[[int, int], None]  # done, of how many


@dataclasses.dataclass(frozen=True)
class Retention:
    """What to keep; everything None keeps everything. Records are kept or go whole.

    A record stays if a pin needs it, or one of its episodes is successful, or it is among the newest. Records of one
    writer age in the order of their numbers, also where its clock went backwards.

    Attributes:
        newest_rows: the newest records that together hold at least this many rows (steps).
        max_bytes: no more of the newest than fit into this many bytes together with all that stays anyway.
        min_iou: records with an episode whose largest IoU is at least this.
    """

    newest_rows: int | None = None
    max_bytes: int | None = None
    min_iou: float | None = None

    def __post_init__(self) -> None:
        for name in ("newest_rows", "max_bytes"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise StoreError(bad_value(f"retention {name}", value, "at least 0"))
        if self.min_iou is not None and not 0.0 <= self.min_iou <= 1.0:
            raise StoreError(bad_value("retention min_iou", self.min_iou, "0 .. 1"))

    @property
    def keeps_everything(self) -> bool:
        """True if no bound is set."""
        return self == Retention()


@dataclasses.dataclass(frozen=True)
class Held:
    """A record as retention sees it: `rows`, `episodes` and `iou` (largest, None without) of those that stand in it."""

    writer: str
    seq: int
    segment: str
    nbytes: int
    episodes: int
    rows: int
    iou: float | None


@dataclasses.dataclass(frozen=True)
class PrunePlan:
    """What a policy would do: records that go, and the others by why they stay, each in order of (writer, seq)."""

    policy: Retention
    going: tuple[Held, ...]
    pinned: tuple[Held, ...]
    successful: tuple[Held, ...]
    newest: tuple[Held, ...]

    def summary(self) -> dict[str, Any]:
        """Records, episodes, rows and bytes of each part; JSON-ready."""
        parts = {n: getattr(self, n) for n in ("going", "pinned", "successful", "newest")}
        return {"policy": dataclasses.asdict(self.policy)} | {
            name: {
                "records": len(held),
                "episodes": sum(h.episodes for h in held),
                "rows": sum(h.rows for h in held),
                "bytes": sum(h.nbytes for h in held),
            }
            for name, held in parts.items()
        }


def plan_prune(store: Store, policy: Retention) -> PrunePlan:
    """Apply a policy to what the store's view shows; nothing is changed.

    Raises:
        StoreError: if a pin or a record that it may need cannot be read.
    """
    pins = read_pins(store.storage)
    pinned: list[Held] = []
    successful: list[Held] = []
    newest: list[Held] = []
    going: list[Held] = []
    records = _newest_first(store)
    for held in records:
        if _needed(store.storage, pins, held.writer, held.seq):
            pinned.append(held)
        elif policy.min_iou is not None and held.iou is not None and held.iou >= policy.min_iou:
            successful.append(held)
    room = None if policy.max_bytes is None else policy.max_bytes - sum(h.nbytes for h in (*pinned, *successful))
    rows, full = 0, policy.newest_rows is None and room is None and policy.min_iou is not None
    stays_anyway = {_key(h) for h in (*pinned, *successful)}
    for held in records:
        full = full or (policy.newest_rows is not None and rows >= policy.newest_rows)
        rows += held.rows
        if _key(held) in stays_anyway:
            continue
        if room is not None:
            room -= held.nbytes
            full = full or room < 0
        (going if full else newest).append(held)
    return PrunePlan(policy, *(tuple(sorted(group, key=_key)) for group in (going, pinned, successful, newest)))


def _key(held: Held) -> tuple[str, int]:
    return held.writer, held.seq


def _newest_first(store: Store) -> list[Held]:
    rows = store.index.rows(
        "SELECT r.writer, r.seq, r.segment, r.bytes, COUNT(e.id), COALESCE(SUM(e.rows), 0), MAX(e.iou_max), "
        "MAX(r.committed_at) OVER (PARTITION BY r.writer ORDER BY r.seq) AS age FROM records r "
        "LEFT JOIN episodes e ON e.writer = r.writer AND e.seq = r.seq GROUP BY r.writer, r.seq "
        "ORDER BY age DESC, r.writer DESC, r.seq DESC"
    )
    return [Held(*row[:-1]) for row in rows]


def _needed(storage: Storage, pins: Sequence[Pin], writer: str, seq: int, tombstone: int | None = None) -> bool:
    reaching = [p for p in pins if p.reaches(writer, seq, tombstone)]
    if not reaching or any(p.is_whole for p in reaching):
        return bool(reaching)
    record = read_record(storage, writer, seq)
    return any(p.needs(record, tombstone) for p in reaching)


def prune(store: Store, plan: PrunePlan) -> Tombstone | None:
    """Publish the tombstone of a plan's records; None where nothing goes. `sweep` deletes them later.

    Raises:
        StoreError: if the disk refuses.
    """
    if not plan.going:
        return None
    records = [Buried(h.writer, h.seq, h.segment) for h in plan.going]
    return publish_tombstone(store.storage, records, "retention", dataclasses.asdict(plan.policy))


@dataclasses.dataclass
class Swept:
    """What a sweep deleted or left: counts of records (segments where no record is left), and bytes."""

    deleted: int = 0
    bytes: int = 0
    in_grace: int = 0
    pinned: int = 0
    uncommitted: int = 0


def sweep(
    store: Store,
    *,
    grace_s: float = GRACE_S,
    lease_s: float = LEASE_S,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Swept:
    """Delete what tombstones older than the grace period name and no pin needs, and segments that were never committed.

    Safe to kill at any moment; the next sweep goes on. The store is refreshed first.

    Args:
        store: open for writing, unless `dry_run`.
        grace_s: age a tombstone must have [s]; readers refresh more often than this.
        lease_s: a segment without a record is left alone until nothing in it changed for this long [s].
        dry_run: delete nothing, only count.
        progress: called with (tombstones done, of how many).

    Raises:
        StoreError: if a pin, a tombstone or a record that a pin may need cannot be read, or the disk refuses.
    """
    for name, value in (("grace_s", grace_s), ("lease_s", lease_s)):
        if value < 0:
            raise StoreError(bad_value(name, value, "at least 0"))
    if store.mode != "a" and not dry_run:
        raise StoreError(f"store {store.url} is open for reading only: open it with mode 'a' to delete")
    # Listed before the records are: what is committed from here on is not in the list.
    with refusing(store.storage, "swept"):
        segments = _segments(store)
    store.refresh()
    swept, now = Swept(), time.time()
    with refusing(store.storage, "swept"):
        there = _records_there(store)
        # A writer that slept may publish a record that was deleted long ago.
        store.graveyard.swept -= {store.graveyard.number(*r) for r in there}
        tombstones = list(store.tombstones())
        live = _live(store)
        dead = set(segments) - live
        for k, tombstone in enumerate(tombstones):
            if progress is not None:
                progress(k, len(tombstones))
            if now < tombstone.created_at + grace_s:
                swept.in_grace += sum((r.writer, r.seq) in there for r in tombstone.records)
            elif _sweep_tombstone(store, tombstone, there, dead, dry_run, swept) and not dry_run:
                store.graveyard.swept.add(tombstone.number)
        for segment in _unnamed(segments, live, tombstones):
            if _is_going(segment) or now - store.storage.last_change(segment) > lease_s:
                swept.uncommitted += 1
                _delete_segment(store, segment, dry_run, swept)
    if progress is not None:
        progress(len(tombstones), len(tombstones))
    return swept


def _records_there(store: Store) -> set[tuple[str, int]]:
    """Records on the disk that tombstones name."""
    writers = store.storage.listing("commits").folders
    found = zip(
        writers, store.storage.each(lambda w: store.storage.listing(f"commits/{w}").files, writers), strict=True
    )
    seen = ((writer, int(n[:8])) for writer, names in found for n in names if RECORD_NAME.fullmatch(n))
    return {r for r in seen if store.graveyard.holds(*r)}


def _sweep_tombstone(
    store: Store, tombstone: Tombstone, there: set[tuple[str, int]], dead: set[str], dry_run: bool, swept: Swept
) -> bool:
    """Whether nothing is left of a tombstone; `there`: records, `dead`: segments that no record names."""
    storage, nothing = store.storage, True
    named = [Named(r.writer, r.seq) for r in tombstone.records if (r.writer, r.seq) in there]
    going = _decide(store, tombstone, named, dry_run) if named else set()
    swept.pinned += len(named) - len(going)
    swept.deleted += len(going)
    if going and not dry_run:
        storage.delete([record_name(*r) for r in sorted(going)])
    for r in tombstone.records:
        stays = (r.writer, r.seq) in there and (r.writer, r.seq) not in going
        if not stays and r.segment in dead:
            # A writer that slept may be filling a folder of this name again; what the tombstone means is older than it.
            stays = storage.refilled(r.segment, tombstone.created_at)
            if not stays:
                _delete_segment(store, r.segment, dry_run, swept)
        nothing = nothing and not stays
    return nothing


def _decide(store: Store, tombstone: Tombstone, named: Sequence[Named], dry_run: bool) -> set[Named]:
    """Those of the named records that no pin needs, decided: no pin that is made from here on will get them."""
    while True:
        number = count_decisions(store.storage)
        before = decided(store.storage, number)
        pins = read_pins(store.storage)
        free = {r for r in named if r in before or not _still_needed(store.storage, pins, r, tombstone.number)}
        # What is decided already needs no second decision: a sweep that was killed left it.
        if dry_run or free <= before or decide(store.storage, number, free, f"sweep of tombstone {tombstone.number}"):
            return free


def _still_needed(storage: Storage, pins: Sequence[Pin], named: Named, tombstone: int) -> bool:
    try:
        return _needed(storage, pins, *named, tombstone)
    except StoreError:
        if storage.exists(record_name(*named)):
            raise
        return False  # another sweep was faster


def _delete_segment(store: Store, segment: str, dry_run: bool, swept: Swept) -> None:
    swept.bytes += sum(store.storage.files(segment).values())
    if not dry_run:
        store.storage.delete_folder(segment)


def uncommitted(store: Store) -> list[str]:
    """Paths below the store of segments that neither a record shown by this view nor a tombstone names: torn, or under
    way.
    """
    with refusing(store.storage, "read"):
        return _unnamed(_segments(store), _live(store), store.tombstones())


def _segments(store: Store) -> list[str]:
    return [f"data/{name}" for name in store.storage.listing("data").folders]


def _live(store: Store) -> set[str]:
    """Segments that records of this view name."""
    return {row[0] for row in store.index.rows("SELECT segment FROM records")}


def _unnamed(segments: Sequence[str], live: set[str], tombstones: Iterable[Tombstone]) -> list[str]:
    named = live | {r.segment for t in tombstones for r in t.records}
    return [s for s in segments if s not in named]


def _is_going(segment: str) -> bool:
    return segment.removeprefix("data/").startswith(GONE)
