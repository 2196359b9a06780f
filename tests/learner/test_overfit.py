"""Each phase learns one batch by heart, to a loss near the least there is."""

import dataclasses

import numpy as np
import pytest
import torch
from learner_data import fresh_net, make_episodes, raw_batch, run_config
from ray.rllib.core.columns import Columns

from learner.learners import build_learner

SUCCESS = [0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.91, 0.95, 0.96, 0.97, 0.96]


def updates(learner, data, count):
    first = learner.update(data)
    for _ in range(count - 2):
        learner.update(data)
    return first, learner.update(data)


def test_imitation_learns_twists_masks_matches_and_poses_of_one_batch():
    config = run_config()
    config.network = dataclasses.replace(config.network, widths=[12, 16, 24], match_dim=16)
    config.phases["il"].samples = 150 * 4
    config.phases["il"].imitation.lr = 5e-3
    data = raw_batch(rows=4, episodes=2)
    # What can be learned to nothing: masks that cover whole tokens, matches at the centres of tokens.
    for name in ("mask", "goal_mask"):
        data[name] = np.repeat(np.repeat(data[name][:, ::8, ::8], 8, axis=1), 8, axis=2)
    cells = np.stack(np.meshgrid(np.arange(8), np.arange(8)), axis=-1)
    data["match"] = np.broadcast_to((cells + 0.5) / 8, (4, 8, 8, 2)).astype(np.float16)
    data["goal_image"] = data["image"][::2].copy()
    data["image"] = data["goal_image"][data["episode_index"]].copy()
    data["image"][1::2, :16] = 0  # the two views of a goal differ
    data["mask"] = data["goal_mask"][data["episode_index"]].copy()
    first, last = updates(build_learner(config, "il"), data, 150)
    assert last["loss_norm"] + last["loss_dir"] < 0.1 < first["loss_norm"]
    assert last["loss_match"] < 0.15 * first["loss_match"] and last["loss_seg"] < 0.15 * first["loss_seg"]
    assert last["loss_diff"] < 0.8 * first["loss_diff"]


def test_value_warmup_learns_the_returns_of_one_batch():
    config = run_config(minibatch=10**6, epochs=60, lr=1e-2, gamma=0.0, lam=0.0, value_clip=1e6)
    learner = build_learner(config, "value_warmup")
    episodes = make_episodes(fresh_net(), 4)
    returns = np.concatenate([e.steps["reward"][:-1] for e in episodes])
    _, last = updates(learner, episodes, 6)
    assert last["vf_loss"] < 1e-2 < 0.5 < returns.var()


def test_ppo_reaches_the_bound_of_its_surrogate_on_fixed_advantages(monkeypatch):
    config = run_config(minibatch=10**6, epochs=150, lr=3e-3, gamma=0.0, lam=0.0, value_weight=0.0, std=0.1)
    learner = build_learner(config, "ppo")
    learner.set_weights(learner.get_weights())
    episodes = make_episodes(learner.net, 3)
    seen = {}
    loss = type(learner._learner).compute_loss_for_module

    def spy(self, **kwargs):
        batch = kwargs["batch"]
        seen["advantage"] = batch["advantages"][batch[Columns.LOSS_MASK]]
        return loss(self, **kwargs)

    monkeypatch.setattr(type(learner._learner), "compute_loss_for_module", spy)
    last = learner.update(episodes)
    a = seen["advantage"]
    bound = torch.where(a > 0, 1.2 * a, 0.8 * a).mean().item()
    at_start = a.mean().item()
    # min(A r, A clip(r)) can be no larger than this, whatever the policy.
    assert -last["policy_loss"] <= bound + 1e-4
    assert -last["policy_loss"] - at_start > 0.9 * (bound - at_start)


def test_self_imitation_learns_one_batch_by_heart():
    config = run_config()
    settings = config.phases["sil"].self_imitation
    settings.lr, settings.epochs, settings.minibatch = 5e-3, 250, 10**6
    settings.lr_schedule, settings.lr_final = "cosine", 0.01
    learner = build_learner(config, "sil")
    last = learner.update(make_episodes(learner.net, 3, iou=SUCCESS))
    assert last["loss_norm"] + last["loss_dir"] < 0.1


@pytest.mark.parametrize("name", ["il", "sil"])
def test_the_rate_ends_where_its_schedule_says(name):
    config = run_config()
    config.phases["il"].samples = 4 * 8
    settings = config.phases["il"].imitation if name == "il" else config.phases["sil"].self_imitation
    settings.lr, settings.lr_schedule, settings.lr_final = 1e-3, "linear", 0.0
    learner = build_learner(config, name)
    rates = []
    learner._learner.optimizer.register_step_pre_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
    for _ in range(4 if name == "il" else 1):
        learner.update(raw_batch() if name == "il" else make_episodes(fresh_net(), iou=SUCCESS))
    assert rates[0] == 1e-3 and np.all(np.diff(rates) < 0.0) and 0.0 < rates[-1] < 0.5e-3
