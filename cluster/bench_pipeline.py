"""`servofleet bench pipeline`: what every part does alone, what limits it, and what they do together.

Everything is measured in this run on this machine: each rate stands beside a limit measured seconds before or after it,
because absolute numbers of a shared machine mean little. Medians over repeats; one thread per process.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from actors.collect import collect
from actors.learned_policy import LearnedPolicy
from actors.rasteriser.renderer import WarpRenderer
from actors.tasks import Task
from actors.workshop import Workshop
from cluster.bench_end_to_end import end_to_end
from cluster.bench_machine import machine
from common.config import RunConfig
from common.episode import Episode
from common.identity import PolicyVersion, weights_sha256
from common.networks.servo_net import ServoNet, initial_weights
from common.rng import Purpose
from learner.batches import IMITATION_FIELDS, imitation_batch
from learner.imitation import imitation_losses
from learner.learners import build_learner
from replay.samplers import Group, UniformSampler
from replay.store import open_store

Row = dict[str, Any]

_PHASE = "il"


def bench_pipeline(config: RunConfig, *, repeats: int, as_json: bool) -> dict[str, Any]:
    """Measure and print.

    Args:
        config: quick-start like configuration with a phase "il".
        repeats: of every figure; the median counts.
        as_json: print the JSON of design section 3 instead of a table.
    """
    torch.set_num_threads(1)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="servofleet-bench-") as scratch:
        rows += _collecting(config, repeats)
        episodes = _episodes(config)
        rows += _storing(config, episodes, Path(scratch), repeats)
        rows += _learning(config, episodes, repeats)
        rows += end_to_end(config, Path(scratch), repeats)
    values = {row["name"]: row["value"] for row in rows}
    result = {"bench": "pipeline", "machine": machine(), "rows": rows, "ratios": _ratios(values)}
    if as_json:
        print(json.dumps(result))
    else:
        _print(result)
    return result


def median_rate(work: Callable[[], int], repeats: int) -> float:
    """Units per second: median over repeats of what `work` returns over the wall time it takes; one warm-up."""
    work()
    rates = []
    for _ in range(repeats):
        began = time.perf_counter()
        units = work()
        rates.append(units / (time.perf_counter() - began))
    return statistics.median(rates)


def _row(name: str, system: str, value: float, unit: str, **params: Any) -> Row:
    return {"name": name, "system": system, "value": round(value, 3), "unit": unit, "params": params}


def bench_workshop(config: RunConfig) -> Workshop:
    """What a collector of this process works with, at weights that have learned nothing."""
    hashes = {"renderer": "", "assets_sha256": "", "code_sha256": "", "config_sha256": ""}
    renderer = WarpRenderer(max_envs=config.phases[_PHASE].imitation.scenes_per_round + 1)
    shop = Workshop(config, "bench", renderer, LearnedPolicy(config.network), "bench", hashes)
    shop.policy.set_weights(initial_weights(config.network, config.seed))
    return shop


def bench_task(config: RunConfig, kind: Any, round: int) -> Task:
    """A piece of work of one round, as large as a round of that kind is."""
    settings = config.phases[_PHASE].imitation
    version = PolicyVersion(0, 0, weights_sha256(initial_weights(config.network, config.seed)))
    envs = settings.dagger_envs if kind == "dagger" else settings.scenes_per_round
    phase = "ppo" if kind == "rollout" else _PHASE
    return Task(kind, phase, 0, round, 0, envs, version=version, explore=kind == "rollout")


def _episodes(config: RunConfig) -> list[Episode]:
    shop = bench_workshop(config)
    return [e for r in range(8) for e in collect(shop, bench_task(config, "pairs", r))]


def _collecting(config: RunConfig, repeats: int) -> list[Row]:
    shop = bench_workshop(config)
    renderer, n = shop.renderer, 64
    starts = shop.starts(bench_task(config, "pairs", 0), config.scenes.imitation_mix, Purpose.SCENE)[:n]
    n = len(starts)
    env = shop.env(n, config.phases[_PHASE].reward)
    env.reset(starts)
    ids, poses = np.arange(n), env.world_T_cam
    size, mask_size = config.env.image_size, config.env.mask_size

    def render(side: int, channels: list[Any]) -> Callable[[], int]:
        intrinsics = env.intrinsics * (side / size)

        def work() -> int:
            for _ in range(10):
                renderer.render(ids, poses, intrinsics, (side, side), channels)
            return 10 * n

        return work

    def copy() -> int:
        # What writing the pixels of as many frames costs, and nothing else.
        for _ in range(10):
            np.empty((n, size, size, 3), dtype=np.uint8).fill(7)
        return 10 * n

    rounds = iter(range(10**6))

    def collecting(kind: Any) -> Callable[[], int]:
        return lambda: sum(e.num_rows for e in collect(shop, bench_task(config, kind, next(rounds))))

    rows = [
        _row("render", "warp, rgb", median_rate(render(size, ["rgb"]), repeats), "frames/s", side=size),
        _row(
            "render_mask",
            "warp, instance id",
            median_rate(render(mask_size, ["instance_id"]), repeats),
            "frames/s",
            side=mask_size,
        ),
        _row("render_limit", "writing the pixels", median_rate(copy, repeats), "frames/s", side=size),
    ]
    for kind in ("pairs", "dagger", "rollout"):
        frames, seconds = shop.frames, shop.seconds["render"]
        rate = median_rate(collecting(kind), repeats)
        rows.append(_row(f"collect_{kind}", "collector, one process", rate, "rows/s"))
        rows.append(
            _row(
                f"collect_{kind}_render_only",
                "renderer within it",
                (shop.frames - frames) / (shop.seconds["render"] - seconds),
                "frames/s",
            )
        )
    return rows


def _storing(config: RunConfig, episodes: list[Episode], scratch: Path, repeats: int) -> list[Row]:
    nbytes = sum(e.nbytes() for e in episodes)
    rows_count = sum(e.num_rows for e in episodes)
    payload = b"".join(a.tobytes() for e in episodes for a in (*e.steps.values(), *e.fixed.values()))
    count = iter(range(10**6))

    def commit() -> int:
        path = scratch / f"store{next(count)}"
        store = open_store(str(path), mode="a", create=True)
        writer = store.writer(
            "bench", max_episodes=config.replay.segment_episodes, max_bytes=config.replay.segment_bytes
        )
        for episode in episodes:
            writer.append(episode)
        writer.close()
        store.close()
        shutil.rmtree(path)
        return rows_count

    def raw() -> int:
        # One file, one flush: what the disk allows for the same bytes.
        path = scratch / "raw"
        with open(path, "wb") as f:
            f.write(payload)
            f.flush()
            os.fsync(f.fileno())
        path.unlink()
        return rows_count

    settings = config.phases[_PHASE].imitation
    store = open_store(str(scratch / "read"), mode="a", create=True)
    writer = store.writer("bench", max_episodes=config.replay.segment_episodes, max_bytes=config.replay.segment_bytes)
    for episode in episodes:
        writer.append(episode)
    writer.close()
    store.refresh()
    group = Group(
        kind="pairs",
        phase=_PHASE,
        rows=settings.batch_size,
        rows_per_episode=settings.rows_per_episode,
        max_round=10**6,
    )
    sampler = UniformSampler(store, 0, IMITATION_FIELDS)

    def sample() -> int:
        for _ in range(50):
            sampler.next([group])
        return 50 * settings.batch_size

    fields = [f for f in IMITATION_FIELDS if f in episodes[0].steps]
    columns = {f: np.concatenate([e.steps[f] for e in episodes]) for f in fields}
    generator = np.random.default_rng(0)

    def take() -> int:
        for _ in range(50):
            index = generator.integers(0, rows_count, settings.batch_size)
            for column in columns.values():
                np.take(column, index, axis=0)
        return 50 * settings.batch_size

    rates = [
        ("store", "durable segments", median_rate(commit, repeats)),
        ("store_limit", "one file, one fsync", median_rate(raw, repeats)),
        ("sample", "replay store, mmap", median_rate(sample, repeats)),
        ("sample_limit", "np.take from RAM", median_rate(take, repeats)),
    ]
    store.close()
    return [_row(name, system, rate, "rows/s", bytes_per_row=nbytes // rows_count) for name, system, rate in rates]


def _learning(config: RunConfig, episodes: list[Episode], repeats: int) -> list[Row]:
    settings = config.phases[_PHASE].imitation
    batch = _batch(episodes, settings.batch_size, settings.rows_per_episode)
    learner = build_learner(config, _PHASE)
    updates = 12

    def learn() -> int:
        for _ in range(updates):
            learner.update(batch)
        return updates * settings.batch_size

    net = ServoNet(config.network)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)
    tensors = {name: torch.from_numpy(array) for name, array in imitation_batch(batch).items()}
    noise = torch.Generator().manual_seed(0)

    def plain() -> int:
        # The same network and losses in a bare loop over preloaded tensors.
        for _ in range(updates):
            optimizer.zero_grad(set_to_none=True)
            goal = net.encode_image(tensors["goal_image"])
            encoding = net.fuse(net.encode_image(tensors["image"]), goal.gather(tensors["episode_index"]))
            encoding.goal_seg_logits = goal.seg_logits
            loss, _ = imitation_losses(net, encoding, net.regress(encoding.z), tensors, settings, noise)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(net.parameters(), settings.grad_clip)
            optimizer.step()
        return updates * settings.batch_size

    rows = [_row("learn_il", "RLlib learner", median_rate(learn, repeats), "samples/s", batch=settings.batch_size)]
    rows.append(
        _row("learn_il_limit", "plain torch loop", median_rate(plain, repeats), "samples/s", batch=settings.batch_size)
    )
    return rows


def _batch(episodes: list[Episode], rows: int, per_episode: int) -> dict[str, Any]:
    chosen = episodes[: rows // per_episode]
    batch: dict[str, Any] = {}
    for name in IMITATION_FIELDS:
        if name in chosen[0].steps:
            batch[name] = np.concatenate([e.steps[name][:per_episode] for e in chosen])
        else:
            batch[name] = np.stack([e.fixed[name] for e in chosen])
    batch["episode_index"] = np.repeat(np.arange(len(chosen)), per_episode)
    return batch


def _ratios(values: dict[str, float]) -> list[Row]:
    pairs = [
        ("collect_pairs_vs_render", "collect_pairs", "collect_pairs_render_only"),
        ("store_vs_raw_fsync", "store", "store_limit"),
        ("sample_vs_ram_take", "sample", "sample_limit"),
        ("il_vs_plain_loop", "learn_il", "learn_il_limit"),
    ]
    found: list[tuple[str, float, float | None]] = [(name, values[a] / values[b], None) for name, a, b in pairs]
    found.append(("end_to_end_vs_slower_side", values["end_to_end_share"], 0.85))
    ratios = []
    for name, value, goal in found:
        ratios.append(
            {"name": name, "value": round(value, 3), "goal": goal, "holds": None if goal is None else value >= goal}
        )
    return ratios


def _print(result: dict[str, Any]) -> None:
    console = Console()
    table = Table("figure", "system", "value", "unit", title=f"pipeline on {result['machine']['cpu']}")
    for row in result["rows"]:
        table.add_row(row["name"], row["system"], f"{row['value']:,.1f}", row["unit"])
    console.print(table)
    table = Table("ratio", "value", "goal", "holds")
    for ratio in result["ratios"]:
        goal = "" if ratio["goal"] is None else f">= {ratio['goal']}"
        table.add_row(
            ratio["name"], f"{ratio['value']:.2f}", goal, "" if ratio["holds"] is None else str(ratio["holds"])
        )
    console.print(table)
