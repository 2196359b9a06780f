"""Imitation without lock-step: rounds of collection stay under way while rounds of learning come and go.

The learner draws from what the store shows and waits for collectors only where the limiter says so. Rounds under way
are bounded by the limiter and by `fleet.rounds_in_flight`; each begins with the newest published weights. A cut may be
taken at any time between two learning rounds: it names what is under way, and who goes on from it does what of that is
not in the store yet.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

from actors.tasks import Task, TaskResult
from cluster.fleet import Weights, Work
from cluster.imitation_rounds import ImitationRounds
from cluster.pace import Pace
from cluster.phase_rounds import Row, dagger_rows, slowed_s
from cluster.program import Program
from common.errors import TrainingError
from common.identity import PolicyVersion
from learner.learners import PhaseLearner
from replay.index import Query
from replay.samplers import Group

_PAIRS_LINEAGE = 0  # pairs depend on no weights: they are the same in every branch of the history, and so are their ids


@dataclasses.dataclass(frozen=True)
class _Flight:
    """A round of collection under way."""

    number: int
    dagger: bool
    version: PolicyVersion
    published: float  # when, on the monotonic clock
    work: Work


class AsynchronousRounds(ImitationRounds):
    """Stage 1 where `deterministic` is false.

    What a batch is drawn from is decided by the store's view and the counts in the cut alone, so that learner and
    sampler go on to the bit from a cut as long as the store shows the same.
    """

    def __init__(self, program: Program, name: str, learner: PhaseLearner, lineage: int) -> None:
        super().__init__(program, name, learner, lineage)
        self._most = program.config.fleet.rounds_in_flight
        # What is under way cannot be drawn from yet and must not push out what can.
        spare = self._most * self._pace.rows_of_round(dagger=True)
        self._pace = Pace(program.config, name, spare_rows=spare)
        self._flights: list[_Flight] = []
        self._owed: list[dict[str, Any]] = []  # under way at the cut that this goes on from
        self._landed: list[TaskResult] = []
        self._lags: list[tuple[int, float]] = []  # of the DAgger rounds that landed: versions, seconds
        self._newest = (-1, 0.0)  # counter of the newest published version, and when it was

    def prepare(self, round: int, weights: Weights, version: PolicyVersion) -> None:
        """Begin again what was under way at the cut; wait until there are `replay.min_rows` to draw from."""
        self._publish(version)
        self._go_on_where_none_was_counted(round)
        owed, self._owed = self._owed, []
        for flight in owed:
            self._start(int(flight["round"]), bool(flight["dagger"]), weights, version)
        while self._shown_rows() < self._program.config.replay.min_rows:
            if not self._begin(round, weights, version):
                self._wait_for_oldest(lambda: None)

    def learn(self, round: int, weights: Weights, version: PolicyVersion, tick: Callable[[], None]) -> Row:
        """A round's gradient steps, on whatever the store shows at each; collecting goes on meanwhile and after.

        The row has, besides what every kind's has, `rounds_landed` and `rounds_under_way`, and, if DAgger rounds
        landed, how old the weights that acted were by then, on average: `policy_lag_versions`, `policy_lag_s`.
        """
        began, waited = time.perf_counter(), self._pace.waits()
        self._publish(version)
        self._landed, self._lags, landed = [], [], self._pace.collected - len(self._flights)
        is_last = round + 1 >= self.total_rounds

        def go_on() -> None:
            self._land()
            while not is_last and self._begin(round + 1, weights, version):
                pass

        def hold() -> None:
            go_on()
            while not self._pace.try_draw(self._rows_under_way()):
                if not self._begin(round + 1, weights, version):
                    self._wait_for_oldest(tick)

        go_on()
        self._program.store.refresh()
        row = self.update(self.groups(round), tick, hold)
        row["learn_s"] = time.perf_counter() - began - row["sample_s"] - row["wait_s"]
        if is_last:
            row["wait_s"] += self._end(tick)
        row |= {"slowed_s": slowed_s(self._landed)} | self._wait_fractions(waited)
        # The limiter does not see that the learner waits for what it has counted already.
        row["sample_wait"] = row["wait_s"] / max(time.perf_counter() - began, 1e-9)
        row["rounds_under_way"] = len(self._flights)
        row["rounds_landed"] = self._pace.collected - len(self._flights) - landed
        return row | self._lag()

    def cursors(self) -> dict[str, Any]:
        """State of the sampler and the pace, and the rounds under way: number, version, and each task's kind and
        environments [first, last).
        """
        flying = [
            {
                "round": f.number,
                "dagger": f.dagger,
                "version": str(f.version),
                "tasks": [[t.kind, t.first_env, t.last_env] for t in f.work.tasks],
            }
            for f in self._flights
        ]
        return {**super().cursors(), "under_way": self._owed + flying}

    def load_cursors(self, state: dict[str, Any]) -> list[str]:
        """Inverse of `cursors`; `prepare` begins again what was under way."""
        self._owed = [dict(flight) for flight in state.get("under_way", [])]
        return super().load_cursors(state)

    def tasks(self, number: int, version: PolicyVersion, *, dagger: bool) -> list[Task]:
        """What round `number` of collection consists of, less what the store shows of it, whichever branch did it."""
        return [part for task in super().tasks(number, version, dagger=dagger) for part in self._missing(task)]

    def groups(self, round: int) -> list[Group]:
        """What the batches consist of, given what the store shows: DAgger once there are the episodes of one round."""
        settings = self._phase.imitation
        dagger = dagger_rows(settings, round, self.total_rounds)
        if dagger and self._shown("dagger", settings.dagger_envs) < settings.dagger_envs:
            dagger = 0
        rows_of = {"pairs": settings.batch_size - dagger, "dagger": dagger}
        return [
            Group(kind, rows, settings.rows_per_episode, self._name, **self._bounds())
            for kind in ("pairs", "dagger")
            if (rows := rows_of[kind])
        ]

    def _bounds(self) -> dict[str, Any]:
        # What a dead branch began beyond the rounds counted here is drawn from when the count comes to it.
        return {"min_round": self._pace.oldest or None, "max_round": self._pace.collected - 1}

    def _shown(self, kind: str, enough: int) -> int:
        """Episodes with rows that may be drawn, up to `enough`."""
        where, values = Query(kind=kind, phase=self._name, **self._bounds()).sql()
        sql = f"SELECT COUNT(*) FROM (SELECT 1 FROM episodes WHERE {where} AND valid_rows > 0 LIMIT {enough})"
        return int(self._program.store.index.rows(sql, values)[0][0])

    def _shown_rows(self) -> int:
        where, values = Query(phase=self._name, **self._bounds()).sql()
        sql = f"SELECT COALESCE(SUM(rows), 0) FROM episodes WHERE kind IN ('pairs', 'dagger') AND {where}"
        return int(self._program.store.index.rows(sql, values)[0][0])

    def _missing(self, task: Task) -> Iterator[Task]:
        """The parts of a task whose episodes the store does not show."""
        if task.kind == "pairs":
            task = dataclasses.replace(task, lineage=_PAIRS_LINEAGE)
        run, number = self._program.directory.run_id, task.round
        query = Query(kind=task.kind, phase=task.phase, run=run, min_round=number, max_round=number)
        there = {env for block in self._program.store.index.columns(query, ("env",)) for env in block[0]}
        first = None
        for env in range(task.first_env, task.last_env + 1):
            if env < task.last_env and env not in there:
                first = env if first is None else first
            elif first is not None:
                yield dataclasses.replace(task, first_env=first, last_env=env)
                first = None

    def _begin(self, learning: int, weights: Weights, version: PolicyVersion) -> bool:
        """Begin another round, for the learning round `learning` or later, if bound and limiter let it."""
        if len(self._flights) >= self._most:
            return False
        dagger = self._is_dagger(learning)
        number = self._pace.try_collect(dagger=dagger)
        if number is None:
            return False
        self._start(number, dagger, weights, version)
        return True

    def _start(self, number: int, dagger: bool, weights: Weights, version: PolicyVersion) -> None:
        tasks = self.tasks(number, version, dagger=dagger)
        if tasks:
            work = self._program.fleet.start(tasks, weights)
            self._flights.append(_Flight(number, dagger, version, self._newest[1], work))

    def _land(self) -> None:
        """Take the rounds that are done off the list; draws see them from here on."""
        landed = [f for f in self._flights if f.work.done]
        if not landed:
            return
        self._flights = [f for f in self._flights if not f.work.done]
        for flight in landed:
            self._landed += [r for r in flight.work.results if r is not None]
            if any(t.kind == "dagger" for t in flight.work.tasks):
                seconds = time.monotonic() - flight.published
                self._lags.append((self._newest[0] - flight.version.counter, seconds))
        self._program.store.refresh()

    def _wait_for_oldest(self, tick: Callable[[], None]) -> None:
        if not self._flights:
            raise TrainingError("the limiter lets neither side go on: this is a fault of servofleet")
        self._program.fleet.wait(self._flights[0].work, tick)
        self._land()

    def _rows_under_way(self) -> int:
        return sum(self._pace.rows_of_round(dagger=f.dagger) for f in self._flights)

    def _end(self, tick: Callable[[], None]) -> float:
        """Nothing is under way afterwards; what was queued is given up. Returns seconds."""
        began = time.perf_counter()
        self._program.fleet.drain(tick)
        self._land()
        self._flights = []
        return time.perf_counter() - began

    def _publish(self, version: PolicyVersion) -> None:
        if version.counter != self._newest[0]:
            self._newest = (version.counter, time.monotonic())

    def _lag(self) -> Row:
        if not self._lags:
            return {}
        versions, seconds = zip(*self._lags, strict=True)
        return {
            "policy_lag_versions": sum(versions) / len(versions),
            "policy_lag_s": sum(seconds) / len(seconds),
        }
