"""What strikes a fleet in a soak, and when: drawn from a seed beforehand, delivered to whoever then plays the role."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
from collections.abc import Sequence

from cluster.bench_soak_processes import Process
from common.rng import Purpose, philox

_WRITER_SHARE = 0.3  # of the kills; the others strike collectors
_STOPS_PER_KILL = 0.1
# Nobody is asked whether the writer hangs: those that send to it wait, and give up after replay.send_timeout_s.
WRITER_STOPPED_S = 3.0


@dataclasses.dataclass(frozen=True)
class Blow:
    """One signal.

    Attributes:
        at_s: seconds since the start.
        role: "collectors" or "writer".
        stop: SIGSTOP instead of SIGKILL; a collector stays stopped, the writer for a few seconds.
        choice: 0 .. 1, which of those that play the role.
    """

    at_s: float
    role: str
    stop: bool
    choice: float


def draw_blows(seconds: float, kills: int, seed: int) -> list[Blow]:
    """`kills` SIGKILLs and a tenth as many SIGSTOPs in order of time, all within 5 .. 90 % of `seconds`."""
    rng = philox(seed, Purpose.SAMPLER, env=kills)
    count = kills + round(kills * _STOPS_PER_KILL)
    stops = set(rng.permutation(count)[kills:].tolist())
    times = sorted(rng.uniform(0.05 * seconds, 0.9 * seconds, count).tolist())
    roles = rng.uniform(size=count) < _WRITER_SHARE
    choices = rng.uniform(size=count).tolist()
    return [Blow(at, "writer" if roles[i] else "collectors", i in stops, choices[i]) for i, at in enumerate(times)]


class Striker:
    """Delivers blows. One waits while nobody plays its role, because the last one was struck just before.

    On a slow machine starts take longer than it is from blow to blow: a process is struck only when it had `life_s` to
    do something, or nothing would ever be done.
    """

    def __init__(self, blows: Sequence[Blow], life_s: float = 0.0) -> None:
        self._blows, self._life_s = list(blows), life_s
        self._seen: dict[tuple[int, int], float] = {}
        self._stopped: list[tuple[float, int]] = []  # writers: when they go on
        self._struck: set[tuple[int, int]] = set()
        self.kills = self.stops = 0

    def due(self, elapsed_s: float) -> bool:
        """Whether `strike` has something to do."""
        return bool(self._blows and self._blows[0].at_s <= elapsed_s) or bool(self._stopped)

    def strike(self, elapsed_s: float, processes: Sequence[Process]) -> None:
        """Deliver what is due to these processes, each of which is struck once, and let stopped writers go on."""
        for end, pid in list(self._stopped):
            if elapsed_s >= end:
                self._stopped.remove((end, pid))
                _send(pid, signal.SIGCONT)
        for p in processes:
            self._seen.setdefault((p.pid, p.started), elapsed_s)
        lived = {k for k, since in self._seen.items() if elapsed_s - since >= self._life_s} - self._struck
        while self._blows and self._blows[0].at_s <= elapsed_s:
            blow = self._blows[0]
            alive = [p for p in processes if p.role == blow.role and (p.pid, p.started) in lived - self._struck]
            if not alive:
                return
            victim = alive[int(blow.choice * len(alive))]
            self._blows.pop(0)
            if not _send(victim.pid, signal.SIGSTOP if blow.stop else signal.SIGKILL):
                self._blows.insert(0, blow)
                return
            self.kills += not blow.stop
            self.stops += blow.stop
            if blow.stop and blow.role == "writer":
                self._stopped.append((elapsed_s + WRITER_STOPPED_S, victim.pid))
            else:
                self._struck.add((victim.pid, victim.started))


def _send(pid: int, number: signal.Signals) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False
