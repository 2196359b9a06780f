"""One number of environments of `servofleet bench scale`: the run's own loop over synthetic collectors."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

from actors.scenes.suite import held_out_suite
from actors.tasks import split
from cluster.bench_scale_worker import SyntheticCollectors
from cluster.config_loading import load_config
from cluster.crew_member import WATCH
from cluster.fleet import Fleet
from cluster.imitation_rounds import ImitationRounds
from cluster.program import Program, open_checkpoints
from cluster.replay_writer import open_writer, store_location
from cluster.run_directory import MetricsLog, RunDirectory
from common.config import RunConfig
from common.identity import PolicyVersion, weights_sha256
from common.networks.servo_net import initial_weights
from learner.learners import PhaseLearner
from replay.store import Store, open_store

PHASE = "il"
ENVS_PER_COLLECTOR = 8
TASK_S = 0.64  # what an episode of 16 frames takes at 25 frames per second of each environment
PROCESSES = 4
_UPDATES = 8  # per round
_UPDATE_S = TASK_S / _UPDATES
_INGEST_COLLECTORS = 16
_REFRESH_S = 0.1


@dataclasses.dataclass(frozen=True)
class Level:
    """What was measured, the warm-up left out.

    Attributes:
        envs: environments.
        segments: committed.
        wall_s, wait_s: all of the time, and what of it the learner waited for collectors.
        cpu_s: of the driver's process, its sampling and Ray's threads included.
        parts: the same by who took it; of the loop's thread: "fleet" (giving tasks out, taking results in, watching),
            "index", "limiter", "sampling" and "rest", and "threads": of all others, most of them Ray's.
        task_s: mean time of a task from its begin to its commit.
    """

    envs: int
    segments: int
    wall_s: float
    wait_s: float
    cpu_s: float
    parts: Mapping[str, float]
    task_s: float

    @property
    def cost_s(self) -> float:
        """CPU seconds of the driver's work: all parts but sampling, which makes the learner's batches."""
        return sum(v for k, v in self.parts.items() if k != "sampling")


@dataclasses.dataclass(frozen=True)
class Ingest:
    """Records that a reader saw, in so many seconds, and the CPU seconds that writers and reader took for them."""

    records: int
    wall_s: float
    writing_s: float
    reading_s: float


class TimedLearner(PhaseLearner):
    """A gradient step that takes its time and no processor."""

    def __init__(self, update_s: float) -> None:
        self._update_s = update_s

    def update(self, data: Any, ids: Callable[[], Sequence[str]] | None = None) -> dict[str, float]:
        """Sleep."""
        time.sleep(self._update_s)
        return {"total_loss": 0.0}


class Clocks:
    """CPU seconds of this thread by part; a part that calls itself is counted once."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inside: set[str] = set()

    def watch(self, owner: Any, method: str, part: str) -> None:
        """Count the calls of a method of one object under `part`."""
        call = getattr(owner, method)
        self.seconds.setdefault(part, 0.0)

        @functools.wraps(call)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if part in self._inside:
                return call(*args, **kwargs)
            self._inside.add(part)
            began = time.thread_time()
            try:
                return call(*args, **kwargs)
            finally:
                self.seconds[part] += time.thread_time() - began
                self._inside.discard(part)

        setattr(owner, method, timed)


