"""Takes a stream of adapters out of the store, as a PEFT LoRA or a whole model: `orthoplex adapters export`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from cluster.errors import ConfigError, IntegrityError
from orchestrator.track.state import RunState
from orchestrator.track.track import Track
from trainers.config import ModelConfig, stored_method
from trainers.methods.base import Artifact
from trainers.methods.export import Exported, Provenance, check_free, write_merged, write_peft
from trainers.methods.registry import method_for
from trainers.models.base import Backbone
from trainers.models.loading import load_backbone, resolve_name

Format = Literal["peft", "merged"]


def export(
    track: Track,
    state: RunState,
    commit: Mapping[str, Any],
    form: Format,
    directory: Path,
    *,
    model: str | None = None,
    served: str | None = None,
) -> Exported:
    """Writes what `commit` of a run answers with, all tasks up to it or its own alone, into the folder `directory`.

    `model` is where the base is, if elsewhere; `served` is what the folder calls the base, where that is not its place.

    Raises:
        ConfigError: the folder is not empty, or the base cannot be loaded.
        IntegrityError: a stored file was changed, or the base is not the one the stream was trained on.
    """
    check_free(directory)
    commits, tasks = learned(track, state, commit)
    config = ModelConfig.model_validate({**state.config["model"], "quantization": None})  # the published weights
    if model is not None:
        config = config.model_copy(update={"name": model, "revision": None})
    backbone = load_base(config, commits)
    method = method_for(backbone.model, stored_method(state.config["adapter"]), getattr(torch, config.dtype))
    source = Path(resolve_name(config.name))
    origin = Provenance(
        reference=state.reference(commit),
        tasks=tuple(each["task"] for each in commits),
        task_type=config.task_type,
        base=served or (str(source.resolve()) if source.is_dir() else str(source)),
        base_digest=backbone.digest,
        revision=None if served else config.revision,
    )
    if form == "peft":
        return write_peft(backbone.model, method.as_lora(tasks), directory, origin)
    return write_merged(backbone.model, backbone.tokenizer, method.merge(tasks), directory, origin)


def learned(track: Track, state: RunState, commit: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], list[Artifact]]:
    """The commits that `commit` answers with, and their files, checked against their digests: all up to it, or itself
    alone if the run's method has an adapter per task."""
    adapter = stored_method(state.config["adapter"])
    commits = [each for each in state.commits if each["version"] <= commit["version"]]
    commits = commits[-1:] if adapter.needs_task else commits
    names = adapter.files
    return commits, [Artifact(dict(zip(names, track.committed(each, *names), strict=True))) for each in commits]


def load_base(config: ModelConfig, commits: Sequence[Mapping[str, Any]]) -> Backbone:
    """The model that every commit was trained on."""
    try:
        backbone = load_backbone(config)
    except ConfigError as error:
        raise ConfigError(f"{error}; or say where it is with --model") from None
    for digest in {commit["base_digest"] for commit in commits}:
        if digest != backbone.digest:
            raise IntegrityError(
                f"model.name: the weights of {config.name!r} have sha256 {backbone.digest}, but the stream was trained "
                f"on {digest}; name that model with --model"
            )
    return backbone
