"""A moved alias, mirrored to MLflow's model registry: `adapters promote` and `rollback`, with `--mlflow`.

team/run is the registered model `team.run`; a version of it is an external model, whose files stay in the store, with
tags that say which; the alias is set as ours is. MLflow counts versions of its own: the tag `orthoplex.version` says
which of ours one is, and a version that is there already is not made again.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from cluster.errors import ConfigError
from orchestrator.followed.webhook import NotToldError
from orchestrator.log.entry import JsonLike
from orchestrator.sinks.mlflow import client_of, quoted

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

VERSION, MANIFEST = "orthoplex.version", "orthoplex.manifest_sha256"
TAGS = {
    "orthoplex.run": "run", "orthoplex.store": "store", VERSION: "version", MANIFEST: "manifest_sha256",
    "orthoplex.prefix": "prefix", "orthoplex.task": "task",
}  # fmt: skip
WAIT_S = 10


def check_mlflow() -> None:
    """Raises ConfigError if MLflow is not installed."""
    if find_spec("mlflow") is None:
        raise ConfigError("--mlflow: MLflow is not installed: pip install 'orthoplex[mlflow]'")


def mirror(uri: str, told: Mapping[str, JsonLike]) -> str:
    """Sets the alias in the registry at a tracking URI, on the version that a move (`webhook.moved`) names; returns
    MLflow's name of it. Raises NotToldError if MLflow refuses, or is away."""
    from mlflow.exceptions import MlflowException

    try:
        with at(uri):
            client = client_of(uri)
            name = f"{told['team']}.{told['name']}"
            version = found(client, name, told) or made(client, name, told)
            client.set_registered_model_alias(name, str(told["alias"]), version.version)
    except (MlflowException, OSError) as error:
        raise NotToldError(
            f"--mlflow: {type(error).__name__}: {error}; the log has the move (entry {told.get('entry')})"
        ) from None
    return f"models:/{name}/{version.version}"


@contextmanager
def at(uri: str) -> Iterator[None]:
    """MLflow's own functions speak to this server within."""
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


def found(client: "MlflowClient", name: str, told: Mapping[str, JsonLike]) -> "ModelVersion | None":
    """The registered version of these files, if there is one."""
    for version in client.search_model_versions(f"name = {quoted(name)}"):
        if version.tags.get(VERSION) == str(told["version"]) and version.tags.get(MANIFEST) == told["manifest_sha256"]:
            return version
    return None


def made(client: "MlflowClient", name: str, told: Mapping[str, JsonLike]) -> "ModelVersion":
    """A new version of the registered model, which is made if it is not there."""
    import mlflow

    experiment = f"orthoplex/{told['team']}"
    known = client.get_experiment_by_name(experiment)
    tags = {tag: str(told[key]) for tag, key in TAGS.items()}
    model = mlflow.create_external_model(
        name=f"{told['name']}-v{told['version']}", model_type="orthoplex adapter", tags=tags,
        experiment_id=known.experiment_id if known else client.create_experiment(experiment),
    )  # fmt: skip
    return mlflow.register_model(f"models:/{model.model_id}", name, await_registration_for=WAIT_S, tags=tags)
