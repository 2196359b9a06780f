"""Reading everything of a store again and saying what is wrong with it; nothing is changed."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from common.errors import SchemaError, StoreError
from replay.pins import read_pin
from replay.record import RECORD_NAME, EpisodeEntry, Record, describe, read_record, record_path
from replay.retention import GONE, LEASE_S, last_change
from replay.segment import Segment, file_crc32c
from replay.store import open_store
from replay.tombstones import TOMBSTONES, count_tombstones, read_tombstone, tombstone_path

Progress = Callable[[int, int], None]  # bytes read, of how many
Kind = Literal["record", "gap", "data", "tombstone", "pin", "need", "orphan", "temp", "stray"]


@dataclasses.dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        kind: "record": a commit record is damaged; "gap": one is missing, and no tombstone names it; "data": a segment
            differs from its record; "tombstone", "pin": one is damaged or missing; "need": a pin needs a record that
            is gone; "orphan": a segment without a record; "temp": left by something that was killed; "stray":
            belongs to nothing.
        path: of the file or folder, relative to the store.
        text: what is wrong.
        writer, seq: the record it is about; "" and -1 where it is about none.
    """

    kind: Kind
    path: str
    text: str
    writer: str = ""
    seq: int = -1

    def __str__(self) -> str:
        return f"{self.kind}: {self.path}: {self.text}"


def find_faults(path: str | Path, *, lease_s: float = LEASE_S, progress: Progress | None = None) -> list[Fault]:
    """Read every file of a store and compare all that should agree: sizes, checksums, schema, content hashes.

    Args:
        path: folder of the store; others may write to it meanwhile.
        lease_s: segments without a record and temporary files count only when nothing changed them for this long [s].
        progress: called with (bytes of segments read, of how many).

    Returns:
        What is wrong, records first; empty if the store is whole. What lies in ``quarantine`` is not looked at.

    Raises:
        StoreError: if it is no store.
    """
    open_store(path, ram_bytes=0).close()
    root = Path(path)
    faults: list[Fault] = []
    # Before the tombstones: what is deleted meanwhile then has one that was read.
    numbers = {f.name: _numbers(f) for f in sorted((root / "commits").glob("*")) if f.is_dir()}
    folders = sorted((root / "data").glob("*"))
    buried = _read_tombstones(root, faults)
    for writer, seq in buried:
        numbers.setdefault(writer, set()).add(seq)
    records = list(_read_records(root, numbers, buried, faults))
    total, done = sum(r.nbytes for r in records), 0
    for record in records:
        problems = check_segment(root, record)
        if problems and not _deleted(root, record.writer, record.seq):
            faults += [Fault("data", record.segment, text, record.writer, record.seq) for text in problems]
        done += record.nbytes
        if progress is not None:
            progress(done, total)
    _check_pins(root, buried, faults)
    named = {r.segment for r in records} | set(buried.values())
    faults += _left_behind(root, folders, named, time.time() - lease_s)
    return faults


def _numbers(folder: Path) -> set[int]:
    return {int(n[:8]) for n in os.listdir(folder) if RECORD_NAME.fullmatch(n)}


def _read_tombstones(root: Path, faults: list[Fault]) -> dict[tuple[str, int], str]:
    buried: dict[tuple[str, int], str] = {}
    for number in range(count_tombstones(root)):
        try:
            buried |= {(r.writer, r.seq): r.segment for r in read_tombstone(root, number).records}
        except StoreError as error:
            faults.append(Fault("tombstone", str(tombstone_path(root, number).relative_to(root)), str(error)))
    return buried


def _read_records(
    root: Path, numbers: dict[str, set[int]], buried: dict[tuple[str, int], str], faults: list[Fault]
) -> Iterator[Record]:
    for writer, found in sorted(numbers.items()):
        for seq in range(max(found, default=-1) + 1):
            path = record_path(root, writer, seq)
            if path.exists():
                try:
                    yield read_record(root, writer, seq)
                except StoreError as error:
                    if not _deleted(root, writer, seq):
                        faults.append(Fault("record", str(path.relative_to(root)), str(error), writer, seq))
            elif (writer, seq) not in buried and not _deleted(root, writer, seq):
                faults.append(Fault("gap", str(path.relative_to(root)), "missing, and no tombstone", writer, seq))


