"""A collector whose render server fails in every way there is: what it stores is what it stores without failures."""

import contextlib
import importlib.metadata
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from actors.collector import Collector
from actors.rasteriser.renderer import WarpRenderer
from actors.render_service.client import RemoteRenderer
from actors.render_service.supervised_renderer import SupervisedRenderer
from actors.render_service.supervisor import Supervisor
from actors.render_service.supervisor_command import ask_health
from actors.renderers import make_renderer
from common.config import RendererConfig
from common.errors import RendererError, RendererQuarantinedError
from replay.store import open_store
from tests.actors.render_service import misbehaving
from tests.actors.workshop_for_tests import HASHES, hashes_of, small_config, some_weights, task_of

ROOT = Path(__file__).resolve().parents[2]
QUICK = {"backoff_s": [0.0], "heartbeat_s": 0.2, "heartbeat_timeout_s": 1.0, "heartbeat_misses": 2, "max_failures": 9}
WARM_S = 30.0
FAULTS = {
    "kill": "crashed",
    "stop": "hung",
    "bug": "crashed",
    "memory": "out_of_memory",
    "late": "late",
    "pose": "wrong_answer",
    "frame": "wrong_answer",
    "shape": "wrong_answer",
    "half": "wrong_answer",
    "endless": "wrong_answer",
}


class Servers:
    """Makes a collector whose n-th server has the n-th of `faults`, and none when they are used up."""

    def __init__(self, folder, backend, faults, **settings):
        self.folder, self.backend, self.faults = folder, backend, list(faults)
        self.config = RendererConfig(warm_start_s=WARM_S, **(QUICK | settings))
        self.supervisor = self.renderer = None

    def argv(self, sockets):
        address = f"unix://{sockets}/s"
        argv = [sys.executable, "-P", misbehaving.__file__, "--listen", address, "--backend", self.backend]
        if self.faults:
            fault, at = self.faults.pop(0)
            argv += ["--fault", fault, "--at", str(at), "--late-s", "9"]
        return argv, address

    def __call__(self, config, max_envs, name, size):
        self.supervisor = Supervisor(self.config, self.argv, ask_health, self.folder)
        connect = lambda address: RemoteRenderer(address, call_timeout_s=self.config.call_timeout_s, client=name)
        self.renderer = SupervisedRenderer(self.supervisor, connect)
        return self.renderer

    def ends(self):
        return [event.what for event in self.supervisor.events]


@pytest.fixture
def config():
    return small_config("replay.segment_episodes=4")


@pytest.fixture
def collect(tmp_path, config, monkeypatch):
    """(renderer, tasks) -> (results, the stored episodes by id) of a collector on a store of its own."""
    weights, stores = some_weights(config), []

    def run(make, tasks, meanwhile=lambda k: None, drawn_by="another"):
        path = tmp_path / f"store-{len(stores)}"
        open_store(path, mode="a", create=True).close()
        monkeypatch.setattr("actors.collector.make_renderer", make)
        sizes = {"max_episodes": config.replay.segment_episodes, "max_bytes": config.replay.segment_bytes}
        writer = lambda name: open_store(path, mode="a").writer(name, **sizes)
        collector, results = Collector(config, "unit", writer, "c000-a0000", HASHES | {"renderer": drawn_by}), []
        try:
            for k, task in enumerate(tasks):
                meanwhile(k)
                results.append(collector.run(task, None if task.kind == "pairs" else weights))
        finally:
            collector._shop.renderer.close()
        stores.append(open_store(path))
        stores[-1].refresh()
        stored = [stores[-1].read_episode(entry) for entry in stores[-1].select()]
        assert len({str(e.meta.id) for e in stored}) == len(stored)
        return results, dict(zip((str(e.meta.id) for e in stored), hashes_of(stored), strict=True))

    yield run
    for store in stores:
        store.close()


def tasks(config, *kinds):
    weights = some_weights(config)
    return [task_of(kind, 0, 4, round=k, weights=weights) for k, kind in enumerate(kinds)]


def undisturbed(collect, wanted, backend):
    """The same tasks with the renderer in the collector's own process."""
    if backend == "pattern":
        return collect(lambda *_: misbehaving.PatternRenderer(), wanted, drawn_by="pattern-1")[1]
    drawn_by = f"warp-{importlib.metadata.version('warp-lang')}"
    return collect(lambda config, max_envs, *_: WarpRenderer(max_envs), wanted, drawn_by=drawn_by)[1]


def lost_seconds(results):
    return [r.seconds.get("render_lost", 0.0) > 0.0 for r in results]


def test_a_wrong_frame_and_a_killed_server_change_nothing_that_is_stored(collect, config, tmp_path):
    wanted = tasks(config, "pairs", "pairs")
    servers = Servers(tmp_path / "logs", "pattern", [("pose", 1), ("kill", 4)])
    results, stored = collect(servers, wanted)
    assert stored == undisturbed(collect, wanted, "pattern") and len(stored) == 8
    assert servers.ends() == ["up", "wrong_answer", "up", "crashed", "up", "stopped"]
    assert lost_seconds(results) == [True, True] and results[0].frames == results[1].frames
    assert [len(r.episode_ids) for r in results] == [4, 4]


