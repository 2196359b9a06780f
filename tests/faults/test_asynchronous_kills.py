"""A run that collects all the time is killed by SIGKILL while rounds are under way, and goes on: nothing that was
committed is lost, nothing is collected twice, and no rollout of a dead branch is learned from.
"""

import collections
import os
import signal

import pytest
from train_process import ids, rows_of, said, train, training, wait_for_rows

from cluster.cut import cut_of
from learner.checkpoint import Checkpoints
from replay.verify import find_faults

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(1800)]

SETTINGS = ("deterministic=false", "replay.samples_per_insert=2")


def cut_in(path):
    return cut_of(Checkpoints(path / "checkpoints", keep=2).latest()[2])


def test_killed_in_each_phase_it_goes_on_and_finishes(tmp_path):
    path = tmp_path / "run"
    committed, cuts = set(), []
    for rows in (3, 6, 11):  # of ten of il and two of ppo
        with training(path, *SETTINGS) as process:
            wait_for_rows(path, rows, process)
            os.killpg(process.pid, signal.SIGKILL)
        committed |= set(ids(path / "store"))
        cuts.append(cut_in(path))
    assert [c.lineage for c in cuts] == [0, 1, 2] and [c.phase for c in cuts] == [0, 0, 1]
    assert cuts[0].sampler["under_way"] and cuts[1].sampler["under_way"]
    train(path, *SETTINGS)
    end, found = cut_in(path), ids(path / "store")
    assert committed <= set(found) and find_faults(path / "store") == []
    assert end.lineage == 3 and sorted(end.adopted) == sorted(end.fenced) == ["1", "2", "3"]
    assert said(path).count("episodes committed after the checkpoint: adopted") == 3

    split = [i.split("/") for i in found]
    places = collections.Counter((role, int(number), env) for _, _, role, number, env in split if role[:2] == "il")
    assert max(places.values()) == 1
    # Rounds are whole, but for those that were given up when the phase ended.
    pairs = collections.Counter(number for role, number, _ in places if role == "il_pairs")
    whole = [number for number in sorted(pairs) if pairs[number] == 6]
    assert whole[:8] == list(range(8)) and len(pairs) - len(whole) <= 2

    rows = [r for r in rows_of(path) if "round" in r]
    assert [(r["phase"], r["round"]) for r in rows] == [("il", k + 1) for k in range(10)] + [("ppo", 1), ("ppo", 2)]
    # Each sample once: a dead branch's rollouts would be more of them.
    assert {r["samples"] for r in rows} == {64}
    of_ppo = {int(lineage) for _, lineage, role, number, _ in split if role == "ppo_rollout" and int(number) == 1}
    assert 3 in of_ppo
