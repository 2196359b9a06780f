"""Collectors that only seem to render: real tasks, real writers, real episodes; a sleep where the renderer would be.

One process plays many collectors. Each of them has a writer of its own, so that the store sees as many as there would
be, and each task sleeps for as long as its environments would take.
"""

from __future__ import annotations

import dataclasses
import itertools
import queue
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.tasks import Task, TaskResult
from common.episode import FIELDS, Episode, EpisodeMeta
from common.identity import EpisodeId
from common.processes import rss_bytes
from common.rng import Purpose, philox
from replay.location import EpisodeWriter

SIDE = 32  # of an image [px]
ROWS = 8  # of a pair block


class SyntheticCollectors:
    """A process that does up to `slots` tasks at the same time, each as one collector would."""

    def __init__(self, open_writer: Callable[[str], EpisodeWriter], name: str, slots: int, task_s: float) -> None:
        """Open nothing yet: a slot opens its writer with its first task.

        Args:
            open_writer: writer id -> what commits episodes.
            name: first part of the writer ids; each slot adds its number.
            slots: tasks at the same time.
            task_s: what the environments of a task take.
        """
        self._open, self._name, self._task_s = open_writer, name, task_s
        self._idle: queue.SimpleQueue[tuple[str, EpisodeWriter | None]] = queue.SimpleQueue()
        for slot in range(slots):
            self._idle.put((f"{name}-{slot:03d}", None))
        self._template = template()
        self._steps = itertools.count()
        self._progress = 0

    def progress(self) -> tuple[int, int]:
        """A number that grows while tasks begin and end, and resident memory [B]; for who watches."""
        return self._progress, rss_bytes()

    def ping(self) -> str:
        """Answer."""
        return "pong"

    def apply(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """Call `func` with this object; what Ray's FaultTolerantActorManager asks of an actor."""
        return func(self, *args, **kwargs)

    def run(self, task: Task, weights: Any = None) -> TaskResult:
        """Do a task: wait as long as rendering it would take, and commit its episodes."""
        began = time.perf_counter()
        self._progress = next(self._steps)
        name, writer = self._idle.get()
        try:
            writer = self._open(name) if writer is None else writer
            time.sleep(self._task_s)
            stored = time.perf_counter()
            ids, rows = [], 0
            for episode in episodes(self._template, task, name):
                writer.append(episode)
                ids.append(str(episode.meta.id))
                rows += episode.num_rows
            writer.flush()
        finally:
            self._idle.put((name, writer))
        now = time.perf_counter()
        self._progress = next(self._steps)
        spent = {"total": now - began, "store": now - stored}
        return TaskResult(tuple(ids), rows, rows, spent, name, rss_bytes())

    def commit(self, round: int, seconds: float) -> tuple[int, float]:
        """Commit segments of 8 episodes for so long, as fast as one writer can and nobody asks for them.

        Args:
            round: of the episodes' ids, so that each call has its own.
            seconds: for how long.

        Returns:
            Segments, and CPU seconds of this process meanwhile.
        """
        name, writer = self._idle.get()
        try:
            writer = self._open(name) if writer is None else writer
            until, cpu, count = time.perf_counter() + seconds, time.process_time(), 0
            while time.perf_counter() < until:
                task = Task("pairs", "il", 0, round, ROWS * count, ROWS * count + ROWS, policy="uniform")
                for episode in episodes(self._template, task, name):
                    writer.append(episode)
                writer.flush()
                count += 1
            return count, time.process_time() - cpu
        finally:
            self._idle.put((name, writer))

    def close(self) -> None:
        """Close the writers, when no task is under way."""
        while not self._idle.empty():
            _, writer = self._idle.get()
            if writer is not None:
                writer.close()


def template() -> Episode:
    """A pair block of 8 views of 32 px, the same in every process."""
    lengths = {"height": SIDE, "width": SIDE, "grid": 4}
    rng = philox(0, Purpose.SAMPLER)
    groups: dict[str, dict[str, NDArray[Any]]] = {"step": {}, "episode": {}}
    for field in FIELDS.values():
        if "pairs" in field.kinds:
            dims = tuple(d if isinstance(d, int) else lengths[d] for d in field.dims)
            shape = ((ROWS,) if field.level == "step" else ()) + dims
            groups[field.level][field.name] = _values(rng, field.dtype, shape)
    meta = EpisodeMeta(EpisodeId("scale", 0, "il_pairs", 0, 0), "pairs", "il", "uniform", None, 1, "{}", 0, "bench")
    return Episode(meta, groups["step"], groups["episode"])


def episodes(of: Episode, task: Task, collector: str) -> Iterator[Episode]:
    """One episode per environment of a task: the arrays of `of` under the ids of the task."""
    for env in range(task.first_env, task.last_env):
        name = dataclasses.replace(of.meta.id, role=f"{task.phase}_{task.kind}", round=task.round, env=env)
        meta = dataclasses.replace(of.meta, id=name, phase=task.phase, collector=collector, scene_seed=env)
        yield dataclasses.replace(of, meta=meta)


def _values(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    if dtype == "bool":
        return np.ones(shape, bool)
    if dtype == "uint8":
        return rng.integers(0, 256, shape, np.uint8)
    return np.asarray(rng.standard_normal(shape)).astype(dtype)
