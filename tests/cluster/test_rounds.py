"""The rounds of each phase on real collectors and a real store; the learner only writes down what it is given."""

import dataclasses
import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from local_program import changed, local_program, small_config, version_of

from cluster.imitation_rounds import ImitationRounds
from cluster.phase_rounds import num_rounds, round_to
from cluster.rounds import ReinforcementRounds, SelfImitationRounds, make_rounds
from common.config import ImitationConfig, PhaseConfig, PPOConfig, RunConfig
from common.networks.servo_net import initial_weights
from replay.index import Query


class Notebook:
    """A learner that learns nothing."""

    def __init__(self):
        self.given = []
        self.ids = []

    def update(self, data, ids=None):
        self.given.append(data)
        self.ids.append(ids)
        return {"loss": float(len(self.given))}


def nothing():
    pass


def digest(batch):
    return hashlib.sha256(b"".join(k.encode() + batch[k].tobytes() for k in sorted(batch))).hexdigest()


@pytest.fixture
def config(tmp_path):
    return small_config(tmp_path / "run")


@pytest.fixture
def weights(config):
    return initial_weights(config.network, 1)


def walk(rounds, weights, version):
    """What the driver does with a phase; rows by round."""
    rounds.prepare(0, weights, version)
    return [rounds.learn(r, weights, version, nothing) for r in range(rounds.total_rounds)]


@pytest.mark.parametrize(
    ("kind", "samples", "wanted"),
    [
        ("imitation", 1, 1),
        ("imitation", 96, 1),
        ("imitation", 97, 2),
        ("imitation", 960, 10),
        ("ppo", 1, 1),
        ("ppo", 40, 1),
        ("ppo", 41, 2),
        ("value_warmup", 120, 3),
        ("self_imitation", 1, 1),
        ("self_imitation", 10**6, 1),
    ],
)
def test_a_phase_has_as_many_rounds_as_its_samples_need(kind, samples, wanted):
    imitation = ImitationConfig(updates_per_round=4, batch_size=24)
    phase = PhaseConfig(kind=kind, samples=samples, imitation=imitation, ppo=PPOConfig(envs=5, steps=8))
    assert num_rounds(phase) == wanted


def test_round_to_is_the_nearest_multiple():
    assert [round_to(v, 4) for v in (0, 1.9, 2.1, 5.9, 6.1, 100)] == [0, 0, 4, 4, 8, 100]


def groups_of(imitation, round=9):
    phase = PhaseConfig(kind="imitation", samples=10**4, train=["encoder"], imitation=imitation)
    program = SimpleNamespace(config=RunConfig(phases={"il": phase}, schedule=["il"]), store=None, data=None)
    rounds = ImitationRounds(program, "il", Notebook(), 0)
    for learning in range(round + 1):
        rounds.next_tasks(learning, None)
    return rounds.groups(round)


@given(st.integers(1, 40), st.integers(1, 6), st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5, 0.7, 0.75, 1.0]))
def test_a_batch_has_exactly_the_rows_that_were_asked_for(episodes, rows, share):
    settings = ImitationConfig(
        batch_size=episodes * rows, rows_per_episode=rows, dagger_share=share, dagger_start=0.0, dagger_envs=2
    )
    groups = groups_of(settings)
    assert sum(g.rows for g in groups) == settings.batch_size
    assert all(g.rows > 0 and g.rows_per_episode == rows and g.max_round == 9 and g.phase == "il" for g in groups)
    dagger = sum(g.rows for g in groups if g.kind == "dagger")
    assert abs(dagger - share * settings.batch_size) <= rows / 2 + 1e-9


def test_without_dagger_all_rows_are_pairs():
    for settings in (ImitationConfig(dagger_start=1.0), ImitationConfig(dagger_start=0.0, dagger_envs=0)):
        assert [(g.kind, g.rows) for g in groups_of(settings, round=0)] == [("pairs", 48)]


def test_a_batch_can_say_which_episodes_it_is_of(config, weights):
    with local_program(config) as program:
        rounds = make_rounds(program, "il", Notebook(), 0)
        rounds.prepare(0, weights, version_of(weights))
        rounds.learn(0, weights, version_of(weights), nothing)
        for batch, ids in zip(rounds.learner.given, rounds.learner.ids, strict=True):
            goals = [program.store.read_episode(program.store.index.get(i)).fixed["goal_image"] for i in ids()]
            np.testing.assert_array_equal(np.stack(goals), batch["goal_image"])


