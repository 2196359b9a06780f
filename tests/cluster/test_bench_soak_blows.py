"""Blows are drawn from a seed and reach real processes, each of them once."""

import signal
import subprocess
import time

import pytest

from cluster.bench_soak_blows import WRITER_STOPPED_S, Blow, Striker, draw_blows
from cluster.bench_soak_processes import Process


@pytest.fixture
def sleepers():
    started = [subprocess.Popen(["sleep", "60"]) for _ in range(3)]
    yield started
    for process in started:
        process.kill()
        process.wait()


def state_of(process):
    return open(f"/proc/{process.pid}/stat").read().rsplit(")", 1)[1].split()[0]


def test_so_many_kills_and_a_tenth_of_stops_within_the_time():
    blows = draw_blows(1800.0, 100, 7)
    assert sum(not b.stop for b in blows) == 100 and sum(b.stop for b in blows) == 10
    assert {b.role for b in blows} == {"collectors", "writer"}
    times = [b.at_s for b in blows]
    assert times == sorted(times) and times[0] >= 90.0 and times[-1] <= 1620.0
    assert blows == draw_blows(1800.0, 100, 7) != draw_blows(1800.0, 100, 8)
    assert draw_blows(60.0, 0, 1) == []


def test_a_kill_reaches_its_role_when_it_is_due(sleepers):
    writer, *collectors = sleepers
    processes = [Process(writer.pid, 1, "writer"), *(Process(c.pid, 1, "collectors") for c in collectors)]
    striker = Striker([Blow(5.0, "collectors", False, 0.9)])
    assert not striker.due(4.0)
    striker.strike(4.0, processes)
    assert striker.kills == 0
    assert striker.due(5.0)
    striker.strike(5.0, processes)
    assert collectors[1].wait(10) == -signal.SIGKILL and writer.poll() is None is collectors[0].poll()
    assert striker.kills == 1 and not striker.due(99.0)


def test_a_blow_waits_for_another_process_to_play_the_role(sleepers):
    first, second, _ = (Process(s.pid, 1, "collectors") for s in sleepers)
    striker = Striker([Blow(1.0, "collectors", False, 0.0)] * 2)
    striker.strike(1.0, [first])
    striker.strike(2.0, [first])
    assert striker.kills == 1 and striker.due(2.0)
    striker.strike(3.0, [first, second])
    assert sleepers[1].wait(10) == -signal.SIGKILL and striker.kills == 2


def test_a_process_may_live_for_a_moment_before_it_is_struck(sleepers):
    (victim, *_) = (Process(s.pid, 1, "collectors") for s in sleepers)
    striker = Striker([Blow(1.0, "collectors", False, 0.0)], life_s=2.0)
    striker.strike(1.0, [victim])
    striker.strike(2.5, [victim])
    assert striker.kills == 0 and striker.due(2.5)
    striker.strike(3.0, [victim])
    assert sleepers[0].wait(10) == -signal.SIGKILL and striker.kills == 1


def test_a_stopped_writer_goes_on_and_a_stopped_collector_does_not(sleepers):
    writer, collector, _ = sleepers
    processes = [Process(writer.pid, 1, "writer"), Process(collector.pid, 1, "collectors")]
    striker = Striker([Blow(0.0, "writer", True, 0.0), Blow(0.0, "collectors", True, 0.0)])
    striker.strike(0.0, processes)
    wait_for(lambda: (state_of(writer), state_of(collector)) == ("T", "T"))
    striker.strike(WRITER_STOPPED_S, processes)
    wait_for(lambda: state_of(writer) == "S")
    assert state_of(collector) == "T"
    assert (striker.kills, striker.stops) == (0, 2) and not striker.due(99.0)


def wait_for(holds):
    deadline = time.monotonic() + 10.0
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)
