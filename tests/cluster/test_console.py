"""What an operator reads: lines where there is no terminal, a panel where there is one."""

import io
import json
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from cluster.console import Display
from cluster.fleet import Totals
from cluster.role_status import RoleStatus
from learner.checkpoint import Checkpoints
from learner.report import METRICS
from replay.store import open_store


class Clock:
    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    time = perf_counter = process_time = monotonic


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in ("console", "status_board"):
        monkeypatch.setattr(f"cluster.{module}.time", clock)
    return clock


@pytest.fixture
def a_program(tmp_path):
    """What the display reads of a program: counters of a fleet; a store and checkpoints, both empty."""
    store = open_store(tmp_path / "store", mode="a", create=True)

    def make(healthy=2):
        totals = Totals()

        def status():
            return RoleStatus("collectors", healthy, 2, totals.failures, samples=totals.rows)

        fleet = SimpleNamespace(totals=totals, status=status)
        config = SimpleNamespace(learner=SimpleNamespace(num_learners=0))
        checkpoints = Checkpoints(tmp_path / "checkpoints", 1)
        return SimpleNamespace(fleet=fleet, config=config, store=store, checkpoints=checkpoints, writer=None)

    yield make
    store.close()


def a_display(**settings):
    out = io.StringIO()
    return Display(Console(file=out, width=100, **settings)), out


def metrics(iou=0.8125):
    values = dict.fromkeys(METRICS, 12.0)
    return values | {
        "iou": iou,
        "iou_ci95": [0.8, 0.9],
        "iou75": 71.4,
        "iou90": 40.2,
        "dt_norm": 0.0523,
        "energy": 1.234,
    }


def a_row(**more):
    return {"samples": 640, "learn_s": 2.0, "sample_s": 0.5, "wait_s": 7.5, "total_loss": 0.12345} | more


def lines(out):
    return out.getvalue().splitlines()


def test_without_a_terminal_there_is_a_line_now_and_then(clock, a_program):
    display, out = a_display()
    program = a_program()
    with display.live(program):
        display.phase("il", 8, 0)
        for _ in range(100):
            display.tick()
            clock.now += 0.1
        assert lines(out) == ["phase il: 8 rounds"]
        program.fleet.totals.frames, program.fleet.totals.rows = 16_000, 3_200
        clock.now += 6.0
        display.round(2, a_row())
        display.tick()
        display.tick()
    assert len(lines(out)) == 2
    assert lines(out)[1] == (
        "phase il  round 2/8  ETA of phase 0:48  render 1600 frames/s  collect 320 rows/s  learn 64 rows/s  "
        "learner waits 80 %  collectors 2/2, 0 restarts  loss 0.123"
    )


def test_rates_are_of_the_last_seconds(clock, a_program):
    display, out = a_display()
    program = a_program()
    with display.live(program):
        display.phase("ppo", 10, 0)
        for frames in (20_000, 21_000):
            clock.now += 20.0
            program.fleet.totals.frames = frames
            display.tick()
    assert [re.search(r"render (\d+)", line)[1] for line in lines(out)[1:]] == ["1000", "50"]


def test_the_last_round_of_a_phase_is_always_told(clock, a_program):
    display, out = a_display()
    with display.live(a_program()):
        display.phase("sil", 1, 0)
        display.round(1, a_row(reward=-0.5, iou_final=0.9))
    assert "round 1/1" in lines(out)[-1] and "reward -0.500" in lines(out)[-1] and "iou_final 0.900" in lines(out)[-1]


def test_a_resumed_phase_says_so_and_expects_by_its_own_pace(clock, a_program):
    display, out = a_display()
    with display.live(a_program()):
        display.phase("il", 100, 90)
        assert lines(out) == ["phase il: 100 rounds, continuing after 90"]
        clock.now += 16.0
        display.tick()
        assert "round 90/100  ETA of phase ?" in lines(out)[-1]
        display.round(92, a_row())
        clock.now += 16.0
        display.tick()
    # 32 s for two rounds, eight to go.
    assert "round 92/100  ETA of phase 2:08" in lines(out)[-1]


def test_an_evaluation_is_told_when_it_ends(clock):
    display, out = a_display()
    display.evaluated("il", {"free": metrics(), "stopped": metrics(0.5)})
    assert lines(out) == ["il: IoU 0.812, IoU75 71 %, IoU90 40 %, dT norm 0.052, energy 1.23"]


def test_a_collector_that_is_gone_can_be_seen(clock, a_program):
    display, out = a_display()
    with display.live(a_program(healthy=1)):
        display.phase("il", 2, 0)
        clock.now += 20.0
        display.tick()
    assert "collectors 1/2, 0 restarts" in lines(out)[-1]


