"""Commit records: the small JSON files that make a segment part of the store.

A record is published once, under ``commits/<writer>/<seq>.json``, and never changed. It is one JSON object whose last
key is the crc32c of all bytes before that key, so that a damaged record is noticed wherever the damage is.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from common.episode import Episode, EpisodeMeta
from common.errors import SchemaError, StoreError, bad_value
from replay import fast_json
from replay.checks import MAX_BYTES, real
from replay.storage import Storage, Where, open_storage

RECORD_VERSION = 1
WRITER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}")
RECORD_NAME = re.compile(r"[0-9]{8}\.json")
SEGMENT_PATH = re.compile(r"data/[A-Za-z0-9][A-Za-z0-9_.-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TEXTS = {str}
_TAIL = re.compile(rb', "crc32c": "([0-9a-f]{8})"\}$')
_TAIL_BYTES = len(b', "crc32c": "00000000"}')


@dataclasses.dataclass(frozen=True, slots=True)  # a million of them
class EpisodeEntry:
    """Where an episode lies and what is asked of it most.

    Attributes:
        id: episode id as text.
        writer, seq, slot: the record that committed it, and its place in that record.
        segment: path of the segment, relative to the store.
        start: first row in the segment.
        rows: number of rows.
        valid_rows: rows a sampler may draw: those with ``label_valid`` where the record has that field, else all.
        sha256: content hash (`Episode.sha256`).
        iou_final, iou_max: of the field ``iou``, None where the record has none.
        meta_json: everything else, as text: a query over many episodes does not pay for parsing it.
    """

    id: str
    writer: str
    seq: int
    slot: int
    segment: str
    start: int
    rows: int
    valid_rows: int
    sha256: str
    iou_final: float | None
    iou_max: float | None
    meta_json: str

    @property
    def meta(self) -> EpisodeMeta:
        """Names and provenance, parsed anew each time."""
        return EpisodeMeta.from_dict(json.loads(self.meta_json))


@dataclasses.dataclass(frozen=True)
class Record:
    """One commit.

    Attributes:
        writer: who committed.
        seq: 0, 1, 2, ... without gaps per writer.
        segment: path of the segment, relative to the store.
        files: path below the segment -> {"bytes", "crc32c"}.
        episodes: in the order they lie in the segment.
        committed_at: Unix time [s] of the writer's clock; for people, nothing is decided by it.
    """

    writer: str
    seq: int
    segment: str
    files: dict[str, dict[str, int]]
    episodes: tuple[EpisodeEntry, ...]
    committed_at: float

    @property
    def nbytes(self) -> int:
        """Bytes of the segment's files."""
        return sum([f["bytes"] for f in self.files.values()])


def record_name(writer: str, seq: int) -> str:
    """Where the record of a commit lies."""
    return f"commits/{writer}/{seq:08d}.json"


def record_path(root: Path, writer: str, seq: int) -> Path:
    """Where the record of a commit lies in a local store."""
    return root / record_name(writer, seq)


def describe(episode: Episode, sha256: str, start: int) -> dict[str, Any]:
    """What a record says of an episode that begins at row `start` of its segment."""
    iou = episode.steps.get("iou")
    valid = episode.steps.get("label_valid")
    version = episode.meta.policy_version
    return {
        "id": str(episode.meta.id),
        "start": start,
        "rows": episode.num_rows,
        "valid_rows": episode.num_rows if valid is None else int(np.count_nonzero(valid)),
        "kind": episode.meta.kind,
        "phase": episode.meta.phase,
        "policy": episode.meta.policy,
        "policy_version": None if version is None else str(version),
        "iou_final": None if iou is None else _number(iou[-1]),
        "iou_max": None if iou is None else _number(iou.max()),
        "sha256": sha256,
        "meta": episode.meta.to_dict(),
    }


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None  # JSON has no NaN


def encode_record(body: dict[str, Any]) -> bytes:
    """The bytes of a record with its checksum."""
    text = json.dumps({"version": RECORD_VERSION, **body}, allow_nan=False).encode()[:-1]
    return text + b', "crc32c": "%08x"}' % google_crc32c.value(text)


def has_right_sum(data: bytes) -> bool:
    """Whether bytes end with the checksum that `encode_record` gave them."""
    tail = _TAIL.search(data)
    return tail is not None and int(tail[1], 16) == google_crc32c.value(data[:-_TAIL_BYTES])