def run_level(folder: Path, envs: int, seconds: float, task_s: float = TASK_S) -> Level:
    """Rounds of imitation with so many environments, for `seconds` and at least twice, after one to warm up."""
    config = _config(folder, envs // ENVS_PER_COLLECTOR, f"phases.il.imitation.scenes_per_round={envs}")
    weights = initial_weights(config.network, config.seed)
    version = PolicyVersion(0, 0, weights_sha256(weights))
    with _synthetic(config, task_s) as (program, _):
        rounds = ImitationRounds(program, PHASE, TimedLearner(_UPDATE_S * task_s / TASK_S), lineage=0)
        rounds.total_rounds = 10**6
        rounds.prepare(0, weights, version)
        rounds.learn(0, weights, version, lambda: None)
        program.store.refresh()
        clocks = Clocks()
        for method in ("start", "poll"):
            clocks.watch(program.fleet, method, "fleet")
        clocks.watch(program.store, "refresh", "index")
        for method in ("try_collect", "try_draw"):
            clocks.watch(rounds._pace, method, "limiter")
        clocks.watch(rounds._sampler, "next", "sampling")
        before, totals = _records(program.store), dataclasses.replace(program.fleet.totals)
        tasks, busy = totals.tasks, program.fleet.totals.seconds["total"]
        began, cpu, loop = time.perf_counter(), time.process_time(), time.thread_time()
        waited, number = 0.0, 1
        while time.perf_counter() - began < seconds or number < 3:
            waited += float(rounds.learn(number, weights, version, lambda: None)["wait_s"])
            number += 1
        program.store.refresh()
        cpu, loop, wall = time.process_time() - cpu, time.thread_time() - loop, time.perf_counter() - began
        parts = clocks.seconds | {"threads": cpu - loop, "rest": loop - sum(clocks.seconds.values())}
        fleet = program.fleet.totals
        mean = (fleet.seconds["total"] - busy) / max(fleet.tasks - tasks, 1)
        return Level(envs, _records(program.store) - before, wall, waited, cpu, parts, mean)


def ingest(folder: Path, writers: int, seconds: float) -> Ingest:
    """Records that a reader sees come in while so many processes commit as fast as they can."""
    config = _config(folder, writers)
    with _synthetic(config, task_s=0.0, processes=writers) as (program, processes):
        store = program.store
        ray.get([p.commit.remote(0, 0.1) for p in processes])  # opens the writers
        store.refresh()
        began, start, reading = time.perf_counter(), _records(store), 0.0
        loops = [p.commit.remote(1 + k, seconds) for k, p in enumerate(processes)]
        under_way = loops
        while under_way:
            _, under_way = ray.wait(loops, num_returns=len(loops), timeout=_REFRESH_S)
            cpu = time.thread_time()
            store.refresh()
            reading += time.thread_time() - cpu
        wall, writing = time.perf_counter() - began, sum(cpu for _, cpu in ray.get(loops))
        return Ingest(_records(store) - start, wall, writing, reading)


def ingest_tasks(folder: Path, seconds: float) -> float:
    """Records per second that a reader sees come in while collectors that render nothing do one task each after the
    other.
    """
    config = _config(folder, _INGEST_COLLECTORS)
    with _synthetic(config, task_s=0.0) as (program, _):
        fleet, store, number = program.fleet, program.store, 0
        work = None
        began, start = None, 0
        refreshed = time.perf_counter()
        while began is None or time.perf_counter() - began < seconds:
            if work is None or work.done or sum(r is None for r in work.results) < _INGEST_COLLECTORS:
                # Before the last ones are done, so that nobody idles.
                envs = 8 * _INGEST_COLLECTORS * ENVS_PER_COLLECTOR
                about: dict[str, Any] = {"phase": PHASE, "lineage": 0, "round": number, "policy": "uniform"}
                work = fleet.start(split("pairs", envs, envs // ENVS_PER_COLLECTOR, **about))
                number += 1
            fleet.poll(0.005)
            if time.perf_counter() - refreshed > _REFRESH_S:
                refreshed = time.perf_counter()
                store.refresh()
                if began is None and _records(store) >= 2 * _INGEST_COLLECTORS:
                    began, start = time.perf_counter(), _records(store)
        assert began is not None
        store.refresh()
        rate = (_records(store) - start) / (time.perf_counter() - began)
        fleet.drain()
    return rate


def _records(store: Store) -> int:
    return sum(store.position().values())


def _config(folder: Path, collectors: int, *more: str) -> RunConfig:
    return load_config(
        [
            "experiment=smoke",
            f"dir={folder}/run",
            f"fleet.collectors={collectors}",
            f"fleet.shards={collectors}",
            f"replay.segment_episodes={ENVS_PER_COLLECTOR}",
            # In the loop's own thread, so that its time can be told from the rest.
            "replay.prefetch=0",
            "phases.il.imitation.views_per_scene=8",
            "phases.il.imitation.dagger_envs=0",
            f"phases.il.imitation.updates_per_round={_UPDATES}",
            "phases.il.imitation.batch_size=64",
            *more,
        ]
    )


@contextlib.contextmanager
def _synthetic(config: RunConfig, task_s: float, processes: int = PROCESSES) -> Iterator[tuple[Program, list[Any]]]:
    """A run's program whose collectors are played by a few processes, and their handles."""
    count = config.fleet.collectors
    slots = -(-count // min(processes, count))
    with RunDirectory(config) as directory, contextlib.ExitStack() as stack:
        store = open_store(directory.path / "store", "a", create=True)
        stack.callback(store.close)
        location = store_location(str(directory.path / "store"))
        metrics = MetricsLog(directory.path / "metrics.jsonl")
        stack.callback(metrics.close)
        actor = ray.remote(num_cpus=0, max_concurrency=slots + 2, concurrency_groups={WATCH: 1})(SyntheticCollectors)
        opener = functools.partial(open_writer, location, None, config.replay)
        actors = [actor.remote(opener, f"s{k}", slots, task_s) for k in range(min(processes, count))]
        fleet = Fleet(lambda index, **_: actors[index % len(actors)], config.fleet)
        stack.callback(fleet.stop)
        checkpoints = open_checkpoints(config, directory)
        yield Program(config, directory, store, fleet, held_out_suite(config), checkpoints, metrics), actors
