"""Making a damaged store readable again: what is wrong is moved to ``quarantine``, never deleted.

A record that goes is named by a tombstone first, so that readers at any position do without it. Episodes of a damaged
segment that are whole, by their content hash, are committed again before that.
"""

from __future__ import annotations

import dataclasses
import os
import time
import uuid
from pathlib import Path

from common.episode import Episode
from common.errors import StoreError
from common.fsio import fsync_path
from replay.record import read_record, record_path
from replay.retention import LEASE_S
from replay.segment import Segment
from replay.store import open_store
from replay.tombstones import Buried, Graveyard, count_tombstones, publish_tombstone
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
    path: str | Path,
    *,
    dry_run: bool = False,
    lease_s: float = LEASE_S,
    index_path: str | Path | None = None,
    progress: Progress | None = None,
) -> Repair:
    """Quarantine what is damaged or belongs to nothing, and build the index anew. Safe to kill and to start again.

    Args:
        path: folder of the store. Nobody should write to it meanwhile.
        dry_run: change nothing, only say what would happen.
        lease_s: segments without a record and temporary files are left alone if they changed within this time [s].
        index_path: SQLite file of a reader, to be built anew.
        progress: as in `find_faults`.

    Raises:
        StoreError: if it is no store, the disk refuses, or the store cannot be read afterwards.
    """
    root = Path(path)
    faults = find_faults(root, lease_s=lease_s, progress=progress)
    aside = root / "quarantine" / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid.uuid4().hex[:6]}"
    words = [str(f) for f in faults]
    moved: list[str] = []
    try:
        numbered = [f for f in faults if f.kind == "tombstone"]
        if numbered and not dry_run:
            _renew_tombstones(root, numbered, aside, moved)
            # What they named shows again, or is missing without a reason now.
            faults = find_faults(root, lease_s=lease_s)
            words += [str(f) for f in faults if str(f) not in words]
        whole, gone, buried = _sort_episodes(root, faults)
        targets = _targets(root, faults)
        if dry_run:
            moved = [f.path for f in numbered if (root / f.path).exists()] + targets
        else:
            if whole:
                _commit_again(root, whole)
            if buried:
                publish_tombstone(root, buried, "repair", {})
            for target in targets:
                _move(root, target, aside, moved)
    except OSError as error:
        raise StoreError(f"store {root} cannot be repaired: {error.strerror} ({error.filename})") from error
    if not dry_run:
        shown = _rebuild(root, index_path)
        gone = [i for i in gone if i not in shown]
    saved = tuple(sorted(str(e.meta.id) for e in whole))
    return Repair(tuple(words), tuple(moved), str(aside) if moved and not dry_run else "", saved, tuple(sorted(gone)))


def _renew_tombstones(root: Path, faults: list[Fault], aside: Path, moved: list[str]) -> None:
    for fault in faults:
        if (root / fault.path).exists():
            _move(root, fault.path, aside, moved)
    for number in range(count_tombstones(root)):
        if not (root / "tombstones" / f"{number:08d}.json").exists():
            publish_tombstone(root, [], "repair: in place of a damaged one", {}, number=number)
    for fault in faults:  # the last ones are no gaps until something follows them
        number = int(Path(fault.path).stem)
        if number >= count_tombstones(root):
            publish_tombstone(root, [], "repair: in place of a damaged one", {}, number=number)


def _sort_episodes(root: Path, faults: list[Fault]) -> tuple[list[Episode], list[str], list[Buried]]:
    """Episodes of damaged segments that are whole, ids of the others, and the records to bury."""
    whole: dict[str, Episode] = {}
    gone: set[str] = set()
    buried: dict[tuple[str, int], Buried] = {}
    graveyard = Graveyard(root)
    try:
        graveyard.read()
    except StoreError:
        graveyard = Graveyard(root)  # only a dry run comes here with a damaged tombstone
    for f in faults:
        key = (f.writer, f.seq)
        if f.kind not in ("record", "gap", "data") or key in buried or graveyard.holds(*key):
            continue
        if f.kind != "data":
            buried[key] = Buried(*key, "")
            continue
        record = read_record(root, *key)
        buried[key] = Buried(*key, record.segment)
        try:
            segment = Segment(root / record.segment)
        except StoreError:
            gone |= {e.id for e in record.episodes}
            continue
        for e in record.episodes:
            if episode_problem(segment, e):
                gone.add(e.id)
            else:
                whole[e.id] = segment.read_episode(e.meta, e.slot, e.start, e.rows)
    return list(whole.values()), sorted(gone - set(whole)), list(buried.values())


def _targets(root: Path, faults: list[Fault]) -> list[str]:
    """What is moved: a record before its segment, so that no record ever names a segment that is gone."""
    out: list[str] = []
    for f in faults:
        if f.kind == "data":
            out.append(str(record_path(root, f.writer, f.seq).relative_to(root)))
            out.append(f.path)
        elif f.kind in ("record", "orphan", "temp", "stray", "pin"):
            out.append(f.path)
    return [t for t in dict.fromkeys(out) if (root / t).exists()]


def _commit_again(root: Path, episodes: list[Episode]) -> None:
    store = open_store(root, "a")
    try:
        writer = store.writer(WRITER)
        for episode in episodes:
            writer.append(episode)
        writer.close()
    finally:
        store.close()


def _move(root: Path, relative: str, aside: Path, moved: list[str]) -> None:
    source, target = root / relative, aside / relative
    target.parent.mkdir(parents=True, exist_ok=True)
    os.rename(source, target)
    fsync_path(target.parent)
    fsync_path(source.parent)
    moved.append(relative)


def _rebuild(root: Path, index_path: str | Path | None) -> set[str]:
    """Build the index anew; returns the ids of all episodes."""
    if index_path is not None:
        file = Path(index_path)
        for suffix in ("", "-wal", "-shm"):
            file.with_name(file.name + suffix).unlink(missing_ok=True)
    store = open_store(root, index_path=index_path)
    try:
        store.refresh()
        return {row[0] for row in store.index.rows("SELECT id FROM episodes")}
    finally:
        store.close()
