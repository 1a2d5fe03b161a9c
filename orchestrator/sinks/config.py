"""The `tracking` section of a run's or a sweep's configuration."""

from urllib.parse import urlsplit

from pydantic import field_validator

from cluster.schema import Frozen


class TrackingConfig(Frozen):
    """Where else figures go; null switches a sink off.

    `tensorboard` is a folder for event files, `mlflow` an MLflow tracking URI, `jsonl` a file that lines are appended
    to.
    """

    tensorboard: str | None = None
    mlflow: str | None = None
    jsonl: str | None = None

    @field_validator("mlflow")
    @classmethod
    def _no_password(cls, uri: str | None) -> str | None:
        """The configuration is stored with every version, for all who read the store."""
        if uri and urlsplit(uri).password:
            raise ValueError(
                "holds a password, and configurations are stored; take it out and set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD"
            )
        return uri
