"""A round of each kind of phase: what is collected, what is learned from it, and what overlaps.

Imitation collects the next round while it learns from those before it; RL and self-imitation learn from exactly the
episodes of the weights that acted, so they collect first. When `learn` returns no task is under way, which makes the
moment after it a place to cut.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from actors.tasks import Task, split
from cluster.fleet import Weights
from cluster.program import Program
from common.config import PhaseConfig
from common.identity import PolicyVersion
from common.networks.weights import encoder_sha256
from common.schedules import dagger_share, first_dagger_round
from learner.batches import IMITATION_FIELDS, check_encoder
from learner.learners import PhaseLearner
from replay.samplers import Group, OnPolicySampler, SuccessSampler, UniformSampler

Row = dict[str, Any]


class PhaseRounds(Protocol):
    """The rounds of one phase."""

    learner: PhaseLearner
    total_rounds: int

    def prepare(self, round: int, weights: Weights, version: PolicyVersion) -> None:
        """Collect what `learn(round)` needs to be there already."""

    def learn(self, round: int, weights: Weights, version: PolicyVersion, tick: Callable[[], None]) -> Row:
        """One round; returns its metrics, with `samples`, `learn_s` and `wait_s` (waiting for collectors)."""

    def cursors(self) -> dict[str, Any]:
        """State of the samplers, JSON-ready."""

    def load_cursors(self, state: dict[str, Any]) -> None:
        """Inverse of `cursors`."""


def make_rounds(program: Program, name: str, learner: PhaseLearner, lineage: int) -> PhaseRounds:
    """The rounds of phase `name`, by the kind that its configuration says."""
    kind = program.config.phases[name].kind
    if kind == "imitation":
        return ImitationRounds(program, name, learner, lineage)
    if kind == "self_imitation":
        return SelfImitationRounds(program, name, learner, lineage)
    return ReinforcementRounds(program, name, learner, lineage)


class _Rounds:
    def __init__(self, program: Program, name: str, learner: PhaseLearner, lineage: int) -> None:
        self.learner = learner
        self.total_rounds = num_rounds(program.config.phases[name])
        self._program, self._name, self._lineage = program, name, lineage
        self._phase = program.config.phases[name]

    def _split(self, kind: Any, envs: int, round: int, version: PolicyVersion | None, **more: Any) -> list[Task]:
        shards = self._program.config.fleet.shards
        return split(kind, envs, shards, phase=self._name, lineage=self._lineage, round=round, version=version, **more)


class ImitationRounds(_Rounds):
    """Stage 1: uniform pairs and, later, DAgger; the learner draws from every round up to the current one."""

    def __init__(self, program: Program, name: str, learner: PhaseLearner, lineage: int) -> None:
        super().__init__(program, name, learner, lineage)
        self._updates = self._phase.imitation.updates_per_round
        self._sampler = UniformSampler(program.store, program.config.seed, IMITATION_FIELDS)

    def prepare(self, round: int, weights: Weights, version: PolicyVersion) -> None:
        """Collect the first round; a resumed run's cut holds it already."""
        if round == 0:
            self._program.fleet.run(self.tasks(0, version), weights)

    def learn(self, round: int, weights: Weights, version: PolicyVersion, tick: Callable[[], None]) -> Row:
        """Start collecting round + 1 with the weights given, learn from rounds <= `round`, wait for the collectors."""
        fleet, began = self._program.fleet, time.perf_counter()
        last = round + 1 >= self.total_rounds
        work = None if last else fleet.start(self.tasks(round + 1, version), weights)
        row = self.update(round, tick)
        learned = time.perf_counter()
        if work is not None:
            fleet.wait(work, tick)
        return row | {"learn_s": learned - began - row["sample_s"], "wait_s": time.perf_counter() - learned}

    def update(self, round: int, tick: Callable[[], None]) -> Row:
        """The round's gradient steps, on what is committed of rounds <= `round`."""
        self._program.store.refresh()
        sampling, sums = 0.0, dict[str, float]()
        for k in range(self._updates):
            drew = time.perf_counter()
            batch = self._sampler.batch(self._groups(round), round * self._updates + k)
            sampling += time.perf_counter() - drew
            for key, value in self.learner.update(batch).items():
                sums[key] = sums.get(key, 0.0) + float(value)
            # Between updates the driver hands out queued tasks, so that no collector idles for a whole round.
            self._program.fleet.poll(0.0)
            tick()
        row: Row = {key: value / self._updates for key, value in sums.items()}
        return row | {"samples": self._updates * self._phase.imitation.batch_size, "sample_s": sampling}

    def cursors(self) -> dict[str, Any]:
        """State of the sampler."""
        return {"uniform": self._sampler.state()}

    def load_cursors(self, state: dict[str, Any]) -> None:
        """Inverse of `cursors`."""
        self._sampler.load(state["uniform"])

    def tasks(self, round: int, version: PolicyVersion) -> list[Task]:
        """What a round collects: pairs always, DAgger from a share of the phase on."""
        settings = self._phase.imitation
        tasks = self._split("pairs", settings.scenes_per_round, round, None, policy="uniform")
        if settings.dagger_envs and round >= first_dagger_round(settings, self.total_rounds):
            tasks += self._split("dagger", settings.dagger_envs, round, version)
        return tasks

    def _groups(self, round: int) -> list[Group]:
        settings = self._phase.imitation
        share = dagger_share(settings, round, self.total_rounds)
        rows_of = {"dagger": round_to(settings.batch_size * share, settings.rows_per_episode)}
        # The rest, so that two roundings cannot make a batch of another size.
        rows_of["pairs"] = settings.batch_size - rows_of["dagger"]
        groups = []
        for kind in ("pairs", "dagger"):
            if rows := rows_of[kind]:
                groups.append(
                    Group(
                        kind=kind,
                        phase=self._name,
                        rows=rows,
                        rows_per_episode=settings.rows_per_episode,
                        max_round=round,
                    )
                )
        return groups


