"""Collecting all the time: real collectors and a real store, whose tasks are done one by one, between updates."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
from local_program import LocalFleet, changed, local_program, small_config, version_of
from test_rounds import Notebook, digest, nothing

from cluster.asynchronous_rounds import AsynchronousRounds
from cluster.rounds import make_rounds
from common.errors import TrainingError
from common.networks.servo_net import initial_weights
from replay.index import Query

PAIRS = 4  # rows of a round of pairs: 2 scenes, 2 views


class SteadyFleet(LocalFleet):
    """Does `pace` tasks whenever it is polled, and those of a work when it is waited for."""

    def __init__(self, collector, pace=1):
        super().__init__(collector, eager=False)
        self.pace, self.waited = pace, 0

    def poll(self, timeout_s):
        for _ in range(self.pace):
            self._step()

    def wait(self, work, on_poll=None):
        self.waited += not work.done
        while not work.done:
            self._step()
        return work.results

    def _step(self):
        if self._queue:
            work = self._queue[0]
            work.results.append(self._collector.run(work.tasks[len(work.results)], work.weights))
            if work.done:
                self._queue.popleft()

    def drain(self, on_poll=None):
        self._queue.clear()


def config_of(path, replay=None, **imitation):
    config = small_config(path, "deterministic=false")
    settings = {"scenes_per_round": 2, "dagger_envs": 2, "dagger_steps": 1} | imitation
    config = changed(config, "il", imitation=settings)
    return dataclasses.replace(config, replay=dataclasses.replace(config.replay, **(replay or {})))


class Phase:
    """The rounds of one phase, and weights that a version is published of after each."""

    def __init__(self, program, pace=1, lineage=0, state=None, first=0):
        program.fleet = SteadyFleet(program.fleet._collector, pace)
        self.program, self.fleet, self.lineage = program, program.fleet, lineage
        self.learner = Notebook()
        self.rounds = make_rounds(program, "il", self.learner, lineage)
        self.weights = initial_weights(program.config.network, 1)
        if state is not None:
            program.store.refresh()
            self.rounds.load_cursors(json.loads(json.dumps(state)))
        self.rounds.prepare(first, self.weights, self.version(first))

    def version(self, counter):
        return version_of(self.weights, self.lineage, counter)

    def learn(self, round):
        return self.rounds.learn(round, self.weights, self.version(round), nothing)

    @property
    def digests(self):
        return [digest(b) for b in self.learner.given]


def ids(program, kind=None):
    program.store.refresh()
    return [e.id for e in program.store.select(Query(kind=kind))]


def places(program):
    """What the episodes are of, whichever branch collected them."""
    return [tuple(i.split("/")[2:]) for i in ids(program)]


def test_rounds_stay_under_way_and_the_learner_waits_for_none(tmp_path):
    with local_program(config_of(tmp_path / "run")) as program:
        phase = Phase(program, pace=0)
        assert isinstance(phase.rounds, AsynchronousRounds)
        assert phase.fleet.waited == 1  # for something to draw from
        for r in range(3):
            row = phase.learn(r)
            # As many as may be, also where a whole learning round goes by without a result.
            assert row["rounds_under_way"] == program.config.fleet.rounds_in_flight == 2
            assert row["rounds_landed"] == 0
        assert phase.fleet.waited == 1 and len(phase.learner.given) == 12
        phase.fleet.pace = 1
        row = phase.learn(3)
        assert row["rounds_under_way"] == 0 and phase.fleet.idle and row["rounds_landed"] > 0


def test_what_landed_is_drawn_within_the_round(tmp_path):
    with local_program(config_of(tmp_path / "run", dagger_envs=0)) as program:
        phase = Phase(program, pace=0)
        phase.learn(0)
        held = phase.rounds.groups(1)[0].max_round
        before = program.store.position()
        phase.fleet.pace = 2
        row = phase.learn(1)
        # Pairs are of no weights that could be old.
        assert row["rounds_landed"] > 0 and "policy_lag_s" not in row
        round_of = {}
        for entry in program.store.select():
            episode = program.store.read_episode(entry)
            round_of[episode.fixed["goal_world_T_cam"].tobytes()] = episode.meta.id.round
        drawn = [{round_of[p.tobytes()] for p in b["goal_world_T_cam"]} for b in phase.learner.given[4:]]
        assert before != program.store.position()
        # Landed between the updates of this round; a round begun within it waits for the next one.
        assert max(drawn[0]) == 0 and max(max(d) for d in drawn) == held == 2


def test_the_weights_are_the_newest_and_their_age_is_told(tmp_path):
    with local_program(config_of(tmp_path / "run", dagger_start=0.0, dagger_envs=2)) as program:
        phase = Phase(program, pace=1)
        rows = [phase.learn(r) for r in range(3)]
        started = [t.version.counter for t, _ in program.fleet.log if t.kind == "dagger"]
        assert started == sorted(started) and set(started) >= {0, 1}
        lags = [r["policy_lag_versions"] for r in rows if "policy_lag_versions" in r]
        assert lags and max(lags) >= 1 and min(lags) >= 0
        assert all(r["policy_lag_s"] > 0 for r in rows if "policy_lag_s" in r)


def test_the_limiter_makes_the_learner_wait_for_what_is_there_to_draw_from(tmp_path):
    config = config_of(tmp_path / "run", dagger_envs=0, replay={"samples_per_insert": 8.0})
    with local_program(config) as program:
        phase = Phase(program, pace=0)
        rows = [phase.learn(r) for r in range(4)]
        limiter = phase.rounds.cursors()["pace"]["limiter"]
        # A band of one batch and one round: most of 256 / 8 rows were waited for.
        there = PAIRS * len({p[1] for p in places(program)})
        assert limiter["samples"] == 256 and 256 - 8.0 * there <= limiter["settings"]["error_band"]
        assert phase.fleet.waited >= 5 and max(r["sample_wait"] for r in rows) > 0


def test_a_round_that_is_counted_but_not_there_gives_no_credit(tmp_path):
    with local_program(config_of(tmp_path / "run", replay={"samples_per_insert": 8.0})) as program:
        pace = make_rounds(program, "il", Notebook(), 0)._pace
        pace.try_collect(dagger=False)
        pace.try_collect(dagger=False)
        free = 0
        while pace.try_draw(2 * PAIRS):
            free += 1
        assert not pace.try_draw(2 * PAIRS) and pace.try_draw(PAIRS) and free > 0


def test_nobody_who_can_go_on_is_a_fault_that_is_told(tmp_path):
    with local_program(config_of(tmp_path / "run")) as program:
        phase = Phase(program)
        phase.rounds._flights = []
        phase.rounds._pace.try_draw = lambda rows: False
        phase.rounds._pace.try_collect = lambda dagger: None
        with pytest.raises(TrainingError, match="lets neither side go on"):
            phase.learn(0)


@pytest.mark.parametrize("done", [1, 3])
def test_what_was_under_way_at_a_cut_is_done_once(tmp_path, done):
    """The branch dies with `done` of the four tasks under way committed behind the cut."""
    config = config_of(tmp_path / "run", dagger_start=0.0)
    with local_program(config) as program:
        phase = Phase(program, pace=0)
        phase.learn(0)
        cut = phase.rounds.cursors()
        assert [f["round"] for f in cut["under_way"]] == [1, 2]
        assert cut["under_way"][0]["version"].startswith("0.0.") and cut["under_way"][0]["dagger"]
        assert cut["under_way"][0]["tasks"] == [["pairs", 0, 1], ["pairs", 1, 2], ["dagger", 0, 1], ["dagger", 1, 2]]
        for _ in range(done):
            phase.fleet._step()
        before = ids(program)
        phase = Phase(program, pace=0, lineage=1, state=cut, first=1)
        assert phase.rounds.cursors()["under_way"][0]["round"] == 1
        begun = [t for t, _ in program.fleet.log if t.round == 1]
        assert sum(t.num_envs for t in begun) == 4 - done
        assert {t.lineage for t in begun if t.kind == "dagger"} == {1}
        assert {t.version for t in begun if t.kind == "dagger"} == {phase.version(1)}
        while not phase.fleet.idle:
            phase.fleet._step()
        found = places(program)
        assert len(found) == len(set(found)) and set(before) < set(ids(program))
        for number in (1, 2):
            assert sum(p[1] == f"{number:08d}" for p in found) == 4


def test_a_cut_before_what_was_under_way_began_again_names_it_too(tmp_path):
    with local_program(config_of(tmp_path / "run")) as program:
        phase = Phase(program, pace=0)
        phase.learn(0)
        cut = phase.rounds.cursors()
        again = make_rounds(program, "il", Notebook(), 1)
        again.load_cursors(cut)
        assert again.cursors() == cut


def test_rounds_that_a_dead_branch_began_later_are_taken_when_the_count_comes_to_them(tmp_path):
    with local_program(config_of(tmp_path / "run", dagger_envs=0)) as program:
        phase = Phase(program, pace=0)
        phase.learn(0)
        cut, counted = phase.rounds.cursors(), phase.rounds._pace.collected
        phase.fleet.pace = 2
        phase.learn(1)
        dead = set(ids(program))
        assert max(int(p[1]) for p in places(program)) >= counted
        phase = Phase(program, pace=0, lineage=1, state=cut, first=1)
        # Not drawn from before: the draws are those of the branch that went on.
        assert phase.rounds.groups(1)[0].max_round == counted - 1
        phase.fleet.pace = 1
        for r in (1, 2):
            phase.learn(r)
        begun = {t.round for t, _ in program.fleet.log}
        assert begun and not begun & {int(i.split("/")[3]) for i in dead if i.endswith("000001")}
        assert dead <= set(ids(program)) and len(places(program)) == len(set(places(program)))


def test_keep_rows_keeps_what_can_be_drawn_from(tmp_path):
    config = config_of(tmp_path / "run", dagger_envs=0, replay={"keep_rows": PAIRS})
    with local_program(config) as program:
        phase = Phase(program, pace=0)
        phase.fleet.pace = 1
        for r in range(4):
            phase.learn(r)
            assert phase.rounds._pace.collected - phase.rounds._pace.oldest >= 3
        assert phase.rounds._pace.oldest > 0


def test_dagger_is_drawn_from_once_a_round_of_it_is_there(tmp_path):
    with local_program(config_of(tmp_path / "run", dagger_start=0.0)) as program:
        phase = Phase(program, pace=0)
        assert [g.kind for g in phase.rounds.groups(3)] == ["pairs", "dagger"]
    with local_program(config_of(tmp_path / "other", dagger_start=0.0)) as program:
        phase = SimpleNamespace(rounds=make_rounds(program, "il", Notebook(), 0))
        fleet = program.fleet = SteadyFleet(program.fleet._collector, 0)
        weights = initial_weights(program.config.network, 1)
        phase.rounds._begin(0, weights, version_of(weights))
        for wanted in (["pairs"], ["pairs"], ["pairs"], ["pairs", "dagger"]):
            fleet._step()
            program.store.refresh()
            assert [g.kind for g in phase.rounds.groups(3)] == wanted
