"""The replay store: a folder of immutable zarr segments, and of the records that make them count.

    store.json                         format and identity
    data/<writer>-<seq>.zarr/          segments (`replay.layout`)
    commits/<writer>/<seq>.json        records (`replay.record`); only what a record names is ever read
    tombstones/<n>.json                records that count no more (`replay.tombstones`)
    pins/<name>.json                   what must not be deleted (`replay.pins`)

Any number of processes of one node may write and read at the same time: no file is ever changed.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from common.episode import Episode
from common.errors import StoreError, bad_value
from common.fsio import create_only, fsync_path
from replay.catalog import Place
from replay.disk_space import DiskLimits
from replay.index import Index, Query
from replay.layout import FORMAT_VERSION
from replay.mapping import Readahead
from replay.record import RECORD_NAME, EpisodeEntry, Record, read_record, record_path
from replay.rows import gather, read_located
from replay.segment import Segment
from replay.segments import OpenSegments
from replay.tables import Located, Tables
from replay.tombstones import TOMBSTONES, Graveyard, Tombstone
from replay.writer import SegmentWriter

STORE_FORMAT = "servofleet-replay"


def open_store(
    path: str | Path,
    mode: Literal["r", "a"] = "r",
    create: bool = False,
    *,
    index_path: str | Path | None = None,
    ram_bytes: int = 1_000_000_000,
) -> Store:
    """Open a store. The store shows nothing before its first `Store.refresh`.

    Args:
        path: folder of the store.
        mode: "r" reads only, and works on a read-only disk; "a" may also hand out writers.
        create: make the store where there is none (mode "a" only).
        index_path: SQLite file of this reader, to start faster next time; None keeps the index in RAM.
        ram_bytes: RAM that small columns and masks may be cached in; what does not fit is mapped from the disk.

    Raises:
        StoreError: if there is no store, it has another format version, or it cannot be written (mode "a").
    """
    root = Path(path)
    if mode not in ("r", "a"):
        raise StoreError(bad_value("store mode", mode, "'r' or 'a'"))
    if create and mode != "a":
        raise StoreError(bad_value("store create", create, "False when mode is 'r'"))
    try:
        if create:
            _create(root)
        about = _read_about(root)
        if mode == "a":
            if not os.access(root, os.W_OK | os.X_OK):
                raise StoreError(f"store {root} cannot be written: it is read-only for this process")
            for name in ("data", "commits"):
                (root / name).mkdir(exist_ok=True)
            fsync_path(root)
    except OSError as error:
        raise StoreError(f"store {root} cannot be opened: {error.strerror} ({error.filename})") from error
    return Store(root, mode, Index(None if index_path is None else Path(index_path), about["store_id"]), ram_bytes)


def _create(root: Path) -> None:
    if (root / "store.json").exists():
        return
    root.mkdir(parents=True, exist_ok=True)
    # What a creation that was killed, or one that runs beside this one, may have left.
    strangers = [p.name for p in root.iterdir() if not p.name.startswith(".store.json.") and p.name != "store.json"]
    if strangers and not (root / "store.json").exists():
        raise StoreError(f"folder {root} is no replay store, and is not made one because it holds {strangers[0]!r}")
    about = {"format": STORE_FORMAT, "version": FORMAT_VERSION, "store_id": uuid.uuid4().hex}
    create_only(root / "store.json", json.dumps(about).encode())
    fsync_path(root.parent)


def _read_about(root: Path) -> dict[str, Any]:
    if not root.is_dir():
        raise StoreError(f"store {root} does not exist")
    try:
        about = json.loads((root / "store.json").read_bytes())
    except FileNotFoundError:
        raise StoreError(f"folder {root} is no replay store: it has no store.json") from None
    except ValueError as error:
        raise StoreError(f"store description {root / 'store.json'} is damaged: {error}") from error
    if not isinstance(about, dict) or about.get("format") != STORE_FORMAT or "store_id" not in about:
        raise StoreError(f"folder {root} is no replay store: its store.json does not say {STORE_FORMAT!r}")
    if about.get("version") != FORMAT_VERSION:
        raise StoreError(bad_value(f"format version of store {root}", about.get("version"), str(FORMAT_VERSION)))
    return about


class Store:
    """A view of the store as of the last `refresh`."""

    def __init__(self, root: Path, mode: Literal["r", "a"], index: Index, ram_bytes: int) -> None:
        self.root, self.mode, self.index = root, mode, index
        self.generation = 0  # counts refreshes that changed something, for caches of query answers
        self._segments = OpenSegments(root, ram_bytes, self._named)
        self._tables = Tables(self._segments)
        self._readahead = Readahead()
        self._graveyard = Graveyard(root)

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
            raise StoreError(f"store {self.root} is open for reading only: open it with mode 'a' to write")
        return SegmentWriter(
            self.root, writer_id, max_episodes, max_bytes, max_age_s=max_age_s, in_flight=in_flight, disk=disk
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
        seen = self.position()
        wanted = self._committed() if upto is None else dict(upto)
        rewind = upto is not None and any(count > upto.get(name, 0) for name, count in seen.items())
        old = {} if rewind else seen
        tombstones = self._graveyard.read(wanted.get(TOMBSTONES, 0))
        buried = {(r.writer, r.seq) for t in tombstones[old.get(TOMBSTONES, 0) :] for r in t.records}
        new = [
            record
            for writer, count in sorted(wanted.items())
            if writer != TOMBSTONES
            for seq in range(old.get(writer, 0), count)
            if not self._graveyard.holds(writer, seq, len(tombstones)) and (record := self._record(writer, seq))
        ]
        others = [] if rewind else self.index.heirs(buried)
        heirs = [record for writer, seq in others if (record := self._record(writer, seq))]
        if rewind or wanted != seen:
            self.index.add(new, buried=buried, heirs=heirs, position=wanted, anew=rewind)
        self.generation += bool(new or buried) or rewind
        return self.position()

    def _record(self, writer: str, seq: int) -> Record | None:
        """A record; None where it was deleted because of a tombstone, also one that the view does not reach."""
        try:
            return read_record(self.root, writer, seq)
        except StoreError:
            self._graveyard.read()
            if self._graveyard.holds(writer, seq) and not record_path(self.root, writer, seq).exists():
                return None
            raise

    def _committed(self) -> dict[str, int]:
        """Records per writer on the disk. Sequences have no gaps: a record is published after the one before it, and
        goes only after a tombstone has named it.
        """
        # Commits first: a record that goes meanwhile is then counted by its tombstone.
        commits = self.root / "commits"
        names = {f.name: os.listdir(f) for f in commits.iterdir() if f.is_dir()} if commits.is_dir() else {}
        counts = {TOMBSTONES: len(self._graveyard.read())} | self._graveyard.counts()
        for writer, files in names.items():
            last = max((int(n[:8]) for n in files if RECORD_NAME.fullmatch(n)), default=-1)
            counts[writer] = max(counts.get(writer, 0), last + 1)
        return {name: count for name, count in counts.items() if count}

    def records(self) -> list[Record]:
        """The records this view shows, read again from the disk, in order of (writer, seq)."""
        shown = self.index.rows("SELECT writer, seq FROM records ORDER BY writer, seq")
        return [read_record(self.root, writer, seq) for writer, seq in shown]

    def tombstones(self) -> list[Tombstone]:
        """The tombstones this view has taken notice of, in order."""
        return self._graveyard.read(self.position().get(TOMBSTONES, 0))

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
            raise StoreError(f"episode {episode_id} is not in store {self.root} as of {self.position()}; refresh it?")
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
        numbers = self._tables.numbers([e.segment for e in episodes], records)
        return gather(names, self._tables, numbers[index], at, self._readahead, self._segments.cache, numbers)

    def segment_numbers(self, paths: Sequence[str]) -> NDArray[np.int64]:
        """A number for each segment, i64 (N,), that stays its own for as long as this store is open."""
        return self._tables.numbers(paths)

    def read_at(
        self, fields: Iterable[str], segments: NDArray[np.int64], at: NDArray[np.int64]
    ) -> dict[str, NDArray[Any]]:
        """Entries of many segments, in one array per field: what `read_rows` does for callers that hold columns.

        Args:
            fields: all step-level, or all episode-level.
            segments: (B,) of `segment_numbers`, B at least 1.
            at: (B,) row, or slot of the episode, within the segment.

        Returns:
            field -> (B, *field shape), dtypes of the schema.

        Raises:
            StoreError: as in `read_rows`, or if a segment has no such row.
        """
        return gather(fields, self._tables, segments, at, self._readahead, self._segments.cache)

    def locate(self, fields: Sequence[str], segments: NDArray[np.int64], at: NDArray[np.int64]) -> Located | None:
        """Where `read_at` would find its entries; None where it would have to open a file, or would raise."""
        return self._tables.located(fields, segments, at)

    def read_located(self, located: Located, start: int, stop: int) -> dict[str, NDArray[Any]] | None:
        """`read_at` of entries start .. stop of what was located; None after `release`."""
        return read_located(located, start, stop, self._readahead)

    def valid_rows(self, entry: EpisodeEntry | Place) -> NDArray[np.int64]:
        """Rows of an episode that a sampler may draw, ascending: those with ``label_valid`` where it has that field."""
        if entry.valid_rows == entry.rows:
            return np.arange(entry.rows)
        valid = self._segment_of(entry).view("label_valid", self._segments.cache)
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
            raise StoreError(f"segment {path} is not in store {self.root} as of {self.position()}; refresh it?")
        writer, seq = found[0]
        return writer, seq

    def release(self) -> None:
        """Close all segments: give maps and cached arrays back. What is read next opens them again."""
        self._segments.close()
        self._tables.clear()

    def close(self) -> None:
        """Close index and segments."""
        self._segments.close()
        self._tables.clear()
        self.index.close()