def test_dagger_is_collected_from_its_round_on_with_the_weights_that_act(config, weights):
    config = changed(config, "il", samples=10 * 64, imitation={"dagger_start": 0.35})
    program = SimpleNamespace(config=config, store=None, data=None)
    rounds = ImitationRounds(program, "il", Notebook(), lineage=2)
    assert rounds.total_rounds == 10
    version, settings = version_of(weights, 2, 7), config.phases["il"].imitation
    for round in range(10):
        tasks = rounds.next_tasks(round, version)
        envs = {k: sum(t.num_envs for t in tasks if t.kind == k) for k in ("pairs", "dagger")}
        assert envs == {"pairs": settings.scenes_per_round, "dagger": settings.dagger_envs if round >= 4 else 0}
        assert {(t.round, t.lineage, t.phase, t.explore) for t in tasks} == {(round, 2, "il", False)}
        assert all((t.policy, t.version) == ("uniform", None) for t in tasks if t.kind == "pairs")
        assert all((t.policy, t.version) == ("learned", version) for t in tasks if t.kind == "dagger")
        # What is learned from in a round was collected for it at the latest.
        kinds = {g.kind for g in rounds.groups(round)}
        assert kinds == ({"pairs", "dagger"} if round >= 4 else {"pairs"})


@pytest.fixture(scope="module")
def histories(tmp_path_factory):
    """The same imitation phase with collectors that are always early, and with collectors that are always late."""
    found = {}
    for eager in (True, False):
        config = small_config(tmp_path_factory.mktemp("imitation") / "run")
        weights = initial_weights(config.network, 1)
        learner = Notebook()
        with local_program(config, eager) as program:
            rounds = ImitationRounds(program, "il", learner, lineage=0)
            rows = walk(rounds, weights, version_of(weights))
            assert program.fleet.idle
            ids = {e.id: program.store.read_episode(e) for e in program.store.select()}
            found[eager] = SimpleNamespace(
                config=config, batches=learner.given, rows=rows, log=program.fleet.log, episodes=ids, rounds=rounds
            )
    return found


def test_batches_do_not_depend_on_when_the_collectors_are_done(histories):
    early, late = histories[True], histories[False]
    assert [digest(b) for b in early.batches] == [digest(b) for b in late.batches]
    assert len({digest(b) for b in early.batches}) == len(early.batches) == 16
    assert {i: e.sha256() for i, e in early.episodes.items()} == {i: e.sha256() for i, e in late.episodes.items()}


def test_a_round_learns_from_itself_and_those_before(histories):
    history = histories[True]
    round_of = {e.fixed["goal_world_T_cam"].tobytes(): e.meta.id.round for e in history.episodes.values()}
    updates = history.config.phases["il"].imitation.updates_per_round
    for k, batch in enumerate(history.batches):
        drawn = {round_of[pose.tobytes()] for pose in batch["goal_world_T_cam"]}
        assert max(drawn) <= k // updates
    # The newest data are there when they are drawn from, or there would be nothing to overlap.
    newest = [max(round_of[p.tobytes()] for b in history.batches[4 * r : 4 * r + 4] for p in b["goal_world_T_cam"])
              for r in range(4)]  # fmt: skip
    assert newest == [0, 1, 2, 3]


def test_every_round_is_collected_once_and_none_after_the_last(histories):
    history = histories[False]
    rounds = [task.round for task, _ in history.log if task.kind == "pairs"]
    assert sorted(set(rounds)) == [0, 1, 2, 3] and rounds == sorted(rounds)
    assert [t.round for t, _ in history.log if t.kind == "dagger"] == [2, 2, 3, 3]
    settings = history.config.phases["il"].imitation
    kinds = [e.meta.kind for e in history.episodes.values()]
    assert kinds.count("pairs") == 4 * settings.scenes_per_round and kinds.count("dagger") == 2 * settings.dagger_envs


def test_rows_say_what_was_learned_and_where_the_time_went(histories):
    for number, row in enumerate(histories[True].rows):
        assert row["samples"] == 64
        assert row["loss"] == pytest.approx(4 * number + 2.5)  # the mean of the round's updates
        assert all(row[name] >= 0.0 for name in ("learn_s", "sample_s", "wait_s"))


def test_a_resumed_imitation_phase_draws_the_same_batches(histories, tmp_path):
    history = histories[True]
    weights = initial_weights(history.config.network, 1)
    config = dataclasses.replace(history.config, dir=str(tmp_path / "run"))
    with local_program(config, eager=False) as program:
        first = ImitationRounds(program, "il", Notebook(), lineage=0)
        first.prepare(0, weights, version_of(weights))
        for r in range(2):
            first.learn(r, weights, version_of(weights), nothing)
        second = ImitationRounds(program, "il", Notebook(), lineage=0)
        second.load_cursors(first.cursors())
        collected = len(program.fleet.log)
        second.prepare(2, weights, version_of(weights))
        assert len(program.fleet.log) == collected
        for r in (2, 3):
            second.learn(r, weights, version_of(weights), nothing)
        assert [digest(b) for b in second.learner.given] == [digest(b) for b in history.batches[8:]]