def test_every_failure_of_a_collector_is_told_once(clock, a_program):
    display, out = a_display()
    program = a_program()
    with display.live(program):
        display.phase("il", 2, 0)
        display.tick()
        for number, cause in enumerate(("RayActorError: [pid=7] died", "OSError: [/tmp] is full"), start=1):
            program.fleet.totals.failures, program.fleet.totals.last_failure = number, cause
            display.tick()
            display.tick()
        clock.now += 20.0
        display.tick()
    assert lines(out)[1:3] == [
        "collector failure 1, its task is done again: RayActorError: [pid=7] died",
        "collector failure 2, its task is done again: OSError: [/tmp] is full",
    ]
    assert len(lines(out)) == 4 and "collectors 2/2, 2 restarts" in lines(out)[3]


def test_a_row_without_times_has_no_rates(clock, a_program):
    display, out = a_display()
    with display.live(a_program()):
        display.phase("sil", 1, 0)
        display.round(1, {"samples": 0})
    assert "learn" not in lines(out)[-1]


@pytest.mark.parametrize(
    "text", ["dir = 'runs/[a]/[/b]'", "missing ['encoder.flat']", "[red]x[/red]", "[/]", "a:b:c :tada:"]
)
def test_what_is_said_stands_there_to_the_letter(clock, text):
    display, out = a_display()
    display.say(text)
    assert lines(out) == [text]


def test_long_lines_are_not_broken(clock):
    display, out = a_display()
    display.say("x" * 90 + " " + "y" * 90)
    assert len(lines(out)) == 1


def test_a_terminal_shows_a_panel(clock, a_program):
    display, out = a_display(force_terminal=True, legacy_windows=False)
    with display.live(a_program()):
        display.phase("il", 8, 0)
        clock.now += 3.0
        display.round(3, a_row())
        first = out.getvalue()
        assert "none yet" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", first)
        display.evaluated("il", {"free": metrics()})
        clock.now += 0.3
        display.tick()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue()[len(first) :])
    for wanted in ("servofleet train", "round 3/8", "0:05 to go", "learner", "collectors 75 %", "data 5 %", "2/2"):
        assert wanted in text, wanted
    assert re.search(r"last evaluation +il: IoU 0.812", text)
    # Afterwards the terminal is as it was: the panel is gone, lines are written as before.
    before = out.tell()
    display.say("done")
    display.tick()
    assert out.getvalue()[before:] == "done\n"


def test_a_terminal_is_not_drawn_to_more_than_four_times_a_second(clock, a_program):
    display, out = a_display(force_terminal=True, legacy_windows=False)
    with display.live(a_program()):
        display.phase("il", 8, 0)
        clock.now += 1.0
        display.tick()
        before = out.tell()
        for _ in range(10):
            clock.now += 0.02
            display.tick()
        assert out.tell() == before
        clock.now += 0.1
        display.tick()
        assert out.tell() > before


def test_the_panel_is_taken_down_when_a_run_fails(clock, a_program):
    display, out = a_display(force_terminal=True, legacy_windows=False)
    with pytest.raises(RuntimeError, match="no luck"), display.live(a_program()):
        display.phase("il", 8, 0)
        raise RuntimeError("no luck")
    assert "\x1b[?25h" in out.getvalue()  # the cursor is back
    before = out.tell()
    display.say("stopped")
    assert out.getvalue()[before:] == "stopped\n"


def a_report():
    stages = {"zero": {"free": metrics(0.3), "stopped": metrics(0.3)}, "il": {"free": metrics(), "stopped": metrics()}}
    return {"experiment": "smoke", "seed": 0, "wall_s": 61.7, "suite_sha256": "ab" * 32, "stages": stages}


def test_the_end_shows_the_table_and_where_everything_is(clock, tmp_path):
    display, out = a_display()
    display.report(a_report(), tmp_path)
    text = out.getvalue()
    assert "zero" in text and "0.812" in text
    assert "trained 62 s" in text and f"{tmp_path}/report" in text
    assert f"mlflow ui --backend-store-uri sqlite:///{tmp_path.resolve()}/mlflow.db" in text


def test_a_finished_run_shows_its_table_again(clock, tmp_path):
    path = tmp_path / "report.json"
    path.write_text(json.dumps(a_report()))
    display, out = a_display()
    assert display.finished(path) == a_report()
    assert f"this run is finished: {path}" in lines(out)[0] and "0.812" in out.getvalue()
