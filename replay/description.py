"""``store.json``: what makes a place a replay store."""

from __future__ import annotations

import json
import uuid
from typing import Any

from common.errors import StoreError, bad_value
from replay.checks import text
from replay.layout import FORMAT_VERSION
from replay.record import encode_record, has_right_sum
from replay.storage import Storage

STORE_FORMAT = "servofleet-replay"


def create_description(storage: Storage) -> None:
    """Make a store where there is none; nothing happens where there is one. Of many that try, one makes it.

    Raises:
        StoreError: if the place holds something else.
        OSError: if the storage refuses.
    """
    if storage.exists("store.json"):
        return
    storage.make_folder("")
    # What a creation that was killed, or one that runs beside this one, may have left.
    files, folders = storage.listing("")
    strangers = [n for n in (*files, *folders) if not n.startswith(".store.json.") and n != "store.json"]
    if strangers and not storage.exists("store.json"):
        what = f"folder {storage.url} is no replay store, and is not made one because it holds {strangers[0]!r}"
        raise StoreError(what)
    about: dict[str, Any] = {"format": STORE_FORMAT, "version": FORMAT_VERSION, "store_id": uuid.uuid4().hex}
    storage.create("store.json", encode_record(about))


def read_description(storage: Storage) -> dict[str, Any]:
    """The content of ``store.json``: {"format", "version", "store_id"}.

    Raises:
        StoreError: if there is no store, it is damaged, or it has another format version.
        OSError: if the storage does not answer.
    """
    where = storage.where("store.json")
    try:
        data = storage.read("store.json")
        about = json.loads(data)
    except (FileNotFoundError, NotADirectoryError):
        if not storage.exists(""):
            raise StoreError(f"store {storage.url} does not exist") from None
        raise StoreError(f"folder {storage.url} is no replay store: it has no store.json") from None
    except (ValueError, RecursionError) as error:
        raise StoreError(f"store description {where} is damaged: {error}") from error
    if not isinstance(about, dict) or about.get("format") != STORE_FORMAT or "store_id" not in about:
        raise StoreError(f"folder {storage.url} is no replay store: its store.json does not say {STORE_FORMAT!r}")
    # The first stores had no checksum.
    if not has_right_sum(data) and about.keys() != {"format", "version", "store_id"}:
        raise StoreError(f"store description {where} is damaged: its checksum does not fit its content")
    if about.get("version") != FORMAT_VERSION:
        raise StoreError(bad_value(f"format version of store {storage.url}", about.get("version"), str(FORMAT_VERSION)))
    text(f"store_id in {where}", about["store_id"])
    return about
