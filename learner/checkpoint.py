"""Checkpoints: one directory is one cut of the run. Written aside, flushed, renamed, marked done last.

    checkpoints/00000042/arrays.safetensors   learner weights, optimiser, averages, generators
                         state.json           counters, cursors, positions, results so far
                         manifest.json        size and sha256 of both, format version
                         done                 empty; without it the checkpoint does not exist

No pickle: arrays are safetensors, the rest is JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from common.errors import CheckpointError
from common.fsio import fsync_all, fsync_path

FORMAT_VERSION = 1
_FILES = ("arrays.safetensors", "state.json")

Arrays = dict[str, NDArray[Any]]


class Checkpoints:
    """The checkpoints of one run directory."""

    def __init__(self, root: Path, keep: int) -> None:
        """Use `root` (made if missing); keep the newest `keep` checkpoints besides pinned ones."""
        self._root, self._keep = root, keep
        root.mkdir(parents=True, exist_ok=True)

    def save(
        self, number: int, arrays: Mapping[str, NDArray[Any]], state: dict[str, Any], *, pin: bool = False
    ) -> Path:
        """Write checkpoint `number`; durable when it returns. An older half-written one of that number is replaced.

        Args:
            number: grows over the run.
            arrays: named arrays.
            state: JSON-ready; NaN is refused, because no JSON reader agrees on it.
            pin: never pruned (phase ends).

        Raises:
            CheckpointError: if a complete checkpoint of this number exists, or the disk refuses.
        """
        final = self.path(number)
        if (final / "done").exists():
            raise CheckpointError(f"checkpoint {final.name} exists already")
        aside = self._root / f".writing-{uuid.uuid4().hex}"
        contents = {
            "arrays.safetensors": save({k: np.ascontiguousarray(v) for k, v in arrays.items()}),
            "state.json": json.dumps(state, sort_keys=True, allow_nan=False).encode(),
        }
        manifest = {
            "format": FORMAT_VERSION,
            "number": number,
            "pinned": pin,
            "files": {n: {"bytes": len(b), "sha256": hashlib.sha256(b).hexdigest()} for n, b in contents.items()},
        }
        contents["manifest.json"] = json.dumps(manifest, indent=1).encode()
        try:
            aside.mkdir()
            for name, data in contents.items():
                (aside / name).write_bytes(data)
            fsync_all([*(aside / name for name in contents), aside])
            if final.exists():
                shutil.rmtree(final)
            os.rename(aside, final)
            fsync_path(self._root)
            (final / "done").touch()
            fsync_all([final / "done", final])
        except OSError as e:
            shutil.rmtree(aside, ignore_errors=True)
            raise CheckpointError(f"cannot write checkpoint {final}: {e.strerror or e}") from e
        self._prune()
        return final

    def latest(self) -> tuple[int, Arrays, dict[str, Any], list[str]] | None:
        """The newest complete checkpoint that reads back whole.

        Returns:
            (number, arrays, state, complaints), or None if no checkpoint was ever completed. Complaints name each
            newer checkpoint that is broken, and why; the caller shows them.

        Raises:
            CheckpointError: if complete checkpoints exist and every one is broken: nothing starts from zero by itself.
        """
        complaints: list[str] = []
        for path in reversed(self._complete()):
            try:
                arrays, state = read_checkpoint(path)
            except CheckpointError as e:
                complaints.append(str(e))
                continue
            return int(path.name), arrays, state, complaints
        if complaints:
            raise CheckpointError("no checkpoint can be read: " + "; ".join(complaints))
        return None

    def numbers(self) -> list[int]:
        """The complete checkpoints, ascending."""
        return [int(p.name) for p in self._complete()]

    def path(self, number: int) -> Path:
        """Where checkpoint `number` stands."""
        return self._root / f"{number:08d}"

    def _complete(self) -> list[Path]:
        return sorted(p.parent for p in self._root.glob("[0-9]*/done"))

    def _prune(self) -> None:
        for stray in self._root.glob(".writing-*"):
            shutil.rmtree(stray, ignore_errors=True)
        unpinned = [p for p in self._complete() if not json.loads((p / "manifest.json").read_text()).get("pinned")]
        for path in unpinned[: -self._keep]:
            # Not done any more before anything is missing: a crash in between leaves no complete-looking ruin.
            (path / "done").unlink()
            fsync_path(path)
            shutil.rmtree(path, ignore_errors=True)


def read_checkpoint(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """Read one checkpoint and check it against its manifest.

    Raises:
        CheckpointError: naming the file that is missing, torn, altered or of another format.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_bytes())
        if manifest["format"] != FORMAT_VERSION:
            raise CheckpointError(f"{path}: format = {manifest['format']!r}: allowed is {FORMAT_VERSION}")
        contents = {name: (path / name).read_bytes() for name in _FILES}
        for name, data in contents.items():
            said = manifest["files"][name]
            if len(data) != said["bytes"] or hashlib.sha256(data).hexdigest() != said["sha256"]:
                raise CheckpointError(f"{path / name}: {len(data)} bytes do not hash to the manifest's {said['bytes']}")
        return load(contents["arrays.safetensors"]), json.loads(contents["state.json"])
    except OSError as e:
        raise CheckpointError(f"{path}: {e.strerror or e}") from e
    except (ValueError, KeyError, TypeError, SafetensorError) as e:
        raise CheckpointError(f"{path}: not a checkpoint: {type(e).__name__}: {e}") from e
