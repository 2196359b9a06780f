"""The supervisor over real processes: it starts, watches, replaces and gives up, and says so."""

import os
import signal
import time

import pytest
from supervised_for_tests import alive, ask, eventually, supervised

from common.errors import RendererLostError, RendererQuarantinedError


def ends(supervisor):
    return [e.what for e in supervisor.events]


def test_a_server_is_up_once_it_answers_and_gone_when_stopped(tmp_path):
    with supervised(tmp_path, f"late=0.2 drained={tmp_path / 'drained'}") as supervisor:
        generation, address = supervisor.wait_up()
        said, report = ask(address), supervisor.report()
        assert generation == 1 == report.generation and report.state == "up" and report.start_s >= 0.2
        assert supervisor.wait_up() == (1, address) and report.log.endswith("server-0001.log")
    assert not alive(said["pid"]) and (tmp_path / "drained").exists()
    assert ends(supervisor) == ["up", "stopped"] and supervisor.report().state == "stopped"
    with pytest.raises(RendererLostError, match="was stopped"):
        supervisor.wait_up()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_server_killed_or_stopped_is_replaced(tmp_path, number):
    with supervised(tmp_path, "") as supervisor:
        _, address = supervisor.wait_up()
        pid = ask(address)["pid"]
        os.kill(pid, number)
        eventually(lambda: supervisor.report().generation == 2)
        generation, other = supervisor.wait_up()
        report = supervisor.report()
    assert generation == 2 and other != address and not alive(pid)
    cause = {signal.SIGKILL: "crashed", signal.SIGSTOP: "hung"}[number]
    assert ends(supervisor) == ["up", cause, "up", "stopped"]
    assert report.ends == {cause: 1} and 0.0 < report.start_s <= report.down_s < 10.0


def test_a_caller_who_says_that_it_failed_returns_to_a_dead_server(tmp_path):
    with supervised(tmp_path, "stubborn=1", heartbeat_s=60.0, grace_s=0.1) as supervisor:
        generation, address = supervisor.wait_up()
        pid = ask(address)["pid"]
        supervisor.failed(generation, "wrong_answer", "a frame of another pose")
        assert not alive(pid)
        supervisor.failed(generation, "wrong_answer", "said twice")  # that server is gone: nothing happens
        assert supervisor.wait_up()[0] == 2
        assert supervisor.report().ends == {"wrong_answer": 1}
        assert [e.detail for e in supervisor.events][1] == "a frame of another pose"


def test_a_lost_call_is_put_down_to_the_exit_behind_it(tmp_path):
    with supervised(tmp_path, "after=1 code=71", "", heartbeat_s=60.0) as supervisor:
        generation, _ = supervisor.wait_up()
        supervisor.failed(generation, "lost", "connection lost")
        assert supervisor.wait_up()[0] == 2
        assert supervisor.report().ends == {"out_of_memory": 1}


def test_a_planned_replacement_drains_and_counts_as_no_failure(tmp_path):
    with supervised(tmp_path, f"drained={tmp_path / 'drained'}", max_failures=1) as supervisor:
        for generation in (1, 2):
            assert supervisor.wait_up()[0] == generation
            supervisor.recycle(generation, "resets")
            assert (tmp_path / "drained").exists()
            (tmp_path / "drained").unlink()
        assert supervisor.wait_up()[0] == 3 and supervisor.report().ends == {"recycled": 2}


def test_a_server_stuck_in_one_request_is_replaced_though_it_answers(tmp_path):
    with supervised(tmp_path, "busy=9", "", call_timeout_s=5.0) as supervisor:
        eventually(lambda: supervisor.report().generation == 2)
        assert supervisor.report().ends == {"hung": 1}
        assert "longer than renderer.call_timeout_s = 5" in supervisor.events[1].detail


def test_a_server_is_due_when_its_health_says_so(tmp_path):
    with supervised(tmp_path, "resets=7", recycle_resets=7) as supervisor:
        supervisor.wait_up()
        eventually(lambda: supervisor.due)
        assert supervisor.due == "resets = 7 reached renderer.recycle_resets = 7"
        assert supervisor.report().health.resets == 7 and supervisor.report().generation == 1