def read_checked(storage: Storage, name: str, what: str) -> dict[str, Any]:
    """The content of a file that `encode_record` made; `what` says in errors which kind of file it is.

    Raises:
        StoreError: naming the file if it is missing, damaged, or of another format version.
    """
    path = storage.where(name)
    try:
        data = storage.read(name)
    except OSError as error:
        raise StoreError(f"{what} {path} cannot be read: {error.strerror}") from error
    if not has_right_sum(data):
        raise StoreError(f"{what} {path} is damaged: its checksum does not fit its content")
    try:
        raw: dict[str, Any] = _parse(data)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{what} {path} is malformed: {error}") from error
    if raw.get("version") != RECORD_VERSION:
        raise StoreError(bad_value(f"version of {what} {path}", raw.get("version"), str(RECORD_VERSION)))
    return raw


def read_record(where: Where, writer: str, seq: int) -> Record:
    """Read and check a record of a store.

    Raises:
        StoreError: naming the record if it is missing, damaged, of another format version, or names a path outside
            its place or an absurd size.
    """
    storage, name = open_storage(where), record_name(writer, seq)
    path, raw = storage.where(name), read_checked(storage, name, "commit record")
    try:
        if (raw["writer"], raw["seq"]) != (writer, seq):
            raise StoreError(f"commit record {path} belongs to writer {raw['writer']!r}, sequence {raw['seq']!r}")
        # Looked for in the whole name first: there are dozens of names, and none of them has it.
        outside = [n for n in raw["files"] if n.startswith("/") or (".." in n and ".." in n.split("/"))]
        if outside or not SEGMENT_PATH.fullmatch(raw["segment"]):
            named = [raw["segment"], *outside]
            raise StoreError(bad_value(f"path in commit record {path}", named, "data/NAME, and files below it"))
        counts = [f["bytes"] for f in raw["files"].values()]
        counts += [e[n] for e in raw["episodes"] for n in ("start", "rows", "valid_rows")]
        if absurd := [c for c in counts if type(c) is not int or not 0 <= c <= MAX_BYTES]:
            raise StoreError(bad_value(f"bytes or rows in commit record {path}", absurd[0], f"0 .. {MAX_BYTES}"))
        for file, sums in raw["files"].items():
            if type(sums["crc32c"]) is not int:
                raise StoreError(bad_value(f"crc32c of {file!r} in commit record {path}", sums["crc32c"], "a number"))
        committed_at = real(f"committed_at in commit record {path}", raw["committed_at"])
        entries = tuple(_entry(raw, slot, e) for slot, e in enumerate(raw["episodes"]))
        for entry, e in zip(entries, raw["episodes"], strict=True):
            if problem := _problem(entry, e["meta"]):
                raise StoreError(f"commit record {path} is malformed: episode {entry.slot}: {problem}")
        return Record(writer, seq, raw["segment"], raw["files"], entries, committed_at)
    except (KeyError, TypeError, AttributeError, SchemaError) as error:
        raise StoreError(f"commit record {path} is malformed: {type(error).__name__}: {error}") from error


def _parse(data: bytes) -> Any:
    raw = fast_json.loads(data)
    try:  # a seed may be longer than a number that is read fast
        exact = not any(isinstance(e["meta"]["scene_seed"], float) for e in raw.get("episodes", ()))
    except (KeyError, TypeError, AttributeError):
        return raw  # malformed, as its reader will say
    return raw if exact else json.loads(data)


def _problem(e: EpisodeEntry, meta: dict[str, Any]) -> str:
    """What cannot be of an entry that was read; "" if it can."""
    if e.id != meta["id"]:
        return bad_value("id", e.id, f"that of its meta, {meta['id']!r}")
    texts = (meta["kind"], meta["phase"], meta["policy"], meta["scene"], meta["collector"])
    if set(map(type, texts)) != _TEXTS:
        return bad_value("kind, phase, policy, scene and collector", texts, "texts")
    if type(e.sha256) is not str or not _SHA256.fullmatch(e.sha256):
        return bad_value("sha256", e.sha256, "64 hex digits")
    if not e.valid_rows <= e.rows or not e.rows:
        return bad_value("valid_rows and rows", (e.valid_rows, e.rows), "0 .. rows and at least 1")
    for iou in (e.iou_final, e.iou_max):
        if not (iou is None or type(iou) is float or (type(iou) is int and iou in (0, 1))):
            return bad_value("iou_final or iou_max", iou, "a number or null")
    return ""


def _entry(raw: dict[str, Any], slot: int, e: dict[str, Any]) -> EpisodeEntry:
    meta = e["meta"]
    EpisodeMeta.check(meta)
    return EpisodeEntry(
        e["id"],
        raw["writer"],
        raw["seq"],
        slot,
        raw["segment"],
        e["start"],
        e["rows"],
        e["valid_rows"],
        e["sha256"],
        e["iou_final"],
        e["iou_max"],
        fast_json.dumps(meta),
    )
