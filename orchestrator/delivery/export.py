"""Takes a stream of adapters out of the store, as a PEFT LoRA or a whole model: `orthoplex adapters export`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from cluster.errors import ConfigError, IntegrityError
from orchestrator.registry.references import Version
from orchestrator.track.events import Committed
from trainers.config import ModelConfig
from trainers.data.generative.config import AnyTask, GenerativeTask
from trainers.data.generative.encoding import turn_end
from trainers.identity import Identity, digests_again, settings_of
from trainers.methods.base import Artifact
from trainers.methods.export import Exported, Provenance, check_free, write_merged, write_peft
from trainers.methods.registry import method_for
from trainers.models.base import Backbone
from trainers.models.loading import load_backbone, resolve_name
from trainers.models.text_to_text import TextToText

Format = Literal["peft", "merged"]


def export(
    version: Version, form: Format, directory: Path, *, model: str | None = None, served: str | None = None
) -> Exported:
    """Writes the adapters of a version, of all tasks up to it or its own alone, into the folder `directory`.

    `model` is the base's place, if it has moved. `served` is the base's name in the folder, if that is not its place.

    Raises:
        ConfigError: the folder is not empty, or the base cannot be loaded.
        IntegrityError: a stored file was changed, or the base is not the one the stream was trained on.
    """
    check_free(directory)
    commits, tasks = learned(version)
    config = published_base(version, model)
    backbone = load_base(config, version)
    names = {commit.task for commit in commits}
    asked = [task for task in version.state.completed().tasks if task.name in names]
    method = method_for(backbone.model, version.state.completed().adapter, getattr(torch, config.dtype))
    source = Path(resolve_name(config.name))
    origin = Provenance(
        reference=version.reference,
        tasks=tuple(commit.task for commit in commits),
        task_type=config.task_type,
        base=served or (str(source.resolve()) if source.is_dir() else str(source)),
        base_digest=backbone.digest,
        revision=None if served else config.revision,
        ends=ends_of(backbone, asked),
    )
    if form == "peft":
        return write_peft(backbone.model, method.as_lora(tasks), directory, origin)
    return write_merged(backbone.model, method.merge(tasks), directory, origin)


def ends_of(base: Backbone, tasks: Sequence[AnyTask]) -> dict[str, int]:
    """The tokens that end an answer to one of the tasks, as they are written, with their ids: the end of a text, and
    what a chat template writes after a turn of the assistant. None if the base answers with no tokens."""
    if not isinstance(base, TextToText):
        return {}
    chats = [] if base.closes_text else [task for task in tasks if isinstance(task, GenerativeTask)]
    turns = [turn_end(task, base.tokenizer) for task in chats]
    found = {base.tokenizer.eos_token_id, *(end for end in turns if end is not None)}
    return {base.tokenizer.convert_ids_to_tokens(end): end for end in sorted(found)}


def published_base(version: Version, model: str | None) -> ModelConfig:
    """The run's base as it was published, not quantised. `model` is its place, if it has moved."""
    config = version.state.completed().model.model_copy(update={"quantization": None})
    return config if model is None else config.model_copy(update={"name": model, "revision": None})


def learned(version: Version) -> tuple[list[Committed], list[Artifact]]:
    """The commits that a version answers with, and their files, checked against their digests: all up to it, or itself
    alone if the run's method has an adapter per task."""
    adapter = version.state.completed().adapter
    commits = [version.commit] if adapter.needs_task else [*version.stream]
    names = adapter.files
    files = [version.track.committed(commit, *names) for commit in commits]
    return commits, [Artifact(dict(zip(names, each, strict=True))) for each in files]


def load_base(config: ModelConfig, version: Version, device: str = "cpu") -> Backbone:
    """The model that the stream up to a version was trained on, on a device.

    Raises:
        ConfigError: it cannot be loaded. IntegrityError: it is not that of the stream, see `trainers.identity`.
    """
    where = resolve_name(config.name), config.revision
    now = Identity(None, digests_again(*where, version.state.base.tokenizer), settings_of(*where))
    refuse_other(version, config.name, now)
    try:
        backbone = load_backbone(config, device)
    except ConfigError as error:
        raise ConfigError(f"{error}; or say where it is with --model") from None
    refuse_other(version, config.name, backbone.identity)
    return backbone


def refuse_other(version: Version, name: str, now: Identity) -> None:
    """Raises IntegrityError unless a base, as far as it is known, is the one that the stream was trained on."""
    if faults := differences(version, now):
        raise IntegrityError(
            f"{version.reference}: the base {name!r} is not the one that the stream was trained on "
            f"({'; '.join(faults)}); put that one back, or say where it is with --model"
        )


def differences(version: Version, now: Identity) -> list[str]:
    """How a base differs from the one that the stream up to a version was trained on, one line each."""
    bases = [version.state.base, *(commit.base for commit in version.stream)]
    return next((faults for base in bases if (faults := base.differences(now))), [])
