"""`servofleet status`: what another shell says of runs that train, ended, were killed, hang, or never were."""

import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import time

import pytest

from cluster.cli import main
from cluster.role_log import RoleLogs
from cluster.role_status import RoleStatus
from cluster.status import FILE, RoleRates, RunStatus, own_process, process, read_status, seconds_of, utc, write_status
from cluster.status_verb import look
from common.errors import ServofleetError
from common.role_events import tell

NOW = 1_800_000_000.0


def a_status(**changes):
    host, pid, began = own_process()
    roles = (
        RoleRates(RoleStatus("driver", 1, 1, rss_bytes=700_000_000)),
        RoleRates(RoleStatus("learner", 1, 1, samples=640), 64.0, {"collectors": 0.75, "data": 0.05}),
        RoleRates(
            RoleStatus("collectors", 1, 2, 3, {"died: SIGKILL": 2, "hung": 1}, 5_000, 100, {"total": 2.0}, "hung"), 9.5
        ),
    )
    status = RunStatus(
        "smoke-s0", 1, host, pid, began, utc(NOW - 600), utc(NOW), "training", "il", 3, 8, 65.0, roles, 150.0, 1.5, 2.5,
        {"rows": 1224, "episodes": 136, "bytes": 1_600_000},
        {"inserts": 10.0, "samples": 40.0, "balance": -2.0, "insert_wait": 0.5, "sample_wait": 0.25},
        5, utc(NOW - 30), "collectors: hung", "il: IoU 0.812", {"total_loss": 0.5},
    )  # fmt: skip
    return dataclasses.replace(status, **changes)