class ReinforcementRounds(_Rounds):
    """Value warm-up and PPO: each round's rollouts are learned from once, by the learner whose weights acted."""

    def __init__(self, program: Program, name: str, learner: PhaseLearner, lineage: int) -> None:
        super().__init__(program, name, learner, lineage)
        self._sampler = OnPolicySampler(program.store)

    def prepare(self, round: int, weights: Weights, version: PolicyVersion) -> None:
        """Nothing: a round collects for itself."""

    def learn(self, round: int, weights: Weights, version: PolicyVersion, tick: Callable[[], None]) -> Row:
        """Collect with the current weights, then update."""
        began = time.perf_counter()
        tasks = self._split("rollout", self._phase.ppo.envs, round, version, explore=True)
        self._program.fleet.wait(self._program.fleet.start(tasks, weights), tick)
        collected = time.perf_counter()
        self._program.store.refresh()
        episodes = self._sampler.take(version, phase=self._name, round=round)
        check_encoder(episodes, encoder_sha256(weights))
        sampled = time.perf_counter()
        metrics = self.learner.update(episodes)
        steps = sum(e.num_rows - 1 for e in episodes)
        row: Row = {
            "samples": steps,
            "reward": float(np.mean([e.steps["reward"][:-1].mean() for e in episodes])),
            "iou_final": float(np.mean([e.steps["iou"][-1] for e in episodes])),
            "action_norm_final": float(np.mean([_final_action_norm(e.steps["action_dist_inputs"]) for e in episodes])),
            "wait_s": collected - began,
            "sample_s": sampled - collected,
            "learn_s": time.perf_counter() - sampled,
        }
        return row | {k: float(v) for k, v in metrics.items()}

    def cursors(self) -> dict[str, Any]:
        """State of the sampler."""
        return {"on_policy": self._sampler.state()}

    def load_cursors(self, state: dict[str, Any]) -> None:
        """Inverse of `cursors`."""
        self._sampler.load(state["on_policy"])


class SelfImitationRounds(_Rounds):
    """One round: deterministic episodes of the current policy, and its successful ones as the teacher (eq. 11-12)."""

    def prepare(self, round: int, weights: Weights, version: PolicyVersion) -> None:
        """Nothing: the round collects for itself."""

    def learn(self, round: int, weights: Weights, version: PolicyVersion, tick: Callable[[], None]) -> Row:
        """Collect, keep the successful trajectories, imitate them."""
        began = time.perf_counter()
        settings = self._phase.self_imitation
        tasks = self._split("rollout", settings.episodes, round, version)
        self._program.fleet.wait(self._program.fleet.start(tasks, weights), tick)
        collected = time.perf_counter()
        self._program.store.refresh()
        sampler = SuccessSampler(self._program.store, min_iou=settings.success_iou)
        episodes = sampler.take(phase=self._name, version=version)
        check_encoder(episodes, encoder_sha256(weights))
        sampled = time.perf_counter()
        metrics = self.learner.update(episodes) if episodes else {}
        row: Row = {
            "samples": sum(e.num_rows - 1 for e in episodes),
            "successful": len(episodes),
            "episodes": settings.episodes,
            "wait_s": collected - began,
            "sample_s": sampled - collected,
            "learn_s": time.perf_counter() - sampled,
        }
        return row | {k: float(v) for k, v in metrics.items()}

    def cursors(self) -> dict[str, Any]:
        """Nothing: the one round draws everything."""
        return {}

    def load_cursors(self, state: dict[str, Any]) -> None:
        """Inverse of `cursors`."""


def num_rounds(phase: PhaseConfig) -> int:
    """Rounds until the phase has seen its samples."""
    if phase.kind == "self_imitation":
        return 1
    if phase.kind == "imitation":
        return math.ceil(phase.samples / (phase.imitation.updates_per_round * phase.imitation.batch_size))
    return math.ceil(phase.samples / (phase.ppo.envs * phase.ppo.steps))


def round_to(value: float, multiple: int) -> int:
    """Nearest multiple."""
    return round(value / multiple) * multiple


def _final_action_norm(inputs: Any) -> float:
    return float(np.linalg.norm(inputs[-11:-1, :6], axis=-1).mean())
