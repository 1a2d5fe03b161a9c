"""Takes a stream of adapters out of the store, as a PEFT LoRA or a whole model: `orthoplex adapters export`."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import yaml
from safetensors.torch import save

from cluster.errors import ConfigError, IntegrityError
from orchestrator.delivery.asked import How, asked_of, model_told
from orchestrator.delivery.repertoire import Repertoire
from orchestrator.delivery.script import script
from orchestrator.registry.figures import figures_of
from orchestrator.registry.references import Version
from orchestrator.track.events import Committed
from trainers.config import ModelConfig
from trainers.data.generative.config import AnyTask, GenerativeTask
from trainers.data.generative.encoding import turn_end
from trainers.identity import Identity, digests_again, files, settings_of
from trainers.methods.base import Artifact, Stream
from trainers.methods.base_files import beside_a_lora
from trainers.methods.card import Provenance, licence_of, public_name
from trainers.methods.card_figures import EVAL_RESULTS, eval_results
from trainers.methods.compress import compress, needed
from trainers.methods.export import Exported, check_free, dtype_of, write_merged, write_peft
from trainers.methods.registry import method_for
from trainers.models.base import Backbone
from trainers.models.loading import FAMILIES, load_backbone, resolve_name
from trainers.models.text_to_text import TextToText

Format = Literal["peft", "merged"]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One rank for a served LoRA: `max_rank` at most, with a layer's loss within `tolerance`; see `compress`."""

    max_rank: int | None = None
    tolerance: float | None = None


def export(
    version: Version,
    form: Format,
    directory: Path,
    *,
    model: str | None = None,
    served: str | None = None,
    fit: Fit | None = None,
) -> Exported:
    """Writes the adapters of a version, of all tasks up to it or its own alone, into the folder `directory`.

    `model` is the base's place, if it has moved. `served` is the base's name in the folder, if servers alone load it:
    it then holds the LoRA alone, of one rank if `fit` says so. Other folders stand alone (see `alone`).

    Raises:
        ConfigError: the folder is not empty, the base cannot be loaded, or as `compress`.
        IntegrityError: a stored file was changed, or the base is not the one the stream was trained on.
    """
    check_free(directory)
    commits, tasks = learned(version)
    config = published_base(version, model)
    backbone = load_base(config, version)
    method = method_for(backbone.model, version.state.completed().adapter, getattr(torch, config.dtype))
    origin = origin_of(version, commits, config, backbone, served)
    if served:
        return for_servers(backbone, method.as_lora(tasks), directory, origin, fit)
    beside, notes = alone(version, frozenset(origin.tasks), backbone, origin, form)
    if origin.figures and (results := eval_results(origin.figures)):
        beside[EVAL_RESULTS] = yaml.safe_dump(results, sort_keys=False, allow_unicode=True).encode()
    if form == "peft":
        made = write_peft(backbone.model, method.as_lora(tasks), directory, origin, beside=beside)
    else:
        made = write_merged(backbone.model, method.merge(tasks), directory, origin, beside=beside)
    return replace(made, notes=notes)


def for_servers(base: Backbone, stream: Stream, directory: Path, origin: Provenance, fit: Fit | None) -> Exported:
    """Writes the LoRA alone; with `fit` of one rank, with the bounds on what is lost in `compression.json`."""
    if fit is None or not stream:
        return replace(write_peft(base.model, stream, directory, origin), notes=tuple(needed(stream)))
    made = compress(stream, max_rank=fit.max_rank, tolerance=fit.tolerance)
    told: How = {"rank": made.rank, "relative_to_norm": made.worst[1], "layers": made.per_layer()}
    beside = {"compression.json": (json.dumps(told, indent=1) + "\n").encode()}
    notes = made.told()
    return replace(
        write_peft(base.model, made.stream, directory, origin, beside=beside, notes=notes),
        notes=(*notes, "Bounds per layer, the worst first (all are in compression.json):", *made.shown()),
    )


