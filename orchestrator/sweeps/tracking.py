"""Where else a sweep's trials can be followed: TensorBoard's event files, an MLflow server.

A tracker never stops a sweep: what it raises is said once, and it is left alone from then on.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from ray.tune import Callback
from ray.tune.experiment import Trial

from cluster.errors import ConfigError
from orchestrator.sweeps.config import SweepConfig, TrackingConfig
from orchestrator.sweeps.early_stopping import row_of
from orchestrator.sweeps.sweep_state import Row

MEASURED = ("aa", "parameters", "bwt", "forgetting", "train_s", "evaluate_s")


class Tracker(Protocol):
    """Follows trials, by number."""

    def measured(self, trial: int, values: dict[str, Any], row: Row) -> None:
        """A trial has done `row.tasks` tasks."""

    def ended(self, trial: int, values: dict[str, Any], row: Row | None) -> None:
        """A trial has ended; `row` is its last."""


class TensorBoard:
    """Event files, a folder a trial: each measure over tasks done, and the point with its last figures (hparams)."""

    def __init__(self, folder: Path) -> None:
        """Files go to `folder`/<trial>."""
        self.folder, self.writers = folder, dict[int, Any]()

    def measured(self, trial: int, values: dict[str, Any], row: Row) -> None:  # noqa: ARG002
        """See Tracker."""
        from tensorboardX import SummaryWriter

        if trial not in self.writers:
            self.writers[trial] = SummaryWriter(str(self.folder / f"{trial:05d}"), flush_secs=5)
        for name, value in figures(row).items():
            self.writers[trial].add_scalar(name, value, row.tasks)

    def ended(self, trial: int, values: dict[str, Any], row: Row | None) -> None:
        """See Tracker."""
        if (writer := self.writers.pop(trial, None)) is not None:
            if row:
                point = {key: "None" if value is None else value for key, value in values.items()}
                writer.add_hparams(point, figures(row), name="point", global_step=row.tasks)
            writer.close()


class MLflow:
    """A run of an MLflow experiment a trial: its point as parameters, its measures by tasks done."""

    def __init__(self, uri: str, experiment: str) -> None:
        """`uri` is MLflow's tracking URI. Raises ConfigError where MLflow is not installed."""
        try:
            from mlflow import MlflowClient
        except ImportError:
            raise ConfigError("tracking.mlflow: MLflow is not installed: pip install 'orthoplex[mlflow]'") from None
        self.client, self.runs = MlflowClient(tracking_uri=uri), dict[int, str]()
        found = self.client.get_experiment_by_name(experiment)
        self.experiment = found.experiment_id if found else self.client.create_experiment(experiment)

    def measured(self, trial: int, values: dict[str, Any], row: Row) -> None:
        """See Tracker."""
        if trial not in self.runs:
            run = self.client.create_run(self.experiment, run_name=f"{trial:05d}")
            self.runs[trial] = run.info.run_id
            for key, value in values.items():
                self.client.log_param(self.runs[trial], key, value)
        for name, value in figures(row).items():
            self.client.log_metric(self.runs[trial], name, value, step=row.tasks)

    def ended(self, trial: int, values: dict[str, Any], row: Row | None) -> None:  # noqa: ARG002
        """See Tracker."""
        if (run := self.runs.pop(trial, None)) is not None:
            self.client.set_terminated(run)


def figures(row: Row) -> dict[str, float]:
    """What was measured, without what could not be."""
    return {name: float(value) for name in MEASURED if (value := getattr(row, name)) is not None}


def trackers(config: SweepConfig) -> list[Tracker]:
    """Those that are configured. Raises ConfigError where one cannot be reached or is not installed."""
    found: list[Tracker] = []
    asked: TrackingConfig = config.tracking
    label = f"{config.run.team}/{config.name}"
    if asked.tensorboard:
        found.append(TensorBoard(Path(asked.tensorboard).expanduser() / label))
    if asked.mlflow:
        try:
            found.append(MLflow(asked.mlflow, f"orthoplex/{label}"))
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(f"tracking.mlflow: {asked.mlflow!r}: {type(error).__name__}: {error}") from None
    return found


class Tracking(Callback):
    """Tells trackers what Tune reports."""

    def __init__(self, following: list[Tracker], say: Callable[[str], None]) -> None:
        self.following, self.say = following, say

    def on_trial_result(self, *, trial: Trial, result: dict[str, Any], **_: Any) -> None:
        """See Callback."""
        if row := row_of(result):
            self._tell(lambda tracker: tracker.measured(trial.config["number"], trial.config["values"], row))

    def on_trial_complete(self, *, trial: Trial, **_: Any) -> None:
        """See Callback."""
        row = row_of(trial.last_result)
        self._tell(lambda tracker: tracker.ended(trial.config["number"], trial.config["values"], row))

    on_trial_error = on_trial_complete

    def _tell(self, told: Callable[[Tracker], None]) -> None:
        for tracker in list(self.following):
            try:
                told(tracker)
            except Exception as error:
                self.following.remove(tracker)
                with suppress(OSError):
                    self.say(f"warning: {type(tracker).__name__} is left alone from now on: {error}")