def test_a_supervisor_on_its_own_replaces_what_is_due(tmp_path):
    with supervised(tmp_path, "rss=9", "rss=1", recycle_rss_bytes=5, alone=True) as supervisor:
        eventually(lambda: supervisor.report().generation == 2)
        supervisor.wait_up()
        assert ends(supervisor)[:2] == ["up", "recycled"] and supervisor.due == ""


def test_a_server_may_ask_to_be_replaced(tmp_path):
    with supervised(tmp_path, "after=2 code=75", "", max_failures=1) as supervisor:
        eventually(lambda: supervisor.report().generation == 2)
        supervisor.wait_up()
        assert supervisor.report().ends == {"recycled": 1}


def test_bad_arguments_stop_it_at_once(tmp_path):
    with supervised(tmp_path, "exit=64 say=unknown_backend") as supervisor:
        with pytest.raises(RendererQuarantinedError, match="command line is refused; it said: unknown_backend"):
            supervisor.wait_up()
        assert supervisor.report().generation == 1 and supervisor.report().state == "quarantined"


def test_repeated_failures_end_in_quarantine_with_their_causes_and_logs(tmp_path):
    with supervised(tmp_path, "exit=71 say=no_room", "exit=69 say=no_gpu", max_failures=3) as supervisor:
        with pytest.raises(RendererQuarantinedError) as caught:
            supervisor.wait_up()
        for words in (
            "renderer.max_failures = 3",
            "cannot_start 2 x, out_of_memory 1 x",
            "it said: no_gpu",
            "0003.log",
        ):
            assert words in str(caught.value)
        with pytest.raises(RendererQuarantinedError):
            supervisor.wait_up()
    assert len(list(tmp_path.glob("server-*.log"))) == 3


def test_starts_after_failures_wait_and_a_stop_does_not_wait_for_them(tmp_path):
    with supervised(tmp_path, "exit=1", backoff_s=[0.3, 60.0], max_failures=9) as supervisor:
        began = time.monotonic()
        eventually(lambda: supervisor.report().generation == 2)
        assert time.monotonic() - began >= 0.3
        eventually(lambda: supervisor.report().state == "waiting")
    assert time.monotonic() - began < 20.0


def test_budgets_are_those_of_cold_and_warm_starts(tmp_path):
    known = tmp_path / "known" / "machine"
    settings = {"known_machine": known, "cold_start_s": 30.0, "warm_start_s": 0.2, "max_failures": 1}
    with supervised(tmp_path / "a", "late=0.4", **settings) as supervisor:
        supervisor.wait_up()  # cold: the machine is not known yet
        assert known.exists()
    with supervised(tmp_path / "b", "deaf=1", **settings) as supervisor:
        with pytest.raises(RendererQuarantinedError, match=r"no answer within renderer.warm_start_s = 0"):
            supervisor.wait_up()
        assert not known.exists()  # so that the next start is a cold one: a driver may have changed


def test_whoever_waits_hears_of_a_supervisor_that_fails(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    failed = pytest.raises(RendererQuarantinedError, match="its supervisor failed: FileExistsError")
    with supervised(tmp_path / "file", "") as supervisor, failed:
        supervisor.wait_up()


def test_a_cache_that_cannot_be_written_costs_no_renderer(tmp_path):
    (tmp_path / "file").touch()
    with supervised(tmp_path / "logs", "", known_machine=tmp_path / "file" / "machine") as supervisor:
        assert supervisor.wait_up()[0] == 1


def test_a_supervisor_that_fails_leaves_no_server(tmp_path, monkeypatch):
    pids = []

    def broken(address, timeout_s):
        pids.append(ask(address)["pid"])
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr("supervised_for_tests.probe", broken)
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    with supervised(tmp_path, "") as supervisor:
        with pytest.raises(RendererQuarantinedError, match="failed: "):
            supervisor.wait_up()
        eventually(lambda: pids and not alive(pids[-1]))
