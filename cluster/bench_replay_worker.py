"""One system of `servofleet bench replay` in a process of its own: ``python -m cluster.bench_replay_worker JOB``.

JOB is a JSON object. The process prepares what JOB names, says ``{"ready": true}``, and then answers every line on
stdin with one measurement, a line of JSON; so the parent can take ours and a peer in turns.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cluster.bench_replay_data import ROWS, SEED, SEGMENT_EPISODES, episodes
from cluster.bench_replay_peers import READERS, WRITERS, Reader, raw_write
from common.rng import Purpose, philox
from replay.drawing import Group
from replay.record import describe, encode_record, record_path
from replay.samplers import RowSampler
from replay.store import Store, open_store
from replay.torch_batches import to_torch

Answer = dict[str, Any]
Measure = Callable[[], Answer]

BATCH = 64
OURS = "servofleet"
_FIELDS = ("image", "mask")
# Arrays larger than any segment: a commit is made when its last episode is appended.
_MAX_BYTES = 1 << 32


def read(job: dict[str, Any]) -> Measure:
    """Random rows and whole episodes, warm.

    Args:
        job: system, store (path), scratch (folder), ram_bytes (of ours), seconds (per measurement).

    Returns:
        rows per second: "rows", and "episodes" where the system reads them.
    """
    store = open_store(job["store"], ram_bytes=job.get("ram_bytes", 1 << 34))
    store.refresh()
    count = len(store.select())
    rng = philox(SEED, Purpose.BOOTSTRAP)
    reader = _ours(store) if job["system"] == OURS else None
    if reader is None:
        reader = READERS[job["system"]](Path(job["store"]), Path(job["scratch"]))
    known = reader

    def rows() -> int:
        image, mask = known.rows(rng.integers(0, count * ROWS, BATCH))
        _expect(image, mask, BATCH)
        return BATCH

    def episode() -> int:
        assert known.episode is not None
        image, mask = known.episode(int(rng.integers(0, count)))
        _expect(image, mask, ROWS)
        return ROWS

    seconds = job["seconds"]
    _rate(rows, seconds)  # warm

    def measure() -> Answer:
        out = {"rows": _rate(rows, seconds)}
        return out | ({} if known.episode is None else {"episodes": _rate(episode, seconds)})

    return measure


def _expect(image: torch.Tensor, mask: torch.Tensor, rows: int) -> None:
    if len(image) != rows or len(mask) != rows or image.dtype != torch.uint8 or mask.dtype != torch.bool:
        raise RuntimeError(f"a reader returned {image.shape} {image.dtype} and {mask.shape} {mask.dtype}")


def _ours(store: Store) -> Reader:
    sampler = RowSampler(store, SEED, _FIELDS)
    group, step = Group("dagger", BATCH), iter(range(1 << 60))
    entries = store.select()

    def rows(_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        batch = to_torch(sampler.batch([group], next(step)))
        return batch["image"], batch["mask"]

    def episode(k: int) -> tuple[torch.Tensor, torch.Tensor]:
        steps = store.read_episode(entries[k]).steps
        return torch.from_numpy(steps["image"]), torch.from_numpy(steps["mask"])

    return Reader(rows, episode)


def _rate(do: Callable[[], int], seconds: float) -> float:
    done, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        done += do()
    return done / took


def cold(job: dict[str, Any]) -> Measure:
    """Random rows of a store of which nothing is in RAM, and the same by pread, one row after the other.

    Args:
        job: store, batches (per measurement).
    """
    store = open_store(job["store"], ram_bytes=0)
    store.refresh()
    reader = _ours(store)
    for entry in store.select():
        store.read_episode(entry)  # sums are checked once; what is measured is reading after that
    files = [p for p in Path(job["store"]).rglob("*") if p.is_file()]
    images = [p for p in files if p.parent.name == "image" and p.name.startswith("c.")]
    rng = philox(SEED, Purpose.BOOTSTRAP, env=1)
    empty = np.empty(0, np.int64)

    def measure() -> Answer:
        store.release()
        _drop(files)
        reader.rows(empty)  # maps, and the first batch's metadata, are not what is asked
        began = time.perf_counter()
        for _ in range(job["batches"]):
            reader.rows(empty)
        ours = time.perf_counter() - began
        store.release()
        _drop(files)
        handles = [os.open(p, os.O_RDONLY) for p in images]
        began = time.perf_counter()
        for _ in range(job["batches"] * BATCH):
            row = 3 * 128 * 128
            os.pread(handles[int(rng.integers(len(handles)))], row, row * int(rng.integers(ROWS * SEGMENT_EPISODES)))
        theirs = time.perf_counter() - began
        for handle in handles:
            os.close(handle)
        count = job["batches"] * BATCH
        return {"rows": count / ours, "pread": count / theirs}

    return measure


def _drop(files: list[Path]) -> None:
    """Push files out of RAM; pages that are not on the disk yet would stay."""
    for path in files:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def insert(job: dict[str, Any]) -> Measure:
    """Commit segments of 8 episodes; the pictures are made before.

    Args:
        job: system, scratch, name (of the writer), in_flight, segments (per measurement), raw (measure a raw file
            beside each commit).

    Returns:
        seconds, episodes, bytes (of arrays); commits and raws [s] each where they are timed one by one.
    """
    made = [list(episodes(SEGMENT_EPISODES, SEGMENT_EPISODES * k)) for k in range(2)]
    scratch = Path(job["scratch"])
    total, numbers = sum(e.nbytes() for e in made[0]), iter(range(1 << 60))
    if job["system"] != OURS:
        write = WRITERS[job["system"]]
        write(scratch, next(numbers), made[0])

        def theirs() -> Answer:
            began = time.perf_counter()
            for _ in range(job["segments"]):
                k = next(numbers)
                write(scratch, k, made[k % 2])
            pixels = sum(e.steps[n].nbytes for e in made[0] for n in _FIELDS)
            return _inserted(time.perf_counter() - began, job["segments"], pixels)

        return theirs
    store = open_store(scratch / "in", "a", create=True)
    writer = store.writer(
        job["name"], max_episodes=SEGMENT_EPISODES, max_bytes=_MAX_BYTES, in_flight=job.get("in_flight", 1)
    )
    own = int(job["name"].rpartition("-")[2]) * 100_000

    def segment() -> int:
        k = next(numbers)
        acks = 0
        for i, e in enumerate(made[k % 2]):
            name = dataclasses.replace(e.meta.id, env=own + SEGMENT_EPISODES * k + i)
            acks += len(writer.append(dataclasses.replace(e, meta=dataclasses.replace(e.meta, id=name))))
        return acks

    segment()
    writer.flush()
    store.refresh()
    # As many bytes as all files of a segment have together.
    data = os.urandom(max(r.nbytes for r in store.records() if r.writer == job["name"]))

    def ours() -> Answer:
        commits, raws = [], []
        began = time.perf_counter()
        for _ in range(job["segments"]):
            if job.get("raw"):
                start = time.perf_counter()
                raw_write(scratch, next(numbers), data)
                raws.append(time.perf_counter() - start)
            start = time.perf_counter()
            acked = segment()
            commits.append(time.perf_counter() - start)
            if job.get("raw") and acked != SEGMENT_EPISODES:
                raise RuntimeError(f"a commit acknowledged {acked} episodes")
        writer.flush()
        seconds = time.perf_counter() - began
        return _inserted(seconds, job["segments"], total) | {"commits": commits, "raws": raws}

    return ours


def _inserted(seconds: float, segments: int, nbytes: int) -> Answer:
    return {"seconds": seconds, "episodes": segments * SEGMENT_EPISODES, "bytes": segments * nbytes}


def growth(job: dict[str, Any]) -> Measure:
    """Microseconds per drawn row of a store of small pictures with few, and with ten times as many episodes.

    Args:
        job: scratch, episodes (of the smaller store), seconds.
    """
    samplers = {}
    for name, count in (("small", job["episodes"]), ("large", 10 * job["episodes"])):
        store = open_store(Path(job["scratch"]) / name, "a", create=True)
        writer = store.writer("w", max_episodes=SEGMENT_EPISODES, max_bytes=_MAX_BYTES, in_flight=4)
        for e in episodes(count, side=32):
            writer.append(e)
        writer.close()
        store.refresh()
        samplers[name] = RowSampler(store, SEED, _FIELDS)
    steps = iter(range(1 << 60))

    def cost(sampler: RowSampler) -> float:
        group = [Group("dagger", BATCH)]
        return 1e6 / _rate(lambda: len(sampler.batch(group, next(steps))["image"]), job["seconds"])

    for sampler in samplers.values():
        cost(sampler)
    return lambda: {name: cost(sampler) for name, sampler in samplers.items()}


def rebuild(job: dict[str, Any]) -> Measure:
    """Seconds that a new index takes to read the records of so many episodes; the segments are not there.

    Args:
        job: scratch, episodes.
    """
    root, each = Path(job["scratch"]) / "records", 64
    open_store(root, "a", create=True).writer("w").close()
    (example,) = episodes(1, side=16)
    about = describe(example, "0" * 64, 0)
    for seq in range(job["episodes"] // each):
        body = {"writer": "w", "seq": seq, "committed_at": 0.0, "segment": f"data/w-{seq:08d}.zarr", "files": {}}
        entries = list(_entries(about, example.meta.id, seq * each, each))
        record_path(root, "w", seq).write_bytes(encode_record({**body, "episodes": entries}))

    def measure() -> Answer:
        store = open_store(root)
        began = time.perf_counter()
        store.refresh()
        seconds = time.perf_counter() - began
        found = store.index.rows("SELECT COUNT(*) FROM episodes")[0][0]
        if found != job["episodes"] // each * each:
            raise RuntimeError(f"the index holds {found} episodes")
        store.close()
        return {"seconds": seconds, "episodes": found}

    return measure


def _entries(about: dict[str, Any], name: Any, first: int, count: int) -> Iterator[dict[str, Any]]:
    for i in range(count):
        text = str(dataclasses.replace(name, env=first + i))
        yield {**about, "id": text, "start": ROWS * i, "meta": {**about["meta"], "id": text}}


_TASKS: dict[str, Callable[[dict[str, Any]], Measure]] = {
    "read": read,
    "cold": cold,
    "insert": insert,
    "growth": growth,
    "rebuild": rebuild,
}


def main() -> None:
    """Prepare, then measure once per line; a library that is not installed is an answer, other failures end it."""
    torch.set_num_threads(1)
    job = json.loads(sys.argv[1])
    try:
        measure = _TASKS[job["task"]](job)
    except ImportError as e:
        lines = [line.strip() for line in str(e).splitlines() if line.strip()]
        print(json.dumps({"missing": lines[-1] if lines else type(e).__name__}), flush=True)
        return
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(measure()), flush=True)


if __name__ == "__main__":
    main()
