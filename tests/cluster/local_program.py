"""A run's program without Ray: one real collector that works in this process, when it is told to."""

import atexit
import collections
import contextlib
import copy
import dataclasses
import functools
import shutil
import tempfile
from pathlib import Path

from mlflow.tracking import MlflowClient

from actors.collector import Collector
from actors.scenes.suite import held_out_suite
from cluster.config_loading import load_config
from cluster.fleet import Totals
from cluster.program import Program, open_checkpoints, open_data, provenance
from cluster.replay_writer import disk_limits
from cluster.role_status import RoleStatus
from cluster.run_directory import MetricsLog, RunDirectory
from common.identity import PolicyVersion, weights_sha256
from replay.store import open_store


class LocalWork:
    """What `LocalFleet.start` answers."""

    def __init__(self, tasks, weights):
        self.tasks, self.weights, self.results = list(tasks), weights, []

    @property
    def done(self):
        return len(self.results) == len(self.tasks)


class LocalFleet:
    """A fleet of one. Eager, it does tasks when they are started; lazy, when they are waited for. Which of the two a
    real fleet resembles is a matter of luck, so nothing may depend on it.
    """

    size = healthy = 1
    broadcast_s = 0.0

    def __init__(self, collector, eager=True):
        self.totals, self.log, self.eager = Totals(), [], eager
        self._collector = collector
        self._queue = collections.deque()

    def start(self, tasks, weights=None):
        work = LocalWork(tasks, weights)
        self._queue.append(work)
        self.log += [(task, weights) for task in work.tasks]
        if self.eager:
            self._finish()
        return work

    def wait(self, work, on_poll=None):
        if on_poll is not None:
            on_poll()
        self._finish()
        return work.results

    def run(self, tasks, weights=None):
        return self.wait(self.start(tasks, weights))

    def status(self):
        return RoleStatus("collectors", 1, 1, samples=self.totals.rows, seconds=dict(self.totals.seconds))

    def poll(self, timeout_s):
        assert timeout_s == 0.0

    def drain(self, on_poll=None):
        self._queue.clear()

    @property
    def idle(self):
        return not self._queue

    def _finish(self):
        while self._queue:
            work = self._queue.popleft()
            for task in work.tasks:
                work.results.append(self._collector.run(task, work.weights))
                self.totals.add(work.results[-1])


@functools.cache
def _empty_record():
    folder = Path(tempfile.mkdtemp(prefix="servofleet-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db").search_experiments()
    return folder / "mlflow.db"


def with_record(path):
    """A run directory whose MLflow tables are there; making them takes seconds, and they are the same every time."""
    path.mkdir(parents=True)
    shutil.copy(_empty_record(), path / "mlflow.db")
    return path


@functools.cache
def _loaded(*overrides):
    return load_config(["experiment=smoke", *overrides])


def small_config(path, *overrides):
    return dataclasses.replace(copy.deepcopy(_loaded(*overrides)), dir=str(path))


def version_of(weights, lineage=0, counter=0):
    return PolicyVersion(lineage, counter, weights_sha256(weights))


@contextlib.contextmanager
def local_program(config, eager=True, path=None, name=None):
    """Like `cluster.program.build_program`, with a `LocalFleet`; `path` is of another store, `name` of the writer."""
    with RunDirectory(config) as directory:
        path = path or directory.path / "store"
        store = open_store(path, mode="a", create=True)
        metrics = MetricsLog(directory.path / "metrics.jsonl")
        name = name or f"c000-a{directory.attempt:04d}"
        sizes = {"max_episodes": config.replay.segment_episodes, "max_bytes": config.replay.segment_bytes}
        collector = Collector(
            config,
            directory.run_id,
            lambda name: open_store(path, mode="a").writer(name, **sizes, disk=disk_limits(config.replay)),
            name,
            provenance(config, directory),
        )
        checkpoints = open_checkpoints(config, directory)
        fleet = LocalFleet(collector, eager)
        data = open_data(config)
        yield Program(config, directory, store, fleet, held_out_suite(config), checkpoints, metrics, data)
        metrics.close()
        store.close()


def changed(config, phase, **settings):
    """The configuration with other settings of one phase; `imitation=dict(...)` changes single fields of that part."""
    parts = {
        k: dataclasses.replace(getattr(config.phases[phase], k), **v) if isinstance(v, dict) else v
        for k, v in settings.items()
    }
    phases = {**config.phases, phase: dataclasses.replace(config.phases[phase], **parts)}
    return dataclasses.replace(config, phases=phases)
