"""An MLflow server, or a database or folder in its stead: an MLflow run per run."""

import os
import re
from typing import TYPE_CHECKING

from orchestrator.sinks.base import Figures, Status, Tracked

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

RUN, STORE = "orthoplex.run", "orthoplex.store"  # the tags by which a run is found again
STATUS = {"finished": "FINISHED", "stopped": "KILLED", "interrupted": "KILLED", "failed": "FAILED"}
MISSING = "tracking.mlflow: MLflow is not installed: pip install 'orthoplex[mlflow]'"
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}  # its own make minutes
SCHEMES = ("", "http", "https", "file", "sqlite", "postgresql", "mysql", "mssql", "databricks", "databricks-uc", "uc")
MOST_PARAMETERS, KEY_CHARS, VALUE_CHARS = 100, 250, 6000  # per request; of each


class MLflow:
    """Settings become parameters, figures become metrics. A run that goes on is found by its tags and reopened."""

    def __init__(self, uri: str) -> None:
        """`uri` is MLflow's tracking URI. Nothing is asked of the server yet."""
        self.uri = uri

    def start(self, run: Tracked) -> None:
        """See Sink. The experiment is `orthoplex/<team>`, that of trials `orthoplex/<team>/<sweep>`."""
        self.client = client_of(self.uri)
        experiment = self._experiment(f"orthoplex/{run.group}")
        found = self._found(experiment, run) or self.client.create_run(
            experiment, tags={RUN: run.label, STORE: run.store}, run_name=run.name
        )
        self.run = found.info.run_id
        if found.info.status != "RUNNING":
            self.client.update_run(self.run, status="RUNNING")
        self._parameters(run, found)

    def log(self, values: Figures, *, step: int, task: str | None = None) -> None:
        """See Sink."""
        from mlflow.entities import Metric
        from mlflow.utils.time import get_current_time_millis

        now = get_current_time_millis()
        named = {f"{name}/{safe(task)}" if task else name: value for name, value in values.items()}
        self.client.log_batch(self.run, metrics=[Metric(name, value, now, step) for name, value in named.items()])

    def end(self, status: Status, summary: Figures) -> None:  # noqa: ARG002
        """See Sink. MLflow shows the metric logged last, so the summary is there already."""
        self.client.set_terminated(self.run, STATUS[status])

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        for _ in range(2):
            if found := self.client.get_experiment_by_name(name):
                return str(found.experiment_id)
            try:
                return str(self.client.create_experiment(name))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
        raise AssertionError("it exists, and is not found")

    def _found(self, experiment: str, run: Tracked) -> "Run | None":
        """The newest of the experiment's runs that has the run's tags."""
        wanted = f"tags.`{RUN}` = {quoted(run.label)} and tags.`{STORE}` = {quoted(run.store)}"
        found = self.client.search_runs([experiment], wanted, max_results=1)
        return found[0] if found else None

    def _parameters(self, run: Tracked, found: "Run") -> None:
        """Logs what is not there yet: MLflow lets no parameter change."""
        from mlflow.entities import Param

        named = {safe(key)[:KEY_CHARS]: str(value)[:VALUE_CHARS] for key, value in run.parameters.items()}
        new = [Param(key, value) for key, value in named.items() if key not in found.data.params]
        for begin in range(0, len(new), MOST_PARAMETERS):
            self.client.log_batch(self.run, params=new[begin : begin + MOST_PARAMETERS])


def client_of(uri: str) -> "MlflowClient":
    """A client that gives up on a silent server in seconds. One of a database may make its tables first."""
    for name, value in IMPATIENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def safe(name: str) -> str:
    """A name in the characters that MLflow allows, and no path to elsewhere."""
    return re.sub(r"[^\w. -]", "_", name).strip(". ") or "_"


def quoted(text: str) -> str:
    """A string in MLflow's language of filters."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
