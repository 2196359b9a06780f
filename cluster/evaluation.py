"""Evaluation of one policy on the held-out suite: the fleet acts, the store keeps the episodes, the learner's metrics
read them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from actors.tasks import Task, split
from cluster.fleet import Weights
from cluster.program import Program
from common.identity import PolicyVersion
from learner.metrics import evaluate_episodes


def evaluate_stage(
    program: Program,
    stage: str,
    policy: str,
    weights: Weights | None,
    version: PolicyVersion | None,
    lineage: int,
    tick: Callable[[], None] | None = None,
    tasks: Sequence[Task] | None = None,
) -> dict[str, Any]:
    """Run the suite and compute METRICS.

    Args:
        program: of the run.
        stage: name under which the episodes are stored and reported.
        policy: "learned" or the name of a classical controller.
        weights: of the learned policy, else None.
        version: of the weights, else None.
        lineage: branch of the run's history.
        tick: called while waiting.
        tasks: what to run instead of the whole suite.

    Returns:
        ``{"free": METRICS, "stopped": METRICS}`` as in report.json.
    """
    config = program.config
    if tasks is None:
        tasks = split(
            "evaluation", config.evaluation.scenes, config.fleet.shards, phase=stage, lineage=lineage, round=0,
            policy=policy, version=version,
        )  # fmt: skip
    results = program.fleet.wait(program.fleet.start(tasks, weights), tick)
    program.store.refresh()
    episodes = [program.store.read_episode(i) for r in results for i in r.episode_ids]
    return evaluate_episodes(episodes, config.evaluation.stop_dt_norm, seed=config.evaluation.seed)
