"""Writing one segment: every file of it at once, flushed to the device as standard zarr v3.

zarr-python is bypassed, here as in `replay.segment`, because it costs hundreds of microseconds per chunk; what is
written is plain zarr v3 (https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html, sharding codec, index at the
end), and every zarr library reads it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from common.episode import Episode
from replay import fast_json
from replay.layout import ArraySpec, array_json, column_labels, group_json, labels_json, plan, signature
from replay.storage import Parts, Storage, Sums


def write_segment(storage: Storage, segment: str, episodes: Sequence[Episode], pool: ThreadPoolExecutor) -> Sums:
    """Write episodes of one signature as a new segment; every file and folder of it is durable when it returns.

    Args:
        storage: of the store.
        segment: of `Storage.new_segment`.
        episodes: at least one, all with the same signature.
        pool: threads that files are written and flushed with.

    Returns:
        Relative file path -> {"bytes", "crc32c"}.

    Raises:
        OSError: if the storage refuses.
    """
    fields = signature(episodes[0])
    lengths = np.array([e.num_rows for e in episodes], np.int64)
    starts = np.cumsum(lengths) - lengths
    specs, arrays, about = _about(tuple(fields.items()), int(lengths.sum()), len(episodes))
    files: dict[str, Callable[[], Parts]] = {
        f"{spec.name}/{spec.chunk_file}": partial(_array_parts, spec, episodes, starts, lengths) for spec in specs
    }
    attributes = {
        "episode_id": [str(e.meta.id) for e in episodes],
        "kind": [e.meta.kind for e in episodes],
        "phase": [e.meta.phase for e in episodes],
    }
    files["zarr.json"] = partial(_json, group_json(fields, attributes, arrays))
    for name, data in about.items():
        files[name] = partial(list, (data,))
    return storage.put_segment(segment, files, pool)


@lru_cache(maxsize=64)
def _about(
    fields: tuple[tuple[str, tuple[int, ...]], ...], rows: int, episodes: int
) -> tuple[list[ArraySpec], dict[str, dict[str, Any]], dict[str, bytes]]:
    """What segments of one signature and size have in common: arrays, their metadata by name, and the content of the
    files that hold no episodes. Collectors make many of them.
    """
    specs = plan(dict(fields))
    arrays: dict[str, dict[str, Any]] = {}
    files: dict[str, bytes] = {}
    for spec in specs:
        arrays[spec.name] = array_json(spec, rows if spec.level == "step" else episodes)
        if spec.form == "columns":
            arrays[spec.dims[0]] = labels_json(spec)
            files[f"{spec.dims[0]}/c.0"] = _vlen_utf8(column_labels(spec))
    for name, metadata in arrays.items():
        files[f"{name}/zarr.json"] = fast_json.dumps_indented(metadata)
    return specs, arrays, files


def _json(value: Any) -> Parts:
    return [fast_json.dumps_indented(value)]


def _vlen_utf8(labels: Sequence[str]) -> bytes:
    encoded = [label.encode() for label in labels]
    return struct.pack("<I", len(encoded)) + b"".join(struct.pack("<I", len(e)) + e for e in encoded)


def _array_parts(
    spec: ArraySpec, episodes: Sequence[Episode], starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> Parts:
    if spec.level == "step":
        parts: Parts = [spec.encode(e.steps) for e in episodes]
    else:
        own = {"ep_start": starts, "ep_len": lengths}
        parts = [
            spec.encode({n: own[n] if n in own else np.stack([e.fixed[n] for e in episodes]) for n in spec.fields})
        ]
    count = int(lengths.sum()) if spec.level == "step" else len(episodes)
    if not spec.sharded:
        return [*parts, b""]
    index = shard_index(count, spec.row_bytes)
    return [*parts, index + struct.pack("<I", google_crc32c.value(index))]


def shard_index(count: int, row_bytes: int) -> bytes:
    """Index of a shard whose chunks lie one behind the other: little-endian u64 (offset, size) per chunk."""
    entries = np.empty((count, 2), "<u8")
    entries[:, 0] = np.arange(count, dtype=np.uint64) * np.uint64(row_bytes)
    entries[:, 1] = row_bytes
    return entries.tobytes()
