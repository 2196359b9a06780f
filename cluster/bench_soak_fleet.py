"""What `servofleet bench soak` runs: collectors, the store's writer actor, a learner, and blows that strike them."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import gc
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from actors.tasks import Task, TaskResult, split
from cluster.bench_soak_blows import Striker, draw_blows
from cluster.bench_soak_ledger import Ledger
from cluster.bench_soak_processes import (
    Process,
    descendants,
    memory,
    open_files,
    open_handles,
    reap,
    shared_memory,
    still_there,
)
from cluster.fleet import Fleet, Work
from cluster.program import make_collector, start_ray
from cluster.replay_writer import start_replay_writer, store_location
from cluster.run_directory import RunDirectory
from common.config import RunConfig
from common.identity import PolicyVersion, weights_sha256
from learner.batches import IMITATION_FIELDS
from learner.learners import PhaseLearner, build_learner
from replay.retention import Retention, plan_prune, prune, sweep
from replay.samplers import Group, UniformSampler
from replay.store import Store, open_store

PHASE = "il"
_ROUNDS_IN_FLIGHT = 2
_ROUND_S = 0.5  # a round is started at most this often
_UPDATE_S = 0.25
_RETAIN_S = 15.0
_KEEP_ROWS = 2_000
_LIFE_S = 1.0  # of a process before it is struck
_END_S = 20.0  # given to processes to end


class Soak:
    """A fleet, its store and a learner: `work`, then `end`.

    Attributes:
        url: of the store.
        striker, ledger, fleet: who was struck, what was acknowledged, what the fleet counts.
        memory: (role, pid, start) of a process -> (seconds, resident bytes, anonymous ones of them).
        handles: (seconds, open files of this process, its open handles of every kind).
        rounds, updates, deleted: rounds collected, updates learned, segments deleted by retention.
        left: what did not go at the end, by the name of its ratio.
    """

    def __init__(self, config: RunConfig, scratch: Path, seconds: float, kills: int) -> None:
        """Start everything; the collectors may not answer yet."""
        self._config, self._seconds = config, seconds
        self._held = contextlib.ExitStack()
        self.striker = Striker(draw_blows(seconds, kills, config.seed), _LIFE_S)
        self.ledger = Ledger(scratch / "audited")
        self.memory: dict[tuple[str, int, int], list[tuple[float, int, int]]] = collections.defaultdict(list)
        self.handles: list[tuple[float, int, int]] = []
        self._mapped: set[str] = set()
        self.updates = self.rounds = self.deleted = 0
        self.left: dict[str, float] = {}
        # Of its first start in a process Ray keeps some handles for good: logs, gRPC's loops.
        start_ray(config)
        ray.shutdown()
        gc.collect()
        self._before = open_handles()
        start_ray(config)
        self._held.callback(ray.shutdown)
        directory = self._held.enter_context(RunDirectory(config))
        self.url = str(directory.path / "store")
        self._store: Store = open_store(self.url, "a", create=True, ram_bytes=0)
        location = store_location(self.url)
        self._writer = start_replay_writer(location, "w-a0000", config.replay)
        elsewhere = dataclasses.replace(location, node="another")

        def collector(index: int, **where: Any) -> Any:
            place = elsewhere if index % 2 else location
            return make_collector(config, directory, place, self._writer, index, **where)

        self.fleet = Fleet(collector, config.fleet)
        self._learner: PhaseLearner | None = build_learner(config, PHASE)
        self._sampler = UniformSampler(self._store, config.seed, IMITATION_FIELDS)
        self._groups: list[Group] = []

    def work(self) -> None:
        """Collect, learn, audit and strike until the time is over; then finish what is under way.

        Raises:
            FleetError: if the fleet gives up.
            StoreError: if the store cannot be read or written.
        """
        first = self._start_round()
        self.fleet.wait(first)  # on a busy machine a start takes long, and is no part of the time
        began = time.monotonic()
        flying, told = [first], dict[int, set[int]]()
        due = {"round": 0.0, "update": 0.0, "retain": _RETAIN_S, "sample": 0.0}
        every = min(5.0, self._seconds / 200.0)
        while (now := time.monotonic() - began) < self._seconds or flying:
            over = now >= self._seconds
            if not over and now >= due["round"] and len(flying) < _ROUNDS_IN_FLIGHT:
                due["round"] = now + _ROUND_S
                flying.append(self._start_round())
            self.fleet.poll(0.02)
            for work in list(flying):
                # As soon as a task is done: retention may take the first ones of a round whose last one hangs.
                self.ledger.acknowledged(i for r in _new(work, told) for i in r.episode_ids)
                if work.done:
                    flying.remove(work)
                    told.pop(id(work))
                    self._groups = self._groups or self._make_groups()
            if self.striker.due(now):
                self.striker.strike(now, [p for p in descendants() if p.role])
            if self._groups and now >= due["update"]:
                due["update"] = now + _UPDATE_S
                self._update()
            if now >= due["retain"]:
                due["retain"] = now + _RETAIN_S
                self._retain()
            if now >= due["sample"] and not over:
                due["sample"] = now + every
                self._sample(now)
        self._retain()

    def _start_round(self) -> Work:
        assert self._learner is not None
        settings, shards = self._config.phases[PHASE].imitation, self._config.fleet.shards
        weights, number = self._learner.get_weights(), self.rounds
        version = PolicyVersion(0, number, weights_sha256(weights))
        about: dict[str, Any] = {"phase": PHASE, "lineage": 0, "round": number}
        tasks: list[Task] = split("pairs", settings.scenes_per_round, shards, policy="uniform", **about)
        tasks += split("dagger", settings.dagger_envs, shards, version=version, **about)
        self.rounds += 1
        return self.fleet.start(tasks, weights)

    def _make_groups(self) -> list[Group]:
        settings = self._config.phases[PHASE].imitation
        half = settings.batch_size // 2
        return [Group(kind, half, settings.rows_per_episode, PHASE) for kind in ("pairs", "dagger")]

    def _update(self) -> None:
        assert self._learner is not None
        self._store.refresh()
        self._learner.update(self._sampler.next(self._groups))
        self.updates += 1

    def _retain(self) -> None:
        """Audit what came in, and only then delete what is old; segments give their maps back."""
        self.ledger.audit(self._store)
        prune(self._store, plan_prune(self._store, Retention(newest_rows=_KEEP_ROWS)))
        self.deleted += sweep(self._store, grace_s=0.0).deleted
        self._store.release()

    def _sample(self, at_s: float) -> None:
        reap()
        processes = [Process(os.getpid(), 0, "driver"), *(p for p in descendants() if p.role)]
        for p in processes:
            found = memory(p.pid)
            if found is not None:
                self.memory[p.role, p.pid, p.started].append((at_s, *found))
        self._mapped |= shared_memory([p.pid for p in processes])
        handles = open_handles()
        self.handles.append((at_s, open_files(handles), sum(handles.values())))

    def end(self) -> None:
        """Take everything down, and note what does not go."""
        self._learner, self._sampler = None, None  # type: ignore[assignment]
        self.fleet.stop()
        ray.kill(self._writer, no_restart=True)
        self.left["leaked_actors"] = _count_left(lambda: sum(bool(p.role) for p in descendants()))
        self._store.close()
        self._held.close()
        gc.collect()
        # Ray's logs have other names in each session, and there are as many of them.
        more = {k: n for k, n in (open_handles() - self._before).items() if "/logs/" not in k}
        # Two or three sockets stay open for each Ray of a process that had an actor, however many actors there were.
        self.left["sockets_left"] = more.pop("socket", 0)
        self.left["open_handles_left"] = sum(more.values())
        if more:
            print(f"handles that stay open: {more}", file=sys.stderr)
        self.left["leaked_processes"] = _count_left(lambda: len(descendants()))
        self.left["shared_memory_left"] = len(still_there(self._mapped))


def _new(work: Work, told: dict[int, set[int]]) -> list[TaskResult]:
    """Results that came since the last call; `told` has, by round, those before."""
    before = told.setdefault(id(work), set())
    found = {i: r for i, r in enumerate(work.results) if r is not None and i not in before}
    before.update(found)
    return list(found.values())


def _count_left(count: Callable[[], int]) -> float:
    """What is still there when it has had time to go."""
    deadline = time.monotonic() + _END_S
    while count() and time.monotonic() < deadline:
        reap()
        time.sleep(0.1)
    return float(count())
