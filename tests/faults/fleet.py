"""Starts, kills and restarts the processes of `replay_worker`, in an order and at moments drawn from one seed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any

from replay_worker import read_log

from common.rng import Purpose, philox

WORKER = Path(__file__).with_name("replay_worker.py")
# Slot -> role and settings. Two writers have one name: they race for its numbers.
SLOTS: dict[str, tuple[str, dict[str, Any]]] = {
    "a": ("write", {"name": "a", "first": 0}),
    "b": ("write", {"name": "b", "first": 20_000}),
    "a-too": ("write", {"name": "a", "first": 10_000}),
    "reader": ("read", {}),
    "remover": ("remove", {}),
    "holder": ("hold", {}),
    "combiner": ("combine", {}),
    "checker": ("check", {}),
}
# Steps that touch the store (opening, making, linking, deleting) after which a process may die by itself.
LAST_STEP = {"write": 400, "read": 200, "remove": 120, "hold": 200, "combine": 600, "check": 600}


class Fleet:
    """One process per slot, from `__enter__` on; none is left after `__exit__`."""

    def __init__(self, base: Path, seed: int) -> None:
        self.base, self.root, self.seed = base, base / "store", seed
        self.kills: Counter[str] = Counter()
        self.starts: Counter[str] = Counter()
        self._rng = philox(seed, Purpose.SAMPLER)
        self._processes: dict[str, int] = {}
        self._die_at: dict[str, int] = {}

    def __enter__(self) -> Fleet:
        tests = Path(__file__).resolve().parents[1]
        paths = os.pathsep.join(map(str, (tests.parent, tests / "replay")))
        self._forker = subprocess.Popen(
            [sys.executable, WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": paths},
        )
        for slot in SLOTS:
            self._start(slot)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for slot in list(self._processes):
            self._end(slot)
        assert self._forker.stdin is not None
        self._forker.stdin.close()
        self._forker.wait(60)

    def log(self, slot: str) -> Path:
        return self.base / f"{slot}.log"

    def kill_one(self) -> None:
        """One process dies, at a moment of its own or at any time; another takes its place."""
        slot = list(SLOTS)[int(self._rng.integers(len(SLOTS)))]
        pause = float(self._rng.uniform(0.02, 0.2))
        if self._die_at[slot]:
            deadline = time.monotonic() + 0.3
            while time.monotonic() < deadline and not _is_dead(self._processes[slot]):
                time.sleep(0.01)
        else:
            time.sleep(pause)
        status = self._end(slot)
        assert status == -signal.SIGKILL, f"{slot} ended by itself: {read_log(self.log(slot))[-1:]}"
        self.kills[SLOTS[slot][0]] += 1
        self._start(slot)

    def wait_for_all(self) -> None:
        """Let every slot live until it has done something; a busy machine may have given it no time yet."""
        deadline = time.monotonic() + 60.0
        for slot in SLOTS:
            while not read_log(self.log(slot)) and time.monotonic() < deadline:
                if _is_dead(self._processes[slot]):
                    self._end(slot)
                    self._start(slot)
                time.sleep(0.02)

    def _start(self, slot: str) -> None:
        role, settings = SLOTS[slot]
        own = {"read": {"index": str(self.base / f"{slot}.sqlite")}, "combine": {"out": str(self.base / "merged")}}
        self.starts[slot] += 1
        self._die_at[slot] = int(self._rng.integers(1, LAST_STEP[role])) if self._rng.random() < 0.5 else 0
        order = {
            "role": role,
            "root": str(self.root),
            "base": str(self.base),
            "log": str(self.log(slot)),
            "die_at": self._die_at[slot],
            "settings": settings | own.get(role, {}) | {"seed": self.seed + self.starts[slot]},
        }
        self._processes[slot] = self._ask({"start": order})

    def _end(self, slot: str) -> int:
        process = self._processes.pop(slot)
        os.kill(process, signal.SIGKILL)  # it cannot be a stranger's: its number is ours until it is waited for
        return self._ask({"wait": process})

    def _ask(self, order: dict[str, Any]) -> int:
        assert self._forker.stdin is not None and self._forker.stdout is not None
        print(json.dumps(order), file=self._forker.stdin, flush=True)
        return int(self._forker.stdout.readline())


def _is_dead(process: int) -> bool:
    return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