def _deleted(root: Path, writer: str, seq: int) -> bool:
    """Whether a record was deleted by now because a tombstone names it: then it is no fault that files are gone."""
    if record_path(root, writer, seq).exists():
        return False
    return (writer, seq) in _read_tombstones(root, [])


def check_segment(root: Path, record: Record) -> list[str]:
    """What is wrong with the segment of a record: files first, and where these are right, what they say."""
    problems = file_problems(root, record)
    folder = root / record.segment
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir()}
    problems += [f"{folder / name}: the record names no such file" for name in sorted(files - set(record.files))]
    if problems:
        return problems
    try:
        segment = Segment(folder)
        ids = [e.id for e in record.episodes]
        if segment.attributes["episode_id"] != ids:
            return [f"{folder}: its episodes are not those of the record"]
        places = list(zip(segment.view("ep_start").tolist(), segment.view("ep_len").tolist(), strict=True))
        if places != [(e.start, e.rows) for e in record.episodes]:
            return [f"{folder}: its episodes do not lie where the record says"]
        problems = [text for e in record.episodes if (text := episode_problem(segment, e))]
        segment.close()
    except StoreError as error:
        problems = [str(error)]
    return problems


def file_problems(root: Path, record: Record) -> list[str]:
    """One line per file of a record's segment that is missing, or differs in size or crc32c."""
    problems = []
    for name, recorded in record.files.items():
        path = root / record.segment / name
        try:
            size, crc = file_crc32c(path)
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
            continue
        if size != recorded["bytes"]:
            problems.append(f"{path}: {size} bytes, the record says {recorded['bytes']}")
        elif crc != recorded["crc32c"]:
            problems.append(f"{path}: crc32c {crc:08x}, the record says {recorded['crc32c']:08x}")
    return problems


def episode_problem(segment: Segment, entry: EpisodeEntry) -> str:
    """What is wrong with one episode of a segment; "" if it is what its record says."""
    try:
        episode = segment.read_episode(entry.meta, entry.slot, entry.start, entry.rows)
    except (StoreError, SchemaError, IndexError) as error:
        return f"episode {entry.id}: {error}"
    if (sha256 := episode.sha256()) != entry.sha256:
        return f"episode {entry.id}: content {sha256[:12]}, the record says {entry.sha256[:12]}"
    said = describe(episode, sha256, entry.start)
    for name in ("valid_rows", "iou_final", "iou_max"):
        if said[name] != getattr(entry, name):
            return f"episode {entry.id}: {name} {said[name]}, the record says {getattr(entry, name)}"
    return ""


def _check_pins(root: Path, buried: dict[tuple[str, int], str], faults: list[Fault]) -> None:
    for path in sorted((root / "pins").glob("[!.]*.json")):
        where = str(path.relative_to(root))
        try:
            pin = read_pin(path)
        except StoreError as error:
            faults.append(Fault("pin", where, str(error)))
            continue
        for writer, count in pin.position.items():
            # A record that a tombstone named may be gone because the pin came later; all others must be there.
            gone = writer != TOMBSTONES and [
                s for s in range(count) if (writer, s) not in buried and not record_path(root, writer, s).exists()
            ]
            if gone and not all(_deleted(root, writer, s) for s in gone):
                faults.append(Fault("need", where, f"needs records of {writer} that are gone: {gone[:8]}"))


def _left_behind(root: Path, folders: list[Path], named: set[str], before: float) -> list[Fault]:
    faults = []
    for path in folders:
        where = str(path.relative_to(root))
        if not path.is_dir():
            if path.exists():
                faults.append(Fault("stray", where, "no segment"))
        elif where not in named and last_change(path) < before and path.exists():
            kind: Kind = "temp" if path.name.startswith(GONE) else "orphan"
            faults.append(Fault(kind, where, "no record names it"))
    for folder in (root, root / "tombstones", root / "pins", *sorted((root / "commits").glob("*"))):
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            where = str(path.relative_to(root))
            if path.name.endswith(".tmp") and path.name.startswith("."):
                if last_change(path) < before:
                    faults.append(Fault("temp", where, "left by something that was killed"))
            elif folder not in (root, root / "pins") and not RECORD_NAME.fullmatch(path.name):
                faults.append(Fault("stray", where, "belongs to nothing"))
    return faults
