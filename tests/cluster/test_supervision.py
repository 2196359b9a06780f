"""The rules of supervision on written times: no process, no clock."""

import pytest

from cluster.supervision import Beats, Cause, Supervision, WatchedTime
from common.config import FleetConfig

DIED, HUNG, RAISED = Cause("died", "SIGKILL"), Cause("hung"), Cause("raised", "RuntimeError")
LOST, OLD = Cause("node lost"), Cause("recycled", "age")


def rules(**settings):
    return Supervision(FleetConfig(**settings))


def test_the_first_replacement_is_immediate_and_each_further_one_waits_twice_as_long():
    supervision, waits = rules(), []
    for k in range(10):
        supervision.lost(0, "n", DIED, 1000.0 * k, set())
        waits.append(supervision.start_at(0) - 1000.0 * k)
    assert waits == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert supervision.start_at(1) == 0.0  # another slot


def test_a_finished_task_ends_the_back_off():
    supervision = rules()
    for now in (1.0, 2.0, 3.0):
        supervision.lost(0, "n", DIED, now, set())
    supervision.done(0, "n")
    supervision.lost(0, "n", DIED, 4.0, set())
    assert supervision.start_at(0) == 4.0


def test_the_budget_counts_what_is_blamed_within_its_window():
    supervision = rules(max_restarts=2, restart_window_s=100.0)
    for now, cause in ((0.0, DIED), (50.0, HUNG), (60.0, LOST), (60.0, OLD), (70.0, LOST)):
        supervision.lost(0, "n", cause, now, set())
    assert supervision.exceeded(99.0) == ""
    supervision.lost(1, "n", RAISED, 99.5, set())
    assert supervision.exceeded(99.5) == "fleet.max_restarts = 2 is used up within fleet.restart_window_s = 100"
    assert supervision.exceeded(100.0) == ""  # the first is out of the window
    assert supervision.causes == {
        "died: SIGKILL": 1,
        "hung": 1,
        "node lost": 2,
        "recycled: age": 1,
        "raised: RuntimeError": 1,
    }


def test_without_a_window_the_budget_is_the_run_s():
    supervision = rules(max_restarts=1, restart_window_s=0.0)
    supervision.lost(0, "n", DIED, 0.0, set())
    supervision.lost(0, "n", DIED, 1e6, set())
    assert supervision.exceeded(2e6) == "fleet.max_restarts = 1 is used up"


def test_lost_nodes_and_renewal_neither_wait_nor_count():
    supervision = rules(max_restarts=0)
    for now, cause in enumerate([LOST, OLD] * 5):
        supervision.lost(0, "n", cause, float(now), {"m"})
        assert supervision.start_at(0) == now
    assert supervision.exceeded(10.0) == "" and supervision.quarantined(10.0) == frozenset()


def test_three_in_a_row_shut_a_node_for_a_while_and_then_one_does():
    supervision = rules(quarantine_s=100.0)
    said = [supervision.lost(k, "bad", DIED, float(k), {"good", "bad"}) for k in range(3)]
    assert said == ["", "", "node bad quarantined for 100 s after 3 in a row (died: SIGKILL)"]
    assert supervision.quarantined(101.9) == {"bad"} and supervision.quarantined(102.1) == frozenset()
    assert supervision.lost(0, "bad", HUNG, 110.0, {"good"}) and supervision.quarantined(150.0) == {"bad"}
    supervision.quarantined(300.0)
    supervision.done(0, "bad")
    assert [supervision.lost(0, "bad", HUNG, 301.0, {"good"}) for _ in range(2)] == ["", ""]


def test_a_finished_task_in_between_shuts_no_node():
    supervision = rules()
    for k in range(9):
        if k % 2:
            supervision.done(5, "n")
        assert supervision.lost(k, "n", DIED, float(k), {"m"}) == ""


def test_the_last_node_with_collectors_is_never_shut():
    supervision = rules()
    for k in range(6):
        supervision.lost(0, "a", DIED, float(k), {"a"})
    assert supervision.quarantined(6.0) == frozenset()
    for k in range(6):
        supervision.lost(1, "b", DIED, float(k), {"a"})
    assert supervision.quarantined(6.0) == {"b"}
    assert supervision.lost(0, "a", DIED, 7.0, {"b"}) == ""  # b is shut, so a is the last


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({}, None),
        ({"max_age_s": 10.0}, "recycled: age"),
        ({"max_age_s": 11.0}, None),
        ({"max_tasks": 5}, "recycled: tasks"),
        ({"max_tasks": 6}, None),
        ({"max_rss_bytes": 99, "max_age_s": 1.0}, "recycled: memory"),
        ({"max_rss_bytes": 100}, None),
    ],
)
def test_renewal_by_age_tasks_and_memory(settings, cause):
    found = rules(**settings).recycling(age_s=10.5, tasks=5, rss_bytes=100)
    assert (None if found is None else str(found)) == cause


def test_time_in_which_nobody_looks_does_not_pass():
    watched = WatchedTime()
    assert [watched.look(now) for now in (50.0, 50.4, 51.0, 900.0, 900.5)] == pytest.approx([0.0, 0.4, 1.0, 2.0, 2.5])


def test_progress_keeps_a_worker_alive_and_an_answer_an_idle_one():
    beats = Beats(10.0)
    for member in (1, 2, 3, 4):
        beats.news(member, 0.0)
    for now in range(1, 12):
        beats.heard(1, count=now, working=True, now=float(now))  # makes progress
        beats.heard(2, count=5, working=True, now=float(now))  # answers and makes none after the first
        beats.heard(3, count=5, working=False, now=float(now))  # has nothing to do
    assert beats.hung(10.5) == [4] and beats.hung(11.5) == [2, 4]
    beats.forget(4)
    assert beats.hung(11.5) == [2] and 4 not in beats.due(99.0)


def test_who_was_just_heard_of_is_not_asked():
    beats = Beats(20.0)
    beats.news(1, 0.0)
    beats.news(2, 1.5)
    assert beats.due(1.9) == [] and beats.due(2.0) == [1] and beats.due(2.1) == [] and beats.due(4.0) == [1, 2]
    assert Beats(900.0).every_s == 5.0
