"""`servofleet replay plan`: the disk that a configuration's run takes, per phase, and how long the disk lasts."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.config import RunConfig
from common.errors import ConfigError, bad_value
from replay.capacity import episode_bytes, measured_growth

if TYPE_CHECKING:
    from rich.console import Console

SCENE_BYTES = 3000  # JSON of a scene of a few objects
Work = tuple[str, str, int, int]  # phase, kind, episodes, rows of each


def replay_plan(config: RunConfig, rate: float | None, measure: str | None, disk: str | None) -> dict[str, Any]:
    """Work out the disk that a run takes.

    Args:
        config: checked configuration.
        rate: episodes per second of the whole fleet, or None.
        measure: store whose growth gives the rate where none is given.
        disk: any path on the disk; None is that of the run directory.

    Returns:
        ``disk, free_bytes, episodes_per_s, run_bytes, fits`` and ``phases``: name -> {"episodes", "rows", "bytes",
        "bytes_per_hour", "days_of_disk"}, the last two if the phase collected at this rate for ever. JSON-ready.

    Raises:
        ConfigError: if there is no rate or it is not positive.
        StoreError: if the store's growth cannot be measured.
    """
    if rate is None and measure is None:
        raise ConfigError(bad_value("replay plan --rate", None, "episodes per second, or --measure STORE"))
    if rate is None and measure is not None:
        growth = measured_growth(measure)
        rate = growth.episodes / growth.seconds
    if rate is None or not rate > 0 or math.isinf(rate):
        raise ConfigError(bad_value("replay plan --rate", rate, "> 0 episodes per second"))
    place = Path(disk or config.dir).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    lengths = {
        "height": config.env.image_size,
        "width": config.env.image_size,
        "grid": config.network.match_grid,
        "feature": config.network.feature_dim,
    }
    phases: dict[str, dict[str, Any]] = {}
    for name, kind, episodes, rows in workload(config):
        size = episode_bytes(kind, rows, lengths, scene_bytes=SCENE_BYTES)  # type: ignore[arg-type]
        phase = phases.setdefault(name, {"episodes": 0, "rows": 0, "bytes": 0})
        phase["episodes"] += episodes
        phase["rows"] += episodes * rows
        phase["bytes"] += episodes * size
    for phase in phases.values():
        phase["bytes_per_hour"] = round(phase["bytes"] / phase["episodes"] * rate * 3600)
        phase["days_of_disk"] = free / phase["bytes_per_hour"] / 24
    run_bytes = sum(p["bytes"] for p in phases.values())
    return {
        "disk": str(place),
        "free_bytes": free,
        "episodes_per_s": rate,
        "run_bytes": run_bytes,
        "fits": run_bytes < free,
        "phases": phases,
    }


def workload(config: RunConfig) -> list[Work]:
    """What a run collects from start to end: per phase the records of each kind."""
    from cluster.phase_rounds import num_rounds

    out: list[Work] = []
    suites = len(config.evaluation.baselines)
    for name in config.schedule:
        phase = config.phases[name]
        rounds = num_rounds(phase)
        if phase.kind == "imitation":
            s = phase.imitation
            rounds = 0 if config.replay.train_from else rounds
            out.append((name, "pairs", rounds * s.scenes_per_round, s.views_per_scene))
            dagger = rounds - math.ceil(s.dagger_start * rounds)
            out.append((name, "dagger", dagger * s.dagger_envs, s.dagger_steps + 1))
        elif phase.kind == "self_imitation":
            out.append((name, "rollout", phase.self_imitation.episodes, phase.self_imitation.steps + 1))
        else:
            out.append((name, "rollout", rounds * phase.ppo.envs, phase.ppo.steps + 1))
        suites += phase.evaluate
    out.append(("evaluation", "evaluation", suites * config.evaluation.scenes, config.evaluation.steps + 1))
    return [work for work in out if work[2]]


def print_plan(plan: dict[str, Any], console: Console) -> None:
    """Show what `replay_plan` worked out."""
    from rich.table import Table

    table = Table("phase", "episodes", "rows", "GB", "GB per hour", "days of disk")
    for name, p in plan["phases"].items():
        table.add_row(
            name,
            str(p["episodes"]),
            str(p["rows"]),
            f"{p['bytes'] / 1e9:.2f}",
            f"{p['bytes_per_hour'] / 1e9:.2f}",
            f"{p['days_of_disk']:.1f}",
        )
    console.print(table)
    console.print(
        f"the run takes {plan['run_bytes'] / 1e9:.2f} GB; {plan['free_bytes'] / 1e9:.1f} GB are free on "
        f"{plan['disk']}: {'enough' if plan['fits'] else 'NOT ENOUGH'} (at {plan['episodes_per_s']:.2f} episodes/s)",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )
