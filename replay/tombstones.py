"""Tombstones: the small files that take committed records out of the store again.

A tombstone is published once, under ``tombstones/<n>.json``, numbered 0, 1, 2, ... without gaps, and never changed or
deleted. A reader that has read it no longer shows the episodes of the records that it names. The files of those records
stay for a grace period, and as long as a pin needs them (`replay.retention` deletes them), so that a view of an older
position goes on showing what it showed.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import StoreError, bad_value
from replay.checks import MAX_NUMBER, real, text, whole
from replay.record import RECORD_NAME, SEGMENT_PATH, WRITER_ID, encode_record, read_checked
from replay.storage import Where, open_storage

# In a position, the number of tombstones read; no writer id begins with a slash.
TOMBSTONES = "/tombstones"


class Buried(NamedTuple):
    """A record that a tombstone names; `segment` is "" where the record was lost before anybody could read it."""

    writer: str
    seq: int
    segment: str


@dataclasses.dataclass(frozen=True)
class Tombstone:
    """One tombstone.

    Attributes:
        number: 0, 1, 2, ... in the order of publication.
        records: what it takes out.
        reason: one sentence for people.
        policy: the settings that asked for it, JSON-ready; {} where no policy did.
        created_at: Unix time [s] of the publisher's clock; the grace period begins then.
    """

    number: int
    records: tuple[Buried, ...]
    reason: str
    policy: Mapping[str, Any]
    created_at: float


def tombstone_name(number: int) -> str:
    """Where a tombstone lies."""
    return f"tombstones/{number:08d}.json"


def tombstone_path(root: Path, number: int) -> Path:
    """Where a tombstone lies in a local store."""
    return root / tombstone_name(number)


def count_tombstones(where: Where, known: int = 0) -> int:
    """How many there are: one more than the largest number; `known` of them are known to be there."""
    names = open_storage(where).files_after("tombstones", f"{known - 1:08d}.json" if known else "")
    return 1 + max((int(n[:8]) for n in names if RECORD_NAME.fullmatch(n)), default=known - 1)


def read_tombstone(where: Where, number: int) -> Tombstone:
    """Read and check a tombstone.

    Raises:
        StoreError: naming the tombstone if it is missing, damaged or malformed, or names a path outside the store.
    """
    storage, name = open_storage(where), tombstone_name(number)
    path, raw = storage.where(name), read_checked(storage, name, "tombstone")
    try:
        if raw["number"] != number:
            raise StoreError(bad_value(f"number of tombstone {path}", raw["number"], str(number)))
        records = tuple(_buried(path, r) for r in raw["records"])
        for buried in records:
            inside = not buried.segment or SEGMENT_PATH.fullmatch(buried.segment)
            if not (WRITER_ID.fullmatch(buried.writer) and inside):
                raise StoreError(bad_value(f"record in tombstone {path}", tuple(buried), "writer, seq, data/NAME"))
        return Tombstone(
            number, records, raw["reason"], raw["policy"], real(f"created_at in {path}", raw["created_at"])
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"tombstone {path} is malformed: {type(error).__name__}: {error}") from error


def _buried(path: str, raw: Mapping[str, Any]) -> Buried:
    writer, segment = (text(f"{n} in tombstone {path}", raw[n]) for n in ("writer", "segment"))
    return Buried(writer, whole(f"seq in tombstone {path}", raw["seq"], high=MAX_NUMBER), segment)


def publish_tombstone(
    where: Where, records: Sequence[Buried], reason: str, policy: Mapping[str, Any], *, number: int | None = None
) -> Tombstone:
    """Take records out of the store; durable when it returns.

    Args:
        where: the store.
        records: what to take out.
        reason: one sentence for people.
        policy: the settings that asked for it, JSON-ready.
        number: fill this gap in the numbers; None appends.

    Raises:
        StoreError: if the disk refuses, or the gap is none.
    """
    storage = open_storage(where)
    try:
        storage.make_folder("tombstones")
        wanted = count_tombstones(storage) if number is None else number
    except OSError as error:
        raise StoreError(f"store {storage.url}: no tombstone can be written: {error.strerror}") from error
    while True:
        # One of a longer name would never be read.
        whole(f"number of the next tombstone of store {storage.url}", wanted, high=MAX_NUMBER)
        body = {
            "number": wanted,
            "created_at": time.time(),
            "reason": reason,
            "policy": dict(policy),
            "records": [r._asdict() for r in records],
        }
        try:
            published = storage.create(tombstone_name(wanted), encode_record(body))
        except OSError as error:
            raise StoreError(f"store {storage.url}: no tombstone can be written: {error.strerror}") from error
        if published:
            return read_tombstone(storage, wanted)
        if number is not None:
            raise StoreError(f"tombstone {storage.where(tombstone_name(number))} exists already")
        wanted += 1  # somebody else was faster
