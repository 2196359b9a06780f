"""The collector: a Ray actor that renders and acts, and commits what it saw to the replay store."""

from __future__ import annotations

import dataclasses
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.collect import collect
from actors.learned_policy import LearnedPolicy
from actors.renderers import drawn_by, make_renderer, waits_for_server
from actors.tasks import Task, TaskResult
from actors.workshop import Workshop
from common.affinity import pin_process
from common.config import RunConfig
from common.episode import Episode
from common.errors import RendererLostError
from common.identity import PolicyVersion, weights_sha256
from common.processes import rss_bytes
from common.role_events import Captured
from replay.location import EpisodeWriter

_LOGGERS = ("actors", "common", "replay")  # of this process; what they warn of travels with the results
_RENDERER_ATTEMPTS = 5


class Collector:
    """One process of the fleet. Stateless between tasks: any collector may do any task.

    `cluster.program` wraps it with ``ray.remote``; it is an ordinary class, so that tests and benchmarks run it in
    their own process.
    """

    def __init__(
        self,
        config: RunConfig,
        run_id: str,
        open_writer: Callable[[str], EpisodeWriter],
        name: str,
        hashes: dict[str, str],
    ) -> None:
        """Build renderer, policy and writer.

        Args:
            config: of the run.
            run_id: first part of episode ids.
            open_writer: writer id -> what commits episodes, made in this process.
            name: unique name of this process among those that ever wrote to the store.
            hashes: provenance of every episode: renderer, assets_sha256, code_sha256, config_sha256.
        """
        # Two torch threads on a busy core make everything slower, and sums depend on the number of threads.
        import torch

        torch.set_num_threads(1)
        self._name = name
        self._events = Captured("collectors", _LOGGERS)
        self._writer = open_writer(name)
        self._sha = ""
        self._storing = False
        self._questions = 0
        policy = LearnedPolicy(config.network)
        renderer = make_renderer(config.renderer, _max_envs(config), f"{run_id}-{name}", config.env.image_size)
        if server := drawn_by(renderer):
            hashes = hashes | {"renderer": server}
        self._shop = Workshop(config, run_id, renderer, policy, name, hashes)

    def ping(self) -> str:
        """Answer, so that the manager knows the process is alive."""
        return "pong"

    def apply(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """Call `func` with this collector; what Ray's FaultTolerantActorManager asks of an actor."""
        return func(self, *args, **kwargs)

    def progress(self) -> tuple[int, int]:
        """How far this process is, answered by a thread beside the task.

        Returns:
            A number that grows while the task goes on; resident memory in bytes.
        """
        # Whoever waits for the store waits for a limit of its own (replay.send_timeout_s); a slow disk is no hang.
        # So does a new render server (renderer.cold_start_s, warm_start_s).
        self._questions += int(self._storing or waits_for_server(self._shop.renderer))
        return self._shop.progress + self._questions, rss_bytes()

    def run(self, task: Task, weights: Mapping[str, NDArray[Any]] | None = None) -> TaskResult:
        """Do a task; everything is committed when it returns.

        Args:
            task: what to do.
            weights: the learned policy's, checked against `task.version`; None where nothing learned acts, or where
                they are those of the last task.

        A task whose render server fails is done again here, from its start, when there is another server.

        Raises:
            ValueError: if the learned policy should act, and the weights are not those that the task names.
            RendererError: if render servers fail again and again, or there is none any more.
        """
        lost = 0.0
        for attempt in range(_RENDERER_ATTEMPTS):
            began = time.perf_counter()
            try:
                result = self._do(task, weights)
                return dataclasses.replace(result, seconds=result.seconds | {"render_lost": lost}) if lost else result
            except RendererLostError:
                lost += time.perf_counter() - began
                if attempt + 1 == _RENDERER_ATTEMPTS:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _do(self, task: Task, weights: Mapping[str, NDArray[Any]] | None) -> TaskResult:
        began = time.perf_counter()
        shop = self._shop
        frames, seconds, waits = shop.frames, dict(shop.seconds), self._writer.waits()
        if task.policy == "learned":
            self._act_with(task.version, weights)
        rows, ids, storing = 0, [], 0.0
        for episode in collect(shop, task):
            rows += episode.num_rows
            ids.append(str(episode.meta.id))
            storing += self._store(self._writer.append, episode)
        storing += self._store(self._writer.flush)
        spent = {k: shop.seconds[k] - seconds[k] for k in seconds}
        spent |= {"store": storing, "total": time.perf_counter() - began}
        spent |= {f"store_{k}": v - waits[k] for k, v in self._writer.waits().items()}
        events = self._events.take(collector=self._name, host=socket.gethostname())
        return TaskResult(tuple(ids), shop.frames - frames, rows, spent, self._name, rss_bytes(), events)

    def _store(self, call: Callable[..., Any], *args: Episode) -> float:
        """Call the writer; returns the seconds that it took."""
        began, self._storing = time.perf_counter(), True
        try:
            call(*args)
        finally:
            self._storing = False
            self._shop.step()
        return time.perf_counter() - began

    def _act_with(self, version: PolicyVersion | None, weights: Mapping[str, NDArray[Any]] | None) -> None:
        if version is None or (weights is None and version.sha256 != self._sha):
            raise ValueError(f"weights of policy {version} are needed: the policy would act with others")
        if weights is None or version.sha256 == self._sha:
            return
        sha = weights_sha256(weights)
        if sha != version.sha256:
            raise ValueError(f"weights hash to {sha[:12]}, the task names {version}")
        self._shop.policy.set_weights(weights)
        self._sha = sha

    def pin(self, cpus: list[int]) -> None:
        """Keep this process on these processors (benchmarks)."""
        pin_process(cpus)


def _max_envs(config: RunConfig) -> int:
    """Largest task of the run, with some air: shards are cut evenly, so a shard never has more than this."""
    sizes = [config.evaluation.scenes]
    for phase in config.phases.values():
        sizes += [phase.imitation.scenes_per_round, phase.imitation.dagger_envs, phase.ppo.envs]
        sizes += [phase.self_imitation.episodes] if phase.kind == "self_imitation" else []
    return int(np.ceil(max(sizes) / config.fleet.shards)) + 1
