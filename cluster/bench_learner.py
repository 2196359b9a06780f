"""`servofleet bench learner`: samples per second of every phase beside a plain torch loop, and what else a round costs.

Ours and the plain loop take turns in one process on one thread, on the same network, precision and optimiser; medians
of their times count. Nothing here needs a GPU or Ray.
"""

from __future__ import annotations

import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actors.collect import collect
from cluster.bench_learner_data import pair_block, rollout
from cluster.bench_learner_plain import imitation_loop, ppo_loop, self_imitation_loop
from cluster.bench_machine import machine
from cluster.bench_pipeline import bench_task, bench_workshop, median_rate
from common.config import RunConfig
from common.episode import Episode
from common.networks.servo_net import ServoNet, get_weights, set_weights
from learner.batches import IMITATION_FIELDS, imitation_batch, self_imitation_rows
from learner.learners import PhaseLearner, build_learner
from replay.prefetch import Prefetcher
from replay.samplers import Group, UniformSampler
from replay.store import open_store

Row = dict[str, Any]

# Ratio -> (goal, must reach it); the others must stay below theirs.
GOALS: dict[str, tuple[float | None, bool]] = {
    "il_vs_plain_loop": (0.85, True),
    "value_warmup_vs_plain_loop": (None, True),
    "ppo_vs_plain_loop": (0.85, True),
    "ppo_512_vs_plain_loop": (None, True),
    "sil_vs_plain_loop": (None, True),
    "data_wait_fraction": (0.05, False),
    "ppo_update_share": (0.10, False),
    "round_without_feature_cache": (None, False),
}
_EPISODES, _STEPS = 128, 63  # 8192 rows with the final observations


def bench_learner(config: RunConfig, *, repeats: int, as_json: bool) -> dict[str, Any]:
    """Measure and print.

    Args:
        config: quick-start like configuration with the phases il, value_warmup, ppo and sil.
        repeats: turns; the median counts.
        as_json: print the JSON of design section 3 instead of tables.
    """
    torch.set_num_threads(1)
    # The KL to the policy that acted must not end an update early: what is timed is all of it.
    config = copy.deepcopy(config)
    for phase in config.phases.values():
        phase.ppo.kl_stop = 1e9
        phase.ppo.lr = phase.imitation.lr = phase.self_imitation.lr = 1e-5
    rows, values = _speeds(config, repeats)
    with tempfile.TemporaryDirectory(prefix="servofleet-bench-") as scratch:
        for part in (partial(_waiting, config, Path(scratch)), partial(_round, config, repeats)):
            more, found = part()
            rows += more
            values |= found
    result = {"bench": "learner", "machine": machine(), "rows": rows, "ratios": [_ratio(n, values[n]) for n in GOALS]}
    if as_json:
        print(json.dumps(result))
    else:
        from cluster.bench_replay_report import print_result

        print_result(result, GOALS)
    return result


def in_turns(ours: Callable[[], int], plain: Callable[[], int], repeats: int) -> tuple[float, float]:
    """Units per second of both, medians over `repeats` turns after one that warms up."""
    rates: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats + 1):
        for work, found in zip((ours, plain), rates, strict=True):
            began = time.perf_counter()
            units = work()
            if turn:
                found.append(units / (time.perf_counter() - began))
    return statistics.median(rates[0]), statistics.median(rates[1])


def _speeds(config: RunConfig, repeats: int) -> tuple[list[Row], dict[str, float]]:
    rows: list[Row] = []
    values: dict[str, float] = {}
    for name, (ours, plain), params in _pairs(config):
        fast, limit = in_turns(ours, plain, repeats)
        rows.append(_row(name, "servofleet", fast, "samples/s", **params))
        rows.append(_row(name, "plain torch loop", limit, "samples/s", **params))
        values[f"{name}_vs_plain_loop"] = fast / limit
    return rows, values


