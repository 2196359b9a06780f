import json

import numpy as np
import pytest
import ray
import torch
from learner_data import KINDS, fresh_net, make_episode, make_episodes, raw_batch, run_config
from ray.rllib.core.columns import Columns

from common.errors import CheckpointError, ConfigError, TrainingError
from common.networks.servo_net import encoder_sha256, get_weights
from learner.learner_state import load_random_state, random_state
from learner.learners import build_learner

SUCCESS = [0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.91, 0.95, 0.96, 0.97, 0.96]


def data_for(name, net, seed=0):
    if name == "il":
        return raw_batch(seed)
    return make_episodes(net, seed=seed, iou=SUCCESS)


def numbers(metrics):
    """All but the clock's."""
    return {k: v for k, v in metrics.items() if not k.endswith("_s")}


def changed(before, after):
    return {name for name in before if not np.array_equal(before[name], after[name])}


@pytest.mark.parametrize("name", KINDS)
def test_every_trained_parameter_moves_and_no_other(name):
    config = run_config()
    learner = build_learner(config, name)
    before = learner.state()[0]
    learner.update(data_for(name, learner.net))
    after = learner.state()[0]
    weights = [k for k in before if k.startswith("weights/")]
    moved = {k.removeprefix("weights/") for k in weights if not np.array_equal(before[k], after[k])}
    prefixes = tuple(config.phases[name].train)
    assert moved == {k.removeprefix("weights/") for k in weights if k.removeprefix("weights/").startswith(prefixes)}
    assert learner.num_samples_learned > 0 and not ray.is_initialized()


@pytest.mark.parametrize("name", KINDS)
def test_a_restored_learner_continues_bit_for_bit(name):
    config = run_config()
    learner = build_learner(config, name)
    net = fresh_net()
    learner.update(data_for(name, net, 1))
    arrays, rest = learner.state()
    # What a checkpoint does to the state: arrays through bytes, the rest through JSON.
    arrays = {k: np.frombuffer(v.tobytes(), v.dtype).reshape(v.shape) for k, v in arrays.items()}
    assert all(v.ndim > 0 for v in arrays.values())
    rest = json.loads(json.dumps(rest, allow_nan=False))
    expected = [numbers(learner.update(data_for(name, net, seed))) for seed in (2, 3)]
    final = learner.state()

    torch.manual_seed(99)
    np.random.seed(99)
    restored = build_learner(run_config(), name)
    restored.set_weights(get_weights(fresh_net(5)))
    restored.load_state(arrays, rest)
    assert [numbers(restored.update(data_for(name, net, seed))) for seed in (2, 3)] == expected
    again = restored.state()
    assert set(again[0]) == set(final[0]) and not changed(final[0], again[0])
    assert again[1] == final[1]
    assert not changed(learner.get_weights(), restored.get_weights())


@pytest.mark.parametrize("forgotten", ["random/numpy", "random/diffusion", "average/policy.mlp.2.bias"])
def test_the_state_holds_nothing_superfluous(forgotten):
    """Each of these, left as the fresh learner has it, would change what follows."""
    name = "ppo" if forgotten == "random/numpy" else "il"
    net = fresh_net()
    learner = build_learner(run_config(), name)
    learner.update(data_for(name, net, 1))
    arrays, rest = learner.state()
    learner.update(data_for(name, net, 2))
    restored = build_learner(run_config(), name)
    arrays[forgotten] = restored.state()[0][forgotten]
    restored.load_state(arrays, rest)
    restored.update(data_for(name, net, 2))
    assert changed(learner.get_weights(), restored.get_weights())


