"""With default settings the learners take, bit for bit, the steps of RLlib's own PPO learner and of a plain loop."""

import math

import numpy as np
import torch
from learner_data import NETWORK, fresh_net, make_episode, raw_batch, run_config
from ray.rllib.algorithms.ppo.ppo import PPOConfig as RLlibConfig
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from common.config import LearnerConfig
from common.networks.losses import masked_mean, matching_loss, regression_loss, segmentation_loss
from common.networks.servo_net import get_weights, set_weights
from learner.batches import imitation_batch
from learner.learner_state import seed_everything
from learner.learners import build_learner
from learner.module import module_spec
from learner.passes import minibatches


class Stock(PPOTorchLearner):
    """RLlib's learner; only that frozen parameters are left alone is ours."""

    def get_parameters(self, module):
        return [p for p in module.parameters() if p.requires_grad]


def as_rllib(record):
    steps, t = record.steps, record.num_rows - 1
    terminated = bool(steps["terminated"][t - 1])
    extra = {
        Columns.ACTION_LOGP: list(steps["logp"][:t]),
        Columns.ACTION_DIST_INPUTS: list(steps["action_dist_inputs"][:t]),
    }
    return SingleAgentEpisode(
        id_=str(record.meta.id),
        observations=list(steps["z"]),
        actions=list(steps["action"][:t]),
        rewards=steps["reward"][:t].astype(np.float64).tolist(),
        terminated=terminated,
        truncated=not terminated,
        extra_model_outputs=extra,
        len_lookback_buffer=0,
    )


def test_ppo_is_rllibs_bit_for_bit():
    config = run_config(minibatch=16, epochs=3, grad_clip=1e9)
    phase, settings = config.phases["ppo"], config.phases["ppo"].ppo
    ours = build_learner(config, "ppo")
    stock_config = RLlibConfig().training(
        gamma=settings.gamma, lambda_=settings.lam, clip_param=settings.clip, vf_loss_coeff=settings.value_weight,
        vf_clip_param=settings.value_clip, entropy_coeff=0.0, use_kl_loss=True, kl_coeff=0.0, lr=settings.lr,
    )  # fmt: skip
    stock_config = stock_config.learners(learner_class=Stock, num_learners=0)
    stock_config.torch_skip_nan_gradients = True
    group = LearnerGroup(config=stock_config, module_spec=module_spec(NETWORK, phase.train, LearnerConfig()))
    net = group._learner.module["default_policy"].net
    set_weights(net, get_weights(ours.net))
    for round in range(3):
        # Of unequal lengths, ended and cut.
        records = [make_episode(fresh_net(), 10 * round + k, steps=3 + k, terminated=k % 2 == 0) for k in range(6)]
        seed_everything(round)
        ours.update(records)
        seed_everything(round)
        group.update(
            episodes=[as_rllib(r) for r in records], num_epochs=3, minibatch_size=16, shuffle_batch_per_epoch=True
        )
        a, b = get_weights(ours.net), get_weights(net)
        assert all(np.array_equal(a[k], b[k]) for k in a)
    group.shutdown()


def test_imitation_is_a_plain_loops_bit_for_bit():
    learner = build_learner(run_config(), "il")
    seed = learner._learner.config.learner_config_dict["seed"]
    settings = run_config().phases["il"].imitation
    net = fresh_net()
    set_weights(net, get_weights(learner.net))
    trained = [(n, p) for n, p in net.named_parameters() if not n.startswith(("value", "log_std"))]
    matrices = {"params": [p for _, p in trained if p.ndim > 1], "weight_decay": 0.01}
    others = {"params": [p for _, p in trained if p.ndim <= 1], "weight_decay": 0.0}
    optimizer = torch.optim.AdamW([matrices, others], lr=1.0, betas=(0.9, 0.99), fused=True)
    noise = torch.Generator().manual_seed(seed)
    average = {n: p.detach().clone() for n, p in trained}
    for step in range(4):
        raw = raw_batch(step)
        learner.update(raw)
        batch = {k: torch.from_numpy(v) for k, v in imitation_batch(raw).items()}
        goal = net.encode_image(batch["goal_image"])
        encoding = net.fuse(net.encode_image(batch["image"]), goal.gather(batch["episode_index"]))
        valid = batch["label_valid"] & (batch["expert_twist"].norm(dim=1) <= settings.max_label_norm)
        regression = regression_loss(net.regress(encoding.z), batch["expert_twist"], valid)
        seg = 0.5 * segmentation_loss(encoding.seg_logits, batch["mask"])
        seg = seg + 0.5 * segmentation_loss(goal.seg_logits, batch["goal_mask"])
        loss = regression.norm + 1.5 * regression.direction + 1.5 * seg
        loss = loss + matching_loss(encoding.match_logits, batch["match"])
        level = torch.randint(0, net.diffusion.levels, (8, 4), generator=noise)
        drawn = torch.randn((8, 4, 6), generator=noise)
        errors = net.diffusion.errors(encoding.z, batch["x0"], level, drawn).mean(dim=(1, 2))
        loss = loss + masked_mean(errors, valid)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for _, p in trained], 1.0)
        rate = settings.lr * (0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * 8 * step / 80)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        decay = min(settings.ema_decay, (2 + step) / (11 + step))
        with torch.no_grad():
            for n, p in trained:
                average[n].lerp_(p, 1.0 - decay)
    a, b = get_weights(learner.net), get_weights(net)
    assert all(np.array_equal(a[k], b[k]) for k in a)
    acting = learner.get_weights()
    assert all(np.array_equal(acting[n], v.numpy()) for n, v in average.items())


def test_minibatches_are_all_full_and_every_pass_sees_every_row():
    np.random.seed(0)
    taken = list(minibatches(10, 4, 2))
    assert [len(t) for t in taken] == [4] * 5 and taken[0].tolist() == [0, 1, 2, 3]
    rows = np.concatenate(taken)
    assert sorted(rows[:10]) == sorted(rows[10:20]) == list(range(10)) and rows[10:20].tolist() != list(range(10))
    assert [t.tolist() for t in minibatches(3, 3, 1)] == [[0, 1, 2]]
