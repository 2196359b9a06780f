"""What the learners are compared with: the same networks, losses and optimisers in bare torch loops.

Each takes tensors that are in memory already, and does nothing besides: no checks, no counters, no averages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from common.config import ImitationConfig, PPOConfig, SelfImitationConfig
from common.networks.losses import regression_loss
from common.networks.servo_net import ServoNet
from learner.imitation import imitation_losses
from learner.optimisers import adamw

Step = Callable[[], int]


def trained(net: ServoNet, prefixes: list[str]) -> list[tuple[str, nn.Parameter]]:
    """Parameters that begin with a prefix; the others are frozen."""
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name.startswith(tuple(prefixes)))
    return [(n, p) for n, p in net.named_parameters() if p.requires_grad]


def imitation_loop(net: ServoNet, batch: Mapping[str, Tensor], settings: ImitationConfig, updates: int) -> Step:
    """`updates` steps on one batch; gives the rows learned from."""
    named = trained(net, ["encoder", "policy", "diffusion"])
    parameters = [p for _, p in named]
    optimizer = adamw(named, lr=1e-5, weight_decay=settings.weight_decay, betas=(0.9, 0.99), fused=True)
    noise = torch.Generator().manual_seed(0)

    def run() -> int:
        for _ in range(updates):
            optimizer.zero_grad(set_to_none=True)
            goal = net.encode_image(batch["goal_image"])
            encoding = net.fuse(net.encode_image(batch["image"]), goal.gather(batch["episode_index"]))
            encoding.goal_seg_logits = goal.seg_logits
            loss, _ = imitation_losses(net, encoding, net.regress(encoding.z), batch, settings, noise)
            _step(loss, parameters, optimizer, settings.grad_clip)
        return updates * len(batch["x0"])

    return run


def ppo_loop(net: ServoNet, data: Mapping[str, Tensor], prefixes: list[str], settings: PPOConfig) -> Step:
    """PPO with generalised advantage estimation on E episodes of T actions; gives the rows learned from.

    Args:
        net: the network.
        data: z (E, T + 1, F), action (E, T, 6), logp (E, T), reward (E, T); no episode ends for good.
        prefixes: parameters that train; "value" alone is the warm-up.
        settings: of the phase.
    """
    parameters = [p for _, p in trained(net, prefixes)]
    optimizer = torch.optim.Adam(parameters, lr=settings.lr)
    flat = {k: v[:, : data["reward"].shape[1]].flatten(0, 1) for k, v in data.items()}
    rows = len(flat["reward"])

    def run() -> int:
        advantage, target = _advantages(net, data, settings)
        for _ in range(settings.epochs):
            for picked in torch.randperm(rows).split(settings.minibatch):
                optimizer.zero_grad(set_to_none=True)
                z = flat["z"][picked]
                mean, log_std = net.action_dist_inputs(z).chunk(2, dim=1)
                logp = torch.distributions.Normal(mean, log_std.exp()).log_prob(flat["action"][picked]).sum(1)
                ratio = (logp - flat["logp"][picked]).exp()
                a = advantage[picked]
                surrogate = torch.min(a * ratio, a * ratio.clamp(1 - settings.clip, 1 + settings.clip))
                value = (net.value(z) - target[picked]).square().clamp(max=settings.value_clip)
                loss = (settings.value_weight * value - surrogate).mean()
                _step(loss, parameters, optimizer, settings.grad_clip)
        return settings.epochs * rows

    return run


def self_imitation_loop(net: ServoNet, z: Tensor, target: Tensor, settings: SelfImitationConfig) -> Step:
    """Regression of the terminal MLP on z (N, F) and target (N, 6); gives the rows learned from."""
    parameters = [p for _, p in trained(net, ["policy"])]
    optimizer = torch.optim.Adam(parameters, lr=settings.lr)

    def run() -> int:
        for _ in range(settings.epochs):
            for picked in torch.randperm(len(z)).split(settings.minibatch):
                optimizer.zero_grad(set_to_none=True)
                everywhere = torch.ones(len(picked), dtype=torch.bool)
                terms = regression_loss(
                    net.regress(z[picked]), target[picked], everywhere, settings.min_norm, settings.min_dir_norm
                )
                loss = terms.norm + settings.loss_dir * terms.direction
                _step(loss, parameters, optimizer, settings.grad_clip)
        return settings.epochs * len(z)

    return run


def _advantages(net: ServoNet, data: Mapping[str, Tensor], settings: PPOConfig) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        value = net.value(data["z"].flatten(0, 1)).view(data["z"].shape[:2])
        delta = data["reward"] + settings.gamma * value[:, 1:] - value[:, :-1]
        advantage = torch.zeros_like(delta)
        running = torch.zeros(len(delta))
        for t in reversed(range(delta.shape[1])):
            running = delta[:, t] + settings.gamma * settings.lam * running
            advantage[:, t] = running
    target = (advantage + value[:, :-1]).flatten()
    flat = advantage.flatten()
    return (flat - flat.mean()) / flat.std().clamp_min(1e-4), target


def _step(loss: Tensor, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, clip: float) -> None:
    backward: Any = loss.backward
    backward()
    nn.utils.clip_grad_norm_(parameters, clip)
    optimizer.step()