def origin_of(
    version: Version, commits: Sequence[Committed], config: ModelConfig, base: Backbone, served: str | None
) -> Provenance:
    """Where an export comes from; `served` is the base's name, if that is not how others know it."""
    names = task_names(version, commits)
    asked = [task for task in version.state.completed().tasks if task.name in names]
    source = Path(resolve_name(config.name))
    public, revision = public_name(config.name, config.revision or getattr(base.model.config, "_commit_hash", None))
    card = files(str(source), config.revision, ("README.md",))
    return Provenance(
        reference=version.reference,
        tasks=names,
        task_type=config.task_type,
        base=served or public,
        base_digest=base.digest,
        revision=None if served else revision,
        ends=ends_of(base, asked),
        place=str(source.resolve()) if source.is_dir() else str(source),
        licence=next((licence_of(path.read_text("utf-8", "replace")) for path in card.values()), None),
        figures=figures_of(version, names),
    )


def task_names(version: Version, commits: Sequence[Committed]) -> tuple[str, ...]:
    """The tasks that these commits have learned, in order: of a joint run, whose only commit is none of them, all."""
    if version.state.joint:
        return tuple(task.name for task in version.state.tasks)
    return tuple(commit.task for commit in commits)


def alone(
    version: Version, names: frozenset[str], base: Backbone, origin: Provenance, form: Format
) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """The files that let an exported folder answer by itself, by their paths in it, and a note per task that it cannot
    answer. To be called before a task is in the weights."""
    asked = asked_of(Repertoire(version), names, base)
    beside = beside_a_lora(origin.where, origin.revision) if form == "peft" else {}
    notes = tuple(f"predict.py does not ask {task!r}: {reason}" for task, reason in sorted(asked.left_out.items()))
    if not asked.tasks:
        return beside, notes
    told: How = {"reference": origin.reference, "base": origin.base, "revision": origin.revision}
    told |= {"base_sha256": origin.base_digest, **model_told(base), "tasks": asked.tasks}
    beside["tasks.json"] = (json.dumps(told, indent=1, ensure_ascii=False) + "\n").encode()
    beside["predict.py"] = script(
        asked.kinds, auto=FAMILIES[origin.task_type][1], dtype=dtype_of(base.model), merged=form == "merged",
        plain=asked.plain,
    ).encode()  # fmt: skip
    if form == "peft" and origin.where != origin.base and Path(origin.where).is_dir():
        notes += (f"predict.py asks the hub for the base; the one on this machine: --base {shlex.quote(origin.where)}",)
    if form == "merged" and asked.vectors:
        beside["labels/embedded.safetensors"] = save(dict(asked.vectors))
    return beside, notes


def ends_of(base: Backbone, tasks: Sequence[AnyTask]) -> dict[str, int]:
    """The tokens that end an answer to one of the tasks, as they are written, with their ids: the end of a text, and
    what a chat template writes after a turn of the assistant. None if the base answers with no tokens."""
    if not isinstance(base, TextToText):
        return {}
    chats = [] if base.closes_text else [task for task in tasks if isinstance(task, GenerativeTask)]
    turns = [turn_end(task, base.tokenizer) for task in chats]
    found = {base.tokenizer.eos_token_id, *(end for end in turns if end is not None)}
    return {base.tokenizer.convert_ids_to_tokens(end): end for end in sorted(found)}


def base_of(version: Version, model: str | None) -> ModelConfig:
    """The run's base. `model` is its place, if it has moved."""
    config = version.state.completed().model
    return config if model is None else config.model_copy(update={"name": model, "revision": None})


def published_base(version: Version, model: str | None) -> ModelConfig:
    """The run's base as it was published, not quantised; see `base_of`."""
    return base_of(version, model).model_copy(update={"quantization": None})


def gpu_or_cpu(device: str | None) -> str:
    """The device that is asked for; without one, a GPU if there is one."""
    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def learned(version: Version) -> tuple[list[Committed], list[Artifact]]:
    """The commits that a version answers with, and their files, checked against their digests: all up to it, or itself
    alone if the run's method has an adapter per task."""
    needs_task = version.state.completed().adapter.needs_task
    commits = [version.commit] if needs_task else [*version.stream]
    return commits, artifacts(version, commits)


def artifacts(version: Version, commits: Sequence[Committed]) -> list[Artifact]:
    """The files of some of a version's commits, checked against their digests."""
    names = version.state.completed().adapter.files
    files = [version.track.committed(commit, *names) for commit in commits]
    return [Artifact(dict(zip(names, each, strict=True))) for each in files]


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