@pytest.mark.slow
@pytest.mark.faults
def test_one_task_outlives_servers_that_fail_one_after_the_other(collect, config, tmp_path):
    servers = Servers(tmp_path / "logs", "pattern", [("half", 2), ("memory", 0), ("shape", 1), ("kill", 0)])
    results, stored = collect(servers, tasks(config, "pairs"))
    assert stored == undisturbed(collect, tasks(config, "pairs"), "pattern") and len(stored) == 4
    ends = ["wrong_answer", "out_of_memory", "wrong_answer", "crashed", "stopped"]
    assert servers.ends() == [what for end in ends for what in ("up", end)]
    assert lost_seconds(results) == [True] and len(list((tmp_path / "logs").glob("server-*.log"))) == 5


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize(("fault", "cause"), FAULTS.items(), ids=FAULTS)
def test_stored_bytes_are_those_of_an_undisturbed_run(collect, config, tmp_path, record_property, fault, cause):
    wanted = tasks(config, "dagger", "pairs", "rollout")
    servers = Servers(tmp_path / "logs", "warp", [(fault, 3)], call_timeout_s=4.0)
    results, stored = collect(servers, wanted)
    report = servers.supervisor.report()
    record_property("down_s", report.down_s)
    print(f"{fault}: {cause}, back after {report.down_s:.2f} s, of that the start {report.start_s:.2f} s")
    assert stored == undisturbed(collect, wanted, "warp") and len(stored) == 12
    assert servers.ends() == ["up", cause, "up", "stopped"] and report.ends == {cause: 1, "stopped": 1}
    assert lost_seconds(results) == [True, False, False]
    assert 0.0 < report.start_s <= report.down_s < WARM_S


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_server_lost_between_tasks_costs_no_task(collect, config, tmp_path, number):
    servers = Servers(tmp_path / "logs", "warp", [])

    def lose(k):
        if k == 1:
            os.kill(servers.renderer._client.health().pid, number)
            deadline = time.monotonic() + 20.0
            while servers.supervisor.report().generation == 1:
                assert time.monotonic() < deadline
                time.sleep(0.05)

    wanted = tasks(config, "pairs", "dagger")
    results, stored = collect(servers, wanted, lose)
    assert stored == undisturbed(collect, wanted, "warp")
    assert lost_seconds(results) == [False, False] and servers.supervisor.report().generation == 2


@pytest.mark.slow
@pytest.mark.faults
def test_recycling_by_resets_is_not_seen_in_what_is_stored(collect, config, tmp_path):
    servers = Servers(tmp_path / "logs", "warp", [], recycle_resets=8, max_failures=1)

    def settle(k):
        time.sleep(1.0)  # a few heartbeats, so that the resets of the last task are known

    wanted = tasks(config, "pairs", "dagger", "rollout", "pairs")
    results, stored = collect(servers, wanted, settle)
    assert stored == undisturbed(collect, wanted, "warp") and len(stored) == 16
    ends = servers.supervisor.report().ends
    assert ends.pop("recycled") >= 2 and ends == {"stopped": 1}
    assert lost_seconds(results) == [False] * 4


@pytest.mark.slow
@pytest.mark.faults
def test_a_task_fails_by_name_where_every_server_fails(collect, config, tmp_path):
    servers = Servers(tmp_path / "logs", "pattern", [("pose", 0)] * 9, max_failures=3)
    with pytest.raises(RendererQuarantinedError, match="wrong_answer 3 x; last: StaleFrameError") as caught:
        collect(servers, tasks(config, "pairs"))
    assert "server-0003.log" in str(caught.value)
    store = open_store(tmp_path / "store-0")
    assert not store.refresh() and not store.select()
    store.close()


@pytest.mark.slow
def test_the_server_of_the_settings_is_the_real_one(collect, config, tmp_path):
    config.renderer = RendererConfig(place="supervised", folder=str(tmp_path / "logs"))
    wanted = tasks(config, "pairs")
    results, stored = collect(make_renderer, wanted)
    assert stored == undisturbed(collect, wanted, "warp")
    log = Path(tmp_path, "logs", "unit-c000-a0000", "server-0001.log").read_text()
    assert '"backend": "warp"' in log and "render_lost" not in results[0].seconds


@pytest.mark.slow
@pytest.mark.faults
def test_a_supervisor_on_its_own_keeps_a_server_at_its_address(tmp_path):
    tmp_path.chmod(0o700)
    address = f"unix://{tmp_path}/s"
    command = [sys.executable, "-m", "actors.render_service.supervisor_command", "--listen", address]
    with subprocess.Popen([*command, "--logs", str(tmp_path / "logs"), "--max-envs", "2"], cwd=ROOT) as supervisor:
        first = server_at(address)
        os.kill(first, signal.SIGKILL)
        second = server_at(address, other_than=first)
        os.kill(second, signal.SIGTERM)  # a drained server that should be there is replaced as well
        third = server_at(address, other_than=second)
        supervisor.terminate()
        assert supervisor.wait(30.0) == 0
    assert len({first, second, third}) == 3 and not Path(f"/proc/{third}").exists()
    assert len(list((tmp_path / "logs" / "alone").glob("server-*.log"))) == 3


def server_at(address, other_than=0):
    """Process id of the server there, once it is up."""
    deadline = time.monotonic() + 60.0
    while True:
        with contextlib.suppress(RendererError):
            client = RemoteRenderer(address, connect_s=1.0)
            pid = client.health().pid
            client.close()
            if pid != other_than:
                return pid
        assert time.monotonic() < deadline, "no server"
        time.sleep(0.1)
