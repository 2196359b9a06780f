"""Events: what is told arrives whole, what is captured is bounded, and causes are named."""

import logging
import pickle

import pytest

from common.role_events import Captured, cause, event_of, retell, tell

LOGGER = logging.getLogger("servofleet.collectors")


@pytest.fixture
def captured():
    handler = Captured("collectors", limit=3)
    yield handler
    handler.close()


def test_what_is_told_is_taken_once_with_its_fields(captured):
    tell("collectors", logging.ERROR, "100 % of it failed", count=3)
    LOGGER.warning("plain words: %s", "disk")
    first, second = captured.take(collector="c001", host="b")
    assert (first.level, first.role, first.event) == ("ERROR", "collectors", "100 % of it failed")
    assert first.fields == {"count": 3, "collector": "c001", "host": "b"}
    assert second.event == "plain words: disk" and second.fields == {"collector": "c001", "host": "b"}
    assert captured.take() == ()


def test_no_more_than_the_limit_is_kept_and_the_loss_is_told(captured):
    for number in range(10):
        tell("collectors", logging.WARNING, f"event {number}")
    lost, *kept = captured.take()
    assert lost.event == "older events were dropped" and lost.fields == {"count": 7}
    assert [e.event for e in kept] == ["event 7", "event 8", "event 9"]
    tell("collectors", logging.WARNING, "later")
    assert [e.event for e in captured.take()] == ["later"]


def test_below_warning_nothing_is_captured_and_after_close_nothing_at_all(captured):
    tell("collectors", logging.INFO, "routine")
    assert captured.take() == ()
    captured.close()
    tell("collectors", logging.ERROR, "too late")
    assert captured.take() == ()


def test_events_of_another_process_are_told_with_their_own_time(captured):
    tell("collectors", logging.ERROR, "failed", cause="OSError: full")
    events = pickle.loads(pickle.dumps(captured.take(host="b")))  # noqa: S301 - our own bytes
    retell(events)
    assert captured.take() == events


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
