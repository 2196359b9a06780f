"""What ends mean, when a server is replaced, how long is waited, and when it is enough."""

import signal

import pytest

from actors.render_service import exit_codes
from actors.render_service.supervisor_policy import COUNTED, End, FailureRecord, Health, end_of_exit, recycle_due
from common.config import RendererConfig

CRASH = End("crashed", "killed by SIGSEGV")


@pytest.mark.parametrize(
    ("code", "cause", "words"),
    [
        (exit_codes.BAD_ARGUMENTS, "bad_arguments", "exit code 64: its command line is refused"),
        (exit_codes.BACKEND_UNAVAILABLE, "cannot_start", "exit code 69"),
        (exit_codes.BACKEND_FAILED, "crashed", "exit code 70"),
        (exit_codes.OUT_OF_MEMORY, "out_of_memory", "more fleet.shards make smaller batches"),
        (exit_codes.RECYCLE, "recycled", "asked to be replaced"),
        (-signal.SIGSEGV, "crashed", "killed by SIGSEGV"),
        (-signal.SIGKILL, "crashed", "where memory runs out"),
        (exit_codes.DRAINED, "crashed", "exit code 0, though nobody asked it to end"),
        (1, "crashed", "exit code 1"),
    ],
)
def test_every_exit_has_a_cause(code, cause, words):
    end = end_of_exit(code, was_up=True)
    assert end.cause == cause and words in end.detail


def test_a_server_that_asks_to_be_replaced_before_it_answered_would_be_started_for_ever():
    assert end_of_exit(exit_codes.RECYCLE, was_up=False).cause == "crashed"


@pytest.mark.parametrize(
    ("limits", "health", "words"),
    [
        ({}, Health(10**9, 10**15, 10**15), ""),
        ({"recycle_resets": 100}, Health(resets=99), ""),
        ({"recycle_resets": 100}, Health(resets=100), "resets = 100 reached renderer.recycle_resets = 100"),
        ({"recycle_rss_bytes": 10}, Health(rss_bytes=11), "rss_bytes = 11 reached"),
        ({}, Health(advised=True), "its backend advises it"),
        ({"recycle_vram_bytes": 10}, Health(vram_bytes=12), "vram_bytes = 12 reached"),
    ],
)
def test_a_server_is_due_by_what_it_says_of_itself(limits, health, words):
    due = recycle_due(health, RendererConfig(**limits))
    assert due.startswith(words) and bool(due) == bool(words)


def test_waits_grow_with_the_failures_of_the_window():
    record = FailureRecord(RendererConfig(backoff_s=[1.0, 5.0], window_s=100.0, max_failures=9))
    waits = []
    for now in (0.0, 10.0, 20.0, 500.0):
        record.add(CRASH, now)
        waits.append(record.delay(CRASH))
    assert waits == [1.0, 5.0, 5.0, 1.0]


def test_too_many_failures_in_the_window_are_the_end_and_are_named():
    record = FailureRecord(RendererConfig(window_s=100.0, max_failures=3))
    hung = End("hung", "no answer")
    for now, end in ((0.0, CRASH), (60.0, hung), (110.0, CRASH)):
        record.add(end, now)
        assert record.quarantine(end) == ""  # the first is forgotten when the third comes
    record.add(hung, 120.0)
    allowed = "renderer.max_failures = 3 within 100 s: crashed 1 x, hung 2 x; last: no answer"
    assert record.quarantine(hung) == allowed
    assert record.counts == {"crashed": 2, "hung": 2}


def test_planned_replacements_neither_wait_nor_count():
    record = FailureRecord(RendererConfig(max_failures=2))
    planned = End("recycled", "resets")
    for now in range(50):
        record.add(planned, float(now))
        assert record.delay(planned) == 0.0 and record.quarantine(planned) == ""
    record.add(CRASH, 50.0)
    assert record.quarantine(CRASH) == "" and record.delay(CRASH) > 0.0


def test_bad_arguments_are_not_tried_again():
    record, end = FailureRecord(RendererConfig()), end_of_exit(exit_codes.BAD_ARGUMENTS, was_up=False)
    record.add(end, 0.0)
    assert "command line is refused" in record.quarantine(end)
    assert "bad_arguments" not in COUNTED