def _pairs(config: RunConfig) -> list[tuple[str, tuple[Callable[[], int], Callable[[], int]], Row]]:
    il = config.phases["il"].imitation
    batch = _batch(
        [pair_block(config, "il", k) for k in range(il.batch_size // il.rows_per_episode)], il.rows_per_episode
    )
    learner, updates = build_learner(config, "il"), 12

    def imitate() -> int:
        for _ in range(updates):
            learner.update(batch)
        return updates * il.batch_size

    tensors = {k: torch.from_numpy(v) for k, v in imitation_batch(batch).items()}
    out: list[Any] = [
        ("il", (imitate, imitation_loop(_net(config, learner), tensors, il, updates)), {"batch": il.batch_size})
    ]
    for name, phase, size in (("value_warmup", "value_warmup", 2048), ("ppo", "ppo", 2048), ("ppo_512", "ppo", 512)):
        own = copy.deepcopy(config)
        settings = own.phases[phase].ppo
        settings.minibatch, settings.epochs = size, 4
        learner_of, prefixes = build_learner(own, phase), own.phases[phase].train
        learner_of.set_weights(get_weights(learner_of.net))
        net = _net(config, learner_of)
        episodes = [rollout(config, net, k, _STEPS) for k in range(_EPISODES)]
        data = {
            k: torch.from_numpy(np.stack([e.steps[k] for e in episodes])) for k in ("z", "action", "logp", "reward")
        }
        data = {k: v if k == "z" else v[:, :-1] for k, v in data.items()}
        plain = ppo_loop(net, data, prefixes, settings)
        params = {"rows": _EPISODES * (_STEPS + 1), "minibatch": size, "epochs": 4}
        out.append((name, (partial(_update, learner_of, episodes), plain), params))
    settings_of = config.phases["sil"].self_imitation
    learner_of = build_learner(config, "sil")
    found = self_imitation_rows(episodes, settings_of.success_iou)
    z, target = torch.from_numpy(found["obs"]), torch.from_numpy(found["target"])
    plain = self_imitation_loop(_net(config, learner_of), z, target, settings_of)
    params = {"rows": len(z), "minibatch": settings_of.minibatch, "epochs": settings_of.epochs}
    return [*out, ("sil", (partial(_update, learner_of, episodes), plain), params)]


def _update(learner: PhaseLearner, episodes: list[Episode]) -> int:
    before = learner.num_samples_learned
    learner.update(episodes)
    return learner.num_samples_learned - before


def _waiting(config: RunConfig, scratch: Path) -> tuple[list[Row], dict[str, float]]:
    """How long the imitation learner waits for batches of a store on the local disk, drawn ahead as in a run."""
    settings = config.phases["il"].imitation
    store = open_store(scratch / "store", "a", create=True)
    writer = store.writer("bench", max_episodes=config.replay.segment_episodes, max_bytes=config.replay.segment_bytes)
    for k in range(16 * config.replay.segment_episodes):
        writer.append(pair_block(config, "il", k))
    writer.close()
    store.refresh()
    group = Group("pairs", settings.batch_size, settings.rows_per_episode, phase="il")
    learner, updates = build_learner(config, "il"), 40
    with Prefetcher(UniformSampler(store, 0, IMITATION_FIELDS), [group], lambda batch: batch) as batches:
        learner.update(batches.next())
        batches.waited_s, began = 0.0, time.perf_counter()
        for _ in range(updates):
            learner.update(batches.next())
        took, waited = time.perf_counter() - began, batches.waited_s
    store.close()
    row = _row("data_wait", "store on local disk", 1e3 * waited / updates, "ms/update", update_ms=1e3 * took / updates)
    return [row], {"data_wait_fraction": waited / took}


def _round(config: RunConfig, repeats: int) -> tuple[list[Row], dict[str, float]]:
    """What a PPO round costs: its rollouts are rendered here by one process, its update is the learner's."""
    phase = config.phases["ppo"]
    shop, rounds = bench_workshop(config), iter(range(10**6))
    learner = build_learner(config, "ppo")
    learner.set_weights(get_weights(learner.net))
    episodes: list[Episode] = []

    def collecting() -> int:
        episodes[:] = collect(shop, bench_task(config, "rollout", next(rounds)))
        return sum(e.num_rows - 1 for e in episodes)

    steps = phase.ppo.envs * phase.ppo.steps
    collect_s = steps / (median_rate(collecting, repeats) * config.fleet.collectors)
    whole = [rollout(config, learner.net, k, phase.ppo.steps) for k in range(phase.ppo.envs)]
    update_s = statistics.median([_seconds(partial(_update, learner, whole)) for _ in range(repeats)])
    images = torch.zeros((256, config.env.image_size, config.env.image_size, 3), dtype=torch.uint8)
    net = _net(config, learner)

    def encoding() -> int:
        with torch.no_grad():
            net.fuse(net.encode_image(images), net.encode_image(images[:1]).gather(torch.zeros(256, dtype=torch.int64)))
        return len(images)

    encode_s = phase.ppo.epochs * steps / median_rate(encoding, repeats)
    share = update_s / (collect_s + update_s)
    rows = [
        _row("ppo_collect", f"{config.fleet.collectors} collectors, each as fast as one alone", collect_s, "s/round"),
        _row("ppo_update", "servofleet", update_s, "s/round", steps=steps, epochs=phase.ppo.epochs),
        _row("ppo_encode", "encoder on every row of every pass", encode_s, "s/round"),
    ]
    without = (collect_s + update_s + encode_s) / (collect_s + update_s)
    return rows, {"ppo_update_share": share, "round_without_feature_cache": without}


def _seconds(work: Callable[[], int]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _net(config: RunConfig, learner: PhaseLearner) -> ServoNet:
    net = ServoNet(config.network)
    set_weights(net, get_weights(learner.net))
    return net


def _batch(episodes: list[Episode], per_episode: int) -> dict[str, Any]:
    first = episodes[0]
    steps = {
        n: np.concatenate([e.steps[n][:per_episode] for e in episodes]) for n in IMITATION_FIELDS if n in first.steps
    }
    fixed = {n: np.stack([e.fixed[n] for e in episodes]) for n in IMITATION_FIELDS if n in first.fixed}
    return {**steps, **fixed, "episode_index": np.repeat(np.arange(len(episodes)), per_episode)}


def _row(name: str, system: str, value: float, unit: str, **params: Any) -> Row:
    shown = {k: round(v, 3) if isinstance(v, float) else v for k, v in params.items()}
    return {"name": name, "system": system, "value": round(value, 3), "unit": unit, "params": shown}


def _ratio(name: str, value: float) -> Row:
    goal, at_least = GOALS[name]
    holds = None if goal is None else value >= goal if at_least else value <= goal
    return {"name": name, "value": round(value, 4), "goal": goal, "holds": holds}
