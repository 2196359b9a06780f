"""`servofleet bench replay`: how fast the store takes episodes in and gives rows out, beside the limits of this machine
and other stores. What is compared is measured in turns, each system in a process of its own; medians count.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import track

from cluster.bench_machine import machine
from cluster.bench_replay_data import SEGMENT_EPISODES, episodes
from common.errors import StoreError
from replay.store import open_store

Row = dict[str, Any]

OURS = "servofleet"
LIMITS = ("RAM np.take", "numpy memmap")
PEERS = ("lance", "torchrl", "zarr-python", "reverb")
INSERTING = ("lance", "torchrl")
# Ratio -> (goal, must reach it); the others must not exceed theirs.
GOALS = {
    "sample_vs_ram_take": (0.75, True),
    "sample_vs_memmap": (None, True),
    "sample_vs_reverb": (5.0, True),
    "sample_vs_lance": (10.0, True),
    "sample_vs_torchrl": (None, True),
    "sample_vs_zarr_python": (300.0, True),
    "sample_cold_vs_pread": (None, True),
    "episodes_vs_memmap": (0.5, True),
    "episodes_vs_lance": (1.0, True),
    "episodes_vs_torchrl": (None, True),
    "commit_vs_raw_fsync": (0.9, True),
    "insert_vs_lance": (1.0, True),
    "insert_vs_torchrl": (None, True),
    "growth_cost": (1.3, False),
    "index_rebuild_s": (30.0, False),
}


class Worker:
    """A process of `cluster.bench_replay_worker` that has prepared its job; ``missing`` says why it cannot."""

    def __init__(self, **job: Any) -> None:
        """Start it and wait until it is ready.

        Raises:
            StoreError: if it fails; the line says what it said last.
        """
        self._job = job
        one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in `__exit__`
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cluster.bench_replay_worker", json.dumps(job)],
            env={**os.environ, **one, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )
        self.missing: str | None = self.answer().get("missing")

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._said.close()

    def ask(self) -> None:
        """Have it measure once; `answer` waits for the result."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """What it says next; the lines that libraries print are passed over.

        Raises:
            StoreError: if it ended.
        """
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                said: dict[str, Any] = json.loads(line)
                return said
        self._process.wait()
        self._said.seek(0)
        last = self._said.read().strip().splitlines() or [f"exit code {self._process.returncode}"]
        raise StoreError(f"bench replay, {self._job}: {last[-1]}")

    def measure(self) -> dict[str, Any]:
        """One measurement."""
        self.ask()
        return self.answer()


def bench_replay(repeats: int, quick: bool, as_json: bool) -> dict[str, Any]:
    """Measure and print.

    Args:
        repeats: of every figure; the median counts.
        quick: fewer and shorter measurements on a smaller store, and an index of 100,000 episodes instead of a million.
        as_json: print the JSON of design section 3 instead of tables.

    Raises:
        StoreError: if a system fails; one that is not installed is reported missing.
    """
    with tempfile.TemporaryDirectory(prefix="servofleet-bench-") as scratch:
        folder = Path(scratch)
        rows, values = _reading(folder, repeats, quick)
        for part in (_inserting, _growing):
            more, found = part(folder, repeats, quick)
            rows += more
            values |= found
    ratios = [_ratio(name, values.get(name)) for name in GOALS]
    result = {"bench": "replay", "machine": machine(), "rows": rows, "ratios": ratios}
    if as_json:
        print(json.dumps(result))
    else:
        from cluster.bench_replay_report import print_result

        print_result(result, GOALS)
    return result


def _reading(folder: Path, repeats: int, quick: bool) -> tuple[list[Row], dict[str, float | None]]:
    segments, seconds = (4, 0.5) if quick else (20, 1.5)
    path = folder / "store"
    store = open_store(path, "a", create=True)
    writer = store.writer("w", max_episodes=SEGMENT_EPISODES, max_bytes=1 << 32, in_flight=2)
    for e in track(episodes(segments * SEGMENT_EPISODES), "storing", segments * SEGMENT_EPISODES, console=_stderr()):
        writer.append(e)
    writer.close()
    store.close()
    answers: dict[str, list[dict[str, Any]]] = {}
    missing: dict[str, str] = {}
    mapped = f"{OURS}, nothing in RAM"
    with ExitStack() as stack:
        workers = {}
        for name in track((OURS, mapped, *LIMITS, *PEERS), "preparing readers", console=_stderr()):
            place = folder / name.replace(" ", "-")
            place.mkdir()
            system, ram = (OURS, 0) if name == mapped else (name, 1 << 34)
            job = {"system": system, "store": str(path), "scratch": str(place), "ram_bytes": ram, "seconds": seconds}
            worker = stack.enter_context(Worker(task="read", **job))
            if worker.missing is None:
                workers[name] = worker
            else:
                missing[name] = worker.missing
        for _ in track(range(repeats), "reading", console=_stderr()):
            for name, worker in workers.items():
                answers.setdefault(name, []).append(worker.measure())
    with Worker(task="cold", store=str(path), batches=10 if quick else 30) as worker:
        cold = [worker.measure() for _ in range(repeats)]
    rows = []
    for name in (OURS, mapped, *LIMITS, *PEERS):
        for figure, key in (("random_transitions", "rows"), ("whole_episodes", "episodes")):
            found = [a[key] for a in answers.get(name, []) if key in a]
            if found or (name in missing and key == "rows"):
                rows.append(_row(figure, name, found, "transitions/s", missing=missing.get(name)))
    rows.append(_row("random_transitions_cold", mapped, [a["rows"] for a in cold], "transitions/s"))
    rows.append(_row("random_transitions_cold", "pread, one by one", [a["pread"] for a in cold], "transitions/s"))

    def against(name: str, key: str) -> float | None:
        return _per_repeat([a[key] for a in answers[OURS]], [a[key] for a in answers.get(name, []) if key in a])

    values = {
        "sample_vs_ram_take": against("RAM np.take", "rows"),
        "sample_vs_memmap": against("numpy memmap", "rows"),
        "episodes_vs_memmap": against("numpy memmap", "episodes"),
        "sample_cold_vs_pread": _per_repeat([a["rows"] for a in cold], [a["pread"] for a in cold]),
    }
    for peer in PEERS:
        values[f"sample_vs_{peer.replace('-', '_')}"] = against(peer, "rows")
        values[f"episodes_vs_{peer.replace('-', '_')}"] = against(peer, "episodes")
    return rows, values


def _inserting(folder: Path, repeats: int, quick: bool) -> tuple[list[Row], dict[str, float | None]]:
    segments = 3 if quick else 6
    rates: dict[str, list[float]] = {}
    rows: list[Row] = []
    with ExitStack() as stack:
        job: dict[str, Any] = {"task": "insert", "segments": segments}
        workers: dict[str, list[Worker]] = {}
        cases = [(n, flight) for n in (1, 2, 4) for flight in (1, 2)]
        for n, flight in cases:
            place = _made(folder / f"in-{n}-{flight}")
            own = {**job, "system": OURS, "scratch": str(place), "in_flight": flight}
            group = [stack.enter_context(Worker(**own, name=f"w-{k}")) for k in range(n)]
            workers[f"{OURS}, {n} writers, {flight} in flight"] = group
        for peer in INSERTING:
            worker = stack.enter_context(Worker(**job, system=peer, scratch=str(_made(folder / f"in-{peer}"))))
            if worker.missing is None:
                workers[peer] = [worker]
            else:
                rows.append(_row("insert", peer, [], "episodes/s", missing=worker.missing))
        raw = {**job, "segments": 4 if quick else 12, "system": OURS, "raw": True, "name": "w-0"}
        committer = stack.enter_context(Worker(**raw, scratch=str(_made(folder / "commit"))))
        commits: list[float] = []
        against_raw: list[float] = []
        for _ in track(range(repeats), "inserting", console=_stderr()):
            for name, group in workers.items():
                for worker in group:
                    worker.ask()
                answers = [worker.answer() for worker in group]
                slowest = max(a["seconds"] for a in answers)
                rates.setdefault(name, []).append(sum(a["episodes"] for a in answers) / slowest)
                rates.setdefault(f"{name} MB/s", []).append(sum(a["bytes"] for a in answers) / slowest / 1e6)
            answer = committer.measure()
            commits += answer["commits"]
            against_raw += [r / c for r, c in zip(answer["raws"], answer["commits"], strict=True)]
    for name in workers:
        rows.append(_row("insert", name, rates[name], "episodes/s"))
        rows.append(_row("insert", name, rates[f"{name} MB/s"], "MB/s"))
    ordered = sorted(commits)
    for percent in (50, 99):
        value = ordered[min(len(ordered) - 1, percent * len(ordered) // 100)]
        rows.append(_row(f"commit_p{percent}", OURS, [1000.0 * value], "ms", commits=len(ordered)))
    values: dict[str, float | None] = {"commit_vs_raw_fsync": statistics.median(against_raw)}
    for peer in INSERTING:
        values[f"insert_vs_{peer}"] = _per_repeat(rates[f"{OURS}, 1 writers, 2 in flight"], rates.get(peer, []))
    return rows, values


def _growing(folder: Path, repeats: int, quick: bool) -> tuple[list[Row], dict[str, float | None]]:
    few, simulated, seconds = (80, 100_000, 0.5) if quick else (200, 1_000_000, 1.5)
    job = {"episodes": few, "seconds": seconds, "scratch": str(_made(folder / "growth"))}
    with Worker(task="growth", **job) as worker:
        costs = [worker.measure() for _ in range(repeats)]
    rows = [
        _row("sample_cost", f"{OURS}, {count} episodes", [c[name] for c in costs], "us/row", side=32)
        for name, count in (("small", few), ("large", 10 * few))
    ]
    with Worker(task="rebuild", episodes=simulated, scratch=str(_made(folder / "index"))) as worker:
        answer = worker.measure()
    rows.append(_row("index_rebuild", OURS, [answer["seconds"]], "s", episodes=answer["episodes"]))
    return rows, {
        "growth_cost": statistics.median(c["large"] / c["small"] for c in costs),
        "index_rebuild_s": answer["seconds"] * 1_000_000 / answer["episodes"],
    }


def _made(path: Path) -> Path:
    path.mkdir()
    return path


def _stderr() -> Console:
    return Console(stderr=True)


def _per_repeat(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True)) if ours and theirs else None


def _ratio(name: str, value: float | None) -> Row:
    goal, at_least = GOALS[name]
    holds = None
    if goal is not None and value is not None:
        holds = value >= goal if at_least else value <= goal
    return {"name": name, "value": None if value is None else round(value, 3), "goal": goal, "holds": holds}


def _row(name: str, system: str, values: Sequence[float], unit: str, **params: Any) -> Row:
    known = {k: v for k, v in params.items() if v is not None}
    if len(values) > 1:
        known["repeats"] = [round(v, 3) for v in values]
    value = round(statistics.median(values), 3) if values else None
    return {"name": name, "system": system, "value": value, "unit": unit, "params": known}
