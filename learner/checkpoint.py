"""Checkpoints: one directory is one cut of the run. Written aside, flushed, renamed, marked done last.

    checkpoints/00000042/arrays.safetensors   learner weights, optimiser, averages, generators
                         state.json           counters, cursors, positions, results so far
                         manifest.json        size and sha256 of both, format version, what retention asks
                         done                 empty; without it the checkpoint does not exist

No pickle: arrays are safetensors, the rest is JSON.
"""

from __future__ import annotations

import dataclasses
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


@dataclasses.dataclass(frozen=True)
class Score:
    """How good the weights of a checkpoint are.

    Attributes:
        stage: evaluation that says so; those of one name are compared with each other.
        iou: its mean final IoU, 0..1.
    """

    stage: str
    iou: float


class Checkpoints:
    """The checkpoints of one run directory."""

    def __init__(self, root: Path, keep: int, every_nth: int = 0, keep_best: int = 0) -> None:
        """Use `root` (made if missing).

        Args:
            root: directory of the checkpoints.
            keep: the newest so many are kept besides pinned ones; those known to be broken do not count.
            every_nth: those whose number is a multiple of this are kept; 0 is none.
            keep_best: the best so many of each evaluation are kept.
        """
        self._root, self._keep, self._every_nth, self._keep_best = root, keep, every_nth, keep_best
        self._broken: set[int] = set()
        root.mkdir(parents=True, exist_ok=True)

    def save(
        self,
        number: int,
        arrays: Mapping[str, NDArray[Any]],
        state: dict[str, Any],
        *,
        pin: bool = False,
        score: Score | None = None,
    ) -> Path:
        """Write checkpoint `number`; durable when it returns. An older half-written one of that number is replaced.

        Args:
            number: grows over the run.
            arrays: named arrays.
            state: JSON-ready; NaN is refused, because no JSON reader agrees on it.
            pin: never pruned (phase ends).
            score: of these weights, if they were evaluated.

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
            "score": None if score is None else {"stage": score.stage, "iou": score.iou},
            "files": {n: {"bytes": len(b), "sha256": hashlib.sha256(b).hexdigest()} for n, b in contents.items()},
        }
        contents["manifest.json"] = json.dumps(manifest, indent=1, allow_nan=False).encode()
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
        for path in sorted(self._root.glob("[0-9]*"), reverse=True):
            try:
                if not (path / "done").exists():
                    raise CheckpointError(f"{path / 'done'} is missing: this checkpoint was never completed")
                arrays, state = read_checkpoint(path)
            except CheckpointError as e:
                complaints.append(str(e))
                self._broken.add(int(path.name))
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

    def best(self, stage: str) -> float | None:
        """The best IoU of the evaluation `stage` among the checkpoints that are kept; None if none has one."""
        found = [e.score.iou for e in self._entries() if e.score is not None and e.score.stage == stage]
        return max(found, default=None)

    def _entries(self) -> list[_Entry]:
        return [_entry(path) for path in self._complete() if int(path.name) not in self._broken]

    def _prune(self) -> None:
        for stray in self._root.glob(".writing-*"):
            shutil.rmtree(stray, ignore_errors=True)
        entries = self._entries()
        kept = {e.number for e in entries if e.pinned or (self._every_nth and e.number % self._every_nth == 0)}
        newest = [e.number for e in entries if not e.pinned and e.readable][-self._keep :]
        kept.update(newest)
        for stage in {e.score.stage for e in entries if e.score is not None}:
            of_stage = [e for e in entries if e.score is not None and e.score.stage == stage]
            # The newer one of two that are equal: it has learned more.
            of_stage.sort(key=lambda e: (e.score.iou if e.score else 0.0, e.number), reverse=True)
            kept.update(e.number for e in of_stage[: self._keep_best])
        # What is broken stays to be looked at until as many newer ones are there as are kept anyway.
        behind = newest[0] if len(newest) == self._keep else 0
        for path in self._root.glob("[0-9]*"):
            number = int(path.name)
            if number in kept or number >= behind:
                continue
            # Not done any more before anything is missing: a crash in between leaves no complete-looking ruin.
            (path / "done").unlink(missing_ok=True)
            fsync_path(path)
            shutil.rmtree(path, ignore_errors=True)


@dataclasses.dataclass(frozen=True)
class _Entry:
    """What retention asks of a checkpoint; one whose manifest cannot be read is not counted on."""

    number: int
    pinned: bool = False
    score: Score | None = None
    readable: bool = True


def _entry(path: Path) -> _Entry:
    try:
        manifest = json.loads((path / "manifest.json").read_bytes())
        said = manifest.get("score")
        score = None if said is None else Score(str(said["stage"]), float(said["iou"]))
        return _Entry(int(path.name), bool(manifest["pinned"]), score)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # Whoever would continue from it hears what is wrong; see `Checkpoints.latest`.
        return _Entry(int(path.name), readable=False)


def read_checkpoint(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """Read one checkpoint and check it against its manifest.

    Raises:
        CheckpointError: naming the file that is missing, torn, altered or of another format.
    """
    file = path / "manifest.json"
    try:
        manifest = json.loads(file.read_bytes())
        if manifest["format"] != FORMAT_VERSION:
            raise CheckpointError(f"{file}: format = {manifest['format']!r}: allowed is {FORMAT_VERSION}")
        said = {name: (manifest["files"][name]["bytes"], manifest["files"][name]["sha256"]) for name in _FILES}
        contents = {}
        for name, (size, sha256) in said.items():
            file = path / name
            contents[name] = data = file.read_bytes()
            if len(data) != size or hashlib.sha256(data).hexdigest() != sha256:
                raise CheckpointError(f"{file}: {len(data)} bytes do not hash to the manifest's {size}")
        file = path / "arrays.safetensors"
        arrays = load(contents["arrays.safetensors"])
        file = path / "state.json"
        return arrays, json.loads(contents["state.json"])
    except OSError as e:
        raise CheckpointError(f"{file}: {e.strerror or e}") from e
    except (ValueError, KeyError, TypeError, SafetensorError) as e:
        raise CheckpointError(f"{file}: not of a checkpoint: {type(e).__name__}: {e}") from e
