"""The board: its numbers are those of the parts, it writes in time and cheaply, and never fails a run."""

import dataclasses
import json
import logging
import os
import time
from types import SimpleNamespace

import pytest

from cluster.draining import Drained
from cluster.fleet import Totals
from cluster.role_log import RoleLogs
from cluster.role_status import RoleStatus
from cluster.status import FILE, read_status
from cluster.status_board import StatusBoard
from common.errors import StoreError
from common.role_events import tell
from learner.checkpoint import Checkpoints
from replay.store import open_store


class Clock:
    now = 5000.0

    def monotonic(self):
        return self.now

    time = process_time = monotonic

    def perf_counter(self):
        return self.now


class Index:
    """Counts, at a price."""

    def __init__(self, clock):
        self.clock, self.asked, self.cost = clock, 0, 0.0

    def rows(self, sql, values=()):
        self.asked += 1
        self.clock.now += self.cost / 2
        return [(3, 36)] if "episodes" in sql else [(7000,)]


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("cluster.status_board.time", clock)
    return clock


class Fleet:
    """Collectors of which a test says what they did."""

    def __init__(self):
        self.totals, self.role = Totals(), RoleStatus("collectors", 2, 2)

    def status(self):
        return self.role

    def did(self, **changes):
        self.role = dataclasses.replace(self.role, **changes)


@pytest.fixture
def program(clock, tmp_path):
    index = Index(clock)
    config = SimpleNamespace(learner=SimpleNamespace(num_learners=0))
    store = SimpleNamespace(index=index)
    cuts = Checkpoints(tmp_path / "cuts", 2)
    return SimpleNamespace(fleet=Fleet(), config=config, store=store, checkpoints=cuts, writer=None)


@pytest.fixture
def board(clock, program, tmp_path):
    said = []
    board = StatusBoard(said.append)
    board.said = said
    board.open(tmp_path, "smoke-s0", 1)
    board.attach(program)
    board.phase("il", 8, 0)
    return board


def role(status, name):
    (found,) = [r for r in status.roles if r.status.role == name]
    return found


def a_row(**more):
    return {"samples": 640, "learn_s": 2.0, "sample_s": 0.5, "wait_s": 7.5} | more


def test_rates_are_of_the_last_seconds(board, program, clock):
    for second in range(1, 31):
        clock.now += 1.0
        program.fleet.totals.frames = 100 * second if second <= 15 else 1500
        program.fleet.did(samples=20 * second, seconds={"total": 1.0 * second, "wait_store_disk": 0.5 * second})
        board.tick()
    status = board.status()
    assert status.frames_per_s == 0.0  # the first half is forgotten
    collectors = role(status, "collectors")
    assert collectors.samples_per_s == pytest.approx(20.0)
    # Of two collectors' time, half is accounted for.
    assert collectors.waits == pytest.approx({"store_disk": 0.25, "tasks": 0.5})


def test_the_learner_is_what_its_rounds_say(board, clock):
    clock.now += 10.0
    board.round(1, a_row(policy_lag_versions=1.5, policy_lag_s=3.0, checkpoint_s=0.25))
    clock.now += 10.0
    board.round(2, a_row(wait_s=0.0))
    status = board.status()
    learner = role(status, "learner")
    assert learner.status.samples == 1280 and learner.samples_per_s == 640 / 2.5
    assert learner.waits == {"data": 0.2, "collectors": 0.0}
    assert learner.status.seconds == {"learn": 4.0, "wait_data": 1.0, "wait_collectors": 7.5}
    assert role(status, "driver").status.seconds["wait_checkpoint"] == 0.25
    assert status.eta_s == 60.0
    assert status.policy_lag_versions == 1.5  # not measured in the last round
    assert learner.status.rss_bytes == role(status, "driver").status.rss_bytes > 50e6


def test_lag_and_limiter_are_those_of_the_round(board):
    limiter = {"inserts": 36, "samples": 640, "balance": "-7/2", "removed": 0, "settings": {"error_band": 8.0}}
    board.round(1, a_row(policy_lag_versions=1.5, policy_lag_s=3.0, insert_wait=0.5, sample_wait=0.0), limiter)
    status = board.status()
    assert (status.policy_lag_versions, status.policy_lag_s) == (1.5, 3.0)
    wanted = {"inserts": 36.0, "samples": 640.0, "balance": -3.5, "insert_wait": 0.5, "sample_wait": 0.0}
    assert status.limiter == wanted
    numbers = board.numbers()
    assert numbers["limiter/balance"] == -3.5 and numbers["policy_lag_versions"] == 1.5
    assert numbers["replay/rows"] == 36.0 and numbers["collectors/alive"] == 2.0
    assert all(isinstance(value, float) for value in numbers.values())
    free = limiter | {"settings": {"error_band": "inf"}}
    board.round(2, a_row(), free)
    assert "balance" not in board.status().limiter  # no ratio to keep
    board.phase("ppo", 2, 0)
    assert board.status().limiter == {} and board.status().policy_lag_versions is None


