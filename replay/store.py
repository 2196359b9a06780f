"""The replay store: a folder of immutable zarr segments, and of the records that make them count.

    store.json                         format and identity
    data/<writer>-<seq>.zarr/          segments (`replay.layout`)
    commits/<writer>/<seq>.json        records (`replay.record`); only what a record names is ever read
    tombstones/<n>.json                records that count no more (`replay.tombstones`)
    pins/<name>.json                   what must not be deleted (`replay.pins`)

Any number of processes of one node may write and read at the same time: no file is ever changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from common.episode import Episode
from common.errors import StoreError, bad_value
from replay.catalog import Place
from replay.description import create_description, read_description
from replay.disk_space import DiskLimits
from replay.graveyard import Graveyard
from replay.index import Index, Query
from replay.mapping import Readahead
from replay.record import RECORD_NAME, EpisodeEntry, Record, read_record, record_name
from replay.rows import gather, read_located
from replay.segment import Segment
from replay.segments import OpenSegments
from replay.storage import Storage, Where, open_storage, refusing
from replay.tables import Located, Numberings, Tables
from replay.tombstones import TOMBSTONES, Tombstone
from replay.writer import SegmentWriter


def open_store(
    where: Where,
    mode: Literal["r", "a"] = "r",
    create: bool = False,
    *,
    index_path: str | Path | None = None,
    ram_bytes: int = 1_000_000_000,
    storage_options: Mapping[str, str] | None = None,
    cache_dir: str | Path | None = None,
    cache_bytes: int | None = None,
) -> Store:
    """Open a store. The store shows nothing before its first `Store.refresh`.

    Args:
        where: folder of the store, or the URL of it: ``file://...``, ``s3://bucket/prefix``, ``gs://...``, ``az://...``.
        mode: "r" reads only, and works on a read-only disk; "a" may also hand out writers.
        create: make the store where there is none (mode "a" only).
        index_path: SQLite file of this reader, to start faster next time; None keeps the index in RAM.
        ram_bytes: RAM that small columns and masks may be cached in; what does not fit is mapped from the disk.
        storage_options, cache_dir, cache_bytes: of an object store; see `replay.storage.open_storage`.

    Raises:
        StoreError: if there is no store, it has another format version, it cannot be written (mode "a"), or an object
            store does not answer.
    """
    storage = open_storage(where, options=storage_options, cache_dir=cache_dir, cache_bytes=cache_bytes)
    if mode not in ("r", "a"):
        raise StoreError(bad_value("store mode", mode, "'r' or 'a'"))
    if create and mode != "a":
        raise StoreError(bad_value("store create", create, "False when mode is 'r'"))
    with refusing(storage, "opened"):
        if create:
            create_description(storage)
        about = read_description(storage)
        if mode == "a":
            storage.check_writable()
            for name in ("data", "commits"):
                storage.make_folder(name)
    return Store(storage, mode, Index(None if index_path is None else Path(index_path), about["store_id"]), ram_bytes)


class Store:
    """A view of the store as of the last `refresh`."""

    def __init__(self, storage: Storage, mode: Literal["r", "a"], index: Index, ram_bytes: int) -> None:
        self.storage, self.mode, self.index = storage, mode, index
        self.url = storage.url  # path of a local store
        self.generation = 0  # counts refreshes that changed something, for caches of query answers
        self._segments = OpenSegments(storage, ram_bytes, self._named)
        self._numberings = Numberings(self._segments)
        self._readahead = Readahead()
        self.graveyard = Graveyard(storage)

    @property
    def root(self) -> Path:
        """The folder of a local store.

        Raises:
            StoreError: if it lies elsewhere.
        """
        if self.storage.folder is None:
            raise StoreError(f"store {self.url} has no folder on this machine")
        return self.storage.folder

    def writer(
        self,
        writer_id: str,
        *,
        max_episodes: int = 64,
        max_bytes: int = 64_000_000,
        max_age_s: float | None = None,
        in_flight: int = 1,
        disk: DiskLimits | None = None,
    ) -> SegmentWriter:
        """A writer of this store; see `SegmentWriter`.

        Raises:
            StoreError: if the store is open for reading only, or cannot be written.
        """
        if self.mode != "a":
            raise StoreError(f"store {self.url} is open for reading only: open it with mode 'a' to write")
        return SegmentWriter(
            self.storage, writer_id, max_episodes, max_bytes, max_age_s=max_age_s, in_flight=in_flight, disk=disk
        )

    def position(self) -> dict[str, int]:
        """How much of the store this view shows: records read per writer, and tombstones read under the name
        `TOMBSTONES` where there are any. JSON-ready; `refresh` takes it back.
        """
        return self.index.position()

    def refresh(self, upto: Mapping[str, int] | None = None) -> dict[str, int]:
        """Read records that were committed since the last refresh.

        Args:
            upto: a position. The view then shows exactly these records, also where it showed more before; only those
                that were deleted since are missing (a pin keeps what it needs from being deleted).

        Returns:
            The new position.

        Raises:
            StoreError: naming the record, if one is missing or damaged; the view is then unchanged.
        """
        with refusing(self.storage, "read"):
            return self._refresh(upto)

    def _refresh(self, upto: Mapping[str, int] | None) -> dict[str, int]:
        seen = self.position()
        wanted = self._committed(seen) if upto is None else dict(upto)
        rewind = upto is not None and any(count > upto.get(name, 0) for name, count in seen.items())
        old = {} if rewind else seen
        tombstones = self.graveyard.read(wanted.get(TOMBSTONES, 0))
        more = map(self.graveyard.tombstone, range(old.get(TOMBSTONES, 0), tombstones))
        leaving = [r for t in more for r in t.records]
        buried = {(r.writer, r.seq) for r in leaving}
        new = self._records(
            (writer, seq)
            for writer, count in sorted(wanted.items())
            if writer != TOMBSTONES
            for seq in range(old.get(writer, 0), count)
            if not self.graveyard.holds(writer, seq, tombstones)
        )
        heirs = self._records([] if rewind else self.index.heirs(buried))
        if rewind or wanted != seen:
            self.index.add(new, buried=buried, heirs=heirs, position=wanted, anew=rewind)
            if old and leaving:  # else nothing was read yet, or the view goes back to what it showed
                left = self.index.rows("SELECT COUNT(*) FROM records")[0][0]
                self._numberings.deleted([r.segment for r in leaving if r.segment], left)
        self.generation += bool(new or buried) or rewind
        return self.position()

    def _records(self, keys: Iterable[tuple[str, int]]) -> list[Record]:
        return [record for record in self.storage.each(lambda key: self._record(*key), keys) if record]

    def _record(self, writer: str, seq: int) -> Record | None:
        """A record; None where it was deleted because of a tombstone, also one that the view does not reach."""
        try:
            record = read_record(self.storage, writer, seq)
        except StoreError:
            self.graveyard.read()
            if self.graveyard.holds(writer, seq) and not self.storage.exists(record_name(writer, seq)):
                return None
            raise
        self._segments.tell(record)
        return record

    def _committed(self, seen: Mapping[str, int]) -> dict[str, int]:
        """Records per writer in the storage; `seen` of them are known. Sequences have no gaps: a record is published
        after the one before it, and goes only after a tombstone has named it.
        """
        # Commits first: a record that goes meanwhile is then counted by its tombstone.
        writers = self.storage.listing("commits").folders
        last_seen = [f"{n - 1:08d}.json" if (n := seen.get(w, 0)) else "" for w in writers]
        places = [(f"commits/{w}", name) for w, name in zip(writers, last_seen, strict=True)]
        names = dict(
            zip(writers, self.storage.each(lambda place: self.storage.files_after(*place), places), strict=True)
        )
        counts = dict(seen) | {TOMBSTONES: self.graveyard.read()}
        for writer, count in self.graveyard.counts().items():
            counts[writer] = max(counts.get(writer, 0), count)
        for writer, files in names.items():
            last = max((int(n[:8]) for n in files if RECORD_NAME.fullmatch(n)), default=-1)
            counts[writer] = max(counts.get(writer, 0), last + 1)
        return {name: count for name, count in counts.items() if count}

    def records(self) -> list[Record]:
        """The records this view shows, read again from the disk, in order of (writer, seq)."""
        shown = self.index.rows("SELECT writer, seq FROM records ORDER BY writer, seq")
        return list(self.storage.each(lambda key: read_record(self.storage, *key), shown))

    def tombstones(self) -> Iterator[Tombstone]:
        """The tombstones this view has taken notice of and of which something may be left, in order."""
        numbers = range(self.position().get(TOMBSTONES, 0))
        return (self.graveyard.tombstone(n) for n in numbers if n not in self.graveyard.swept)

    def select(self, query: Query | None = None) -> list[EpisodeEntry]:
        """Episodes that fit a query (None: all), sorted by id."""
        return self.index.select(query or Query())

    def entry(self, episode_id: str) -> EpisodeEntry:
        """Where an episode lies.

        Raises:
            StoreError: if this view does not show it.
        """
        found = self.index.get(str(episode_id))
        if found is None:
            raise StoreError(f"episode {episode_id} is not in store {self.url} as of {self.position()}; refresh it?")
        return found

    def read_episode(self, episode: str | EpisodeEntry) -> Episode:
        """A whole record, by id or entry; equal to the one that was written.

        Raises:
            StoreError: if it is not there or its segment is damaged.
        """
        entry = episode if isinstance(episode, EpisodeEntry) else self.entry(episode)
        return self._segment_of(entry).read_episode(entry.meta, entry.slot, entry.start, entry.rows)

    def read_rows(
        self,
        fields: Iterable[str],
        episodes: Sequence[EpisodeEntry | Place],
        episode_index: NDArray[np.int64],
        rows: NDArray[np.int64],
    ) -> dict[str, NDArray[Any]]:
        """Rows of many episodes, in one array per field.

        Args:
            fields: step-level fields.
            episodes: E episodes.
            episode_index: (B,) which of them each row comes from.
            rows: (B,) row within the episode.

        Returns:
            field -> (B, *field shape), dtypes of the schema.

        Raises:
            StoreError: if an episode lacks a field or its shape differs from the others'.
        """
        starts = np.array([e.start for e in episodes], np.int64)
        return self._gather(fields, episodes, episode_index, starts[episode_index] + rows)

    def read_fixed(self, fields: Iterable[str], episodes: Sequence[EpisodeEntry | Place]) -> dict[str, NDArray[Any]]:
        """Episode-level fields of E episodes: field -> (E, *field shape); errors as in `read_rows`."""
        return self._gather(fields, episodes, np.arange(len(episodes)), np.array([e.slot for e in episodes], np.int64))

    def _gather(
        self,
        fields: Iterable[str],
        episodes: Sequence[EpisodeEntry | Place],
        index: NDArray[np.int64],
        at: NDArray[np.int64],
    ) -> dict[str, NDArray[Any]]:
        names = list(fields)
        if not episodes:
            if names:
                raise StoreError(f"field {names[0]} cannot be read: no episode was given")
            return {}
        records = [(e.writer, e.seq) if isinstance(e, EpisodeEntry) else None for e in episodes]
        tables = self.numbering
        numbers = tables.numbers([e.segment for e in episodes], records)
        return gather(names, tables, numbers[index], at, self._readahead, self._segments.cache, numbers)

    @property
    def numbering(self) -> Tables:
        """Gives segments numbers; see `Numberings`."""
        return self._numberings.newest

    def read_at(
        self, fields: Iterable[str], segments: NDArray[np.int64], at: NDArray[np.int64], numbering: Tables
    ) -> dict[str, NDArray[Any]]:
        """Entries of many segments, in one array per field: what `read_rows` does for callers that hold columns.

        Args:
            fields: all step-level, or all episode-level.
            segments: (B,) numbers of segments, B at least 1.
            at: (B,) row, or slot of the episode, within the segment.
            numbering: that gave the numbers.

        Returns:
            field -> (B, *field shape), dtypes of the schema.

        Raises:
            StoreError: as in `read_rows`, or if a segment has no such row.
        """
        return gather(fields, numbering, segments, at, self._readahead, self._segments.cache)

    def read_located(self, located: Located, start: int, stop: int) -> dict[str, NDArray[Any]] | None:
        """`read_at` of entries start .. stop of what was located; None after `release`."""
        return read_located(located, start, stop, self._readahead)

    def valid_rows(self, entry: EpisodeEntry | Place) -> NDArray[np.int64]:
        """Rows of an episode that a sampler may draw, ascending: those with ``label_valid`` where it has that field."""
        segment = self._segment_of(entry)
        segment.check_rows(entry.start, entry.rows)
        if entry.valid_rows == entry.rows:
            return np.arange(entry.rows)
        valid = segment.view("label_valid", self._segments.cache)
        return np.flatnonzero(valid[entry.start : entry.start + entry.rows])

    def segment(self, path: str) -> Segment:
        """An open segment by its path relative to the store.

        Raises:
            StoreError: if this view does not show it, or it cannot be read.
        """
        return self._segments.get(path, self._named(path))

    def _segment_of(self, place: EpisodeEntry | Place) -> Segment:
        record = (place.writer, place.seq) if isinstance(place, EpisodeEntry) else None
        return self._segments.get(place.segment, record)

    def _named(self, path: str) -> tuple[str, int]:
        found = self.index.rows("SELECT writer, seq FROM records WHERE segment = ?", (path,))
        if not found:
            raise StoreError(f"segment {path} is not in store {self.url} as of {self.position()}; refresh it?")
        writer, seq = found[0]
        return writer, seq

    def release(self) -> None:
        """Close all segments: give maps and cached arrays back. What is read next opens them again."""
        self._segments.close()
        self._numberings.clear()

    def close(self) -> None:
        """Close index and segments."""
        self._segments.close()
        self._numberings.clear()
        self.index.close()
