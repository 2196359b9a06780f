"""The whole topology in one function: which processes there are, and what connects them.

driver (this process): learner, samplers, checkpoints, MLflow
  |  tasks + weights (Ray)                 ^ acks
  v                                        |
collectors (Ray actors): renderer, policy, servo environments --episodes--> replay store (zarr; on this node's disk or
  |                                                                         ^ in an object store)
  +-- those of other nodes --episodes--> writer actor on the store's node --+
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.metadata
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from actors.scenes.models import open_imports
from actors.scenes.suite import Suite, held_out_suite
from cluster.crew_member import WATCH
from cluster.draining import own_sigterm
from cluster.fleet import Fleet
from cluster.pace import check_pace
from cluster.replay_writer import open_writer, start_replay_writer, store_location
from cluster.run_directory import MetricsLog, RunDirectory
from cluster.versions import CODE, code_sha256, versions, with_own_code
from common.config import RunConfig, evaluates, flatten
from common.errors import ConfigError, bad_value
from common.identity import json_sha256
from learner.checkpoint import Checkpoints
from learner.tracking import Tracker
from replay.location import StoreLocation, locate
from replay.store import Store, open_store


@dataclasses.dataclass
class Program:
    """The parts of a run, connected."""

    config: RunConfig
    directory: RunDirectory
    store: Store
    fleet: Fleet
    suite: Suite
    checkpoints: Checkpoints
    metrics: MetricsLog
    data: Store | None = None  # what imitation draws from instead of collecting
    writer: Any = None  # actor that commits for collectors of other nodes
    tracker_run_id: str | None = None
    _tracker: Tracker | None = None

    @property
    def tracker(self) -> Tracker:
        """MLflow, opened on first use: by then a resume knows which MLflow run to continue."""
        if self._tracker is None:
            self._tracker = Tracker(
                self.directory.path, self.config.experiment, self.tracker_run_id, flatten(self.config)
            )
            self.tracker_run_id = self._tracker.run_id
        return self._tracker

    def end_record(self, status: str) -> None:
        """Set the status of the MLflow run, if this process ever opened it."""
        if self._tracker is not None:
            self._tracker.finish(status)


@contextlib.contextmanager
def build_program(config: RunConfig, directory: RunDirectory) -> Iterator[Program]:
    """Build every part of a run and take it down again.

    Args:
        config: checked configuration.
        directory: open run directory.

    Yields:
        The program; Ray, if it was started here, ends with the context.

    Raises:
        ConfigError: if the replay settings let collectors and learner wait for each other, or name another run's store.
        StoreError: if the store cannot be opened or written.
    """
    import ray

    check_pace(config)
    store, data = open_run_store(config, directory), open_data(config)
    metrics = MetricsLog(directory.path / "metrics.jsonl")
    # Without collectors one actor evaluates; where nobody acts and the driver learns, Ray is not needed.
    actors = config.fleet.collectors or int(evaluates(config))
    started_here = bool(actors or config.learner.num_learners) and not ray.is_initialized()
    if started_here:
        start_ray(config)
    fleet: Fleet | None = None
    writer: Any = None
    try:
        acting = dataclasses.replace(config.fleet, collectors=actors)
        url = store_url(config, directory)
        location = store_location(url) if actors else locate(url, "", "")
        # A cluster may get more nodes later; a Ray of our own has just this one.
        if location.node and (config.ray_address or len(ray.nodes()) > 1):
            writer = start_replay_writer(location, f"w-a{directory.attempt:04d}", config.replay)
        fleet = Fleet(functools.partial(make_collector, config, directory, location, writer), acting)
        checkpoints = open_checkpoints(config, directory)
        yield Program(config, directory, store, fleet, held_out_suite(config), checkpoints, metrics, data, writer)
    finally:
        if fleet is not None:
            fleet.stop()
        if writer is not None:
            ray.kill(writer, no_restart=True)
        metrics.close()
        for opened in (store, data):
            if opened is not None:
                opened.close()
        if started_here:
            ray.shutdown()


def start_ray(config: RunConfig) -> None:
    """Connect to the configured cluster, or start one on this machine."""
    import ray
    from ray._private import worker

    # Ray prints what raylets tell of dead workers where a verb prints its result.
    worker.print_to_stdstream = _to_stderr
    # Kernels of one thread: two threads on busy cores slow every process down, and change sums.
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    with own_sigterm():
        if config.ray_address:
            ray.init(config.ray_address, runtime_env={"env_vars": threads}, **options)
        else:
            cpus = max(len(os.sched_getaffinity(0)), 1)
            # Ray would else join a cluster that happens to run on this machine.
            options |= {"num_cpus": cpus, "include_dashboard": False}
            ray.init("local", runtime_env={"env_vars": threads}, **options)


def _to_stderr(data: Mapping[str, Any], ignore_prefix: bool) -> None:
    for line in data["lines"]:
        print(line.partition(" To troubleshoot")[0], file=sys.stderr)  # and half a page of advice


def store_url(config: RunConfig, directory: RunDirectory) -> str:
    """Where the run's store is: absolute path, or URL of an object store."""
    return locate(config.replay.url or str(directory.path / "store"), "", "").url


