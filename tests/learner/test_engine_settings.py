"""Precision, compilation, memory format, accumulation: other ways to compute the same updates."""

import logging

import numpy as np
import pytest
import torch
from learner_data import KINDS, fresh_net, make_episodes, raw_batch, run_config
from ray.rllib.core.columns import Columns

from common.errors import CheckpointError, ConfigError, TrainingError
from common.networks.servo_net import get_weights
from learner import acceleration
from learner.learners import build_learner
from learner.optimisers import decays
from learner.passes import split_pairs

SLOW = pytest.mark.slow  # a learner takes a second to build: one of each kind is enough by default
SUCCESS = [0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.91, 0.95, 0.96, 0.97, 0.96]


def learner_with(name, config=None, **settings):
    config = config or run_config()
    for key, value in settings.items():
        setattr(config.learner, key, value)
    return build_learner(config, name)


def data_for(name, seed=0):
    return raw_batch(seed, rows=9, episodes=4) if name == "il" else make_episodes(fresh_net(), seed=seed, iou=SUCCESS)


def alike(learner, data):
    """An update in the order of rows that every call of this draws; learners of a process share numpy's generator."""
    np.random.seed(7)
    return learner.update(data)


def distance(a, b):
    """Largest difference of two learners' weights."""
    x, y = get_weights(a.net), get_weights(b.net)
    return max(np.abs(x[k] - y[k]).max() for k in x)


@pytest.mark.parametrize(
    ("name", "parts"),
    [pytest.param(k, n, marks=() if (k, n) in (("il", 3), ("ppo", 2)) else SLOW) for k in KINDS for n in (2, 3)],
)
def test_accumulated_parts_make_the_step_of_the_whole_batch(name, parts):
    whole, cut = learner_with(name), learner_with(name, accumulation=parts)
    start = get_weights(whole.net)
    for seed in range(2):
        a, b = (alike(learner, data_for(name, seed)) for learner in (whole, cut))
        shared = set(a) - {"compute_s", "vf_explained_var"}
        assert {k: b[k] for k in shared} == pytest.approx({k: a[k] for k in shared}, rel=2e-3, abs=1e-4)
    moved = max(np.abs(start[k] - v).max() for k, v in get_weights(whole.net).items())
    assert distance(whole, cut) < 0.02 * moved
    assert whole.num_samples_learned == cut.num_samples_learned or name in ("ppo", "value_warmup")


def gradients(learner, data):
    """Of the first step, before it is taken."""
    seen = []
    learner._learner.optimizer.register_step_pre_hook(
        lambda optimizer, *_: seen.append([p.grad.clone() for g in optimizer.param_groups for p in g["params"]])
    )
    learner.update(data)
    return torch.cat([g.flatten() for g in seen[0]])


@pytest.mark.parametrize("name", [pytest.param(k, marks=() if k in ("il", "ppo") else SLOW) for k in KINDS])
def test_parts_of_unequal_content_weigh_what_they_hold(name):
    """Labels and matches sit in the first rows alone: a mean of the parts' means would be another gradient."""
    data = data_for(name)
    if name == "il":
        data["label_valid"] = np.arange(9) < 2
        data["match"][4:] = np.nan
    whole, cut = gradients(learner_with(name), data), gradients(learner_with(name, accumulation=4), data)
    assert (whole - cut).norm() < 1e-4 * whole.norm()


def test_a_goal_that_several_parts_share_counts_once():
    batch = {k: torch.from_numpy(np.asarray(v)) for k, v in raw_batch(rows=9, episodes=4).items()}
    batch = {k: batch[k] for k in ("image", "goal_image", "goal_mask", "episode_index")}
    parts = split_pairs(batch, 3)
    assert sum(p["goal_weight"].sum().item() for p in parts) == pytest.approx(4.0)
    for p in parts:
        assert p["episode_index"].max() < len(p["goal_image"]) == len(p["goal_mask"])
    goals = torch.cat([p["goal_image"][p["episode_index"]] for p in parts])
    assert torch.equal(goals, batch["goal_image"][batch["episode_index"]])


def test_fewer_rows_than_parts_are_refused():
    with pytest.raises(TrainingError, match="at least accumulation x learners = 10"):
        learner_with("il", accumulation=10).update(data_for("il"))


@pytest.mark.parametrize("settings", [{"precision": "bf16"}, {"precision": "fp16"}, {"channels_last": True}])
def test_other_precisions_and_layouts_learn_nearly_the_same(settings):
    plain, other = learner_with("il"), learner_with("il", **settings)
    a, b = plain.update(data_for("il")), other.update(data_for("il"))
    exact = "channels_last" in settings
    assert b["total_loss"] == pytest.approx(a["total_loss"], rel=1e-4 if exact else 0.05)
    if not exact:
        assert b["total_loss"] != a["total_loss"]
    assert all(p.dtype == torch.float32 for p in other.net.parameters())
    assert all(v.dtype == np.float32 for v in other.get_weights().values())


@pytest.mark.parametrize(
    "settings",
    [
        {"precision": "fp16"},
        pytest.param({"channels_last": True}, marks=SLOW),
        pytest.param({"accumulation": 2}, marks=SLOW),
    ],
)
def test_other_settings_resume_bit_for_bit(settings):
    learner = learner_with("il", **settings)
    learner.update(data_for("il", 1))
    if learner._learner.scaler is not None:
        learner._learner.scaler.update(1024.0)
    arrays, state = learner.state()
    learner.update(data_for("il", 2))
    resumed = learner_with("il", **settings)
    resumed.load_state(arrays, state)
    resumed.update(data_for("il", 2))
    assert distance(learner, resumed) == 0.0 and learner.state()[1] == resumed.state()[1]
    with pytest.raises(CheckpointError, match="precision"):
        learner_with("il", precision="float32" if "precision" in settings else "fp16").load_state(arrays, state)


