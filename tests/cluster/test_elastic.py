"""How many collectors a cluster has room for, and the thread that looks."""

import threading

import pytest

from cluster import elastic
from cluster.elastic import Nodes, NodeWatch, bounds, let_go, may_add, room
from common.config import FleetConfig

TWO = Nodes(0.0, {"a": 1.2, "b": 4.0})


def config(**settings):
    return FleetConfig(**({"collectors": 4, "max_collectors": 10} | settings))


def test_room_is_whole_collectors_per_node_outside_quarantine():
    assert room(TWO, set(), config()) == 2 + 8
    assert room(TWO, {"b"}, config()) == 2
    assert room(Nodes(0.0, {"a": 0.4, "b": 0.4}), set(), config()) == 0
    assert room(Nodes(0.0, {"a": 0.3}), set(), config(cpus_per_collector=0.1)) == 3  # as decimals, not as binary
    assert room(TWO, set(), config(cpus_per_collector=0.0)) == 10
    assert room(None, set(), config()) == 0


@pytest.mark.parametrize(
    ("slots", "unplaced", "free", "added"),
    [(4, 0, 4.0, 6), (4, 0, 1.0, 2), (4, 2, 1.0, 0), (4, 3, 1.0, 0), (10, 0, 4.0, 0), (0, 0, 0.0, 0)],
)
def test_a_fleet_grows_to_its_largest_where_there_is_room_beyond_those_that_wait(slots, unplaced, free, added):
    assert may_add(slots, unplaced, Nodes(0.0, {"a": free}), set(), config()) == added


def test_without_limits_a_fleet_keeps_its_size():
    fixed = config(max_collectors=0)
    assert bounds(fixed) == (1, 4) and may_add(4, 0, TWO, set(), fixed) == 0 and may_add(3, 0, TWO, set(), fixed) == 1
    assert bounds(config(collectors=0, max_collectors=0)) == (0, 0)


def test_a_lost_node_s_collectors_are_let_go_down_to_the_smallest():
    assert [let_go(n, config(min_collectors=3)) for n in (4, 3)] == [True, False]
    assert [let_go(n, config()) for n in (2, 1)] == [True, False]


def test_news_that_are_too_old_are_none(monkeypatch):
    """The head answers once and then not any more."""
    asked, stuck, clock = [], threading.Event(), [100.0]

    def ask():
        asked.append(1)
        if len(asked) > 1:
            stuck.wait(30.0)
            raise ConnectionError("no head")
        return Nodes(clock[0], {"a": 1.0})

    monkeypatch.setattr(elastic, "ask_nodes", ask)
    monkeypatch.setattr(elastic, "_EVERY_S", 0.01)
    monkeypatch.setattr(elastic.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(elastic.time, "monotonic", lambda: clock[0])
    watch = NodeWatch()
    while len(asked) < 2:
        pass
    assert watch.latest() == Nodes(100.0, {"a": 1.0})
    clock[0] = 105.1
    assert watch.latest() is None
    stuck.set()
    watch.stop()
    assert not watch._thread.is_alive()
