"""The run directory: who may use it, what it was started with, and its record of metrics.

config.json      every setting as started, run id, library versions; the resume guard compares with it
lock             held while a process trains here
store/           replay store
checkpoints/     the cuts
metrics.jsonl    one JSON object per round or evaluation; belongs to the cut (truncated on resume)
mlflow.db        MLflow's projection of it
report.json, report/   the final table and pictures
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import re
from pathlib import Path
from types import TracebackType
from typing import Any

from common.config import RunConfig, changed_fixed, flatten, walk
from common.errors import CheckpointError, ConfigError, ServofleetError
from common.fsio import replace_atomically
from common.identity import json_sha256

FORMAT_VERSION = 1
_LIBRARIES = ("numpy", "torch", "ray", "zarr", "mlflow", "hydra-core", "warp-lang")


class RunDirectory:
    """An open, locked run directory; a context manager that gives the lock back."""

    def __init__(self, config: RunConfig) -> None:
        """Open `config.dir`, making it for a new run.

        Raises:
            ConfigError: if it holds a run whose `fixed` settings differ; names each with both values.
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
        self.is_new = not recorded.exists()
        if self.is_new:
            name = re.sub(r"[^a-z0-9_.-]", "-", config.experiment.lower())
            self.run_id, self.attempt = f"{name}-s{config.seed}"[:60], 0
        else:
            try:
                old = json.loads(recorded.read_bytes())
                self.run_id, self.attempt = str(old["run_id"]), int(old["attempt"]) + 1
                settings = old["config"]
            except (ValueError, KeyError, TypeError) as e:
                raise CheckpointError(f"{recorded}: not a run's record: {type(e).__name__}: {e}") from e
            if old["format"] != FORMAT_VERSION:
                raise CheckpointError(f"{recorded}: format = {old['format']!r}: allowed is {FORMAT_VERSION}")
            changes = changed_fixed(settings, config)
            if changes:
                lines = "; ".join(f"{n} was {was!r}, now {now!r}" for n, was, now in changes[:8])
                more = f" and {len(changes) - 8} more" if len(changes) > 8 else ""
                raise ConfigError(f"dir = {str(self.path)!r} holds a run that may not change: {lines}{more}")
        # Of what decides the data alone: a change that a resume allows must not give equal episodes other hashes.
        fixed = {name: value for name, value, field in walk(config) if field.metadata["resume"] == "fixed"}
        self.config_sha256 = json_sha256(fixed)
        record = {
            "format": FORMAT_VERSION,
            "run_id": self.run_id,
            "attempt": self.attempt,
            "versions": {name: importlib.metadata.version(name) for name in _LIBRARIES},
            "config": flatten(config),
        }
        replace_atomically(recorded, json.dumps(record, indent=1, sort_keys=True).encode())

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.close()


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