@pytest.mark.parametrize("settings", [{}, {"precision": "bf16"}, {"precision": "fp16"}])
def test_first_minibatch_has_ratio_one_whatever_the_precision(settings):
    check_ratio(settings)


@pytest.mark.slow
def test_first_minibatch_has_ratio_one_compiled():
    check_ratio({"precision": "bf16", "compile": True})


def check_ratio(settings):
    learner = learner_with("ppo", **settings)
    ratios, forward = [], type(learner._learner).compute_loss_for_module

    def spy(self, **kwargs):
        batch, outputs = kwargs["batch"], kwargs["fwd_out"][Columns.ACTION_DIST_INPUTS]
        assert outputs.dtype == torch.float32
        dist = self.module["default_policy"].get_train_action_dist_cls().from_logits(outputs)
        ratio = torch.exp(dist.logp(batch[Columns.ACTIONS]) - batch[Columns.ACTION_LOGP])
        ratios.append(ratio[batch[Columns.LOSS_MASK]].detach())
        return forward(self, **kwargs)

    type(learner._learner).compute_loss_for_module = spy
    try:
        learner.update(make_episodes(learner.net))
    finally:
        type(learner._learner).compute_loss_for_module = forward
    torch.testing.assert_close(ratios[0], torch.ones_like(ratios[0]), atol=1e-5, rtol=0)
    assert (ratios[-1] - 1).abs().max() > 1e-3


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_heads_and_losses_stay_float32(precision):
    learner = learner_with("il", precision=precision)
    seen = {}
    learner.net.encoder.backbone.conv2.register_forward_hook(lambda m, i, out: seen.update(conv=out.dtype))
    learner.net.policy.register_forward_hook(lambda m, i, out: seen.update(z=i[0].dtype, twist=out.twist.dtype))
    learner.net.diffusion.trunk.register_forward_hook(lambda m, i, out: seen.update(noise=out.dtype))
    learner.update(data_for("il"))
    low = torch.bfloat16 if precision == "bf16" else torch.float16
    assert seen == {"conv": low, "z": torch.float32, "twist": torch.float32, "noise": torch.float32}


def test_without_a_compiler_the_encoder_runs_uncompiled_and_says_so_once(caplog):
    def forget():
        acceleration.why_not_compile.cache_clear()
        acceleration._say_once.cache_clear()
        torch._dynamo.reset()

    forget()
    nowhere = torch._inductor.config.patch({"force_disable_caches": True, "cpp.cxx": ("/nowhere/c++",)})
    with caplog.at_level(logging.WARNING, "servofleet.learner"), nowhere:
        plain, other, again = (learner_with("il", compile=c) for c in (False, True, True))
        for learner in (plain, other, again):
            learner.update(data_for("il"))
    forget()
    assert distance(plain, other) == 0.0
    assert caplog.text.count("cannot compile") == 1 and "InvalidCxxCompiler" in caplog.text


@pytest.mark.slow
@pytest.mark.timeout(1500)  # a busy machine compiles for minutes
def test_a_compiled_encoder_learns_the_same():
    plain, other = learner_with("il"), learner_with("il", compile=True)
    assert not acceleration.why_not_compile("cpu")
    a, b = gradients(plain, data_for("il")), gradients(other, data_for("il"))
    assert other._learner.module["default_policy"]._compiled.__wrapped__ is not None
    assert (a - b).norm() < 1e-3 * a.norm()


@pytest.mark.parametrize("fused", ["on", "off"])
def test_fused_and_plain_optimisers_resume_from_each_other(fused):
    learner = learner_with("ppo", fused=fused)
    learner.update(data_for("ppo"))
    arrays, state = learner.state()
    other = learner_with("ppo", fused="off" if fused == "on" else "on")
    other.load_state(arrays, state)
    assert all(g["fused"] is (fused == "off") for g in other._learner.optimizer.param_groups)
    alike(learner, data_for("ppo", 1))
    alike(other, data_for("ppo", 1))
    assert 0.0 <= distance(learner, other) < 1e-5


def test_schedules_and_weight_decay_reach_the_optimiser_and_survive_a_resume():
    config = run_config(epochs=1, lr=1e-2, lr_schedule="linear", lr_final=0.1, weight_decay=0.5)
    config.phases["ppo"].samples = 180
    learner = build_learner(config, "ppo")
    group = learner._learner.optimizer.param_groups
    assert isinstance(learner._learner.optimizer, torch.optim.AdamW)
    assert [g["weight_decay"] for g in group] == [0.5, 0.0]
    learner.update(make_episodes(fresh_net(), 9))
    first = group[0]["lr"]
    arrays, state = learner.state()
    resumed = build_learner(config, "ppo")
    resumed.load_state(arrays, state)
    for one in (learner, resumed):
        alike(one, make_episodes(fresh_net(), 9))
    assert group[0]["lr"] == resumed._learner.optimizer.param_groups[0]["lr"] < first < 1e-2
    assert distance(learner, resumed) == 0.0


def test_decay_spares_biases_norms_scalars_and_embeddings():
    net = fresh_net()
    spared = {n for n, p in net.named_parameters() if not decays(n, p)}
    assert {"log_std", "policy.mlp.0.bias", "encoder.backbone.norm2.weight"} <= spared
    assert not any(n.endswith("conv1.weight") or n.endswith("mlp.0.weight") for n in spared)
    assert not decays("encoder.vit.pos_embed", torch.nn.Parameter(torch.zeros(1, 5, 4)))


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"learner.device = 'cuda'"):
        learner_with("il", device="cuda")
    assert acceleration.choose_device("auto") == "cpu"
