"""Training from an existing store: what it must hold, who acts, and a resume that draws the same as before."""

import contextlib
import dataclasses
import json
import shutil

import numpy as np
import pytest
from local_program import changed, local_program, small_config, version_of
from test_cut_saver import Said
from test_rounds import Notebook, digest, nothing, walk

import cluster.program
from cluster.driver import train
from cluster.imitation_rounds import ImitationRounds
from cluster.program import build_program
from cluster.rounds import make_rounds
from cluster.run import Run
from cluster.run_directory import RunDirectory, read_metrics
from cluster.stored_data import check_data, go_on_with, note_data
from cluster.stored_rounds import StoredRounds
from common.config import check, evaluates
from common.errors import CheckpointError, ConfigError, StoreError
from common.identity import weights_sha256
from common.networks.servo_net import initial_weights
from replay.retention import Retention, plan_prune, prune, sweep
from replay.store import open_store

QUIET = ("schedule=[il]", "phases.il.evaluate=false", "evaluation.baselines=[]", "checkpoint.every_s=0.001")


def collect(config, rounds=None):
    """What the il phase of a run collects, into its store."""
    weights = initial_weights(config.network, 1)
    with local_program(config) as program:
        phase = ImitationRounds(program, "il", Notebook(), lineage=0)
        phase.total_rounds = rounds or phase.total_rounds
        walk(phase, weights, version_of(weights))
        return program.directory.path / "store"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The store of another run, of another seed: pairs and DAgger episodes."""
    return collect(small_config(tmp_path_factory.mktemp("source") / "run", "seed=5"))


@pytest.fixture
def own(source, tmp_path):
    """A copy of that store, to be changed."""
    return shutil.copytree(source, tmp_path / "own")


def asking(path, store, *overrides):
    return small_config(path, *QUIET, "fleet.collectors=0", f"replay.train_from={store}", *overrides)


def timeless(row):
    return {k: v for k, v in row.items() if not k.endswith("_s")}


class Killed(Said):
    """Ends the run after its second round, whose row is written and whose checkpoint is not."""

    def round(self, number, row, limiter=None):
        if number == 2:
            raise KeyboardInterrupt


def go(config, display):
    """Start or resume and train the one phase: (weights, rows, tasks that a collector got)."""
    with local_program(config) as program:
        run = Run(program, display)
        try:
            run.restore()
            run.run_phase()
        finally:
            run.close()
        rows = [timeless(row) for row in read_metrics(program.directory.path / "metrics.jsonl")]
        return weights_sha256(run.weights), rows, program.fleet.log


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """A run from the store that nothing disturbed."""
    return go(asking(tmp_path_factory.mktemp("whole") / "run", source), Said())


def test_nobody_collects_and_the_phase_is_as_long_as_ever(whole):
    _, rows, tasks = whole
    assert tasks == [] and [row["round"] for row in rows] == [1, 2, 3, 4]
    assert all(row["samples"] == 64 and np.isfinite(row["total_loss"]) for row in rows)


def test_killed_and_continued_equals_never_killed_though_the_store_grew(whole, own, tmp_path):
    config = asking(tmp_path / "run", own)
    with pytest.raises(KeyboardInterrupt):
        go(config, Killed())
    before = noting(own)
    # Another run writes into the same store meanwhile.
    grown = small_config(tmp_path / "more", "seed=6")
    weights = initial_weights(grown.network, 1)
    with local_program(grown, path=own, name="other") as program:
        tasks = ImitationRounds(program, "il", Notebook(), lineage=3).tasks(0, version_of(weights), dagger=True)
        program.fleet.run(tasks, weights)
    assert noting(own)["episodes"] == {"pairs": 40, "dagger": 12} != before["episodes"]
    weights, rows, tasks = go(config, Said())
    assert (weights, rows, tasks) == whole


def test_batches_are_of_the_store_by_kind_alone(source, tmp_path):
    config = asking(tmp_path / "run", source)
    weights = initial_weights(config.network, 1)
    with local_program(config) as program:
        program.data.refresh()
        rounds = make_rounds(program, "il", Notebook(), 7)
        assert isinstance(rounds, StoredRounds) and program.store.select() == []
        walk(rounds, weights, version_of(weights))
        settings = config.phases["il"].imitation
        kinds = []
        for ids in rounds.learner.ids:
            episodes = [program.data.read_episode(i) for i in ids()]
            assert {e.meta.id.run for e in episodes} == {"smoke-s5"}
            kinds.append({e.meta.kind for e in episodes})
        # DAgger is drawn from the round on in which it is collected otherwise.
        half = len(kinds) // 2
        assert kinds == [{"pairs"}] * half + [{"pairs", "dagger"}] * half
        assert sum(g.rows for g in rounds.groups(3)) == settings.batch_size
        again = make_rounds(program, "il", Notebook(), 8)
        again.load_cursors(rounds.cursors() | {"uniform": {**rounds.cursors()["uniform"], "next": 12}})
        again.learn(3, weights, version_of(weights), nothing)
        assert [digest(b) for b in again.learner.given] == [digest(b) for b in rounds.learner.given[12:]]


def test_a_store_without_a_kind_that_is_drawn_is_refused_and_the_directory_stays_free(tmp_path):
    short = collect(small_config(tmp_path / "pairs"), rounds=1)
    with pytest.raises(ConfigError, match=r"'dagger': 0.*dagger episodes, which phase il draws from its round 2 on"):
        train(asking(tmp_path / "run", short), Said())
    assert not (tmp_path / "run").exists()
    check_data(asking(tmp_path / "run", short, "phases.il.imitation.dagger_envs=0"))


def test_episodes_of_another_size_are_refused_by_field(source, tmp_path):
    config = asking(tmp_path / "run", source, "network.match_grid=5", "env.image_size=40")
    with pytest.raises(ConfigError) as refused:
        check_data(config)
    text = str(refused.value)
    assert "pairs episode smoke-s5/" in text and "'match': (4, 4, 2)" in text and "'match': (5, 5, 2)" in text
    assert "'image': (32, 32, 3)" in text and "expert_twist" not in text


def test_a_missing_field_is_named(source, tmp_path, monkeypatch):
    monkeypatch.setattr("cluster.stored_data.IMITATION_FIELDS", ("image", "depth_of_other_schema"))
    monkeypatch.setitem(cluster.stored_data.FIELDS, "depth_of_other_schema", cluster.stored_data.FIELDS["d_star"])
    with pytest.raises(ConfigError, match=r"\{'depth_of_other_schema': 'missing'\}"):
        check_data(asking(tmp_path / "run", source))


def test_no_store_is_an_error(tmp_path):
    with pytest.raises(StoreError):
        check_data(asking(tmp_path / "run", tmp_path / "nothing"))


def test_a_resume_refuses_another_store_and_one_that_lost_episodes(own, tmp_path):
    noted = json.loads(json.dumps(noting(own)))
    assert noted["episodes"] == {"pairs": 32, "dagger": 8} and noted["url"] == str(own)
    other = collect(small_config(tmp_path / "other"), rounds=1)
    with opened(other) as store, pytest.raises(CheckpointError, match=r"store_id = .*that the run was started with"):
        go_on_with(store, noted)
    with opened(own, mode="a") as store:
        go_on_with(store, noted)
        store.refresh()
        prune(store, plan_prune(store, Retention(newest_rows=20)))
        sweep(store, grace_s=0.0)
    with opened(own) as store, pytest.raises(CheckpointError, match=r"'pairs': 32.*put back what was deleted"):
        go_on_with(store, noted)


def noting(path):
    with opened(path) as store:
        store.refresh()
        return note_data(store)


def opened(path, mode="r"):
    return contextlib.closing(open_store(path, mode=mode))


def test_a_resume_may_not_name_another_store(source, tmp_path):
    with RunDirectory(asking(tmp_path / "run", source)):
        pass
    with pytest.raises(ConfigError, match=r"replay\.train_from was"):
        RunDirectory(asking(tmp_path / "run", tmp_path))


def test_the_store_is_only_read(source, whole):
    assert not any((source / name).exists() and list((source / name).iterdir()) for name in ("pins", "tombstones"))
    with local_program(asking(source.parent.parent / "reader", source)) as program:
        assert program.data.mode == "r"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("fleet.collectors=0",), "with replay.train_from"),
        (("fleet.collectors=0", "replay.train_from=x"), r"\['value_warmup', 'ppo', 'sil', 'ppo_smooth'\]: they learn"),
    ],
)
def test_who_learns_from_acting_needs_collectors(tmp_path, overrides, says):
    with pytest.raises(ConfigError, match=rf"fleet\.collectors = 0: allowed is > 0.*{says}"):
        small_config(tmp_path / "run", *overrides)


def test_only_an_evaluation_needs_an_actor(source, tmp_path, monkeypatch):
    def forbidden(_):
        raise AssertionError("Ray is started")

    monkeypatch.setattr(cluster.program, "start_ray", forbidden)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    config = asking(tmp_path / "run", source)
    check(config)
    assert not evaluates(config)
    with RunDirectory(config) as directory, build_program(config, directory) as program:
        assert program.fleet.size == 0 and program.data is not None
    for other in (
        changed(config, "il", evaluate=True),
        dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, baselines=["zero"])),
        dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, every_rounds=2)),
    ):
        assert evaluates(other)
        with (
            pytest.raises(AssertionError, match="Ray is started"),
            RunDirectory(dataclasses.replace(other, dir=str(tmp_path / "evaluated"))) as directory,
            build_program(other, directory),
        ):
            pass
        shutil.rmtree(tmp_path / "evaluated")
