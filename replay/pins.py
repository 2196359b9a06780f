"""Pins: files that say which part of a store must not be deleted, and why. A checkpoint has one.

``pins/<name>.json`` holds a position. Whatever a view at that position shows is kept, tombstones or not, until the pin
is dropped.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath

from common.errors import StoreError, bad_value
from replay.checks import MAX_NUMBER, real, text, whole
from replay.decisions import Named, count_decisions, decide, decided
from replay.graveyard import Graveyard
from replay.record import WRITER_ID, Record, encode_record, read_checked, record_name
from replay.storage import Storage, Where, open_storage
from replay.tombstones import TOMBSTONES


@dataclasses.dataclass(frozen=True)
class Pin:
    """One pin.

    Attributes:
        name: of the file.
        position: `Store.position` of the view that must stay.
        phases: only episodes of these phases are needed; None is all.
        reason: one sentence for people.
        created_at: Unix time [s], for people.
        kinds: only episodes of these kinds are needed; None is all.
        min_round: only episodes of this round of collection and later ones are needed.
    """

    name: str
    position: Mapping[str, int]
    phases: tuple[str, ...] | None
    reason: str
    created_at: float
    kinds: tuple[str, ...] | None = None
    min_round: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether it needs every episode of its view."""
        return self.phases is None and self.kinds is None and self.min_round <= 0

    def reaches(self, writer: str, seq: int, tombstone: int | None = None) -> bool:
        """Whether the pinned view holds a record that `tombstone` has named since (None: that none has named)."""
        shown = tombstone is None or tombstone >= self.position.get(TOMBSTONES, 0)
        return shown and seq < self.position.get(writer, 0)

    def needs(self, record: Record, tombstone: int | None = None) -> bool:
        """Whether a record must stay: the view holds it, and with it episodes of the phases, kinds and rounds."""
        if not self.reaches(record.writer, record.seq, tombstone):
            return False
        return self.is_whole or any(
            (self.phases is None or meta.phase in self.phases)
            and (self.kinds is None or meta.kind in self.kinds)
            and meta.id.round >= self.min_round
            for meta in (e.meta for e in record.episodes)
        )


def pin_name(name: str) -> str:
    """Where a pin lies.

    Raises:
        StoreError: if it is no name.
    """
    if not WRITER_ID.fullmatch(name):
        raise StoreError(bad_value("pin name", name, f"a name matching {WRITER_ID.pattern}"))
    return f"pins/{name}.json"


def pin_path(root: Path, name: str) -> Path:
    """Where a pin lies in a local store."""
    return root / pin_name(name)


def pin(
    where: Where,
    name: str,
    position: Mapping[str, int],
    reason: str,
    phases: Collection[str] | None = None,
    *,
    kinds: Collection[str] | None = None,
    min_round: int = 0,
) -> Pin:
    """Keep what a position shows from being deleted, until `unpin`; durable when it returns. An older pin of the name
    is replaced.

    Args:
        where: the store.
        name: of the pin.
        position: what `Store.position` said.
        reason: one sentence for people.
        phases: keep only episodes of these phases; None keeps all.
        kinds: of them, keep only episodes of these kinds; None keeps all.
        min_round: of them, keep only episodes of this round of collection and later ones.

    Raises:
        StoreError: if a record that the position shows is deleted already or about to be, or the storage refuses.
    """
    storage, file = open_storage(where), pin_name(name)
    only = [None if names is None else tuple(names) for names in (phases, kinds)]
    made = Pin(name, dict(position), only[0], reason, time.time(), only[1], min_round)
    data = encode_record(dataclasses.asdict(made))
    try:
        storage.make_folder("pins")
        # Where an older pin of the name would be lost if this one is refused, it first stands under a name beside it.
        first = _renewed(file) if storage.exists(file) else file
        storage.replace(first, data)
        try:
            _check_kept(storage, made)
        except StoreError:
            storage.delete([first])
            raise
        if first != file:
            storage.replace(file, data)
            storage.delete([first])
    except OSError as error:
        raise StoreError(f"pin {storage.where(file)} cannot be written: {error.strerror}") from error
    return made


def _renewed(file: str) -> str:
    return file.removesuffix(".json") + ".renewed.json"


def _check_kept(storage: Storage, made: Pin) -> None:
    """After a pin was written: that nobody deletes what it needs; see `replay.decisions`."""
    number = count_decisions(storage)
    while not decide(storage, number, (), f"pin {made.name}"):
        number = count_decisions(storage)
    going = decided(storage, number)
    graveyard = Graveyard(storage)
    needed = [
        (r.writer, r.seq, t.number)
        for t in map(graveyard.tombstone, range(made.position.get(TOMBSTONES, 0), graveyard.read()))
        for r in t.records
        if made.reaches(r.writer, r.seq, t.number)
    ]
    there = storage.each(lambda r: Named(*r[:2]) not in going and storage.exists(record_name(*r[:2])), needed)
    for (writer, seq, tombstone), kept in zip(needed, there, strict=True):
        if not kept:
            raise StoreError(
                f"pin {made.name}: record {writer}/{seq} of its position was deleted "
                f"(tombstone {tombstone}); refresh the store first"
            )


def unpin(where: Where, name: str) -> None:
    """Drop a pin; nothing happens where there is none.

    Raises:
        StoreError: if the storage refuses.
    """
    storage, file = open_storage(where), pin_name(name)
    try:
        storage.delete([file, _renewed(file)])
    except OSError as error:
        raise StoreError(f"pin {storage.where(file)} cannot be dropped: {error.strerror}") from error


def read_pins(where: Where) -> list[Pin]:
    """All pins, sorted by name.

    Raises:
        StoreError: naming one that is damaged; nobody knows what it needs, so nothing may be deleted.
    """
    storage = open_storage(where)
    try:
        names = pin_names(storage)
    except OSError as error:
        raise StoreError(f"pins of store {storage.url} cannot be listed: {error.strerror}") from error
    return [p for p in storage.each(lambda name: _read_or_gone(storage, name), names) if p is not None]


def pin_names(storage: Storage) -> list[str]:
    """Names of the pins' files below the store, sorted."""
    return [f"pins/{n}" for n in storage.listing("pins").files if n.endswith(".json") and not n.startswith(".")]


def _read_or_gone(storage: Storage, name: str) -> Pin | None:
    try:
        return read_pin(storage, name)
    except StoreError:
        if storage.exists(name):
            raise
        return None  # dropped since it was listed


def read_pin(where: Where, name: str) -> Pin:
    """Read and check one pin; `name` is that of its file below the store.

    Raises:
        StoreError: naming it if it is damaged.
    """
    storage = open_storage(where)
    path, raw = storage.where(name), read_checked(storage, name, "pin")
    try:
        phases = None if raw["phases"] is None else tuple(text(f"phase in pin {path}", p) for p in raw["phases"])
        position = {
            writer: whole(f"position of {writer!r} in pin {path}", count, high=MAX_NUMBER + 1)
            for writer, count in raw["position"].items()
        }
        # These two are younger than the format.
        kinds = None if raw.get("kinds") is None else tuple(text(f"kind in pin {path}", k) for k in raw["kinds"])
        min_round = whole(f"min_round in pin {path}", raw.get("min_round", 0))
        created = real(f"created_at in pin {path}", raw["created_at"])
        return Pin(PurePosixPath(name).stem, position, phases, raw["reason"], created, kinds, min_round)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"pin {path} is malformed: {type(error).__name__}: {error}") from error