@pytest.fixture
def run(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


@pytest.fixture
def sleeper():
    """Another process: (pid, when it began)."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield child.pid, process(child.pid)[1]
    child.kill()
    child.wait()


def test_what_is_written_is_read(run):
    write_status(run, a_status())
    assert read_status(run) == a_status()
    write_status(run, a_status(round=4))
    assert read_status(run).round == 4
    assert sorted(p.name for p in run.iterdir()) == ["config.json", FILE]
    assert seconds_of(utc(NOW)) == NOW


def test_the_layout_is_what_others_read(run):
    """Names that dashboards may hold on to: change them with the version."""
    write_status(run, a_status())
    found = json.loads((run / FILE).read_text())
    assert set(found) == {
        "run_id", "attempt", "host", "pid", "pid_began", "started", "written", "state", "phase", "round", "rounds",
        "eta_s", "roles", "frames_per_s", "policy_lag_versions", "policy_lag_s", "replay", "limiter", "checkpoint",
        "checkpoint_written", "last_failure", "evaluation", "metrics", "version",
    }  # fmt: skip
    assert found["version"] == 1
    assert found["roles"][2] == {
        "role": "collectors", "alive": 1, "wanted": 2, "restarts": 3, "causes": {"died: SIGKILL": 2, "hung": 1},
        "rss_bytes": 5_000, "samples": 100, "seconds": {"total": 2.0}, "last_failure": "hung", "samples_per_s": 9.5,
        "waits": {},
    }  # fmt: skip


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"version": 1}', '{"version": 1, "roles": [{}]}'])
def test_a_broken_status_is_named(run, text):
    (run / FILE).write_text(text)
    with pytest.raises(ServofleetError, match=r"status\.json: not a run's status"):
        look(run, NOW)


def test_a_status_of_another_version_is_refused(run):
    (run / FILE).write_text('{"version": 2}')
    with pytest.raises(ServofleetError, match=r"version = 2: allowed is 1"):
        look(run, NOW)


@pytest.mark.parametrize(("made", "wanted"), [(False, "no such directory"), (True, "holds no run")])
def test_without_a_run_there_is_one_line(tmp_path, capsys, made, wanted):
    run = tmp_path / "run"
    if made:
        run.mkdir()
    assert main(["status", str(run)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and wanted in err and "servofleet train" in err


def test_a_run_without_a_status(run):
    view = look(run, NOW)
    assert view.state == "unknown" and not view.ok and "servofleet train" in view.says
    (run / "report.json").write_text("{}")
    assert look(run, NOW).state == "finished" and look(run, NOW).ok


def test_a_driver_that_writes_runs(run):
    write_status(run, a_status())
    view = look(run, NOW + 5.0)
    assert (view.state, view.ok, view.age_s) == ("running", True, 5.0)


def test_a_driver_that_is_long_silent_may_hang(run):
    write_status(run, a_status())
    view = look(run, NOW + 61.0)
    assert view.state == "silent" and not view.ok and "1:01 ago" in view.says


def test_a_driver_that_died_without_a_word_was_killed(run, sleeper):
    pid, began = sleeper
    write_status(run, a_status(pid=pid, pid_began=began))
    assert look(run, NOW).state == "running"
    os.kill(pid, signal.SIGKILL)
    while process(pid)[0] != "Z":
        time.sleep(0.01)
    assert look(run, NOW).state == "killed"  # a zombie trains nothing
    os.waitpid(pid, 0)
    view = look(run, NOW)
    assert view.state == "killed" and not view.ok and "goes on from the last checkpoint" in view.says


def test_a_pid_that_is_used_again_is_not_the_driver(run, sleeper):
    pid, began = sleeper
    write_status(run, a_status(pid=pid, pid_began=began - 1))
    assert look(run, NOW).state == "killed"


def test_a_driver_that_is_suspended_is_told_how_to_wake(run, sleeper):
    pid, began = sleeper
    write_status(run, a_status(pid=pid, pid_began=began))
    os.kill(pid, signal.SIGSTOP)
    while process(pid)[0] != "T":
        time.sleep(0.01)
    view = look(run, NOW)
    assert view.state == "silent" and f"kill -CONT {pid}" in view.says


def test_of_another_host_only_the_age_tells(run):
    write_status(run, a_status(host="elsewhere", pid=2**22 + 1))
    assert look(run, NOW + 5.0).state == "running"
    view = look(run, NOW + 61.0)
    assert view.state == "silent" and "elsewhere" in view.says


@pytest.mark.parametrize(("state", "ok"), [("finished", True), ("stopped", True), ("failed", False)])
def test_a_run_that_is_over_says_how_it_ended(run, state, ok):
    write_status(run, a_status(state=state, pid=2**22 + 1, last_failure="OSError: full"))
    view = look(run, NOW + 7200.0)
    assert (view.state, view.ok) == (state, ok)
    assert ("OSError: full" in view.says) == (state == "failed")
    assert ("servofleet train" in view.says) == (state != "finished")


def test_the_shell_shows_it_all(run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "110")
    with RoleLogs(run, print):
        tell("collectors", logging.ERROR, "task failed", cause="RayActorError: [pid=7] died")
    write_status(run, a_status(written=utc(time.time())))
    assert main(["status", str(run)]) == 0
    out = capsys.readouterr().out
    for wanted in (
        "smoke-s0", "training il", "round 3/8, 1:05 to go", "collectors 75 %, data 5 %", "700 MB", "1/2",
        "3 (2 died: SIGKILL, 1 hung)", "1.5 versions, 2.5 s", "1224 rows, 136 episodes, 1.6 MB", "loss 0.500",
        "10 rows in, 40 drawn, balance -2; held back: learner 25 %, collectors 50 %", "il: IoU 0.812",
        "last error of collectors", "task failed: RayActorError: [pid=7] died",
    ):  # fmt: skip
        assert wanted in out, wanted


def test_json_is_one_object(run, capsys):
    write_status(run, a_status(written=utc(time.time())))
    assert main(["status", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"ok", "state", "says", "age_s", "status", "errors"}
    assert found["state"] == "running" and found["status"]["roles"][1]["waits"] == {"collectors": 0.75, "data": 0.05}


def test_who_stops_watching_stops_nothing(run, capsys, monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    write_status(run, a_status(written=utc(time.time())))
    monkeypatch.setattr("cluster.status_verb.time.sleep", interrupt)
    assert main(["status", str(run), "--watch", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["state"] == "running" and err == ""


def test_watching_follows_until_the_run_is_over(run, capsys, monkeypatch):
    write_status(run, a_status(written=utc(time.time())))
    rounds = iter([4, 4, 5])

    def goes_on(seconds):
        number = next(rounds, None)
        state = "finished" if number is None else "training"
        write_status(run, a_status(written=utc(NOW + (number or 9)), round=number or 8, state=state))

    monkeypatch.setattr("cluster.status_verb.time.sleep", goes_on)
    monkeypatch.setattr("cluster.status_verb.time.time", lambda: NOW + 10.0)
    assert main(["status", str(run), "--watch"]) == 0
    lines = capsys.readouterr().out.splitlines()
    # What did not change is not told again.
    assert [line.split("round ")[1][:3] for line in lines[:-1]] == ["3/8", "4/8", "5/8", "8/8"]
    assert lines[-1].startswith("finished")
