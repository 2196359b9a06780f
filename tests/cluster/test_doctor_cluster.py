"""What nodes say of themselves, held against this machine and against each other."""

from cluster.doctor_cluster import check_nodes

OWN = {"servofleet code": "0.1+abc", "torch": "2.13.0"}


def a_node(host, **changes):
    node = {
        "host": host,
        "python": "3.11.7",
        "versions": dict(OWN),
        "skew": 0.01,
        "skew_within": 0.002,
        "shared_memory": 8e9,
    }
    return node | changes


def found(*nodes):
    return {c.name: c for c in check_nodes(nodes, OWN, "3.11.7")}


def test_nodes_that_are_alike():
    checks = found(a_node("a"), a_node("b", skew=-0.02))
    assert list(checks) == ["cluster nodes", "cluster versions", "cluster clocks", "cluster shared memory"]
    assert all(c.ok and not c.advice for c in checks.values())
    assert checks["cluster nodes"].seen == "all 2 answer" and "-0.02 s on b" in checks["cluster clocks"].seen


def test_every_version_that_differs_is_named():
    other = a_node("b", python="3.12.1", versions=OWN | {"torch": "2.12.0"})
    bare = {k: v for k, v in a_node("c", missing="No module named 'cluster'").items() if k != "versions"}
    check = found(a_node("a"), other, bare)["cluster versions"]
    assert not check.ok and "same container image" in check.advice
    assert check.seen == "b: python 3.12.1 (here 3.11.7), torch 2.12.0 (here 2.13.0); c: No module named 'cluster'"


def test_clocks_that_are_off_beyond_what_the_way_there_explains():
    checks = found(a_node("a"), a_node("b", skew=5.0, skew_within=0.1), a_node("c", skew=-9.0, skew_within=8.5))
    assert not checks["cluster clocks"].ok
    assert checks["cluster clocks"].seen == "+5.00 s on b (known within 0.10 s)"
    assert found(a_node("c", skew=-9.0, skew_within=8.5))["cluster clocks"].ok


def test_silent_nodes_and_small_shared_memory():
    checks = found(a_node("a", shared_memory=64e6), {"host": "b", "error": "no answer within 36 s"})
    assert not checks["cluster nodes"].ok and checks["cluster nodes"].seen == "b: no answer within 36 s"
    assert not checks["cluster shared memory"].ok and "a: 0.06 GB" in checks["cluster shared memory"].seen
    assert checks["cluster versions"].ok and checks["cluster clocks"].ok


def test_when_nobody_answers():
    checks = found({"host": "b", "error": "gone"})
    assert not checks["cluster nodes"].ok and checks["cluster clocks"].seen == "no node answered"
