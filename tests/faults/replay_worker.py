"""Processes that use one replay store at once and may be killed at any moment; `fleet` starts and kills them.

Run as a program, it imports everything once and then forks one process per order that it reads from its standard
input. Each role works until it is killed. What it must tell goes line by line to a file of its own, after the fact.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from records import make_episode

from common.episode import Episode
from common.errors import StoreError
from common.rng import Purpose, philox
from replay.merge import merge
from replay.pins import pin, read_pins
from replay.retention import Retention, plan_prune, prune, sweep
from replay.store import Store, open_store
from replay.verify import find_faults

GRACE_S, LEASE_S = 1.0, 60.0
KEPT_ROWS = 150
_PRCTL, _PR_SET_PDEATHSIG = ctypes.CDLL(None).prctl, 1
# What the interpreter reports before it changes or opens something on a disk.
_EVENTS = {"open", "os.mkdir", "os.link", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir"}


@lru_cache(maxsize=4096)
def episode_of(env: int) -> Episode:
    """The one content that the episode of this number may have."""
    return make_episode("dagger" if env % 3 == 0 else "rollout", env=env, rows=1 + env % 4, size=8)


@lru_cache(maxsize=4096)
def sha256_of(env: int) -> str:
    return episode_of(env).sha256()


def number_of(episode_id: str) -> int:
    return int(episode_id.rsplit("/", 1)[1])


def read_log(path: Path) -> list[list[str]]:
    return [line.split(" ") for line in path.read_text().splitlines()] if path.exists() else []


class Log:
    """Lines that survive the death of their process: each is one system call."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._fd = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)

    def say(self, *words: object) -> None:
        os.write(self._fd, (" ".join(str(w).replace("\n", " ") for w in words) + "\n").encode())


def write(root: str, log: Log, *, name: str, first: int, seed: int) -> None:
    """Commit episodes first, first + 1, ...; those that were acknowledged to an earlier process are left out."""
    acked = {int(words[0]) for words in read_log(log.path)}
    store = open_store(root, "a")
    writer = store.writer(name, max_episodes=3, in_flight=1 + seed % 2)
    for env in itertools.count(first):
        if env not in acked:
            for ack in writer.append(episode_of(env)):
                log.say(number_of(ack.episode_id), ack.sha256, ack.writer, ack.seq)


def read(root: str, log: Log, *, index: str, seed: int) -> None:
    """Refresh, draw rows, and compare all of them with what they must be."""
    store = open_store(root, index_path=index)
    for step in itertools.count():
        store.refresh()
        if shown := store.select():
            rng = philox(seed, Purpose.SAMPLER, step=step)
            chosen = [shown[k] for k in rng.integers(len(shown), size=min(6, len(shown)))]
            problem = ""
            for entry in chosen:
                if entry.sha256 != sha256_of(number_of(entry.id)):
                    problem = f"{entry.id} is committed with another content"
            try:
                rows = np.array([rng.integers(e.rows) for e in chosen])
                drawn = store.read_rows(["action", "world_T_cam"], chosen, np.arange(len(chosen)), rows)
                for k, (entry, row) in enumerate(zip(chosen, rows, strict=True)):
                    good = episode_of(number_of(entry.id))
                    if any((drawn[name][k] != good.steps[name][row]).any() for name in drawn):
                        problem = f"row {row} of {entry.id} is torn"
                if store.read_episode(chosen[0]).sha256() != chosen[0].sha256:
                    problem = f"{chosen[0].id} is torn"
            except StoreError as error:
                # Only what was deleted since may be missing.
                store.refresh()
                if all((now := store.index.get(e.id)) and (now.writer, now.seq) == (e.writer, e.seq) for e in chosen):
                    problem = str(error)
            log.say("bad" if problem else "good", problem)


def remove(root: str, log: Log, *, seed: int) -> None:
    """Keep the newest rows, delete the others soon."""
    store = open_store(root, "a")
    while True:
        store.refresh()
        prune(store, plan_prune(store, Retention(newest_rows=KEPT_ROWS)))
        swept = sweep(store, grace_s=GRACE_S, lease_s=LEASE_S)
        log.say("good", swept.deleted)
        time.sleep(0.05)


def hold(root: str, log: Log, *, seed: int) -> None:
    """Pin positions as checkpoints do; all that a pinned view shows can be read, also after the death of its maker."""
    while True:
        for old in read_pins(Path(root)):
            problem = _unreadable(open_store(root), dict(old.position))
            log.say("bad" if problem else "good", problem)
        try:
            pin(Path(root), "checkpoint", open_store(root).refresh(), "a test")
        except StoreError as error:  # the sweep was faster
            if "refresh the store first" not in str(error):
                raise
        time.sleep(GRACE_S / 2)


def _unreadable(store: Store, position: dict[str, int]) -> str:
    try:
        store.refresh(upto=position)
        for entry in store.select():
            if store.read_episode(entry).sha256() != sha256_of(number_of(entry.id)):
                return f"pinned episode {entry.id} is torn"
    except StoreError as error:
        return f"pinned: {error}"
    finally:
        store.close()
    return ""


def combine(root: str, log: Log, *, out: str, seed: int) -> None:
    """Merge into one new store after the other; a merge that was killed is finished first."""
    for k in itertools.count():
        target = Path(f"{out}-{k}")
        if (target / "done").exists():
            continue
        try:
            merge([root], target)
            (target / "done").touch()
        except StoreError as error:  # what it read was deleted meanwhile
            if (target / "store.json").exists():
                for fault in find_faults(target, lease_s=LEASE_S):
                    log.say("bad", fault, "after", error)
        log.say("good", target)


def check(root: str, log: Log, *, seed: int) -> None:
    """Look for faults; no death of another process is one."""
    while True:
        for fault in find_faults(root, lease_s=LEASE_S):
            log.say("bad", fault)
        log.say("good")


ROLES: dict[str, Callable[..., None]] = {f.__name__: f for f in (write, read, remove, hold, combine, check)}


def _die_at(count: int, base: str) -> None:
    """End this process at the `count`-th step that touches anything below `base`."""
    steps = itertools.count(1)  # counts rightly when threads call at once

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _EVENTS and str(arguments[0]).startswith(base) and next(steps) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _work(order: dict[str, Any]) -> int:
    log = Log(order["log"])
    try:
        if order["die_at"]:
            _die_at(order["die_at"], order["base"])
        ROLES[order["role"]](order["root"], log, **order["settings"])
    except BaseException:  # noqa: BLE001 - whatever it was, the tests must hear of it
        log.say("crash", traceback.format_exc())
    return 1


def main() -> None:
    """Orders, one JSON line each: {"start": ...} answers the new process id; {"wait": id} its exit status."""
    for line in sys.stdin:
        order = json.loads(line)
        if "start" in order:
            process = os.fork()
            if process == 0:
                _PRCTL(_PR_SET_PDEATHSIG, signal.SIGKILL)  # nobody is left when the tests are killed
                for fd in (0, 1):
                    os.close(fd)
                os._exit(_work(order["start"]))
            answer = process
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1])
        print(answer, flush=True)


if __name__ == "__main__":
    main()
