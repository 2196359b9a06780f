"""Pins: files that say which part of a store must not be deleted, and why. A checkpoint has one.

``pins/<name>.json`` holds a position. Whatever a view at that position shows is kept, tombstones or not, until the pin
is dropped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from common.errors import StoreError, bad_value
from common.fsio import fsync_path, replace_atomically
from replay.record import WRITER_ID, Record, encode_record, read_checked, record_path
from replay.tombstones import TOMBSTONES, Graveyard


@dataclasses.dataclass(frozen=True)
class Pin:
    """One pin.

    Attributes:
        name: of the file.
        position: `Store.position` of the view that must stay.
        phases: only episodes of these phases are needed; None is all.
        reason: one sentence for people.
        created_at: Unix time [s], for people.
    """

    name: str
    position: Mapping[str, int]
    phases: tuple[str, ...] | None
    reason: str
    created_at: float

    def reaches(self, writer: str, seq: int, tombstone: int | None = None) -> bool:
        """Whether the pinned view holds a record that `tombstone` has named since (None: that none has named)."""
        shown = tombstone is None or tombstone >= self.position.get(TOMBSTONES, 0)
        return shown and seq < self.position.get(writer, 0)

    def needs(self, record: Record, tombstone: int | None = None) -> bool:
        """Whether a record must stay: the view holds it, and with it episodes of the phases."""
        if not self.reaches(record.writer, record.seq, tombstone):
            return False
        return self.phases is None or any(e.meta.phase in self.phases for e in record.episodes)


def pin_path(root: Path, name: str) -> Path:
    """Where a pin lies."""
    if not WRITER_ID.fullmatch(name):
        raise StoreError(bad_value("pin name", name, f"a name matching {WRITER_ID.pattern}"))
    return root / "pins" / f"{name}.json"


def pin(root: Path, name: str, position: Mapping[str, int], reason: str, phases: Collection[str] | None = None) -> Pin:
    """Keep what a position shows from being deleted, until `unpin`; durable when it returns. An older pin of the name
    is replaced.

    Args:
        root: of the store.
        name: of the pin.
        position: what `Store.position` said.
        reason: one sentence for people.
        phases: keep only episodes of these phases; None keeps all.

    Raises:
        StoreError: if a record that the position shows is deleted already, or the disk refuses.
    """
    path = pin_path(root, name)
    try:
        with pin_lock(root):
            made = Pin(name, dict(position), None if phases is None else tuple(phases), reason, time.time())
            for tombstone in Graveyard(root).read():
                for r in tombstone.records:
                    if made.reaches(r.writer, r.seq, tombstone.number) and not _kept(root, r.writer, r.seq):
                        raise StoreError(
                            f"pin {name}: record {r.writer}/{r.seq} of its position was deleted "
                            f"(tombstone {tombstone.number}); refresh the store first"
                        )
            replace_atomically(path, encode_record(dataclasses.asdict(made)))
    except OSError as error:
        raise StoreError(f"pin {path} cannot be written: {error.strerror}") from error
    return made


def _kept(root: Path, writer: str, seq: int) -> bool:
    return record_path(root, writer, seq).exists()


def unpin(root: Path, name: str) -> None:
    """Drop a pin; nothing happens where there is none.

    Raises:
        StoreError: if the disk refuses.
    """
    path = pin_path(root, name)
    try:
        path.unlink(missing_ok=True)
        if path.parent.is_dir():
            fsync_path(path.parent)
    except OSError as error:
        raise StoreError(f"pin {path} cannot be dropped: {error.strerror}") from error


def read_pins(root: Path) -> list[Pin]:
    """All pins, sorted by name.

    Raises:
        StoreError: naming one that is damaged; nobody knows what it needs, so nothing may be deleted.
    """
    folder = root / "pins"
    return [read_pin(path) for path in sorted(folder.glob("[!.]*.json"))] if folder.is_dir() else []


def read_pin(path: Path) -> Pin:
    """Read and check one pin.

    Raises:
        StoreError: naming it if it is damaged.
    """
    raw = read_checked(path, "pin")
    try:
        phases = None if raw["phases"] is None else tuple(raw["phases"])
        position = {str(k): int(v) for k, v in raw["position"].items()}
        return Pin(path.stem, position, phases, raw["reason"], float(raw["created_at"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"pin {path} is malformed: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def pin_lock(root: Path) -> Iterator[None]:
    """Held while a pin is made and while records are deleted, so that neither happens in the middle of the other.

    The kernel lets go of it when its process ends, however it ends.
    """
    folder = root / "pins"
    folder.mkdir(exist_ok=True)
    fd = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
