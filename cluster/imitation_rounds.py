"""Imitation: uniform pairs and, later, DAgger; the learner draws from every round collected before the one it is in."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Generator
from typing import Any

from actors.tasks import Task, TaskResult
from cluster.fleet import Weights, Work
from cluster.pace import Pace
from cluster.phase_rounds import Rounds, Row, dagger_rows, slowed_s
from cluster.program import Program
from common.errors import TrainingError
from common.identity import PolicyVersion
from common.schedules import first_dagger_round
from learner.batches import IMITATION_FIELDS
from learner.learners import PhaseLearner
from replay.drawing import Batch
from replay.prefetch import Prefetcher
from replay.samplers import Group, UniformSampler


class ImitationUpdates(Rounds):
    """A round's gradient steps, wherever their rows come from."""

    def __init__(self, program: Program, name: str, learner: PhaseLearner, lineage: int) -> None:
        super().__init__(program, name, learner, lineage)
        self._updates = self._phase.imitation.updates_per_round
        store = program.store if program.data is None else program.data
        self._sampler = UniformSampler(store, program.config.seed, IMITATION_FIELDS)

    def update(self, groups: list[Group], tick: Callable[[], None], hold: Callable[[], None]) -> Row:
        """A round's gradient steps, on what the store shows; `hold` returns when the next batch may be drawn."""
        found, sampling, held = dict[str, list[float]](), 0.0, 0.0
        first = int(self._sampler.state()["next"])
        with contextlib.closing(self._batches(groups)) as batches:
            for step in range(first, first + self._updates):
                clock = time.perf_counter()
                hold()
                drew = time.perf_counter()
                batch = next(batches)
                held, sampling = held + drew - clock, sampling + time.perf_counter() - drew
                ids = functools.partial(self._sampler.episode_ids, groups, step)
                for key, value in self.learner.update(batch, ids).items():
                    found.setdefault(key, []).append(float(value))
                # Between updates the driver hands out queued tasks, so that no collector idles for a whole round.
                self._program.fleet.poll(0.0)
                tick()
        # Seconds add up; the rest are means over the updates that have it: one that was skipped has no loss.
        row: Row = {k: sum(v) if k.endswith("_s") else sum(v) / len(v) for k, v in found.items()}
        samples = self._updates * self._phase.imitation.batch_size
        return row | {"samples": samples, "sample_s": sampling, "wait_s": held}

    def _batches(self, groups: list[Group]) -> Generator[Batch, None, None]:
        """The round's batches. The sampler's cursor ends up behind what was handed out, not behind what was drawn."""
        depth = self._program.config.replay.prefetch
        if not depth:
            for _ in range(self._updates):
                yield self._sampler.next(groups)
            return
        with Prefetcher(self._sampler, groups, lambda batch: batch, depth, self._updates) as ahead:
            for _ in range(self._updates):
                yield ahead.next()


class ImitationRounds(ImitationUpdates):
    """Stage 1. What is collected meanwhile is drawn from by the next round, so no draw depends on who is faster."""

    def __init__(self, program: Program, name: str, learner: PhaseLearner, lineage: int) -> None:
        super().__init__(program, name, learner, lineage)
        self._pace = Pace(program.config, name)

    def oldest(self, round: int) -> int:
        """First round of collection that is still drawn from."""
        return self._pace.oldest

    def prepare(self, round: int, weights: Weights, version: PolicyVersion) -> None:
        """Collect until there is enough to draw from; a resumed run's cut holds it already."""
        self._go_on_where_none_was_counted(round)
        while not self._pace.ready and (tasks := self.next_tasks(round, version)):
            self._program.fleet.run(tasks, weights)

    def learn(self, round: int, weights: Weights, version: PolicyVersion, tick: Callable[[], None]) -> Row:
        """Start collecting with the weights given, learn from what was there before, wait for the collectors."""
        fleet, began, waited = self._program.fleet, time.perf_counter(), self._pace.waits()
        groups = self.groups(round)
        works: list[Work] = []

        def collect() -> bool:
            tasks = self.next_tasks(round + 1, version)
            works.extend([fleet.start(tasks, weights)] if tasks else [])
            return bool(tasks)

        def hold() -> None:
            while not self._pace.try_draw():
                if not collect():
                    raise TrainingError("the limiter lets neither side go on: this is a fault of servofleet")
                fleet.wait(works[-1], tick)

        if round + 1 < self.total_rounds:
            while len(works) < self._pace.ahead and collect():
                pass
        self._program.store.refresh()
        row = self.update(groups, tick, hold)
        learned = time.perf_counter()
        results: list[TaskResult] = [r for work in works for r in fleet.wait(work, tick)]
        row["learn_s"] = learned - began - row["sample_s"] - row["wait_s"]
        row["wait_s"] += time.perf_counter() - learned
        return row | {"slowed_s": slowed_s(results)} | self._wait_fractions(waited)

    def _go_on_where_none_was_counted(self, round: int) -> None:
        """Take cursors for what they are if they are of a time when each learning round collected one round."""
        if round and not self._pace.collected:
            self._pace.adopt(round + 1, dagger=self._is_dagger(round))
            self._sampler.load(self._sampler.state() | {"next": round * self._updates})

    def _wait_fractions(self, before: dict[str, float]) -> dict[str, float]:
        now = self._pace.waits()
        passed = max(now["all"] - before["all"], 1e-9)
        return {f"{side}_wait": (now[side] - before[side]) / passed for side in ("insert", "sample")}

    def cursors(self) -> dict[str, Any]:
        """State of the sampler and the pace."""
        return {"uniform": self._sampler.state(), "pace": self._pace.state()}

    def load_cursors(self, state: dict[str, Any]) -> list[str]:
        """Inverse of `cursors`; a line for each limiter setting that stands now and differs from the state's."""
        self._sampler.load(state["uniform"])
        return self._pace.load(state["pace"]) if "pace" in state else []

    def _is_dagger(self, round: int) -> bool:
        settings = self._phase.imitation
        return settings.dagger_envs > 0 and round >= first_dagger_round(settings, self.total_rounds)

    def next_tasks(self, learning: int, version: PolicyVersion) -> list[Task]:
        """Another round of collection, for the learning round `learning` or later; nothing if the limiter says no."""
        number = self._pace.try_collect(dagger=self._is_dagger(learning))
        return [] if number is None else self.tasks(number, version, dagger=self._is_dagger(learning))

    def tasks(self, number: int, version: PolicyVersion, *, dagger: bool) -> list[Task]:
        """What round `number` of collection consists of: pairs always, DAgger from a share of the phase on."""
        settings = self._phase.imitation
        tasks = self._split("pairs", settings.scenes_per_round, number, None, policy="uniform")
        if dagger:
            tasks += self._split("dagger", settings.dagger_envs, number, version)
        return tasks

    def groups(self, round: int) -> list[Group]:
        """What the batches of learning round `round` consist of, given what is collected now."""
        settings = self._phase.imitation
        rows_of = {"dagger": dagger_rows(settings, round, self.total_rounds) if self._pace.has_dagger else 0}
        # The rest, so that two roundings cannot make a batch of another size.
        rows_of["pairs"] = settings.batch_size - rows_of["dagger"]
        each, newest = settings.rows_per_episode, self._pace.collected - 1
        return [
            Group(kind, rows, each, self._name, min_round=self._pace.oldest or None, max_round=newest)
            for kind in ("pairs", "dagger")
            if (rows := rows_of[kind])
        ]
