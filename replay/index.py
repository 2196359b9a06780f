"""The reader's index: SQLite built from commit records. A cache: it can be thrown away and built again at any time.

An episode id that was committed more than once counts once: the copy with the smallest (writer, seq, slot) stands.
What stands is therefore a function of the *set* of records read, not of the order in which they were read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import operator
import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from common.errors import StoreError
from common.fsio import replace_atomically
from common.identity import PolicyVersion
from replay import fast_json
from replay.record import EpisodeEntry, Record
from replay.segment import file_crc32c

INDEX_VERSION = 3

_TABLES = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS positions (name TEXT PRIMARY KEY, count INTEGER);
CREATE TABLE IF NOT EXISTS records (
    writer TEXT, seq INTEGER, segment TEXT, bytes INTEGER, committed_at REAL, PRIMARY KEY (writer, seq));
CREATE TABLE IF NOT EXISTS copies (
    writer TEXT, seq INTEGER, slot INTEGER, id TEXT, sha256 TEXT, PRIMARY KEY (writer, seq, slot));
CREATE TABLE IF NOT EXISTS episodes (
    id TEXT PRIMARY KEY, writer TEXT, seq INTEGER, slot INTEGER, segment TEXT, start INTEGER, rows INTEGER,
    valid_rows INTEGER, sha256 TEXT, iou_final REAL, iou_max REAL, meta TEXT,
    kind TEXT, phase TEXT, policy_version TEXT, run TEXT, lineage INTEGER, role TEXT, round INTEGER, env INTEGER);
CREATE INDEX IF NOT EXISTS by_segment ON records (segment);
CREATE INDEX IF NOT EXISTS by_use ON episodes (kind, phase, round);
"""
_ENTRY = "id, writer, seq, slot, segment, start, rows, valid_rows, sha256, iou_final, iou_max, meta"
_COLUMNS = f"{_ENTRY}, kind, phase, policy_version, run, lineage, role, round, env"
_NAMES = _COLUMNS.split(", ")
_INSERT = (
    f"INSERT INTO episodes ({_COLUMNS}) VALUES ({', '.join('?' * len(_NAMES))}) ON CONFLICT (id) DO UPDATE SET "
    + ", ".join(f"{n} = excluded.{n}" for n in _NAMES[1:])
    + " WHERE (excluded.writer, excluded.seq, excluded.slot) < (episodes.writer, episodes.seq, episodes.slot)"
)


@dataclasses.dataclass(frozen=True)
class Query:
    """Which episodes; None is any. All that is given must hold.

    Attributes:
        kind, phase, role, run, lineage: equal to.
        min_round, max_round: bounds of the round, both included.
        policy_version: exactly these weights acted.
        min_iou_max: the largest IoU of the episode is at least this.
        min_iou_final: the IoU of its last row is at least this.
    """

    kind: str | None = None
    phase: str | None = None
    role: str | None = None
    run: str | None = None
    lineage: int | None = None
    min_round: int | None = None
    max_round: int | None = None
    policy_version: PolicyVersion | None = None
    min_iou_max: float | None = None
    min_iou_final: float | None = None

    def sql(self) -> tuple[str, list[Any]]:
        """WHERE clause and its values."""
        version = None if self.policy_version is None else _version_text(self.policy_version)
        tests = [
            ("kind = ?", self.kind),
            ("phase = ?", self.phase),
            ("role = ?", self.role),
            ("run = ?", self.run),
            ("lineage = ?", self.lineage),
            ("round >= ?", self.min_round),
            ("round <= ?", self.max_round),
            ("policy_version = ?", version),
            ("iou_max >= ?", self.min_iou_max),
            ("iou_final >= ?", self.min_iou_final),
        ]
        used = [(text, value) for text, value in tests if value is not None]
        return " AND ".join(text for text, _ in used) or "1", [value for _, value in used]

    def __str__(self) -> str:
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return ", ".join(f"{n} = {v}" for n, v in given.items() if v is not None) or "any episode"


