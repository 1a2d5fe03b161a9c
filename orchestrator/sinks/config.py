"""The `tracking` section of a run's or a sweep's configuration."""

from typing import Annotated, ClassVar
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator

from cluster.schema import STORED, Grown


class TrackingConfig(Grown):
    """Where else figures go; null switches a sink off.

    `tensorboard` is a folder for event files, `mlflow` an MLflow tracking URI, `jsonl` a file that lines are appended
    to. `prometheus` makes gauges of them among Ray's own metrics, which each node of a cluster serves. `wandb` is a
    project of Weights & Biases, with or without its owner: `owner/project`.
    """

    added: ClassVar[tuple[str, ...]] = ("prometheus", "wandb")

    tensorboard: str | None = None
    mlflow: str | None = None
    jsonl: str | None = None
    prometheus: bool = False
    wandb: Annotated[str, Field(pattern=r"^([\w.-]{1,64}/)?[\w. -]{1,128}$")] | None = None

    @field_validator("mlflow")
    @classmethod
    def _no_user(cls, uri: str | None, info: ValidationInfo) -> str | None:
        """The configuration is stored with every version, for all who read the store. A user that stands in an older
        one is not passed on."""
        parts = urlsplit(uri or "")
        if "@" not in parts.netloc:
            return uri
        if info.context == STORED:
            return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        raise ValueError(
            "holds a user or a password, and configurations are stored; take it out and set MLFLOW_TRACKING_USERNAME "
            "and MLFLOW_TRACKING_PASSWORD"
        )
