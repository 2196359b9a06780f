"""The order in which pins are made and deletions decided: a log whose entries are made create-only.

    decisions/<n>.json      0, 1, 2, ... without gaps, never changed or deleted

Pins and sweeps need an order, but neither locks nor clocks: locks do not reach other machines, and a process that
sleeps does not know that its time is up. Here, of all that want to be entry n, one succeeds.

* A sweep reads how many entries there are (n), *then* reads the pins, and then makes entry n, which names the records
  that go. Only what an entry names is ever deleted: now, or by the next sweep where this one was killed.
* A pin is written *first*. Then it makes an entry, which names nothing new, and looks what the entries before it name.

Were the pins read before the pin was written, then n was read before the pin's entry was made. So either the sweep
made entry n first: the pin then sees it, and is refused where it needs what goes. Or entry n was taken when the sweep
wanted it, and it begins again, with the pin. Were the pins read after the pin was written, the sweep knows it.

Each entry repeats those named before it that are not gone yet, so only the last one is read.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Iterable
from typing import NamedTuple

from common.errors import StoreError, bad_value
from replay.checks import MAX_NUMBER, text, whole
from replay.record import RECORD_NAME, WRITER_ID, encode_record, read_checked, record_name
from replay.storage import Storage

DECISIONS = "decisions"


class Named(NamedTuple):
    """A record that an entry names."""

    writer: str
    seq: int


def decision_name(number: int) -> str:
    """Where an entry lies."""
    return f"{DECISIONS}/{number:08d}.json"


def count_decisions(storage: Storage) -> int:
    """How many entries there are: one more than the largest number."""
    names = storage.listing(DECISIONS).files
    return 1 + max((int(n[:8]) for n in names if RECORD_NAME.fullmatch(n)), default=-1)


def read_decision(storage: Storage, number: int) -> frozenset[Named]:
    """The records that an entry names.

    Raises:
        StoreError: naming the entry if it is missing, damaged or malformed.
    """
    where = storage.where(decision_name(number))
    raw = read_checked(storage, decision_name(number), "decision")
    try:
        if raw["number"] != number:
            raise StoreError(bad_value(f"number of decision {where}", raw["number"], str(number)))
        named = frozenset(
            Named(text(f"writer in {where}", w), whole(f"seq in {where}", s, high=MAX_NUMBER)) for w, s in raw["going"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"decision {where} is malformed: {type(error).__name__}: {error}") from error
    for r in named:
        if not WRITER_ID.fullmatch(r.writer):
            raise StoreError(bad_value(f"record in decision {where}", tuple(r), "writer, seq"))
    return named


def decided(storage: Storage, count: int) -> frozenset[Named]:
    """The records that the first `count` entries name and that are not known to be gone."""
    return read_decision(storage, count - 1) if count else frozenset()


def decide(storage: Storage, number: int, going: Collection[Named], why: str) -> bool:
    """Make entry `number`; False if another was faster. Durable when it returns.

    Args:
        storage: of the store.
        number: `count_decisions` at a time before anything was read that this is decided by.
        going: records that go with it, beside those of the entries before it.
        why: for people.

    Raises:
        StoreError: if the entry before it is damaged.
        OSError: if the storage refuses.
    """
    all_of_them = still_there(storage, decided(storage, number)) | set(going)
    body = {
        "number": number,
        "id": uuid.uuid4().hex,
        "why": why,
        "created_at": time.time(),
        "going": sorted([list(r) for r in all_of_them]),
    }
    storage.make_folder(DECISIONS)
    return storage.create(decision_name(number), encode_record(body))


def still_there(storage: Storage, named: Iterable[Named]) -> set[Named]:
    """Those whose record exists."""
    asked = sorted(named)
    found = storage.each(lambda r: storage.exists(record_name(r.writer, r.seq)), asked)
    return {r for r, exists in zip(asked, found, strict=True) if exists}
