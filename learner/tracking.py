"""MLflow: params, metrics, tables, plots and checkpoints of a run, in a sqlite file of the run directory.

MLflow is a projection: `metrics.jsonl` in the run directory is the record that a resume cuts back to, and a row that
MLflow got twice is the same row.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

_MAX_PARAMS = 100
_SHARE_OF_SYSTEM = 50.0


class Tracker:
    """One MLflow run."""

    def __init__(self, directory: Path, experiment: str, run_id: str | None, params: Mapping[str, Any]) -> None:
        """Open the run `run_id`, or start one.

        Args:
            directory: run directory; mlflow.db and mlruns/ are made in it.
            experiment: MLflow experiment name.
            run_id: of the run to continue, or None.
            params: settings by name; recorded when the run starts.
        """
        # Creating the tables of a new database is not news.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
        self._client = MlflowClient(tracking_uri=f"sqlite:///{directory.resolve()}/mlflow.db")
        found = self._client.get_experiment_by_name(experiment)
        location = (directory.resolve() / "mlruns").as_uri()
        experiment_id = found.experiment_id if found else self._client.create_experiment(experiment, location)
        if run_id is None:
            run = self._client.create_run(experiment_id, run_name=directory.name)
            run_id = run.info.run_id
            entries = [Param(k, str(v)[:500]) for k, v in params.items()]
            for i in range(0, len(entries), _MAX_PARAMS):
                self._client.log_batch(run_id, params=entries[i : i + _MAX_PARAMS])
        else:
            self._client.update_run(run_id, status="RUNNING")
        self.run_id: str = run_id
        self._system_logged, self._system_cost = 0.0, 0.0

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log finite numbers at a step."""
        now = int(time.time() * 1000)
        rows = [Metric(k, float(v), now, step) for k, v in values.items() if abs(float(v)) < float("inf")]
        self._client.log_batch(self.run_id, metrics=rows)

    def system(self, values: Mapping[str, float], step: int) -> None:
        """Log finite numbers of the processes as `system/...`; `step` counts over all phases.

        Some 30 numbers take MLflow 15 ms and more. Where rounds are so short that this would be over two percent of the
        time, some rounds are left out.
        """
        began = time.perf_counter()
        if began - self._system_logged < _SHARE_OF_SYSTEM * self._system_cost:
            return
        self.metrics({f"system/{name}": value for name, value in values.items()}, step)
        self._system_logged = time.perf_counter()
        self._system_cost = self._system_logged - began

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        self._client.log_batch(self.run_id, tags=[RunTag(k, v) for k, v in values.items()])

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Copy a file or a directory into the run's artifacts."""
        if path.is_dir():
            self._client.log_artifacts(self.run_id, str(path), folder)
        else:
            self._client.log_artifact(self.run_id, str(path), folder)

    def table(self, rows: list[dict[str, Any]], name: str) -> None:
        """Log a table as JSON that MLflow's page shows."""
        columns = {key: [row.get(key) for row in rows] for key in rows[0]}
        self._client.log_table(self.run_id, columns, f"{name}.json")

    def finish(self, status: str = "FINISHED") -> None:
        """Set the run's final status."""
        self._client.set_terminated(self.run_id, status)
