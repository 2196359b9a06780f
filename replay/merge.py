"""Merging stores: every episode of each into one, duplicates dropped, all of it checked afterwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from common.errors import StoreError, bad_value
from replay.index import Query
from replay.storage import Storage, Where, open_storage, refusing
from replay.store import Store, open_store
from replay.verify import find_faults

WRITER = "merge"

Progress = Callable[[int, int], None]  # episodes done, of how many


@dataclasses.dataclass(frozen=True)
class Merged:
    """What a merge did: episodes in the result, of these copied now, copies dropped, and ids whose copies differ."""

    episodes: int
    copied: int
    duplicates: int
    conflicts: tuple[str, ...]


def merge(sources: Sequence[Where], out: Where, *, progress: Progress | None = None) -> Merged:
    """Copy every episode that stands in `sources` into the store `out`, which is made if it does not exist.

    An id that several of them have counts once: the copy in `out`, then that of the first source, stands. A merge that
    was stopped leaves a valid store, and is finished by the same call.

    Args:
        sources: at least one store; they are only read. Local ones and those of object stores go together.
        out: the result, none of the sources.
        progress: called with (episodes looked at, of how many).

    Raises:
        StoreError: if records of one kind have fields of other shapes in two of the stores, an episode cannot be read
            or does not hash to what its record says, or the result is not whole.
    """
    target, places = open_storage(out), [open_storage(s) for s in sources]
    if not places or _identity(target) in map(_identity, places):
        raise StoreError(bad_value("merge output", target.url, "a store that is not among its sources (at least one)"))
    opened = [open_store(place) for place in places]
    try:
        for store in opened:
            store.refresh()
        existing = open_store(target) if _is_store(target) else None
        if existing is not None:
            opened.append(existing)
            existing.refresh()
        check_schemas(opened)
        result = _copy(opened if existing is None else opened[:-1], existing, target, progress)
    finally:
        for store in opened:
            store.close()
    faults = find_faults(target)
    if faults:
        raise StoreError(f"store {target.url} is not whole after the merge: {faults[0]}")
    return result


def _identity(storage: Storage) -> str:
    return storage.url if storage.folder is None else str(storage.folder.resolve())


def _is_store(storage: Storage) -> bool:
    with refusing(storage, "opened"):
        return storage.exists("store.json")


def check_schemas(stores: Sequence[Store]) -> None:
    """Check that records of one kind have the same fields, of the same shapes, in all stores; only refreshed ones.

    Raises:
        StoreError: naming kind, field and both stores.
    """
    known: dict[str, tuple[Store, dict[str, set[tuple[int, ...]]]]] = {}
    for store in stores:
        for (kind,) in store.index.rows("SELECT DISTINCT kind FROM episodes ORDER BY kind"):
            shapes: dict[str, set[tuple[int, ...]]] = {}
            for segment in sorted({e.segment for e in store.select(Query(kind=kind))}):
                for name, shape in store.segment(segment).signature.items():
                    shapes.setdefault(name, set()).add(shape)
            other, first = known.setdefault(kind, (store, shapes))
            for name in sorted(set(shapes) | set(first)):
                if shapes.get(name) != first.get(name):
                    seen, allowed = (sorted(s[name]) if name in s else "none" for s in (shapes, first))
                    what = f"shape of field {name} of {kind} records in store {store.url}"
                    raise StoreError(bad_value(what, seen, f"that of store {other.url}: {allowed}"))


def _copy(sources: Sequence[Store], existing: Store | None, target: Storage, progress: Progress | None) -> Merged:
    shown = {} if existing is None else {e.id: e.sha256 for e in existing.select()}
    total, done, copied = sum(len(s.select()) for s in sources), 0, 0
    conflicts: set[str] = set()
    out = open_store(target, "a", create=True)
    try:
        writer = out.writer(WRITER)
        for source in sources:
            for entry in source.select():
                if entry.id not in shown:
                    episode = source.read_episode(entry)
                    if (sha256 := episode.sha256()) != entry.sha256:
                        what = f"content of episode {entry.id} in store {source.url}"
                        raise StoreError(bad_value(what, sha256[:12], f"{entry.sha256[:12]}, as its record says"))
                    writer.append(episode)
                    shown[entry.id] = sha256
                    copied += 1
                elif shown[entry.id] != entry.sha256:
                    conflicts.add(entry.id)
                done += 1
                if progress is not None:
                    progress(done, total)
        writer.close()
        out.refresh()
        missing = {i for i, sha256 in shown.items() if (found := out.index.get(i)) is None or found.sha256 != sha256}
        if missing:
            raise StoreError(
                f"store {target.url} lacks {len(missing)} episodes after the merge, the first {min(missing)}"
            )
    finally:
        out.close()
    return Merged(len(shown), copied, total - copied, tuple(sorted(conflicts)))
