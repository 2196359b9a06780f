"""Reading everything of a store again and saying what is wrong with it; nothing is changed."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Literal

from common.errors import SchemaError, StoreError
from replay.checks import MAX_GAP
from replay.decisions import DECISIONS, decision_name, read_decision
from replay.pins import pin_names, read_pin
from replay.record import RECORD_NAME, EpisodeEntry, Record, describe, read_record, record_name
from replay.retention import LEASE_S
from replay.segment import Segment, file_crc32c
from replay.storage import Listing, Storage, Where, open_storage, refusing
from replay.storage_local import GONE
from replay.store import open_store
from replay.tombstones import TOMBSTONES, read_tombstone, tombstone_name

Progress = Callable[[int, int], None]  # bytes read, of how many
Kind = Literal["record", "gap", "data", "tombstone", "pin", "decision", "need", "orphan", "temp", "stray"]


@dataclasses.dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        kind: "record": a commit record is damaged; "gap": one is missing, and no tombstone names it; "data": a segment
            differs from its record; "tombstone", "pin", "decision": one is damaged or
            missing; "need": a pin needs a record that
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


def find_faults(where: Where, *, lease_s: float = LEASE_S, progress: Progress | None = None) -> list[Fault]:
    """Read every file of a store and compare all that should agree: sizes, checksums, schema, content hashes.

    Args:
        where: the store; others may write to it meanwhile.
        lease_s: segments without a record and temporary files count only when nothing changed them for this long [s].
        progress: called with (bytes of segments read, of how many).

    Returns:
        What is wrong, records first; empty if the store is whole. What lies in ``quarantine`` is not looked at.

    Raises:
        StoreError: if it is no store, or an object store does not answer.
    """
    storage = open_storage(where)
    open_store(storage, ram_bytes=0).close()
    with refusing(storage, "verified"):
        return _faults(storage, time.time() - lease_s, progress)


def _faults(storage: Storage, before: float, progress: Progress | None) -> list[Fault]:
    faults: list[Fault] = []
    far = [
        Fault("stray", f"{folder}/{n:08d}.json", "its number is far beyond those before it")
        for folder in ("tombstones", DECISIONS)
        for n in _far(_numbers(storage, folder))
    ]
    # Before the tombstones: what is deleted meanwhile then has one that was read.
    writers = storage.listing("commits").folders
    listed = dict(zip(writers, storage.each(lambda w: _numbers(storage, f"commits/{w}"), writers), strict=True))
    data = storage.listing("data")
    buried = _read_tombstones(storage, faults)
    records = _read_records(storage, listed, buried, faults)
    total, done = sum(r.nbytes for r in records), 0
    for record in records:
        problems = check_segment(storage, record)
        if problems and not _deleted(storage, record.writer, record.seq):
            faults += [Fault("data", record.segment, text, record.writer, record.seq) for text in problems]
        done += record.nbytes
        if progress is not None:
            progress(done, total)
    _check_pins(storage, listed, buried, faults)
    for number in _near(storage, DECISIONS):
        try:
            read_decision(storage, number)
        except StoreError as error:
            faults.append(Fault("decision", decision_name(number), str(error)))
    named = {r.segment for r in records} | set(buried.values())
    return faults + far + _left_behind(storage, data, named, before)


def _numbers(storage: Storage, folder: str) -> set[int]:
    return {int(n[:8]) for n in storage.listing(folder).files if RECORD_NAME.fullmatch(n)}


def _far(numbers: Collection[int]) -> set[int]:
    """Those so far beyond the others that what is missing before them was never there; nobody counts up to them."""
    far, following = set(), 0
    for number in sorted(numbers):
        if number - following > MAX_GAP:
            far.add(number)
        else:
            following = number + 1
    return far


def _near(storage: Storage, folder: str) -> range:
    """All numbers up to the largest one that is not far."""
    numbers = _numbers(storage, folder)
    return range(max(numbers - _far(numbers), default=-1) + 1)


def _read_tombstones(storage: Storage, faults: list[Fault]) -> dict[tuple[str, int], str]:
    buried: dict[tuple[str, int], str] = {}
    for number in _near(storage, "tombstones"):
        try:
            buried |= {(r.writer, r.seq): r.segment for r in read_tombstone(storage, number).records}
        except StoreError as error:
            faults.append(Fault("tombstone", tombstone_name(number), str(error)))
    return buried


def _read_records(
    storage: Storage, listed: dict[str, set[int]], buried: dict[tuple[str, int], str], faults: list[Fault]
) -> list[Record]:
    numbers = {writer: set(found) for writer, found in listed.items()}
    for writer, seq in buried:
        numbers.setdefault(writer, set()).add(seq)

    for writer, found in numbers.items():
        for seq in _far(found):
            found.remove(seq)
            text = "its number is far beyond those before it"
            if seq in listed.get(writer, ()):
                faults.append(Fault("stray", record_name(writer, seq), text))
            if (writer, seq) in buried:
                faults.append(Fault("tombstone", _naming(storage, writer, seq), f"names {writer}/{seq}: {text}"))

    def read(key: tuple[str, int]) -> Record | Fault | None:
        name = record_name(*key)
        if key[1] not in listed.get(key[0], ()):
            gap = key not in buried and not _deleted(storage, *key)
            return Fault("gap", name, "missing, and no tombstone", *key) if gap else None
        try:
            return read_record(storage, *key)
        except StoreError as error:
            return None if _deleted(storage, *key) else Fault("record", name, str(error), *key)

    keys = [(w, seq) for w, found in sorted(numbers.items()) for seq in range(max(found, default=-1) + 1)]
    results = list(storage.each(read, keys))
    faults += [f for f in results if isinstance(f, Fault)]
    return [r for r in results if isinstance(r, Record)]


def _naming(storage: Storage, writer: str, seq: int) -> str:
    """The first tombstone that names a record."""
    for number in _near(storage, "tombstones"):
        with contextlib.suppress(StoreError):
            if (writer, seq) in {(r.writer, r.seq) for r in read_tombstone(storage, number).records}:
                return tombstone_name(number)
    return "tombstones"


def _deleted(storage: Storage, writer: str, seq: int) -> bool:
    """Whether a record was deleted by now because a tombstone names it: then it is no fault that files are gone."""
    if storage.exists(record_name(writer, seq)):
        return False
    return (writer, seq) in _read_tombstones(storage, [])


def check_segment(where: Where, record: Record) -> list[str]:
    """What is wrong with the segment of a record: files first, and where these are right, what they say."""
    storage = open_storage(where)
    try:
        with storage.as_folder(record.segment) as folder:
            problems = _file_problems(storage, folder, record)
            below = list(folder.rglob("*"))
            links = sorted(p.relative_to(folder).as_posix() for p in (folder, *below) if p.is_symlink())
            problems += [f"{_where(storage, record, name)}: is a link" for name in links]
            files = {p.relative_to(folder).as_posix() for p in below if not p.is_dir()}
            strange = sorted(files - set(record.files))
            problems += [f"{_where(storage, record, name)}: the record names no such file" for name in strange]
            # A copy has another path than what it is a copy of.
            return problems or [
                text.replace(str(folder), storage.where(record.segment)) for text in _content_problems(folder, record)
            ]
    except (OSError, StoreError) as error:
        return [f"{storage.where(record.segment)}: {getattr(error, 'strerror', None) or error}"]


def _content_problems(folder: Path, record: Record) -> list[str]:
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
        return problems
    except StoreError as error:
        return [str(error)]


def file_problems(where: Where, record: Record) -> list[str]:
    """One line per file of a record's segment that is missing, or differs in size or crc32c.

    Raises:
        OSError: if the storage does not answer.
    """
    storage = open_storage(where)
    with storage.as_folder(record.segment) as folder:
        return _file_problems(storage, folder, record)


def _file_problems(storage: Storage, folder: Path, record: Record) -> list[str]:
    problems = []
    for name, recorded in record.files.items():
        path = _where(storage, record, name)
        try:
            size, crc = file_crc32c(folder / name)
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
            continue
        if size != recorded["bytes"]:
            problems.append(f"{path}: {size} bytes, the record says {recorded['bytes']}")
        elif crc != recorded["crc32c"]:
            problems.append(f"{path}: crc32c {crc:08x}, the record says {recorded['crc32c']:08x}")
    return problems


def _where(storage: Storage, record: Record, name: str) -> str:
    return storage.where(f"{record.segment}/{name}")


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


def _check_pins(
    storage: Storage, listed: dict[str, set[int]], buried: dict[tuple[str, int], str], faults: list[Fault]
) -> None:
    for name in pin_names(storage):
        try:
            pin = read_pin(storage, name)
        except StoreError as error:
            if storage.exists(name):  # and not dropped meanwhile
                faults.append(Fault("pin", name, str(error)))
            continue
        for writer, count in pin.position.items():
            known = len(listed.get(writer, ())) + sum(w == writer for w, _ in buried)
            if writer != TOMBSTONES and count - known > MAX_GAP:
                faults.append(Fault("need", name, f"needs {count} records of {writer}, of which {known} were there"))
                continue
            # A record that a tombstone named may be gone because the pin came later; all others must be there.
            gone = writer != TOMBSTONES and [
                s
                for s in range(count)
                if (writer, s) not in buried
                and s not in listed.get(writer, ())
                and not storage.exists(record_name(writer, s))
            ]
            if gone and not all(_deleted(storage, writer, s) for s in gone):
                faults.append(Fault("need", name, f"needs records of {writer} that are gone: {gone[:8]}"))


def _left_behind(storage: Storage, data: Listing, named: set[str], before: float) -> list[Fault]:
    faults = []
    strays = (f"data/{n}" for n in data.files)
    faults += [Fault("stray", where, "no segment") for where in strays if storage.exists(where)]
    for name in data.folders:
        where = f"data/{name}"
        if where not in named and storage.last_change(where) < before and storage.exists(where):
            kind: Kind = "temp" if name.startswith(GONE) else "orphan"
            faults.append(Fault(kind, where, "no record names it"))
    writers = [f"commits/{w}" for w in storage.listing("commits").folders]
    for folder in ("", "tombstones", "pins", DECISIONS, *writers):
        files, folders = storage.listing(folder)
        for name in sorted([*files, *folders]):
            where = f"{folder}/{name}" if folder else name
            if name.endswith(".tmp") and name.startswith("."):
                if storage.last_change(where) < before:
                    faults.append(Fault("temp", where, "left by something that was killed"))
            elif folder not in ("", "pins") and not RECORD_NAME.fullmatch(name):
                faults.append(Fault("stray", where, "belongs to nothing"))
    return faults