def test_every_update_lets_the_driver_and_the_fleet_have_a_turn(config, weights):
    with local_program(config) as program:
        rounds, ticks, polls = ImitationRounds(program, "il", Notebook(), 0), [], []
        program.fleet.poll = polls.append
        rounds.prepare(0, weights, version_of(weights))
        rounds.learn(0, weights, version_of(weights), lambda: ticks.append(1))
        assert len(polls) == 4 and len(ticks) >= 4


def test_ppo_learns_once_from_exactly_the_rollouts_of_the_weights_that_acted(config, weights):
    other = initial_weights(config.network, 2)
    with local_program(config) as program:
        # Rounds of a branch of history that died: other weights, same round.
        dead = ReinforcementRounds(program, "ppo", Notebook(), lineage=0)
        dead.learn(0, other, version_of(other), nothing)
        rounds = ReinforcementRounds(program, "ppo", Notebook(), lineage=1)
        version = version_of(weights, 1, 4)
        rows = [rounds.learn(r, weights, version, nothing) for r in range(rounds.total_rounds)]
        assert [len(g) for g in rounds.learner.given] == [8, 8]
        for number, episodes in enumerate(rounds.learner.given):
            assert {(e.meta.policy_version, e.meta.id.round, e.meta.id.lineage) for e in episodes} == {
                (version, number, 1)
            }
            assert [e.meta.id.env for e in episodes] == list(range(8))
        assert all(task.explore and task.kind == "rollout" for task, _ in program.fleet.log)
        assert [row["samples"] for row in rows] == [64, 64]
        first = rounds.learner.given[0]
        assert rows[0]["reward"] == pytest.approx(np.mean([e.steps["reward"][:-1] for e in first]), abs=1e-6)
        assert rows[0]["iou_final"] == pytest.approx(np.mean([e.steps["iou"][-1] for e in first]), abs=1e-6)
        means = np.stack([e.steps["action_dist_inputs"][:-1, :6] for e in first])
        assert rows[0]["action_norm_final"] == pytest.approx(np.linalg.norm(means, axis=-1).mean(), rel=1e-4)
        again = ReinforcementRounds(program, "ppo", Notebook(), lineage=1)
        again.load_cursors(rounds.cursors())
        assert again._sampler.take(version, phase="ppo", round=1) == []


def test_self_imitation_learns_from_successes_alone(config, weights):
    with local_program(config) as program:
        rounds = SelfImitationRounds(program, "sil", Notebook(), lineage=0)
        version = version_of(weights)
        (row,) = walk(rounds, weights, version)
        everything = [program.store.read_episode(e) for e in program.store.select(Query(phase="sil"))]
        threshold = config.phases["sil"].self_imitation.success_iou
        wanted = [e.meta.id for e in everything if e.steps["iou"].max() >= threshold]
        assert wanted and len(everything) == row["episodes"] == 8
        assert [[e.meta.id for e in given] for given in rounds.learner.given] == [wanted]
        assert row["successful"] == len(wanted) and row["samples"] == 12 * len(wanted)
        assert not any(task.explore for task, _ in program.fleet.log)
        assert rounds.cursors() == {}


def test_self_imitation_without_a_success_says_so_and_learns_nothing(config, weights):
    config = changed(config, "sil", self_imitation={"success_iou": 1.0, "steps": 11})
    with local_program(config) as program:
        (row,) = walk(SelfImitationRounds(program, "sil", learner := Notebook(), 0), weights, version_of(weights))
        best = max(program.store.read_episode(e).steps["iou"].max() for e in program.store.select(Query(phase="sil")))
    assert best < 1.0 and learner.given == []
    assert (row["successful"], row["samples"]) == (0, 0)


def test_the_kind_of_a_phase_decides_its_rounds(config):
    program = SimpleNamespace(config=config, store=None, data=None)
    kinds = {name: type(make_rounds(program, name, Notebook(), 0)) for name in config.schedule}
    assert kinds == {
        "il": ImitationRounds,
        "value_warmup": ReinforcementRounds,
        "ppo": ReinforcementRounds,
        "sil": SelfImitationRounds,
        "ppo_smooth": ReinforcementRounds,
    }
