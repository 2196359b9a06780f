"""One structured log per role in the run directory: `logs/<role>.jsonl`, one JSON object per line.

    {"time": "2026-11-21T15:04:05.123+00:00", "level": "ERROR", "role": "collectors", "event": "...", "fields": {...}}

Only the driver writes them; what collectors on other nodes have to tell arrives with their results. Each file is
renamed to `.1`, `.2` when it is full, so that a run of weeks fills no disk.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.role_events import ROLES, ROOT, event_of

FOLDER = "logs"
MAX_BYTES, BACKUPS = 4_000_000, 2
_TAIL_BYTES = 256_000


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event = event_of(record)
        time = datetime.fromtimestamp(event.time, UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "level": event.level, "role": event.role, "event": event.event, "fields": event.fields}
        # What JSON does not know stands there as text: a log must not fail over a number's type.
        return json.dumps(line, default=str, allow_nan=True)


class _RoleFile(logging.handlers.RotatingFileHandler):
    """A file that cannot be written is complained of once, and tried again with the next event."""

    def __init__(self, path: Path, complain: Callable[[str], None], max_bytes: int) -> None:
        super().__init__(path, maxBytes=max_bytes, backupCount=BACKUPS, delay=True, encoding="utf-8")
        self.setFormatter(_JsonLines())
        self._complain, self._complained = complain, False

    def handleError(self, record: logging.LogRecord) -> None:
        import sys

        error = sys.exc_info()[1]
        if not self._complained:
            self._complained = True
            self._complain(f"warning: {self.baseFilename}: events are lost: {type(error).__name__}: {error}")


class _Aloud(logging.Handler):
    """Warnings that modules log in words; events with fields are told by whoever shows them."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        if not hasattr(record, "fields"):
            self._say(f"{record.levelname.lower()}: {record.getMessage()}")


class RoleLogs:
    """The logs of a run, open for writing; a context manager."""

    def __init__(self, run: Path, say: Callable[[str], None], max_bytes: int = MAX_BYTES) -> None:
        """Write what is told to `servofleet.<role>` under `run`/logs from now on.

        Args:
            run: run directory.
            say: gets a line when a log cannot be written (once per role), and each warning that is logged in words.
            max_bytes: of a file; beside it are two older ones.

        Raises:
            OSError: if the folder cannot be made.
        """
        folder = run / FOLDER
        folder.mkdir(exist_ok=True)
        self._root = logging.getLogger(ROOT)
        self._level = self._root.level
        self._root.setLevel(logging.INFO)
        self._aloud = _Aloud(say)
        self._root.addHandler(self._aloud)
        self._files = {role: _RoleFile(folder / f"{role}.jsonl", say, max_bytes) for role in ROLES}
        for role, file in self._files.items():
            logging.getLogger(f"{ROOT}.{role}").addHandler(file)

    def __enter__(self) -> RoleLogs:
        return self

    def __exit__(self, *_: object) -> None:
        for role, file in self._files.items():
            logging.getLogger(f"{ROOT}.{role}").removeHandler(file)
            file.close()
        self._root.removeHandler(self._aloud)
        self._root.setLevel(self._level)


def last_errors(run: Path) -> dict[str, dict[str, Any]]:
    """The newest event of level ERROR of each role that has one in the newest part of its log.

    Raises:
        OSError: if a log is there and cannot be read.
    """
    found = {}
    for role in ROLES:
        for line in _newest_first(run / FOLDER / f"{role}.jsonl"):
            if line.get("level") == "ERROR":
                found[role] = line
                break
    return found


def _newest_first(path: Path) -> Iterator[dict[str, Any]]:
    """Events in the last 256 kB of a log and of the one before it. A line that is being written is left out."""
    for part in (path, path.with_name(f"{path.name}.1")):
        try:
            with open(part, "rb") as f:
                size = f.seek(0, 2)
                f.seek(max(size - _TAIL_BYTES, 0))
                lines = f.read().splitlines()
        except FileNotFoundError:
            continue
        for line in reversed(lines[1:] if size > _TAIL_BYTES else lines):
            try:
                yield json.loads(line)
            except ValueError:
                continue
