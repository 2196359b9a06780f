"""Stage 1 end to end: a collector pinned to one core, the learner to the other; alone and together.

The three are the same code as a run's: `ImitationRounds` with its overlap is "together"; its two halves are "alone".
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.imitation_rounds import ImitationRounds
from cluster.program import Program, build_program
from cluster.run_directory import RunDirectory
from common.affinity import pin_process
from common.config import RunConfig
from common.identity import PolicyVersion, weights_sha256
from common.networks.servo_net import initial_weights
from learner.learners import build_learner

_PHASE = "il"


def end_to_end(config: RunConfig, scratch: Path, repeats: int) -> list[dict[str, Any]]:
    """Samples learned per second, alone and together; driver and Ray overhead are in all three.

    Ray's own processes (raylet, object store, control) are pinned to neither core: they work for both sides.

    Returns:
        Rows collector_alone, learner_alone, slower_side_alone and end_to_end, in samples of the learner per second, and
        end_to_end_share, of the slower side alone: the median over repeats of what was measured one after the other, so
        that a machine that slows down meanwhile slows both.
    """
    imitation = dataclasses.replace(config.phases[_PHASE].imitation, dagger_start=0.0)
    phase = dataclasses.replace(config.phases[_PHASE], imitation=imitation)
    config = dataclasses.replace(
        config,
        dir=str(scratch / "run"),
        phases={**config.phases, _PHASE: phase},
        fleet=dataclasses.replace(config.fleet, collectors=1, shards=1),
    )
    cpus = sorted(os.sched_getaffinity(0))
    with RunDirectory(config) as directory, build_program(config, directory) as program:
        program.fleet.call("pin", cpus=[cpus[-1]])
        pin_process([cpus[0]])
        try:
            return _measure(config, program, repeats)
        finally:
            pin_process(cpus)


def _measure(config: RunConfig, program: Program, repeats: int) -> list[dict[str, Any]]:
    imitation = config.phases[_PHASE].imitation
    weights = initial_weights(config.network, config.seed)
    version = PolicyVersion(0, 0, weights_sha256(weights))
    learner = build_learner(config, _PHASE)
    learner.set_weights(weights)
    rounds = ImitationRounds(program, _PHASE, learner, lineage=0)
    rounds.total_rounds = 10**6
    rounds.prepare(0, weights, version)
    times: dict[str, list[float]] = {"collector_alone": [], "learner_alone": [], "end_to_end": []}
    round = 0
    for repeat in range(repeats + 1):
        began = time.perf_counter()
        program.fleet.run(rounds.next_tasks(round + 1, version), weights)
        collected = time.perf_counter()
        program.store.refresh()
        rounds.update(rounds.groups(round), lambda: None, lambda: None)
        learned = time.perf_counter()
        # The round after the one collected above, so that nothing is done twice.
        round += 1
        rounds.learn(round, weights, version, lambda: None)
        together = time.perf_counter()
        round += 1
        if repeat:
            times["collector_alone"].append(collected - began)
            times["learner_alone"].append(learned - collected)
            times["end_to_end"].append(together - learned)
    samples = imitation.updates_per_round * imitation.batch_size
    rates = {name: samples / statistics.median(values) for name, values in times.items()}
    rates["slower_side_alone"] = min(rates["collector_alone"], rates["learner_alone"])
    systems = {
        "collector_alone": "one round of pairs and DAgger, one core",
        "learner_alone": "one round of updates, one core",
        "slower_side_alone": "the slower of the two",
        "end_to_end": "both at once, overlapped",
    }
    params = {"samples_per_round": samples, "rows_per_round": imitation.scenes_per_round * imitation.views_per_scene}
    shares = shares_of_slower(times)
    share = round_(statistics.median(shares))
    named: list[dict[str, Any]] = [
        {"name": n, "system": systems[n], "value": round_(rates[n]), "unit": "samples/s", "params": params}
        for n in systems
    ]
    about = {"lowest": round_(min(shares)), "highest": round_(max(shares))}
    system = "median over repeats"
    return [*named, {"name": "end_to_end_share", "system": system, "value": share, "unit": "1", "params": about}]


def shares_of_slower(times: Mapping[str, Sequence[float]]) -> list[float]:
    """Per repeat the rate of both together, as a share of that of the slower side alone.

    Args:
        times: seconds per repeat of collector_alone, learner_alone and end_to_end, all for one round.
    """
    alone = zip(times["collector_alone"], times["learner_alone"], strict=True)
    return [max(sides) / together for sides, together in zip(alone, times["end_to_end"], strict=True)]


def round_(value: float) -> float:
    """Three decimals."""
    return float(f"{value:.3f}")