def test_first_ppo_minibatch_has_ratio_one(monkeypatch):
    learner = build_learner(run_config(), "ppo")
    episodes = make_episodes(learner.net)
    ratios = []
    loss = type(learner._learner).compute_loss_for_module

    def spy(self, *, module_id, config, batch, fwd_out):
        dist = self.module[module_id].get_train_action_dist_cls().from_logits(fwd_out[Columns.ACTION_DIST_INPUTS])
        keep = batch[Columns.LOSS_MASK]
        ratios.append(torch.exp(dist.logp(batch[Columns.ACTIONS]) - batch[Columns.ACTION_LOGP])[keep].detach())
        return loss(self, module_id=module_id, config=config, batch=batch, fwd_out=fwd_out)

    monkeypatch.setattr(type(learner._learner), "compute_loss_for_module", spy)
    learner.update(episodes)
    assert len(ratios[0]) >= 10
    torch.testing.assert_close(ratios[0], torch.ones_like(ratios[0]), atol=1e-5, rtol=0)
    assert (ratios[-1] - 1).abs().max() > 1e-3


def test_ppo_prefers_what_was_rewarded():
    learner = build_learner(run_config(epochs=10, lr=3e-3), "ppo")
    episodes = make_episodes(learner.net, 12)
    for episode in episodes:
        episode.steps["reward"][:] = episode.steps["action"][:, 0] * episode.steps["action_valid"]
    z = torch.from_numpy(np.concatenate([e.steps["z"] for e in episodes]))
    before = learner.net.twist(z)[:, 0].mean().item()
    learner.update(episodes)
    assert learner.net.twist(z)[:, 0].mean().item() > before + 0.01


def test_ppo_bootstraps_cut_episodes_and_not_ended_ones(monkeypatch):
    learner = build_learner(run_config(gamma=0.5, lam=0.0, epochs=1), "value_warmup")
    net = learner.net
    episodes = [make_episode(net, 1, steps=1), make_episode(net, 2, steps=1, terminated=True)]
    targets = {}
    forward = type(learner._learner).compute_loss_for_module

    def spy(self, **kwargs):
        batch = kwargs["batch"]
        for obs, target in zip(
            batch[Columns.OBS][batch[Columns.LOSS_MASK]], batch["value_targets"][batch[Columns.LOSS_MASK]], strict=True
        ):
            targets[obs[0].item()] = target.item()
        return forward(self, **kwargs)

    with torch.no_grad():
        final = net.value(torch.from_numpy(episodes[0].steps["z"][1:])).item()
    monkeypatch.setattr(type(learner._learner), "compute_loss_for_module", spy)
    learner.update(episodes)
    cut, ended = (e.steps for e in episodes)
    assert targets[float(cut["z"][0, 0])] == pytest.approx(cut["reward"][0] + 0.5 * final, abs=1e-5)
    assert targets[float(ended["z"][0, 0])] == pytest.approx(ended["reward"][0], abs=1e-5)


def test_an_update_stops_when_the_policy_has_moved_too_far():
    # A large step, so that the second minibatch is past any limit.
    free, bounded = (build_learner(run_config(lr=0.02, kl_stop=k), "ppo") for k in (1e9, 1e-3))
    episodes = make_episodes(free.net)
    everything = free.update(episodes)
    stopped = bounded.update(episodes)
    assert everything["stopped_by_kl"] == 0.0 and stopped["stopped_by_kl"] == 1.0
    assert stopped["gradient_steps"] < everything["gradient_steps"]
    assert bounded.num_samples_learned < free.num_samples_learned
    # The next update starts afresh.
    assert bounded.update(make_episodes(bounded.net, seed=3))["gradient_steps"] >= 1


def test_samples_count_once_per_pass():
    episodes = make_episodes(fresh_net(), 6, iou=SUCCESS)
    warmup = build_learner(run_config(minibatch=66, epochs=3), "value_warmup")
    warmup.update(episodes)
    assert warmup.num_samples_learned == 3 * 60
    sil = build_learner(run_config(), "sil")
    sil.update(episodes)
    # 66 rows twice, rounded up to whole minibatches of 20.
    assert sil.num_samples_learned == 140
    il = build_learner(run_config(), "il")
    il.update(raw_batch(rows=8))
    assert il.num_samples_learned == 8


