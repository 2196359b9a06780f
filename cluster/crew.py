"""The processes of a fleet: started, asked for signs of life, ended, replaced. What they work on is `fleet`'s matter.

The actors are under Ray's FaultTolerantActorManager, which carries the calls. Ray itself never starts one again: when,
where and whether is decided by `supervision` and `elastic`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Set
from typing import Any

import ray
from ray.exceptions import RayError
from ray.rllib.utils.actor_manager import FaultTolerantActorManager

from actors.tasks import Task
from cluster.crew_member import WATCH, Loss, Member
from cluster.elastic import Nodes, NodeWatch, bounds, let_go, may_add
from cluster.supervision import Beats, Cause, Supervision, WatchedTime
from cluster.supervision_processes import (
    cause_of,
    end_process,
    last_line,
    node_of,
    open_process,
    run_task,
    whereabouts,
)
from common.config import FleetConfig

# Its messages tell of what the totals count and the operator's display names.
logging.getLogger("ray.rllib.utils.actor_manager").setLevel(logging.CRITICAL)

_TEND_EVERY_S = 0.1


class Crew:
    """The collector processes of a fleet; a slot is a place for one, a member the process that fills it."""

    def __init__(self, make_collector: Callable[..., Any], config: FleetConfig) -> None:
        """Start the collectors; returns before they answer.

        Args:
            make_collector: index -> actor handle; with the keyword `avoid`, ids of nodes, where some are quarantined.
            config: how many, and when they are taken for hung.
        """
        self.supervision = Supervision(config)
        self.watched = WatchedTime()
        self.last_error = "none of them ever answered"
        self._make, self._config = make_collector, config
        self._manager = FaultTolerantActorManager([], max_remote_requests_in_flight_per_actor=1)
        self._members: dict[int, Member] = {}
        self._vacant: set[int] = set(range(config.collectors))
        self._renewing: set[int] = set()
        self._beats = Beats(config.hang_timeout_s)
        self._answers: dict[Any, int] = {}
        self._tended = self._changed = float("-inf")
        # A fleet of nobody needs no Ray.
        self._nodes = NodeWatch() if bounds(config)[1] else None
        self._fill(0.0)

    @property
    def slots(self) -> int:
        """Collectors that there should be."""
        return len(self._vacant) + len(self._members)

    @property
    def up(self) -> list[int]:
        """Numbers of the members that answer, by slot."""
        return sorted((m for m, member in self._members.items() if member.up), key=lambda m: self._members[m].slot)

    @property
    def rss_bytes(self) -> int:
        """Resident memory of the largest member, as last heard."""
        return max((m.rss_bytes for m in self._members.values()), default=0)

    def call(self, method: str, **kwargs: Any) -> list[Any]:
        """Call a method on every member that answers, and wait."""
        up = self.up
        if not up:
            return []
        answers = self._manager.foreach_actor(method, kwargs=kwargs, remote_actor_ids=up, timeout_seconds=60.0)
        return [a.get() for a in answers]

    def send(self, member: int, task: Task, weights: Any) -> bool:
        """Let a member run a task; False if it cannot be sent one now."""
        kwargs = {"task": task.plain(), "weights": weights}
        # The manager drops a second request to a busy actor without a word.
        sent = self._manager.foreach_actor_async(run_task, tag="task", kwargs=kwargs, remote_actor_ids=[member])
        self._news(member)
        return bool(sent == 1)

    def results(self, timeout_s: float) -> list[tuple[int, bool, Any]]:
        """Tasks that ended: number of the member, whether it succeeded, result or exception."""
        ready = self._manager.fetch_ready_async_reqs(tags="task", timeout_seconds=timeout_s)
        return [(r.actor_id, bool(r.ok), r.get()) for r in ready]

    def done(self, number: int, rss_bytes: int, now: float) -> None:
        """A member finished a task; it is renewed where it is old, has done enough or has grown too large."""
        member = self._members[number]
        member.tasks, member.rss_bytes = member.tasks + 1, rss_bytes
        self.supervision.done(member.slot, member.node)
        self._news(number)
        cause = self.supervision.recycling(now - member.since, member.tasks, rss_bytes)
        # One at a time: a fleet of one age would else stand still.
        if cause is not None and not self._renewing:
            self._renewing.add(member.slot)
            self.end(number, cause, now)

    def failed(self, number: int, error: Exception, now: float) -> Loss:
        """A call of a member ended in an error."""
        member = self._members[number]
        nodes = self._nodes.latest() if self._nodes is not None else None
        cause = cause_of(error, member.descriptor, nodes is None or not self._is_gone(member, nodes))
        if cause is None:
            # Its next answer tells: of the same process, of none, or that it died.
            member.up, member.doubted = False, True
            self._manager.set_actor_state(number, healthy=False)
            self._beats.forget(number)
            self._ask_whereabouts(number)
            return Loss(number, None, f"collector {member.slot}: {last_line(str(error))}", error)
        return self.end(number, cause, now, last_line(str(error)) if cause.kind == "raised" else "", error)

    def end(self, number: int, cause: Cause, now: float, line: str = "", error: Exception | None = None) -> Loss:
        """End a member's process if it still lives, and count why; its slot gets another one or is let go."""
        node = self._members[number].node or self._placed(self._members[number])
        member = self._remove(number, now)
        others = {m.node for m in self._members.values() if m.up}
        shut = self.supervision.lost(member.slot, node, cause, now, others)
        if cause.kind != "node lost" or not let_go(self.slots + 1, self._config):
            self._vacant.add(member.slot)
        line = line or f"collector {member.slot} {cause}"
        if cause.kind != "recycled":
            self._renewing.discard(member.slot)
            self.last_error = line = f"{line}; {shut}" if shut else line
        return Loss(number, cause, line, error)

    def tend(self, now: float, busy: Set[int]) -> list[Loss]:
        """Look after the members: who came up, who hangs, who is to be replaced or added.

        Args:
            now: time [s], monotonic.
            busy: numbers of the members that have a task.

        Returns:
            Members that were lost in between.
        """
        if now - self._tended < _TEND_EVERY_S:
            return []
        self._tended = now
        watched = self.watched.look(now)
        losses = self._welcome(now)
        losses += self._hear(now, watched, busy)
        for number in self._beats.hung(watched):
            limit = f"fleet.hang_timeout_s = {self._config.hang_timeout_s:g}"
            losses.append(self._hung(number, Cause("hung"), now, f"no progress for {limit} s"))
        losses += self._give_up(now, watched)
        nodes = self._nodes.latest() if self._nodes is not None else None
        for number in [m for m in self.up if nodes is not None and self._is_gone(self._members[m], nodes)]:
            # Whoever has no task may not be asked for long, or never.
            losses.append(self.end(number, Cause("node lost"), now))
        shut = self.supervision.quarantined(now)
        for number in [m for m in self.up if self._members[m].node in shut and m not in busy]:
            self.end(number, Cause("recycled", "its node is quarantined"), now)
        self._fill(now)
        return losses

    def stop(self) -> None:
        """End every process."""
        if self._nodes is not None:
            self._nodes.stop()
        for number in list(self._members):
            self._remove(number, self._tended)
        self._vacant.clear()
        self._answers.clear()

    def _remove(self, number: int, now: float) -> Member:
        member, self._changed = self._members.pop(number), now
        self._beats.forget(number)
        self._manager.remove_actor(number)
        ray.kill(member.actor, no_restart=True)
        if member.descriptor is not None:
            # Ray may take its time, or be about to end itself.
            end_process(member.descriptor)
            os.close(member.descriptor)
        return member

    def _news(self, number: int) -> None:
        if self._members[number].is_watched:
            self._beats.news(number, self.watched.now)

    def _hung(self, number: int, cause: Cause, now: float, why: str) -> Loss:
        return self.end(number, cause, now, f"collector {self._members[number].slot} hung: {why}")

    def _give_up(self, now: float, watched: float) -> list[Loss]:
        """Members that do not answer where they are: those that have a place hang, the others wait for one."""
        losses = []
        for number, member in list(self._members.items()):
            limit = self._config.hang_timeout_s if member.doubted else self._config.start_timeout_s
            if member.up or watched - member.asked <= limit:
                continue
            if member.doubted:
                losses.append(self.end(number, Cause("died", "out of reach"), now))
            elif self._placed(member):
                why = f"no answer for fleet.start_timeout_s = {limit:g} s"
                losses.append(self._hung(number, Cause("hung", "at its start"), now, why))
            else:
                member.asked = watched
        return losses

    def _is_gone(self, member: Member, nodes: Nodes) -> bool:
        """Whether the member's node was lost since it came up."""
        node = member.node or self._placed(member)
        return bool(node) and node not in nodes.free_cpus and nodes.asked > member.since

    def _placed(self, member: Member) -> str:
        try:
            return node_of(member.actor)
        except Exception:  # noqa: BLE001 - the node of a collector that never answered is only good to have
            return ""

    def _ask_whereabouts(self, number: int) -> None:
        self._members[number].asked = self.watched.now
        self._manager.foreach_actor_async(whereabouts, tag="up", healthy_only=False, remote_actor_ids=[number])

    def _fill(self, now: float) -> None:
        """Give vacant slots a process, and the fleet more slots where there is room for them."""
        shut = self.supervision.quarantined(now)
        for number, member in list(self._members.items()):
            # Those that wait for a place wait for one outside the quarantine of today.
            if not (member.up or member.doubted) and member.avoids != shut and not self._placed(member):
                self._vacant.add(self._remove(number, now).slot)
        unplaced = len(self._vacant) + sum(not m.up for m in self._members.values())
        nodes = self._nodes.latest() if self._nodes is not None else None
        # What was seen before the last change counts room that is taken by now, or went with its node.
        if nodes is not None and nodes.asked <= self._changed:
            nodes = None
        taken = {m.slot for m in self._members.values()} | self._vacant
        for _ in range(may_add(self.slots, unplaced, nodes, shut, self._config)):
            slot = next(i for i in range(len(taken) + 1) if i not in taken)
            taken.add(slot)
            self._vacant.add(slot)
        for slot in sorted(s for s in self._vacant if self.supervision.start_at(s) <= now):
            # The keyword only where it says something: most fleets live on one node.
            actor = self._make(slot, avoid=sorted(shut)) if shut else self._make(slot)
            self._manager.add_actors([actor])
            number = self._manager.actor_ids()[-1]
            # A collector gets work once it has answered, so that its start does not count as the task's time.
            self._manager.set_actor_state(number, healthy=False)
            self._members[number] = Member(slot, actor, now, avoids=shut)
            self._vacant.discard(slot)
            self._changed = now
            self._ask_whereabouts(number)

    def _welcome(self, now: float) -> list[Loss]:
        """Members that answered where they are: they are up. Those whose start failed are lost."""
        losses = []
        for answer in self._manager.fetch_ready_async_reqs(tags="up", timeout_seconds=0.0, mark_healthy=True):
            member = self._members[answer.actor_id]
            if not answer.ok:
                losses.append(self.failed(answer.actor_id, answer.get(), now))
                continue
            where = answer.get()
            if member.doubted and member.where not in (None, where):
                losses.append(self.end(answer.actor_id, Cause("died", "killed or crashed"), now))
                continue
            member.up, member.doubted, member.where, member.since = True, False, where, now
            self._renewing.discard(member.slot)
            self._changed = now
            if member.descriptor is None:
                member.descriptor = open_process(where)
            self._news(answer.actor_id)
        return losses

    def _hear(self, now: float, watched: float, busy: Set[int]) -> list[Loss]:
        """Signs of life: take those that came, ask for those that are due."""
        losses = []
        if self._answers:
            ready, _ = ray.wait(list(self._answers), num_returns=len(self._answers), timeout=0.0)
            for answer in ready:
                number = self._answers.pop(answer)
                if number not in self._members:
                    continue
                try:
                    count, rss_bytes = ray.get(answer)
                except RayError as error:
                    # The task of a busy one tells the same.
                    if number not in busy:
                        losses.append(self.failed(number, error, now))
                    continue
                self._members[number].rss_bytes = rss_bytes
                self._beats.heard(number, count, number in busy, watched)
        asked = set(self._answers.values())
        for number in self._beats.due(watched):
            if number not in asked:
                question = self._members[number].actor.progress
                self._answers[question.options(concurrency_group=WATCH).remote()] = number
        return losses
