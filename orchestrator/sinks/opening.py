"""From a `tracking` section to sinks."""

from collections.abc import Callable
from functools import partial
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from cluster.errors import ConfigError
from orchestrator.sinks.base import Maker, Sinks
from orchestrator.sinks.config import TrackingConfig
from orchestrator.sinks.jsonl import JsonLines
from orchestrator.sinks.mlflow import MISSING, SCHEMES, MLflow
from orchestrator.sinks.prometheus import Prometheus
from orchestrator.sinks.tensorboard import TensorBoard
from orchestrator.sinks.wandb import MISSING as NO_WANDB
from orchestrator.sinks.wandb import WandB


def open_sinks(tracking: TrackingConfig, say: Callable[[str], None]) -> Sinks:
    """The sinks that are configured. Nothing is written, and no server is asked, before a run starts.

    Raises:
        ConfigError: as `check_tracking`.
    """
    check_tracking(tracking)
    makers: dict[str, Maker] = {}
    if tracking.tensorboard:
        makers["tensorboard"] = partial(TensorBoard, expanded("tensorboard", tracking.tensorboard))
    if tracking.mlflow:
        makers["mlflow"] = partial(MLflow, tracking.mlflow)
    if tracking.jsonl:
        makers["jsonl"] = partial(JsonLines, expanded("jsonl", tracking.jsonl))
    if tracking.prometheus:
        makers["prometheus"] = Prometheus
    if tracking.wandb:
        makers["wandb"] = partial(WandB, tracking.wandb)
    return Sinks(makers, say)


def check_tracking(tracking: TrackingConfig) -> None:
    """What `plan` and the drivers ask before anything starts.

    Raises:
        ConfigError: W&B or MLflow is not installed, MLflow does not know the URI's scheme, or a path's home folder is
            unknown.
    """
    if tracking.mlflow:
        if find_spec("mlflow") is None:
            raise ConfigError(MISSING)
        known = (*SCHEMES, *(plugin.name for plugin in entry_points(group="mlflow.tracking_store")))
        if urlsplit(tracking.mlflow).scheme.partition("+")[0] not in known:
            shown = ", ".join(filter(None, known))
            raise ConfigError(f"tracking.mlflow: {tracking.mlflow!r}: begin it with one of {shown}")
    if tracking.wandb and find_spec("wandb") is None:
        raise ConfigError(NO_WANDB)
    for key, path in (("tensorboard", tracking.tensorboard), ("jsonl", tracking.jsonl)):
        expanded(key, path or "")


def expanded(key: str, path: str) -> Path:
    """The path, absolute, with the home folder for ~."""
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError:
        raise ConfigError(f"tracking.{key}: {path!r}: no such home folder; give another path") from None