def test_it_is_written_every_two_seconds(board, clock, tmp_path):
    def written():
        return read_status(tmp_path).written

    before = written()
    clock.now += 1.9
    board.tick()
    assert written() == before
    clock.now += 0.2
    board.tick()
    assert written() > before and read_status(tmp_path).replay == {"rows": 36, "episodes": 3, "bytes": 7000}


def test_counting_a_large_store_takes_one_percent_of_the_time(board, program, clock):
    program.store.index.cost = 0.5
    clock.now += 60.0
    board.tick()
    asked, began = program.store.index.asked, clock.now
    while clock.now < began + 500.0:
        clock.now += 1.0
        board.tick()
    assert 2 * 8 <= program.store.index.asked - asked <= 2 * 10


def test_a_status_that_cannot_be_written_is_said_once_and_tried_again(board, clock, tmp_path):
    blocker = tmp_path / f".{FILE}.tmp"
    blocker.mkdir()
    for _ in range(5):
        clock.now += 3.0
        board.tick()
    assert len(board.said) == 1 and "status.json cannot be written" in board.said[0]
    blocker.rmdir()
    clock.now += 3.0
    board.tick()
    assert (tmp_path / FILE).exists() and len(board.said) == 1
    assert read_status(tmp_path).written == board.status().written


def test_failures_and_restarts_are_told_and_logged(board, program, clock, tmp_path):
    with RoleLogs(tmp_path, print):
        program.fleet.totals.failures, program.fleet.totals.last_failure = 2, "died: SIGKILL on node a"
        program.fleet.did(alive=1, restarts=2, causes={"died: SIGKILL": 2})
        clock.now += 1.0
        assert board.tick() == "collector failure 2, its task is done again: died: SIGKILL on node a"
        assert board.tick() == ""
        board.learner_lost(RuntimeError("device fell off"))
    log = [json.loads(line) for line in (tmp_path / "logs" / "collectors.jsonl").read_text().splitlines()]
    assert [(e["level"], e["event"]) for e in log] == [
        ("ERROR", "failed"),
        ("WARNING", "restarted"),
        ("INFO", "alive"),
    ]
    assert log[0]["fields"]["cause"] == "died: SIGKILL on node a" and log[1]["fields"]["causes"] == {"died: SIGKILL": 2}
    status = board.status()
    assert role(status, "learner").status.restarts == 1
    assert status.last_failure == "learner: RuntimeError: device fell off"


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (None, "finished"),
        (KeyboardInterrupt(), "stopped"),
        (Drained("SIGTERM"), "stopped"),
        (StoreError("disk"), "failed"),
    ],
)
def test_the_end_is_written(board, program, tmp_path, error, state):
    board.round(1, a_row())
    board.detach()
    program.fleet.status = None  # the parts are gone
    board.close(error)
    status = read_status(tmp_path)
    assert status.state == state and (status.last_failure == "StoreError: disk") == (state == "failed")
    assert [(r.status.alive, r.status.wanted) for r in status.roles] == [(0, 0)] * 3
    assert role(status, "learner").status.samples == 640
    board.tick()  # says and writes nothing any more


def test_the_newest_checkpoint_is_shown(board, program, clock):
    assert board.status().checkpoint is None
    program.checkpoints.save(7, {}, {})
    clock.now += 11.0
    status = board.status()
    assert status.checkpoint == 7 and status.checkpoint_written is not None


def test_evaluations_are_a_state_and_logged(board, tmp_path):
    with RoleLogs(tmp_path, print):
        board.evaluating("il", 64)
        assert board.status().state == "evaluating"
        board.evaluated("il", "il: IoU 0.8", {"iou": 0.8})
    assert board.status().state == "training" and board.status().evaluation == "il: IoU 0.8"
    log = [json.loads(line) for line in (tmp_path / "logs" / "evaluator.jsonl").read_text().splitlines()]
    assert log[1]["fields"] == {"stage": "il", "iou": 0.8}


def test_a_write_takes_less_than_a_millisecond(program, tmp_path, monkeypatch):
    """On a real store and the real clock; CPU time of the better ones, since others share the machine."""
    monkeypatch.setattr("cluster.status_board.time", time)
    monkeypatch.setattr("cluster.status_board.WRITE_EVERY_S", 0.0)
    store = open_store(tmp_path / "store", mode="a", create=True)
    program.store = store
    board = StatusBoard(print)
    board.open(tmp_path, "smoke-s0", 0)
    board.attach(program)
    board.phase("il", 8, 0)
    board.round(1, a_row())
    seconds = []
    for _ in range(200):
        began = time.thread_time()
        board.tick()
        seconds.append(time.thread_time() - began)
    store.close()
    assert json.loads((tmp_path / FILE).read_text())["pid"] == os.getpid()
    assert sorted(seconds)[20] < 1e-3


def test_without_a_run_directory_nothing_is_written(program, clock, tmp_path):
    board = StatusBoard(print)
    board.attach(program)
    board.phase("il", 1, 0)
    clock.now += 10.0
    board.tick()
    assert not (tmp_path / FILE).exists()
    tell("driver", logging.INFO, "nobody listens")
