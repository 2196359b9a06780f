"""A small store with every kind of file, ways to damage it, and the use of all of it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from records import make_episode

from common.episode import Episode
from common.errors import StoreError
from replay.inspect import store_info
from replay.pins import pin
from replay.record import encode_record
from replay.repair import repair
from replay.retention import Retention, plan_prune, sweep
from replay.store import open_store
from replay.tombstones import Buried, publish_tombstone
from replay.verify import find_faults

# Values that a field of a JSON file may have instead of the right one.
NASTY: list[Any] = [
    None, True, 0, -1, 2**31, 2**53 + 1, 2**62, 2**64, 10**400, -0.5, 1e308, "", "x", "\x00", "a\nb", [], {}, [None],
    [[]], {"": 0}, "data/../../etc", "/etc/passwd", "../x",
]  # fmt: skip


class ShownWrongError(AssertionError):
    """A store showed an episode that is not the one of this id."""


@lru_cache(maxsize=16)
def episode_of(env: int) -> Episode:
    """Rows of images so large that they are shards, masks, and columns."""
    return make_episode("dagger", env=env, rows=1 + env % 2, size=38)


EXPECTED = {str(e.meta.id): e.sha256() for e in map(episode_of, range(4))}


def make_store(root: Path) -> Path:
    """Writer w commits episodes 0 .. 3, one at a time; tombstones name w/3, deleted, and w/0; w/1 is pinned."""
    store = open_store(root, "a", create=True)
    writer = store.writer("w", max_episodes=1)
    for env in range(4):
        writer.append(episode_of(env))
    writer.close()
    publish_tombstone(root, [Buried("w", 3, "data/w-00000003.zarr")], "a test", {})
    sweep(store, grace_s=0.0)
    publish_tombstone(root, [Buried("w", 0, "data/w-00000000.zarr")], "a test", {})
    pin(root, "mine", store.refresh(), "a test", phases=("il",))
    store.close()
    return root


def use(root: Path, index: Path | None = None, *, lies: bool = False) -> list[str]:
    """Read and look through a store in all ways. What it shows must be right; what it cannot do it must say.

    Args:
        root: of the store.
        index: file of the reader's index.
        lies: a file may lie under a right checksum. That was made on purpose, and it is enough that the verification
            finds it.

    Returns:
        The errors, each one line.
    """
    errors: list[str] = []
    for step in (_read, _plan, _sweep, _repair, _info):
        try:
            step(root, index)
        except ShownWrongError:
            if not lies or not find_faults(root):
                raise
        except StoreError as error:
            errors.append(str(error))
            assert "\n" not in errors[-1], f"more than a line: {errors[-1]}"
            assert "None (None)" not in errors[-1], errors[-1]
    return errors


def _read(root: Path, index: Path | None) -> None:
    store = open_store(root, index_path=index)
    try:
        store.refresh()
        for entry in store.select():
            episode = store.read_episode(entry)
            rows = store.valid_rows(entry)
            got = store.read_rows(["image", "mask", "action"], [entry], np.zeros(len(rows), np.int64), rows)
            wrong = (
                episode.sha256() != entry.sha256
                or rows.tolist() != np.flatnonzero(episode.steps["label_valid"]).tolist()
                or len(rows) != entry.valid_rows
                or any((got[name] != episode.steps[name][rows]).any() for name in got)
                or entry.sha256 != EXPECTED.get(entry.id)
            )
            if wrong:
                raise ShownWrongError(entry.id)
    finally:
        store.close()


def _plan(root: Path, _: Path | None) -> None:
    store = open_store(root)
    try:
        store.refresh()
        plan_prune(store, Retention(newest_rows=1, max_bytes=10, min_iou=0.5)).summary()
    finally:
        store.close()


def _sweep(root: Path, _: Path | None) -> None:
    store = open_store(root)
    try:
        sweep(store, grace_s=0.0, dry_run=True)
    finally:
        store.close()


def _repair(root: Path, _: Path | None) -> None:
    for words in repair(root, dry_run=True).faults:
        assert "\n" not in words


def _info(root: Path, _: Path | None) -> None:
    store_info(root)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value: the keys and numbers that lead there."""
    yield at
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in below:
        yield from places(inner, (*at, key))


def changed(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    """A copy with another value at a place; `Ellipsis` takes it out."""
    if not at:
        return new
    value = copy.deepcopy(value)
    inner = value
    for key in at[:-1]:
        inner = inner[key]
    if new is ...:
        del inner[at[-1]]
    else:
        inner[at[-1]] = new
    return value


def body_of(path: Path) -> Any:
    """Content of a checked file, without its checksum."""
    body = json.loads(path.read_bytes())
    body.pop("crc32c", None)
    return body


def write_checked(path: Path, body: Any) -> None:
    """Write a body with a checksum that holds, also where it is no object."""
    if isinstance(body, dict):
        path.write_bytes(encode_record(body))
    else:
        path.write_bytes(json.dumps(body).encode())