def test_self_imitation_stands_still_after_success():
    config = run_config()
    config.phases["sil"].self_imitation.lr = 3e-3
    learner = build_learner(config, "sil")
    episodes = make_episodes(learner.net, iou=SUCCESS)
    for _ in range(40):
        learner.update(episodes)
    with torch.no_grad():
        norms = np.stack([learner.net.twist(torch.from_numpy(e.steps["z"])).norm(dim=1).numpy() for e in episodes])
    assert np.median(norms[:, 7:]) < 0.02 < 0.1 < np.median(norms[:, :7])


def test_imitation_hands_on_averaged_weights():
    learner = build_learner(run_config(), "il")
    start = learner.get_weights()
    for seed in range(3):
        learner.update(raw_batch(seed))
    averaged, current = learner.get_weights(), dict(learner.net.named_parameters())
    name = "policy.mlp.0.weight"
    gap = np.abs(averaged[name] - current[name].detach().numpy()).max()
    assert gap > 0 and not np.array_equal(averaged[name], start[name])
    # What is not trained is passed through.
    assert np.array_equal(averaged["value.mlp.0.weight"], start["value.mlp.0.weight"])


def test_frozen_encoder_keeps_its_hash_through_the_other_phases():
    weights = build_learner(run_config(), "il").get_weights()
    sha = encoder_sha256(weights)
    for name in ("value_warmup", "ppo", "sil"):
        learner = build_learner(run_config(), name)
        learner.set_weights(weights)
        learner.update(make_episodes(learner.net, iou=SUCCESS))
        weights = learner.get_weights()
        assert encoder_sha256(weights) == sha


def test_ppo_starts_with_its_own_exploration():
    learner = build_learner(run_config(std=0.05), "ppo")
    learner.set_weights(build_learner(run_config(), "il").get_weights())
    np.testing.assert_allclose(learner.get_weights()["log_std"], np.log(0.05), rtol=1e-6)


def test_states_that_do_not_fit_are_refused():
    learner = build_learner(run_config(), "ppo")
    learner.update(make_episodes(learner.net))
    arrays, rest = learner.state()
    with pytest.raises(CheckpointError, match="kind"):
        build_learner(run_config(), "il").load_state(arrays, rest)
    with pytest.raises(CheckpointError, match="fresh"):
        learner.load_state(arrays, rest)
    warmup = build_learner(run_config(), "value_warmup")
    with pytest.raises(CheckpointError, match="parameters"):
        warmup.load_state(arrays, {**rest, "kind": "value_warmup"})


def test_wrong_phase_and_wrong_prefix_are_named():
    with pytest.raises(ConfigError, match="nothing"):
        build_learner(run_config(), "nothing")
    config = run_config()
    config.phases["ppo"].train = ["polcy."]
    with pytest.raises(ConfigError, match="polcy"):
        build_learner(config, "ppo")


def test_random_state_goes_round():
    import random

    arrays, rest = random_state(torch.device("cpu"))
    rest = json.loads(json.dumps(rest))

    def draw():
        return torch.rand(2).tolist(), np.random.standard_normal(3).tolist(), random.gauss(0, 1)

    first = draw()
    assert draw() != first
    load_random_state(arrays, rest, torch.device("cpu"))
    assert draw() == first


def test_the_same_seed_gives_the_same_learner_and_another_one_another():
    a, b = build_learner(run_config(1), "il").get_weights(), build_learner(run_config(1), "il").get_weights()
    c = build_learner(run_config(2), "il").get_weights()
    assert not changed(a, b) and changed(a, c)


def test_a_loss_without_trained_parameters_is_an_error():
    config = run_config()
    config.phases["sil"].train = ["value."]
    learner = build_learner(config, "sil")
    with pytest.raises(TrainingError, match="no parameter"):
        learner.update(make_episodes(learner.net, iou=SUCCESS))


def test_rows_without_a_label_may_hold_anything():
    batch = raw_batch()
    batch["expert_twist"][~batch["label_valid"]] = np.nan
    learner = build_learner(run_config(), "il")
    assert np.isfinite(list(learner.update(batch).values())).all()
