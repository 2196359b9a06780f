"""A round of each kind of phase: what is collected, what is learned from it, and what overlaps.

Imitation (`cluster.imitation_rounds`) collects the next round while it learns from those before it, or collects all the
time (`cluster.asynchronous_rounds`), or draws from an existing store and collects nothing (`cluster.stored_rounds`); RL
and self-imitation learn from exactly the episodes of the weights that acted, so they collect first. The moment after
`learn` is a place to cut: no task is under way then but those that the cursors name.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from cluster.asynchronous_rounds import AsynchronousRounds
from cluster.fleet import Weights
from cluster.imitation_rounds import ImitationRounds
from cluster.phase_rounds import PhaseRounds, Rounds, Row, slowed_s
from cluster.program import Program
from cluster.stored_rounds import StoredRounds
from common.identity import PolicyVersion
from common.networks.weights import encoder_sha256
from learner.batches import check_encoder
from learner.learners import PhaseLearner
from replay.samplers import OnPolicySampler, SuccessSampler


def make_rounds(program: Program, name: str, learner: PhaseLearner, lineage: int) -> PhaseRounds:
    """The rounds of phase `name`, by the kind that its configuration says."""
    kind = program.config.phases[name].kind
    if kind == "imitation" and program.data is not None:
        return StoredRounds(program, name, learner, lineage)
    if kind == "imitation" and not program.config.deterministic:
        return AsynchronousRounds(program, name, learner, lineage)
    if kind == "imitation":
        return ImitationRounds(program, name, learner, lineage)
    if kind == "self_imitation":
        return SelfImitationRounds(program, name, learner, lineage)
    return ReinforcementRounds(program, name, learner, lineage)


class ReinforcementRounds(Rounds):
    """Value warm-up and PPO: each round's rollouts are learned from once, by the learner whose weights acted."""

    def __init__(self, program: Program, name: str, learner: PhaseLearner, lineage: int) -> None:
        super().__init__(program, name, learner, lineage)
        self._sampler = OnPolicySampler(program.store)

    def oldest(self, round: int) -> int:
        """The round to come: rollouts are learned from once."""
        return round

    def prepare(self, round: int, weights: Weights, version: PolicyVersion) -> None:
        """Nothing: a round collects for itself."""

    def learn(self, round: int, weights: Weights, version: PolicyVersion, tick: Callable[[], None]) -> Row:
        """Collect with the current weights, then update."""
        began = time.perf_counter()
        tasks = self._split("rollout", self._phase.ppo.envs, round, version, explore=True)
        results = self._program.fleet.wait(self._program.fleet.start(tasks, weights), tick)
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
            "slowed_s": slowed_s(results),
        }
        return row | {k: float(v) for k, v in metrics.items()}

    def cursors(self) -> dict[str, Any]:
        """State of the sampler."""
        return {"on_policy": self._sampler.state()}

    def load_cursors(self, state: dict[str, Any]) -> list[str]:
        """Inverse of `cursors`."""
        self._sampler.load(state["on_policy"])
        return []


class SelfImitationRounds(Rounds):
    """One round: deterministic episodes of the current policy, and its successful ones as the teacher (eq. 11-12)."""

    def prepare(self, round: int, weights: Weights, version: PolicyVersion) -> None:
        """Nothing: the round collects for itself."""

    def learn(self, round: int, weights: Weights, version: PolicyVersion, tick: Callable[[], None]) -> Row:
        """Collect, keep the successful trajectories, imitate them."""
        began = time.perf_counter()
        settings = self._phase.self_imitation
        tasks = self._split("rollout", settings.episodes, round, version)
        results = self._program.fleet.wait(self._program.fleet.start(tasks, weights), tick)
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
            "slowed_s": slowed_s(results),
        }
        return row | {k: float(v) for k, v in metrics.items()}

    def cursors(self) -> dict[str, Any]:
        """Nothing: the one round draws everything."""
        return {}

    def load_cursors(self, state: dict[str, Any]) -> list[str]:
        """Inverse of `cursors`."""
        return []


def _final_action_norm(inputs: Any) -> float:
    return float(np.linalg.norm(inputs[-11:-1, :6], axis=-1).mean())
