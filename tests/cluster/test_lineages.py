"""A run that is not deterministic and dies: what goes on to the bit, what is adopted, and what is fenced off."""

import dataclasses
import shutil
from types import SimpleNamespace

import pytest
from local_program import changed, local_program, small_config, with_record
from test_asynchronous_rounds import SteadyFleet
from test_cut_saver import Said

from cluster.cut import Cut, cut_of
from cluster.lineages import open_lineage
from cluster.run import Run
from cluster.run_directory import read_metrics
from common.identity import json_sha256, weights_sha256
from replay.index import Query

ALONE = ("deterministic=false", "evaluation.baselines=[]", "phases.il.evaluate=false", "phases.ppo.evaluate=false",
         "checkpoint.every_s=1000")  # fmt: skip


class Killed(Exception):  # noqa: N818 - nothing went wrong
    pass


class Watch(Said):
    """Ends the run behind the round `last`."""

    def __init__(self, last=99):
        super().__init__()
        self.last = last

    def round(self, done, row, *more):
        if done == self.last:
            raise Killed


def imitation(path):
    config = changed(
        small_config(path, *ALONE, "schedule=[il]", "phases.il.samples=192"),
        "il",
        imitation={"scenes_per_round": 2, "dagger_envs": 2, "dagger_steps": 1, "dagger_start": 0.0},
    )
    return dataclasses.replace(config, replay=dataclasses.replace(config.replay, samples_per_insert=2.0))


def begin(program, last=99, pace=1):
    program.fleet = SteadyFleet(program.fleet._collector, pace)
    run = Run(program, Watch(last))
    run.restore()
    return run


def walk(run):
    while run.cut.phase == 0:
        run.run_phase()


def outcome(run, path):
    """(hash of the final weights, what the rows say of learning)"""
    run.close()
    kept = ("round", "samples", "total_samples", "total_loss", "loss_regression")
    rows = [{k: r[k] for k in kept if k in r} for r in read_metrics(path / "metrics.jsonl")]
    return weights_sha256(run.weights), rows


def latest(program):
    return cut_of(program.checkpoints.latest()[2])


def resumed(path):
    """Go on from a copy: (outcome, what was said, cut that it begins with)."""
    with local_program(imitation(path)) as program:
        run = begin(program)
        said, cut = run.display.lines, latest(program)
        walk(run)
        return outcome(run, path), said, cut


@pytest.fixture(scope="module")
def branches(tmp_path_factory):
    """A run that is cut in the middle and goes on, and one that goes on from a copy of it as it was then."""
    folder = tmp_path_factory.mktemp("branches")
    path = with_record(folder / "run")
    with local_program(imitation(path)) as program:
        run = begin(program, last=1)
        with pytest.raises(Killed):
            walk(run)
        run.save()
        cut = latest(program)
        # What is under way ends behind the cut: this is what all have to draw from.
        behind = len(program.store.select())
        while not program.fleet.idle:
            program.fleet.poll(0.0)
        program.store.refresh()
        later = [e.id for e in program.store.select()]
        for copy in ("first", "second", "third"):
            shutil.copytree(path, folder / copy)
        run.display.last = 99
        walk(run)
        whole = outcome(run, path)
    first, said, after = resumed(folder / "first")
    return SimpleNamespace(
        cut=cut, whole=whole, first=first, said=said, after=after, ids=later, behind=behind, folder=folder
    )


def test_learner_and_sampler_go_on_to_the_bit_given_the_stored_data(branches):
    assert branches.cut.sampler["under_way"] and branches.cut.round == 1
    assert branches.first == branches.whole
    assert len(branches.whole[1]) == 3 and all(r["total_loss"] > 0 for r in branches.whole[1])


@pytest.mark.slow
def test_every_resume_from_a_cut_goes_on_to_the_same_weights(branches):
    assert resumed(branches.folder / "third")[0] == branches.first


def test_what_came_after_the_cut_is_adopted_and_on_record(branches):
    cut, ids = branches.after, branches.ids
    assert (cut.lineage, cut.round, branches.cut.lineage) == (1, 1, 0)
    record = cut.adopted["1"]
    assert sum(record["episodes"].values()) == len(ids) - branches.behind > 0
    assert set(record["episodes"]) == {"pairs", "dagger"} and record["lineages"] == [0]
    (writer,) = record["positions"]
    assert record["positions"][writer] == [branches.cut.store_position[writer], cut.store_position[writer] - 1]
    assert cut.fenced["1"] == {
        "episodes": {"rollout": 0, "evaluation": 0}, "lineages": [], "positions": {}, "ids_sha256": json_sha256([]),
    }  # fmt: skip
    pairs, dagger = record["episodes"]["pairs"], record["episodes"]["dagger"]
    (line,) = [x for x in branches.said if x.startswith("lineage 1 begins")]
    assert f"adopted {pairs} pairs, {dagger} dagger, fenced off 0 rollout, 0 evaluation" in line


def test_every_start_from_a_cut_opens_a_lineage_of_its_own(branches):
    with local_program(imitation(branches.folder / "second")) as program:
        for wanted in (1, 2, 3):
            run = begin(program)
            assert run.cut.lineage == latest(program).lineage == wanted
            run.close()
        # The record of those before stays.
        assert list(run.cut.adopted) == ["1", "2", "3"] and run.cut.adopted["1"] == branches.after.adopted["1"]


def test_the_lineage_of_a_branch_that_left_no_checkpoint_is_not_opened_again(branches):
    with local_program(imitation(branches.folder / "first")) as program:
        program.store.refresh()
        assert max(e.id.split("/")[1] for e in program.store.select()) == "0001"
        cut = Cut(lineage=0)
        open_lineage(cut, program.store, program.directory.run_id)
        assert cut.lineage == 2
        assert sum(cut.adopted["2"]["episodes"].values()) == len(program.store.select())


def test_rollouts_of_a_dead_branch_are_never_learned_from(tmp_path):
    path = with_record(tmp_path / "run")
    config = changed(small_config(path, *ALONE, "schedule=[ppo]"), "ppo", ppo={"envs": 4})
    with local_program(config) as program:
        run = begin(program, last=1, pace=9)
        taken = run.version
        with pytest.raises(Killed):
            walk(run)
        run.close()
        assert latest(program).round == 0
    with local_program(config) as program:
        run = begin(program, last=1, pace=9)
        # The same weights act, in the same round: only the lineage tells one branch's rollouts from the other's.
        assert run.version == dataclasses.replace(taken, lineage=1)
        cut = latest(program)
        assert cut.fenced["1"]["episodes"] == {"rollout": 4, "evaluation": 0} and cut.fenced["1"]["lineages"] == [0]
        assert sum(cut.adopted["1"]["episodes"].values()) == 0
        with pytest.raises(Killed):
            walk(run)
        run.close()
        assert len(program.store.select(Query(kind="rollout"))) == 8
        prefixes = run.rounds.cursors()["on_policy"]["consumed"]
        assert len(prefixes) == 1 and all("/0001/ppo_rollout/" in p for p in prefixes)
        assert [r["samples"] for r in read_metrics(path / "metrics.jsonl")] == [32]
