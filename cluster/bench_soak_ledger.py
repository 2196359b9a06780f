"""What was acknowledged in a soak, and whether the store keeps it.

Every acknowledged id is looked up and its content read against its hash soon after the acknowledgement, before
retention may take it, and once more at the end unless retention took it by then. The list is kept in a file: a soak
measures the memory of the process that would hold it.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable
from pathlib import Path

from common.errors import StoreError
from replay.graveyard import Graveyard
from replay.record import EpisodeEntry
from replay.store import Store, open_store


@dataclasses.dataclass
class Verdict:
    """Counts of episodes, and the first thing that was wrong.

    Attributes:
        acked: acknowledged.
        lost: acknowledged, and not in the store although nobody deleted it.
        wrong: in the store with another content than its hash says, or than it had before.
        conflicting: ids that were committed more than once with different contents.
        doubled: ids that the store shows more than once.
        repeated: ids that were committed more than once, as after a kill they may be.
        kept: acknowledged and in the store at the end.
        first: of what is wrong, one line.
    """

    acked: int = 0
    lost: int = 0
    wrong: int = 0
    conflicting: int = 0
    doubled: int = 0
    repeated: int = 0
    kept: int = 0
    first: str = ""

    @property
    def bad(self) -> int:
        """Episodes that are not what was promised."""
        return self.lost + self.wrong + self.conflicting + self.doubled

    def note(self, kind: str, text: str) -> None:
        """Count one that is bad."""
        setattr(self, kind, getattr(self, kind) + 1)
        self.first = self.first or f"{kind}: {text}"


class Ledger:
    """The acknowledged episodes of a soak."""

    def __init__(self, path: Path) -> None:
        """Keep the list in a new file at `path`."""
        self.verdict = Verdict()
        self._path, self._pending = path, list[str]()
        path.write_text("")

    def acknowledged(self, ids: Iterable[str]) -> None:
        """Take note of ids that a collector or a writer has acknowledged."""
        self._pending += ids

    def audit(self, store: Store) -> None:
        """Look up and read what was acknowledged since the last audit; refreshes the store.

        Raises:
            StoreError: if the store cannot be read.
        """
        store.refresh()
        with self._path.open("a") as log:
            for name in self._pending:
                self.verdict.acked += 1
                entry = store.index.get(name)
                if entry is None:
                    self.verdict.note("lost", f"{name} was acknowledged and is not in the store")
                else:
                    self._read(store, entry, entry.sha256)
                    log.write(f"{name} {entry.writer} {entry.seq} {entry.sha256}\n")
        self._pending = []
        self._compare_copies(store)

    def close(self, url: str) -> Verdict:
        """Look up every acknowledged episode once more, as a reader that starts now.

        Raises:
            StoreError: if the store cannot be read.
        """
        store = open_store(url)
        store.refresh()
        graveyard = Graveyard(store.storage)
        graveyard.read()
        for line in self._path.read_text().splitlines():
            name, writer, seq, sha256 = line.split()
            entry = store.index.get(name)
            if entry is not None:
                self.verdict.kept += 1
                self._read(store, entry, sha256)
            elif not graveyard.holds(writer, int(seq)):
                self.verdict.note("lost", f"{name} was in {writer}/{seq}, which nobody deleted")
        names = [e.id for e in store.select()]
        for name, count in collections.Counter(names).items():
            if count > 1:
                self.verdict.note("doubled", f"{name} is shown {count} times")
        self._compare_copies(store)
        store.close()
        return self.verdict

    def _read(self, store: Store, entry: EpisodeEntry, sha256: str) -> None:
        try:
            found = store.read_episode(entry).sha256()
        except StoreError as error:
            self.verdict.note("wrong", str(error))
            return
        if not found == entry.sha256 == sha256:
            self.verdict.note("wrong", f"{entry.id} hashes to {found[:12]}, its record says {entry.sha256[:12]}")

    def _compare_copies(self, store: Store) -> None:
        found = store.index.rows("SELECT id, COUNT(DISTINCT sha256) FROM copies GROUP BY id HAVING COUNT(*) > 1")
        self.verdict.repeated = max(self.verdict.repeated, len(found))
        for name, contents in found:
            if contents > 1:
                self.verdict.note("conflicting", f"{name} was committed with {contents} contents")
