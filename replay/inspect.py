"""What is in a store, whether it is whole, and one hash of all of it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from replay.retention import uncommitted
from replay.storage import Where, refusing
from replay.store import Store, open_store
from replay.verify import file_problems

IOU_BINS = 10
_SHOWN = 12


def store_info(where: Where) -> dict[str, Any]:
    """Describe the committed content of a store; JSON-ready.

    Returns:
        ``path, episodes, rows, bytes`` (of segment files), ``segments``; ``kinds, phases, policy_versions`` (name ->
        {"episodes", "rows"}; versions as lineage.counter.sha256[:12], "none" where nothing learned acted);
        ``iou_histogram`` (counts of `IOU_BINS` equal bins of 0..1, by each episode's final IoU); ``writers`` (name ->
        {"commits", "bytes", "last_commit"}); ``duplicates`` (dropped copies), ``conflicts`` (ids whose copies differ),
        ``orphans`` (segment folders without a record); ``first_commit, last_commit`` (Unix time [s], None if empty),
        ``age_s`` since the last commit; ``content_sha256``.

    Raises:
        StoreError: if it is no store, or a record is damaged.
    """
    store = open_store(where)
    try:
        store.refresh()
        ask = store.index.rows
        episodes, rows = ask("SELECT COUNT(*), COALESCE(SUM(rows), 0) FROM episodes")[0]
        segments, size, first, last = ask(
            "SELECT COUNT(*), COALESCE(SUM(bytes), 0), MIN(committed_at), MAX(committed_at) FROM records"
        )[0]
        writers = ask(
            "SELECT writer, COUNT(*), SUM(bytes), MAX(committed_at) FROM records GROUP BY writer ORDER BY writer"
        )
        iou = [v for (v,) in ask("SELECT iou_final FROM episodes WHERE iou_final IS NOT NULL")]
        copies = ask("SELECT COUNT(*) FROM copies")[0][0]
        conflicts = ask("SELECT COUNT(*) FROM (SELECT id FROM copies GROUP BY id HAVING COUNT(DISTINCT sha256) > 1)")[
            0
        ][0]
        return {
            "path": store.url,
            "episodes": episodes,
            "rows": rows,
            "bytes": size,
            "segments": segments,
            "kinds": _count(store, "kind", str),
            "phases": _count(store, "phase", str),
            "policy_versions": _count(store, "policy_version", _short_version),
            "iou_histogram": np.histogram(np.clip(iou, 0, 1), bins=IOU_BINS, range=(0, 1))[0].tolist(),
            "writers": {w: {"commits": n, "bytes": b, "last_commit": t} for w, n, b, t in writers},
            "duplicates": copies - episodes,
            "conflicts": conflicts,
            "orphans": len(orphans(store)),
            "first_commit": first,
            "last_commit": last,
            "age_s": None if last is None else max(0.0, time.time() - last),
            "content_sha256": _content_sha256(store),
        }
    finally:
        store.close()


def _count(store: Store, column: str, show: Callable[[Any], str]) -> dict[str, dict[str, int]]:
    found = store.index.rows(f"SELECT {column}, COUNT(*), SUM(rows) FROM episodes GROUP BY {column} ORDER BY {column}")
    return {show(name): {"episodes": n, "rows": rows} for name, n, rows in found}


def _short_version(text: str | None) -> str:
    if text is None:
        return "none"
    lineage, counter, sha = text.split(".")
    return f"{lineage}.{counter}.{sha[:12]}"


def orphans(store: Store) -> list[str]:
    """Segments, below the store, that no record or tombstone of this view names: torn, or about to be committed."""
    return uncommitted(store)


def content_sha256(where: Where) -> str:
    """One hash of all committed content: over the sorted episode ids and their content hashes. Independent of writers,
    segments, order and time of the commits.

    Raises:
        StoreError: as `store_info`.
    """
    store = open_store(where)
    try:
        store.refresh()
        return _content_sha256(store)
    finally:
        store.close()


def _content_sha256(store: Store) -> str:
    digest = hashlib.sha256()
    for episode_id, sha256 in store.index.rows(
        "SELECT id, sha256 FROM episodes ORDER BY run, lineage, role, round, env"
    ):
        digest.update(f"{episode_id} {sha256}\n".encode())
    return digest.hexdigest()


def verify_store(where: Where) -> list[str]:
    """Read every file of every committed segment and compare size and crc32c with the record.

    Returns:
        One line per file that is missing or differs; empty if the store is whole.

    Raises:
        StoreError: if it is no store, or a record is damaged.
    """
    store = open_store(where)
    try:
        store.refresh()
        with refusing(store.storage, "verified"):
            return [problem for record in store.records() for problem in file_problems(store.storage, record)]
    finally:
        store.close()


def print_info(info: dict[str, Any], console: Console) -> None:
    """Show what `store_info` found as tables."""
    mb = info["bytes"] / 1e6
    console.print(f"[bold]{info['path']}[/bold]  {info['episodes']} episodes, {info['rows']} rows, {mb:.1f} MB")
    age = "never" if info["age_s"] is None else f"{info['age_s']:.0f} s ago"
    console.print(
        f"{info['segments']} segments, last commit {age}; {info['duplicates']} duplicates dropped, "
        f"{info['conflicts']} conflicting, {info['orphans']} uncommitted folders"
    )
    for title, key in (("kind", "kinds"), ("phase", "phases"), ("policy version", "policy_versions")):
        table = Table(title, "episodes", "rows")
        # A run publishes weights every round: the newest few say what a person wants to know, --json has them all.
        shown = sorted(info[key].items(), key=lambda item: _numeric(item[0]))[-_SHOWN:]
        if len(shown) < len(info[key]):
            table.add_row(f"({len(info[key]) - len(shown)} older)", "", "")
        for name, count in shown:
            table.add_row(name, str(count["episodes"]), str(count["rows"]))
        console.print(table)
    writers = Table("writer", "commits", "MB")
    for name, seen in info["writers"].items():
        writers.add_row(name, str(seen["commits"]), f"{seen['bytes'] / 1e6:.1f}")
    console.print(writers)
    if any(info["iou_histogram"]):
        histogram = Table("final IoU", "episodes", "")
        largest = max(info["iou_histogram"])
        for k, count in enumerate(info["iou_histogram"]):
            low, high = k / IOU_BINS, (k + 1) / IOU_BINS
            histogram.add_row(f"{low:.1f} - {high:.1f}", str(count), "█" * round(30 * count / largest))
        console.print(histogram)
    console.print(f"content {info['content_sha256']}")


def _numeric(name: str) -> tuple[list[int], str]:
    """Sorts "0.9.<hash>" before "0.10.<hash>", and names without numbers first, by letter."""
    return [int(part) for part in name.split(".")[:2] if part.isdigit()], name
