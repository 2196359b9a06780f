"""One log per role: JSON lines, bounded, and never a reason for a run to fail."""

import json
import logging
from datetime import datetime

import pytest

from cluster.role_log import BACKUPS, RoleLogs, last_errors
from common.role_events import Event, retell, tell


@pytest.fixture
def said():
    return []


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_role_has_a_file_of_its_own(tmp_path, said):
    with RoleLogs(tmp_path, said.append):
        tell("driver", logging.INFO, "started", pid=7)
        tell("collectors", logging.ERROR, "task failed", cause="OSError: full")
    tell("driver", logging.INFO, "too late")
    (line,) = lines(tmp_path / "logs" / "driver.jsonl")
    assert datetime.fromisoformat(line.pop("time")).utcoffset().total_seconds() == 0
    assert line == {"level": "INFO", "role": "driver", "event": "started", "fields": {"pid": 7}}
    assert lines(tmp_path / "logs" / "collectors.jsonl")[0]["fields"] == {"cause": "OSError: full"}
    assert said == []


def test_what_modules_log_in_words_is_shown_and_what_is_told_is_not(tmp_path, said):
    with RoleLogs(tmp_path, said.append):
        logging.getLogger("servofleet.learner").warning("an update was skipped: %s", "loss is nan")
        logging.getLogger("servofleet.learner").info("fine")
        tell("learner", logging.ERROR, "lost", cause="x")
    assert said == ["warning: an update was skipped: loss is nan"]
    assert [e["event"] for e in lines(tmp_path / "logs" / "learner.jsonl")] == [
        "an update was skipped: loss is nan",
        "fine",
        "lost",
    ]


def test_events_from_elsewhere_keep_their_time(tmp_path, said):
    with RoleLogs(tmp_path, said.append):
        retell([Event(0.25, "ERROR", "collectors", "failed", {"host": "b"})])
    assert lines(tmp_path / "logs" / "collectors.jsonl")[0]["time"] == "1970-01-01T00:00:00.250+00:00"


def test_a_log_is_bounded_and_keeps_the_newest(tmp_path, said):
    with RoleLogs(tmp_path, said.append, max_bytes=5000):
        for number in range(1000):
            tell("driver", logging.INFO, "round", number=number)
    files = sorted((tmp_path / "logs").iterdir())
    assert len(files) == 1 + BACKUPS and all(f.stat().st_size <= 5000 for f in files)
    assert lines(tmp_path / "logs" / "driver.jsonl")[-1]["fields"] == {"number": 999}


def test_values_that_json_does_not_know_are_text(tmp_path, said):
    with RoleLogs(tmp_path, said.append):
        tell("driver", logging.INFO, "odd", path=tmp_path)
    assert lines(tmp_path / "logs" / "driver.jsonl")[0]["fields"] == {"path": str(tmp_path)}


def test_a_log_that_cannot_be_written_is_complained_of_once(tmp_path, said):
    (tmp_path / "logs" / "driver.jsonl").mkdir(parents=True)
    with RoleLogs(tmp_path, said.append):
        for _ in range(3):
            tell("driver", logging.INFO, "started")
        tell("learner", logging.INFO, "phase")
    assert len(said) == 1 and "driver.jsonl" in said[0] and "IsADirectoryError" in said[0]
    assert len(lines(tmp_path / "logs" / "learner.jsonl")) == 1


def test_the_last_error_of_each_role_is_found(tmp_path, said):
    assert last_errors(tmp_path) == {}
    with RoleLogs(tmp_path, said.append, max_bytes=3000):
        tell("collectors", logging.ERROR, "task failed", cause="first")
        tell("collectors", logging.ERROR, "task failed", cause="second")
        for _ in range(25):  # into the next file, not out of the one before
            tell("collectors", logging.INFO, "alive")
        tell("driver", logging.INFO, "started")
        tell("learner", logging.ERROR, "lost", cause="third")
    with open(tmp_path / "logs" / "learner.jsonl", "a") as f:
        f.write('{"time": "2026-')  # a line being written
    assert (tmp_path / "logs" / "collectors.jsonl.1").exists()
    found = last_errors(tmp_path)
    assert {role: e["fields"]["cause"] for role, e in found.items()} == {"collectors": "second", "learner": "third"}
