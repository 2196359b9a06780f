"""Making a damaged store readable again: what is wrong is moved to ``quarantine``, never deleted.

A record that goes is named by a tombstone first, so that readers at any position do without it. Episodes of a damaged
segment that are whole, by their content hash, are committed again before that.
"""

from __future__ import annotations

import dataclasses
import time
import uuid
from pathlib import Path, PurePosixPath

from common.episode import Episode
from common.errors import StoreError
from replay.decisions import decision_name
from replay.graveyard import Graveyard
from replay.index import delete_index
from replay.record import encode_record, read_record, record_name
from replay.retention import LEASE_S
from replay.segment import Segment
from replay.storage import Storage, Where, open_storage
from replay.store import open_store
from replay.tombstones import Buried, count_tombstones, publish_tombstone, tombstone_name
from replay.verify import Fault, Progress, episode_problem, find_faults

WRITER = "repair"


@dataclasses.dataclass(frozen=True)
class Repair:
    """What was done, or with `dry_run` would be.

    Attributes:
        faults: what was wrong, in words.
        moved: paths relative to the store.
        quarantine: where to, "" where nothing was moved.
        saved: ids of episodes that were whole in a damaged segment; they are committed again.
        lost: ids of episodes that no record shows any more.
    """

    faults: tuple[str, ...]
    moved: tuple[str, ...]
    quarantine: str
    saved: tuple[str, ...]
    lost: tuple[str, ...]


def repair(
    where: Where,
    *,
    dry_run: bool = False,
    lease_s: float = LEASE_S,
    index_path: str | Path | None = None,
    progress: Progress | None = None,
) -> Repair:
    """Quarantine what is damaged or belongs to nothing, and build the index anew. Safe to kill and to start again.

    Args:
        where: the store. Nobody should write to it meanwhile.
        dry_run: change nothing, only say what would happen.
        lease_s: segments without a record and temporary files are left alone if they changed within this time [s].
        index_path: SQLite file of a reader, to be built anew.
        progress: as in `find_faults`.

    Raises:
        StoreError: if it is no store, the disk refuses, or the store cannot be read afterwards.
    """
    storage = open_storage(where)
    faults = find_faults(storage, lease_s=lease_s, progress=progress)
    aside = f"quarantine/{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid.uuid4().hex[:6]}"
    words = [str(f) for f in faults]
    moved: list[str] = []
    try:
        if not dry_run:
            # First, because some have numbers that nobody should count up to.
            for fault in faults:
                if fault.kind == "stray":
                    _move(storage, fault.path, aside, moved)
        numbered = [f for f in faults if f.kind == "tombstone"]
        if numbered and not dry_run:
            _renew_tombstones(storage, numbered, aside, moved)
            # What they named shows again, or is missing without a reason now.
            faults = find_faults(storage, lease_s=lease_s)
            words += [str(f) for f in faults if str(f) not in words]
        whole, gone, buried = _sort_episodes(storage, faults)
        targets = _targets(storage, faults)
        if dry_run:
            moved = [f.path for f in numbered if storage.exists(f.path)] + targets
        else:
            if whole:
                _commit_again(storage, whole)
            if buried:
                publish_tombstone(storage, buried, "repair", {})
            for target in targets:
                _move(storage, target, aside, moved)
            for fault in (f for f in faults if f.kind == "decision"):
                _renew_decision(storage, fault.path)
    except OSError as error:
        raise StoreError(f"store {storage.url} cannot be repaired: {error.strerror} ({error.filename})") from error
    if not dry_run:
        shown = _rebuild(storage, index_path)
        gone = [i for i in gone if i not in shown]
    saved = tuple(sorted(str(e.meta.id) for e in whole))
    return Repair(
        tuple(words), tuple(moved), storage.where(aside) if moved and not dry_run else "", saved, tuple(sorted(gone))
    )


def _renew_tombstones(storage: Storage, faults: list[Fault], aside: str, moved: list[str]) -> None:
    for fault in faults:
        if storage.exists(fault.path):
            _move(storage, fault.path, aside, moved)
    for number in range(count_tombstones(storage)):
        if not storage.exists(tombstone_name(number)):
            publish_tombstone(storage, [], "repair: in place of a damaged one", {}, number=number)
    for fault in faults:  # the last ones are no gaps until something follows them
        number = int(PurePosixPath(fault.path).stem)
        if number >= count_tombstones(storage):
            publish_tombstone(storage, [], "repair: in place of a damaged one", {}, number=number)


def _sort_episodes(storage: Storage, faults: list[Fault]) -> tuple[list[Episode], list[str], list[Buried]]:
    """Episodes of damaged segments that are whole, ids of the others, and the records to bury."""
    whole: dict[str, Episode] = {}
    gone: set[str] = set()
    buried: dict[tuple[str, int], Buried] = {}
    graveyard = Graveyard(storage)
    try:
        graveyard.read()
    except StoreError:
        graveyard = Graveyard(storage)  # only a dry run comes here with a damaged tombstone
    for f in faults:
        key = (f.writer, f.seq)
        if f.kind not in ("record", "gap", "data") or key in buried or graveyard.holds(*key):
            continue
        if f.kind != "data":
            buried[key] = Buried(*key, "")
            continue
        record = read_record(storage, *key)
        buried[key] = Buried(*key, record.segment)
        with storage.as_folder(record.segment) as folder:
            try:
                segment = Segment(folder)
            except StoreError:
                gone |= {e.id for e in record.episodes}
                continue
            for e in record.episodes:
                if episode_problem(segment, e):
                    gone.add(e.id)
                else:
                    whole[e.id] = segment.read_episode(e.meta, e.slot, e.start, e.rows)
    return list(whole.values()), sorted(gone - set(whole)), list(buried.values())


def _targets(storage: Storage, faults: list[Fault]) -> list[str]:
    """What is moved: a record before its segment, so that no record ever names a segment that is gone."""
    out: list[str] = []
    for f in faults:
        if f.kind == "data":
            out.append(record_name(f.writer, f.seq))
            out.append(f.path)
        elif f.kind in ("record", "orphan", "temp", "stray", "pin", "decision"):
            out.append(f.path)
    return [t for t in dict.fromkeys(out) if storage.exists(t)]


def _commit_again(storage: Storage, episodes: list[Episode]) -> None:
    store = open_store(storage, "a")
    try:
        writer = store.writer(WRITER)
        for episode in episodes:
            writer.append(episode)
        writer.close()
    finally:
        store.close()


def _move(storage: Storage, name: str, aside: str, moved: list[str]) -> None:
    storage.move(name, f"{aside}/{name}")
    moved.append(name)


def _renew_decision(storage: Storage, name: str) -> None:
    """In place of a damaged one: nobody deletes while a store is repaired, so nothing is decided that is not done."""
    number = int(PurePosixPath(name).stem)
    body = {"number": number, "id": uuid.uuid4().hex, "why": "repair", "created_at": time.time(), "going": []}
    storage.create(decision_name(number), encode_record(body))


def _rebuild(storage: Storage, index_path: str | Path | None) -> set[str]:
    """Build the index anew; returns the ids of all episodes."""
    if index_path is not None:
        delete_index(Path(index_path))
    store = open_store(storage, index_path=index_path)
    try:
        store.refresh()
        return {row[0] for row in store.index.rows("SELECT id FROM episodes")}
    finally:
        store.close()
