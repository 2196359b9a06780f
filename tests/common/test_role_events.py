"""Events: what is told arrives whole, what is captured is bounded, and causes are named."""

import logging
import pickle

import pytest

from common.role_events import Captured, cause, event_of, retell, tell

LOGGER = logging.getLogger("actors.test")


def warn(event, level=logging.WARNING, **fields):
    LOGGER.log(level, "%s", event, extra={"fields": fields})


@pytest.fixture
def captured():
    handler = Captured("collectors", ("actors", "replay"), limit=3)
    yield handler
    handler.close()


def test_what_is_told_is_taken_once_with_its_fields(captured):
    warn("100 % of it failed", logging.ERROR, count=3)
    LOGGER.warning("plain words: %s", "disk")
    first, second = captured.take(collector="c001", host="b")
    assert (first.level, first.role, first.event) == ("ERROR", "collectors", "100 % of it failed")
    assert first.fields == {"count": 3, "collector": "c001", "host": "b"}
    assert second.event == "plain words: disk" and second.fields == {"collector": "c001", "host": "b"}
    assert captured.take() == ()


def test_no_more_than_the_limit_is_kept_and_the_loss_is_told(captured):
    for number in range(10):
        warn(f"event {number}")
    lost, *kept = captured.take()
    assert lost.event == "older events were dropped" and lost.fields == {"count": 7}
    assert [e.event for e in kept] == ["event 7", "event 8", "event 9"]
    warn("later")
    assert [e.event for e in captured.take()] == ["later"]


def test_below_warning_nothing_is_captured_and_after_close_nothing_at_all(captured):
    warn("routine", logging.INFO)
    assert captured.take() == ()
    captured.close()
    warn("too late", logging.ERROR)
    assert captured.take() == ()


def test_events_of_another_process_are_told_with_their_own_time_and_never_come_round_again(captured, caplog):
    warn("failed", logging.ERROR, cause="OSError: full")
    events = pickle.loads(pickle.dumps(captured.take(host="b")))  # noqa: S301 - our own bytes
    caplog.clear()
    retell(events)
    (record,) = caplog.records
    assert event_of(record) == events[0] and events[0].fields == {"cause": "OSError: full", "host": "b"}
    assert captured.take() == ()


def test_what_is_told_to_a_role_is_a_record_of_its_logger(caplog):
    tell("driver", logging.ERROR, "100 % gone", count=1)
    event = event_of(caplog.records[0])
    assert (event.role, event.level, event.event, event.fields) == ("driver", "ERROR", "100 % gone", {"count": 1})


def test_an_exception_names_what_it_came_from(captured):
    try:
        try:
            raise OSError(28, "No space left on device")
        except OSError as e:
            raise ValueError("segment 3\ncannot be written") from e
    except ValueError as e:
        line = cause(e)
        LOGGER.warning("a commit failed", exc_info=True)
    assert line == "ValueError: cannot be written <- OSError: [Errno 28] No space left on device"
    assert captured.take()[0].fields["cause"] == line
    assert cause(KeyboardInterrupt()) == "KeyboardInterrupt"


def test_a_chain_that_bites_its_tail_ends():
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert cause(first) == "ValueError: a <- ValueError: b"


def test_long_texts_are_cut():
    record = LOGGER.makeRecord(LOGGER.name, logging.ERROR, "", 0, "x" * 100_000, (), None)
    assert len(event_of(record).event) == 4000
