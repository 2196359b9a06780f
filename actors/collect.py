"""The way into collection: a task comes in, episodes come out."""

from __future__ import annotations

from collections.abc import Iterator

from actors.collect_imitation import collect_dagger, collect_pairs
from actors.collect_rollouts import collect_evaluation, collect_rollouts
from actors.tasks import Task
from actors.workshop import Workshop
from common.episode import Episode


def collect(shop: Workshop, task: Task) -> Iterator[Episode]:
    """Do a task; episodes come in order of their environment.

    Raises:
        KeyError: if the task names a phase that the configuration lacks.
    """
    if task.kind == "evaluation":
        yield from collect_evaluation(shop, task)
    elif task.kind == "pairs":
        yield from collect_pairs(shop, task, shop.config.phases[task.phase])
    elif task.kind == "dagger":
        yield from collect_dagger(shop, task, shop.config.phases[task.phase])
    else:
        yield from collect_rollouts(shop, task, shop.config.phases[task.phase])