def open_run_store(config: RunConfig, directory: RunDirectory) -> Store:
    """The store of a run, made if there is none.

    Raises:
        ConfigError: if a new run is given a store that others wrote to: their episodes would be drawn as its own.
        StoreError: if it cannot be opened or written.
    """
    store = open_store(store_url(config, directory), mode="a", create=True, ram_bytes=config.replay.ram_bytes)
    if directory.is_new and store.refresh():
        store.close()
        raise ConfigError(bad_value("replay.url", config.replay.url, "a store without episodes where a run starts"))
    return store


def open_data(config: RunConfig) -> Store | None:
    """The store to train from, for reading, as it is now; None where the run collects for itself.

    Raises:
        StoreError: if it is no store or cannot be read.
    """
    if not config.replay.train_from:
        return None
    store = open_store(locate(config.replay.train_from, "", "").url, ram_bytes=config.replay.ram_bytes)
    store.refresh()
    return store


def open_checkpoints(config: RunConfig, directory: RunDirectory) -> Checkpoints:
    """The checkpoints of a run, kept as its settings say."""
    keeping = config.checkpoint
    return Checkpoints(directory.path / "checkpoints", keeping.keep, keeping.every_nth, keeping.keep_best)


def make_collector(
    config: RunConfig,
    directory: RunDirectory,
    location: StoreLocation,
    writer: Any,
    index: int,
    avoid: Sequence[str] = (),
) -> Any:
    """One collector actor, on none of the nodes `avoid`; the fleet makes another one when its process dies."""
    import ray

    from actors.collector import Collector

    options: dict[str, Any] = {"num_cpus": config.fleet.cpus_per_collector, "concurrency_groups": {WATCH: 1}}
    if avoid:
        options["label_selector"] = {"ray.io/node-id": f"!in({','.join(avoid)})"}
    actor = ray.remote(max_restarts=0, **options)(Collector)
    # The attempt keeps this process apart from one of a killed driver that may still be writing.
    name = f"c{index:03d}-a{directory.attempt:04d}"
    # What a collector does first is to open its writer: one of other code stops there.
    opener = functools.partial(
        with_own_code, versions()[CODE], functools.partial(open_writer, location, writer, config.replay)
    )
    return actor.remote(config, directory.run_id, opener, name, provenance(config, directory))


def provenance(config: RunConfig, directory: RunDirectory) -> dict[str, str]:
    """Hashes that every episode of the run carries."""
    assets, pictures = open_imports(config.scenes)
    imported = [assets.sha256 if assets else "", *(pictures.hashes if pictures else ())] if assets or pictures else []
    return {
        "renderer": f"warp-{importlib.metadata.version('warp-lang')}",
        "assets_sha256": json_sha256([config.scenes.shapes, config.scenes.train_meshes, config.seed, *imported]),
        "code_sha256": code_sha256(),
        "config_sha256": directory.config_sha256,
    }
