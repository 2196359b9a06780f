"""The run directory: who may use it, what it was started with, and its record of metrics.

config.json      every setting as started, run id, library versions; the resume guard compares with it
lock             held while a process trains here
store/           replay store
checkpoints/     the cuts
metrics.jsonl    one JSON object per round or evaluation; belongs to the cut (truncated on resume)
mlflow.db        MLflow's projection of it
status.json      what the run is doing, for other shells; no record
logs/            what happened, one file per role
report.json, report/   the final table and pictures
"""

from __future__ import annotations

import fcntl
import json
import re
from pathlib import Path
from types import TracebackType
from typing import Any

from cluster.versions import versions
from common.config import RunConfig, changed_fixed, changed_free, flatten, walk
from common.errors import CheckpointError, ConfigError, ServofleetError
from common.fsio import replace_atomically
from common.identity import json_sha256

FORMAT_VERSION = 1


class RunDirectory:
    """An open, locked run directory; a context manager that gives the lock back.

    Attributes:
        path: of the directory.
        is_new: no run was ever started here.
        run_id, attempt: name of the run; how many times it was started before.
        changes: a line for each setting that this start changes, as it may.
        config_sha256: of the settings that decide the data.
    """

    def __init__(self, config: RunConfig) -> None:
        """Open `config.dir`, making it for a new run.

        Raises:
            ConfigError: if it holds a run whose `fixed` settings differ; names each with both values, and those that
                may differ.
            CheckpointError: if its record is gone, torn or of another format.
            ServofleetError: if it cannot be written, or another process trains in it.
        """
        self.path = Path(config.dir)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / "lock", "a+")  # noqa: SIM115 - held for the object's life
        except OSError as e:
            raise ServofleetError(f"dir = {str(self.path)!r}: cannot be written: {e.strerror or e}") from e
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            self._lock.close()
            raise ServofleetError(f"dir = {str(self.path)!r}: another process is training here") from e
        try:
            self._guard(config)
        except BaseException:
            self._lock.close()
            raise

    def _guard(self, config: RunConfig) -> None:
        recorded = self.path / "config.json"
        self.is_new, self.changes = not recorded.exists(), list[str]()
        if self.is_new:
            left = [n for n in ("checkpoints", "metrics.jsonl") if _holds_something(self.path / n)]
            if left:
                raise CheckpointError(
                    f"{recorded} is gone, but {' and '.join(left)} of a run are there: put it back, or train with "
                    f"another dir; a run does not begin anew over another one"
                )
            name = re.sub(r"[^a-z0-9_.-]", "-", config.experiment.lower())
            self.run_id, self.attempt = f"{name}-s{config.seed}"[:60], 0
        else:
            try:
                old = json.loads(recorded.read_bytes())
                self.run_id, self.attempt = str(old["run_id"]), int(old["attempt"]) + 1
                settings = dict(old["config"])
            except (ValueError, KeyError, TypeError) as e:
                raise CheckpointError(f"{recorded}: not a run's record: {type(e).__name__}: {e}") from e
            if old["format"] != FORMAT_VERSION:
                raise CheckpointError(f"{recorded}: format = {old['format']!r}: allowed is {FORMAT_VERSION}")
            changes = changed_fixed(settings, config)
            self.changes = [f"{n} was {was!r}, now {now!r}" for n, was, now in changed_free(settings, config)]
            if changes:
                lines = "; ".join(f"{n} was {was!r}, now {now!r}" for n, was, now in changes)
                allowed = f" (allowed: {'; '.join(self.changes)})" if self.changes else ""
                raise ConfigError(f"dir = {str(self.path)!r} holds a run that may not change: {lines}{allowed}")
        # Of what decides the data alone: a change that a resume allows must not give equal episodes other hashes.
        fixed = {name: value for name, value, field in walk(config) if field.metadata["resume"] == "fixed"}
        self.config_sha256 = json_sha256(fixed)
        record = {
            "format": FORMAT_VERSION,
            "run_id": self.run_id,
            "attempt": self.attempt,
            "versions": versions(),
            "config": flatten(config),
        }
        replace_atomically(recorded, json.dumps(record, indent=1, sort_keys=True).encode())

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.close()


def _holds_something(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists() and path.stat().st_size > 0


class MetricsLog:
    """`metrics.jsonl`: appended to while training, cut back to the checkpoint's length on resume."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "ab")  # noqa: SIM115 - held for the object's life

    def append(self, row: dict[str, Any]) -> None:
        """Add one row; it reaches the operating system at once, so that other shells can follow it."""
        self._file.write(json.dumps(row, sort_keys=True).encode() + b"\n")
        self._file.flush()

    @property
    def position(self) -> int:
        """Bytes written."""
        return self._file.tell()

    def truncate(self, position: int) -> None:
        """Forget everything behind `position`.

        Raises:
            CheckpointError: if the file is shorter than that: rows of the cut are missing.
        """
        self._file.seek(0, 2)
        if self._file.tell() < position:
            raise CheckpointError(f"{self._file.name} has {self._file.tell()} bytes, its checkpoint says {position}")
        self._file.truncate(position)
        self._file.seek(0, 2)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All rows of a `metrics.jsonl`."""
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []
