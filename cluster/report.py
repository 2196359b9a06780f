"""The end of a run: report.json, the table, curves and film strips, in the run directory and in MLflow."""

from __future__ import annotations

from typing import Any

import numpy as np

from cluster.film import make_film
from cluster.program import Program
from cluster.run_directory import read_metrics
from common.episode import Episode
from learner.film_strip import write_film_gif, write_film_strip
from learner.metrics import rollouts
from learner.plots import plot_episodes, plot_training
from learner.report import LEARNED, ordered_stages, write_report
from replay.index import Query

_STRIP_FRAMES, _GIF_FRAMES = 7, 31


def write_final_report(program: Program, stages: dict[str, Any], wall_s: float) -> dict[str, Any]:
    """Write everything a person looks at when a run is over.

    Args:
        program: of the run.
        stages: METRICS by stage and column.
        wall_s: seconds trained.

    Returns:
        The report, as in report.json; that file is written last, and marks the run as finished.
    """
    config, directory = program.config, program.directory.path
    pictures = directory / "report"
    pictures.mkdir(exist_ok=True)
    episodes = {stage: stage_episodes(program, stage) for stage in ordered_stages(stages)}
    plot_training(read_metrics(directory / "metrics.jsonl"), pictures / "training.png")
    rolled = {stage: rollouts(found) for stage, found in episodes.items()}
    plot_episodes(rolled, pictures / "episodes.png", config.evaluation.stop_dt_norm)
    shown = {s: found for s, found in episodes.items() if s in LEARNED or s == "nearest_goal"}
    for env in spread(config.evaluation.film_scenes if shown else 0, len(program.suite.starts)):
        one = {stage: found[env] for stage, found in shown.items()}
        iou = {stage: e.steps["iou"] for stage, e in one.items()}
        film = make_film(config, program.suite, env, one, _GIF_FRAMES)
        shades = np.stack([iou[s][film.steps] for s in film.stages])
        path = pictures / f"scene_{env:03d}"
        write_film_gif(path.with_suffix(".gif"), film.goal, film.stages, film.frames, film.steps, shades)
        pick = np.linspace(0, len(film.steps) - 1, _STRIP_FRAMES).round().astype(int)
        steps = [film.steps[i] for i in pick]
        write_film_strip(path.with_suffix(".png"), film.goal, film.stages, film.frames[:, pick], steps, shades[:, pick])
    report: dict[str, Any] = {
        "experiment": config.experiment,
        "seed": config.seed,
        "wall_s": round(wall_s, 1),
        "suite_sha256": program.suite.sha256,
        "stages": {stage: stages[stage] for stage in ordered_stages(stages)},
    }
    rows = [{"stage": s, "column": c, **report["stages"][s][c]} for s in report["stages"] for c in ("free", "stopped")]
    if rows:
        program.tracker.table(rows, "evaluation")
    program.tracker.artifact(pictures, "report")
    write_report(directory, report)
    program.tracker.artifact(directory / "report.json")
    return report


def stage_episodes(program: Program, stage: str) -> list[Episode]:
    """The stage's evaluation episodes in order of the suite; of several lineages, the newest."""
    entries = program.store.select(Query(kind="evaluation", phase=stage))
    newest = {e.meta.id.env: e for e in sorted(map(program.store.read_episode, entries), key=lambda e: e.meta.id)}
    return [newest[env] for env in sorted(newest)]


def spread(count: int, total: int) -> list[int]:
    """`count` indices spread over range(total), odd and even ones (both kinds of scene)."""
    return sorted({min(int(i * total / max(count, 1)) + i % 2, total - 1) for i in range(count)})