def _version_text(version: PolicyVersion) -> str:
    return f"{version.lineage}.{version.counter}.{version.sha256}"


class Index:
    """Episodes by id and by query. One connection, guarded by a lock: any thread of the process may use it."""

    def __init__(self, path: Path | None, store_id: str) -> None:
        """Open the index.

        Args:
            path: SQLite file at the reader, or None for RAM. A file that was not closed, was changed since, or belongs
                to another store or index version is built anew.
            store_id: of the store it indexes.

        Raises:
            StoreError: if the file cannot be made.
        """
        self._lock = threading.RLock()
        self._path, self._store_id = path, store_id
        self._sum = None if path is None else path.with_name(path.name + ".sum")
        try:
            if path is not None and path.exists() and not self._is_whole():
                self._delete()
            try:
                self._db = self._connect()
            except sqlite3.DatabaseError:
                if path is None or not path.exists():
                    raise
                self._delete()
                self._db = self._connect()
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"index {path} cannot be opened: {error}") from error

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path or ":memory:", check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = OFF")  # a cache: what a power cut damages is rebuilt
            db.executescript(_TABLES)
            about = {"store_id": self._store_id, "version": str(INDEX_VERSION)}
            found = dict(db.execute("SELECT name, value FROM about"))
            if found and found != about:
                raise sqlite3.DatabaseError("index of another store or version")
            if not found:  # who only reads leaves the file as it is
                with db:
                    db.executemany("INSERT INTO about VALUES (?, ?)", about.items())
        except sqlite3.Error:
            db.close()
            raise
        return db

    def _delete(self) -> None:
        if self._path is not None:
            delete_index(self._path)

    def _is_whole(self) -> bool:
        """Whether the file is the one that `close` left. SQLite notices a damaged page only sometimes, and a damaged
        number in it never.
        """
        if self._path is None or self._sum is None:
            return False
        try:
            return self._sum.read_text() == _sum_of(self._path)
        except (FileNotFoundError, UnicodeDecodeError):
            return False

    @contextlib.contextmanager
    def _locked(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._db
            except sqlite3.Error as error:
                raise StoreError(f"index {self._path or 'in RAM'} cannot be used: {error}") from error

    @contextlib.contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """All changes or none."""
        with self._locked() as db:
            if self._sum is not None:
                self._sum.unlink(missing_ok=True)
            with db:
                yield db

    def position(self) -> dict[str, int]:
        """Number of records read per writer, and of tombstones where there are any."""
        with self._locked() as db:
            return dict(db.execute("SELECT name, count FROM positions ORDER BY name"))

    def add(
        self,
        records: Iterable[Record],
        *,
        buried: Collection[tuple[str, int]] = (),
        heirs: Iterable[Record] = (),
        position: Mapping[str, int] | None = None,
        anew: bool = False,
    ) -> int:
        """Take records in and out, all or none, also where reading `records` fails.

        Args:
            records: to take in.
            buried: (writer, seq) of records to take out.
            heirs: the records of `heirs(buried)`: of an episode whose standing copy goes, the next copy stands.
            position: what `position` says afterwards; None counts `records` only.
            anew: forget everything first.

        Returns:
            How many were taken in.
        """
        with self._changing() as db:
            if anew:
                self._forget()
            for table in ("records", "copies", "episodes"):
                db.executemany(f"DELETE FROM {table} WHERE writer = ? AND seq = ?", buried)
            counts = dict(position or {})
            count = 0
            for r in records:  # read from the disk meanwhile: a million need not fit RAM
                db.execute(
                    "INSERT INTO records VALUES (?, ?, ?, ?, ?)", (r.writer, r.seq, r.segment, r.nbytes, r.committed_at)
                )
                db.executemany(
                    "INSERT INTO copies VALUES (?, ?, ?, ?, ?)",
                    [(r.writer, r.seq, e.slot, e.id, e.sha256) for e in r.episodes],
                )
                db.executemany(_INSERT, [_row(e) for e in r.episodes])
                count += 1
                if position is None:
                    counts[r.writer] = max(counts.get(r.writer, 0), r.seq + 1)
            for r in heirs:
                db.executemany(_INSERT, [_row(e) for e in r.episodes])
            db.executemany("INSERT OR REPLACE INTO positions VALUES (?, ?)", counts.items())
            return count

    def heirs(self, buried: Collection[tuple[str, int]]) -> list[tuple[str, int]]:
        """(writer, seq) of the other records that hold a copy of an episode that stands in one of these."""
        with self._locked() as db:
            gone = set(buried)
            db.execute("CREATE TEMP TABLE IF NOT EXISTS leaving (id TEXT PRIMARY KEY)")
            db.execute("DELETE FROM leaving")
            db.executemany(
                "INSERT OR IGNORE INTO leaving SELECT id FROM episodes WHERE writer = ? AND seq = ?", sorted(gone)
            )
            found = db.execute("SELECT DISTINCT writer, seq FROM copies WHERE id IN leaving ORDER BY writer, seq")
            return [key for key in found.fetchall() if key not in gone]

    def clear(self) -> None:
        """Forget everything."""
        with self._changing():
            self._forget()

    def _forget(self) -> None:
        for table in ("positions", "records", "copies", "episodes"):
            self._db.execute(f"DELETE FROM {table}")

    def select(self, query: Query) -> list[EpisodeEntry]:
        """Episodes that fit, sorted by id, that is by (run, lineage, role, round, env)."""
        where, values = query.sql()
        text = f"SELECT {_ENTRY} FROM episodes WHERE {where} ORDER BY run, lineage, role, round, env"
        with self._locked() as db:
            return [_entry(row) for row in db.execute(text, values)]

    def columns(self, query: Query, names: tuple[str, ...]) -> Iterator[list[tuple[Any, ...]]]:
        """Columns `names` of the table episodes for those that fit, sorted as in `select`, in blocks of many rows."""
        where, values = query.sql()
        text = f"SELECT {', '.join(names)} FROM episodes WHERE {where} ORDER BY run, lineage, role, round, env"
        with self._locked() as db:
            cursor = db.execute(text, values)
            while block := cursor.fetchmany(65536):
                yield list(zip(*block, strict=True))

    def get(self, episode_id: str) -> EpisodeEntry | None:
        """The episode with this id, None where no record that was read has it."""
        with self._locked() as db:
            row = db.execute(f"SELECT {_ENTRY} FROM episodes WHERE id = ?", (episode_id,)).fetchone()
        return None if row is None else _entry(row)

    def rows(self, sql: str, values: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        """Answer of a SELECT over the tables records, copies and episodes."""
        with self._locked() as db:
            return db.execute(sql, tuple(values)).fetchall()

    def close(self) -> None:
        """Close the connection; closing again does nothing."""
        with self._locked() as db:
            db.close()
            if self._path is not None and self._sum is not None and not self._sum.exists():
                with contextlib.suppress(OSError):  # a cache: what cannot be kept is built anew
                    replace_atomically(self._sum, _sum_of(self._path).encode())


def delete_index(path: Path) -> None:
    """Delete an index file and what belongs to it; nothing happens where there is none."""
    for suffix in (".sum", "", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _sum_of(path: Path) -> str:
    size, crc = file_crc32c(path)
    return f"{size} {crc:08x}"


_values_of = operator.attrgetter(*(f.name for f in dataclasses.fields(EpisodeEntry)))


def _row(e: EpisodeEntry) -> tuple[Any, ...]:
    # Parsed as plain JSON, for there may be a million: the record that it comes from was checked when it was read.
    meta = fast_json.loads(e.meta_json)
    version = meta["policy_version"]
    text = None if version is None else _version_text(PolicyVersion(**version))
    run, lineage, role, round_, env = meta["id"].split("/")
    return (*_values_of(e), meta["kind"], meta["phase"], text, run, int(lineage), role, int(round_), int(env))


def _entry(row: tuple[Any, ...]) -> EpisodeEntry:
    return EpisodeEntry(*row)
