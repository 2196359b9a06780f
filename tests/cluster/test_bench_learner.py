"""The bench of the learner compares like with like, and judges its ratios."""

import copy
import json

import numpy as np
import pytest
import torch

from cluster import bench_learner as bench
from cluster import cli
from cluster.bench_learner_data import pair_block, rollout
from cluster.bench_learner_plain import _advantages, imitation_loop, ppo_loop
from cluster.config_loading import load_config
from common.networks.servo_net import get_weights
from learner.batches import imitation_batch, ppo_rows
from learner.learners import build_learner
from learner.ppo import advantages_and_targets


@pytest.fixture
def config(tmp_path):
    return load_config(["experiment=smoke", f"dir={tmp_path}"])


def test_records_are_what_the_learners_take(config):
    learner = build_learner(config, "ppo")
    episode = rollout(config, learner.net, 3, 5)
    assert episode.sha256() == rollout(config, learner.net, 3, 5).sha256()
    assert np.isfinite(learner.update([episode])["policy_loss"])
    il = build_learner(config, "il")
    assert il.update(bench._batch([pair_block(config, "il", k) for k in range(3)], 2))["gradient_steps"] == 1.0


def test_the_plain_loops_take_the_same_steps(config):
    config.phases["il"].imitation.lr = config.phases["ppo"].ppo.lr = 1e-5
    config.phases["il"].imitation.lr_schedule = "constant"
    learner = build_learner(config, "il")
    batch = bench._batch([pair_block(config, "il", k) for k in range(4)], 2)
    net = bench._net(config, learner)
    tensors = {k: torch.from_numpy(v) for k, v in imitation_batch(batch).items()}
    assert imitation_loop(net, tensors, config.phases["il"].imitation, 1)() == 8
    learner._learner.generator.manual_seed(0)
    learner.update(batch)
    close(learner.net, net)

    settings = config.phases["ppo"].ppo
    settings.epochs, settings.minibatch = 1, 10**6
    learner = build_learner(config, "ppo")
    net = bench._net(config, learner)
    episodes = [rollout(config, net, k, 7) for k in range(6)]
    data = {k: torch.from_numpy(np.stack([e.steps[k] for e in episodes])) for k in ("z", "action", "logp", "reward")}
    data = {k: v if k == "z" else v[:, :-1] for k, v in data.items()}
    advantage, target = _advantages(net, data, settings)
    rows = ppo_rows(episodes)
    values = net.value(torch.from_numpy(rows["obs"])).detach().numpy()
    ours, targets = advantages_and_targets(values, rows, settings.gamma, settings.lam)
    np.testing.assert_allclose(target.numpy(), targets[rows["loss_mask"]], atol=1e-5)
    # RLlib standardises over the final rows too: the same numbers up to a factor and a shift.
    assert np.corrcoef(advantage.numpy(), ours[rows["loss_mask"]])[0, 1] > 0.9999
    assert ppo_loop(net, data, config.phases["ppo"].train, copy.deepcopy(settings))() == 42


def close(a, b):
    x, y = get_weights(a), get_weights(b)
    assert max(np.abs(x[k] - y[k]).max() for k in x) < 1e-6


def test_turns_alternate_and_medians_count(monkeypatch):
    clock, order = [0.0], []

    def work(name, seconds):
        times = iter(seconds)

        def run():
            order.append(name)
            clock[0] += next(times)
            return 12

        return run

    monkeypatch.setattr(bench.time, "perf_counter", lambda: clock[0])
    assert bench.in_turns(work("a", [9, 1, 2, 6]), work("b", [9, 3, 4, 1]), 3) == (6.0, 4.0)
    assert order == ["a", "b"] * 4


def test_ratios_are_judged_by_their_goals():
    assert bench._ratio("il_vs_plain_loop", 0.86)["holds"] and not bench._ratio("il_vs_plain_loop", 0.84)["holds"]
    assert bench._ratio("data_wait_fraction", 0.04)["holds"] and not bench._ratio("data_wait_fraction", 0.06)["holds"]
    assert bench._ratio("sil_vs_plain_loop", 0.1)["holds"] is None


@pytest.mark.slow
def test_the_whole_bench_prints_the_promised_shape(capsys):
    assert cli.main(["bench", "learner", "--json", "--repeats", "1", "experiment=smoke"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(result) == {"bench", "machine", "rows", "ratios"} and result["bench"] == "learner"
    assert {r["name"] for r in result["ratios"]} == set(bench.GOALS)
    assert all(set(r) == {"name", "system", "value", "unit", "params"} and r["value"] >= 0 for r in result["rows"])
