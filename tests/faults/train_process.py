"""`servofleet train` in a process of its own, with its own Ray or on a cluster: started, watched, killed, compared."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from test_exact_resume import outcome as outcome
from test_exact_resume import rows_of

from replay.store import open_store

DEADLINE_S = 300.0
# Imitation with DAgger, then PPO: ten rounds, with a cut behind each. No evaluation: what it shows, other tests do.
SHORT = (
    "experiment=smoke", "schedule=[il,ppo]", "evaluation.baselines=[]", "phases.il.evaluate=false",
    "phases.ppo.evaluate=false", "phases.il.samples=256", "phases.il.imitation.updates_per_round=2",
    "phases.il.imitation.dagger_start=0", "phases.il.imitation.scenes_per_round=3", "fleet.shards=3",
    "checkpoint.every_s=0.001",
)  # fmt: skip


@contextlib.contextmanager
def training(path: Path, *overrides: str, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """The process, which trains while the context lasts; what it says is in `said`. It is killed if it is still there
    at the context's end.
    """
    command = [str(Path(sys.executable).parent / "servofleet"), "train", *SHORT, f"dir={path}", *overrides]
    with open(log(path), "ab") as out:
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=out,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
            start_new_session=True,
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(60)


def train(path: Path, *overrides: str, env: dict[str, str] | None = None, code: int = 0) -> str:
    """Train to the end, which has this exit code; returns what this start said."""
    before = len(said(path))
    with training(path, *overrides, env=env) as process:
        assert process.wait(DEADLINE_S) == code, said(path)[-3000:]
    return said(path)[before:]


def log(path: Path) -> Path:
    return path.with_name(f"{path.name}.log")


def said(path: Path) -> str:
    return log(path).read_text() if log(path).exists() else ""


def wait_for_rows(path: Path, rows: int, process: subprocess.Popen[bytes]) -> None:
    """Until the run has recorded so many rounds."""
    wait_until(lambda: len(rows_of(path)) >= rows, lambda: said(path)[-3000:], process)


def wait_until(
    true: Callable[[], bool], why: Callable[[], str] = str, process: subprocess.Popen[bytes] | None = None
) -> float:
    """Seconds until it is true; fails if that takes too long, or the process ends before."""
    began = time.monotonic()
    while not true():
        assert process is None or process.poll() is None, f"ended with {process.returncode}: {why()}"
        assert time.monotonic() - began < DEADLINE_S, why()
        time.sleep(0.02)
    return time.monotonic() - began


def committed(store: Path | str) -> dict[str, set[str]]:
    """Ids of the episodes that a store shows, by the first part of who committed them: "c000", "w", ..."""
    opened = open_store(store)
    opened.refresh()
    found: dict[str, set[str]] = {}
    for entry in opened.select():
        found.setdefault(entry.writer.split("-")[0], set()).add(entry.id)
    opened.close()
    return found


def ids(store: Path | str) -> list[str]:
    """Ids of all episodes that a store shows, each as often as it shows it."""
    opened = open_store(store)
    opened.refresh()
    found = sorted(entry.id for entry in opened.select())
    opened.close()
    return found


def same(run: dict[str, Any], undisturbed: dict[str, Any]) -> None:
    """Weights, rows, results and store of two runs are equal, bit for bit."""
    for name, value in undisturbed.items():
        assert run[name] == value, name
