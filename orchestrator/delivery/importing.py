"""Brings a LoRA that PEFT has written into a store, as the one task of a track: `orthoplex adapters import`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cluster.errors import ConfigError
from cluster.folders import file_digest
from cluster.storage import open_store, upload_contents
from orchestrator.config.errors import Yaml
from orchestrator.config.file import read_mapping
from orchestrator.config.run import RunConfig, parse_config
from orchestrator.delivery.exported import exported
from orchestrator.log.event import Unchanged
from orchestrator.track.events import AnswersTold, Commit, Import, Learned, TaskDescription
from orchestrator.track.provenance import base_told, code_version
from orchestrator.track.state import replay
from orchestrator.track.track import Track
from trainers.data.generative.chat import find_template
from trainers.data.generative.config import AnyTask, GenerativeTask
from trainers.data.generative.encoding import turn_end
from trainers.data.prompts import prompt_for
from trainers.data.sources import listed
from trainers.methods.base import Stream, without_threshold
from trainers.methods.export import PEFT_CONFIG, PEFT_WEIGHTS
from trainers.methods.foreign import ForeignLora, as_task, fitted, read_folder
from trainers.methods.registry import method_for
from trainers.models.base import Backbone
from trainers.models.capabilities import most_positions
from trainers.models.loading import load_backbone
from trainers.models.text_to_text import TextToText

USUAL_TOKENS = 256  # of an answer, if nobody says how many
SECTIONS = ("model", "task")  # of the YAML file that says what a PEFT folder does not


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a PEFT folder does not say of the task that its LoRA has learned: sections `model` and `task` as in a run's
    configuration, in which options stand above the file. `answers` and `names` are those of `Exported`."""

    model: Mapping[str, Yaml]
    task: Mapping[str, Yaml]
    answers: AnswersTold | None = None
    names: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        file: Path | None,
        *,
        model: Mapping[str, Yaml | None],
        task: Mapping[str, Yaml | None],
        max_new_tokens: int | None = None,
    ) -> "Told":
        """From a YAML file and from options; those that are None are not given. Raises ConfigError as `read_mapping`,
        or if the file has another section."""
        content: dict[str, Any] = {} if file is None else read_mapping(file)
        for name, section in content.items():
            if name not in SECTIONS or not isinstance(section, dict):
                raise ConfigError(
                    f"{file}: {name}: the file has the sections model and task, with keys as in a run's configuration"
                )
        given = ({key: value for key, value in each.items() if value is not None} for each in (model, task))
        held = [{**content.get(name, {}), **options} for name, options in zip(SECTIONS, given, strict=True)]
        if max_new_tokens is not None:
            held[1]["decoding"] = above({"max_new_tokens": max_new_tokens}, held[1].get("decoding"))
        return cls(model=held[0], task=held[1])

    def beside(self, folder: Path) -> "Told":
        """This, above what the folder itself says of its tasks if Orthoplex has exported it; as it is if it says what
        the task answers with. Raises ConfigError as `exported`."""
        if {"labels", "format", "source"} & self.task.keys():
            return self
        found = exported(folder, self.task.get("name"))
        decoding = above(self.task.get("decoding"), found.task.get("decoding"))
        task = {**found.task, **self.task, **({"decoding": decoding} if decoding else {})}
        answers = None if "chat_template" in self.task else found.answers
        return Told(model={**found.model, **self.model}, task=task, answers=answers, names=found.names)


def above(given: Yaml | None, other: Yaml | None) -> Yaml | None:
    """The keys of two mappings; of one that both have, the value that is given. What is given if they are none."""
    if isinstance(given, Mapping) and isinstance(other, Mapping):
        return {**other, **given}
    return given or other


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A LoRA that stands in a store now."""

    reference: str
    task: str
    base: str
    base_digest: str
    layers: int
    rank: int
    parameters: int
    notes: tuple[str, ...] = ()


def import_lora(folder: Path, team: str, run: str, store: str, told: Told) -> Imported:
    """Commits the LoRA of a PEFT folder as version 1 of team/run, by method `lora`. If it was cut, it can be repeated.

    Raises:
        ConfigError: something about the task or the base is not said, or the track exists. DataError: what is in the
            folder is no plain LoRA, or not of this base; see `trainers.methods.foreign`.
    """
    lora, told = read_folder(folder), told.beside(folder)
    config = configured(folder, lora, {"name": run, "team": team, "store": store}, told)
    track = Track(open_store(config.store), team, run)
    begun = replay(team, run, track.entries())
    if begun.commits or (begun.head and not begun.imported):
        raise ConfigError(f"--as {team}/{run}: exists already; choose another name")
    base = load_base(config, lora, told)
    stream, targets = fitted(lora, base.model)
    config = config.model_copy(update={"adapter": config.adapter.model_copy(update={"target_modules": targets})})
    method_for(base.model, config.adapter, getattr(torch, config.model.dtype))
    description, notes = described(config, base, told.answers)
    event = Import(
        config=config.model_dump(mode="json"), task=description, origin=origin_of(folder, lora),
        files={name: file_digest(folder / name) for name in (PEFT_CONFIG, PEFT_WEIGHTS)},
    )  # fmt: skip
    if begun.imported and begun.imported.body() != event.body():
        raise ConfigError(f"--as {team}/{run}: another import was begun under this name; choose another name")
    entry = begun.head if begun.imported else track.append(event, after=begun.head, requires=Unchanged())
    facts = learned(description, stream, base)
    commit = stored(track, facts, manifest(event, config, facts), stream)
    track.append(commit, after=entry, requires=Unchanged())
    return Imported(
        reference=f"{track.label}@v1", task=description.name, base=config.model.name, base_digest=base.digest,
        layers=len(stream), rank=lora.rank, parameters=commit.active_parameters or 0, notes=notes,
    )  # fmt: skip


def configured(folder: Path, lora: ForeignLora, place: Mapping[str, str], told: Told) -> RunConfig:
    """The configuration of a run that would have learned it; `place` has its name, team and store.

    Raises:
        ConfigError: a key is wrong or not said; all that is not said is listed.
    """
    model: dict[str, Any] = {"name": lora.base, "revision": lora.revision, "task_type": lora.task_type}
    if "name" in told.model:
        model["revision"] = None
    model = {key: value for key, value in {**model, **told.model}.items() if value is not None}
    task = {"source": "imported", **told.task}
    if lacking := [*not_said(model, task, told.names)]:
        raise ConfigError("\n  ".join([f"{folder}: what it holds does not say all; say it too:", *lacking]))
    first = next(iter(lora.updates.values()))
    adapter = {
        "method": "lora", "target_modules": [*lora.updates], "rank": lora.rank, "alpha": first.scaling * lora.rank,
        "dropout": lora.dropout,
    }  # fmt: skip
    content: dict[str, Any] = {"model": model, "adapter": adapter, "tasks": [task]}
    return parse_config({**place, **content}, str(folder))


def not_said(model: Mapping[str, Any], task: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """What is needed and not given, one line each, with the option that gives it. `names` are those of the tasks that
    the folder itself describes."""
    language = model.get("task_type") in ("CAUSAL_LM", "SEQ_2_SEQ_LM")
    kinds = {"labels", "format"} & task.keys() or task["source"] in ("superni", "trace")
    wanted = {
        "the base: --model FOLDER_OR_HUB_ID": "name" in model,
        "what the base is: --task-type CAUSAL_LM, SEQ_2_SEQ_LM or LABEL_EMBEDDING": "task_type" in model,
        f"the task's name: --task NAME{f' (the folder says how to ask {listed(names)})' if names else ''}": "name"
        in task,
        "what the task answers with: --labels WORD,WORD,… for a label, or --format messages or prompt_completion for "
        "a text": bool(kinds),
        "what stands around a text that is to get a label: --prompt $'Review: {text}\\nAnswer:'": (
            "prompt" in model or "labels" not in task or not language
        ),
    }
    return [line for line, said in wanted.items() if not said]


def load_base(config: RunConfig, lora: ForeignLora, told: Told) -> Backbone:
    """The base. Raises ConfigError if it is not there; the message says where its name is from."""
    try:
        return load_backbone(config.model, "cpu")
    except ConfigError as error:
        named = "" if "name" in told.model or lora.base is None else f" (so {PEFT_CONFIG} names it)"
        raise ConfigError(f"{error}{named}; say where the base is with --model") from None


def described(
    config: RunConfig, base: Backbone, exported: AnswersTold | None
) -> tuple[TaskDescription, tuple[str, ...]]:
    """The task as a log describes it, without rows, and notes on what was assumed. Raises ConfigError if the base
    cannot tell its labels apart, or its template is not there."""
    (task,) = config.tasks
    if isinstance(task, GenerativeTask):
        answers, notes = answering(task, base, exported)
        return TaskDescription(name=task.name, answers=answers), notes
    words = label_words(task)
    base.check_labels(words, prompt_for(config.model.prompt, task, words))
    return TaskDescription(name=task.name, labels=words), ()


def label_words(task: AnyTask) -> tuple[str, ...]:
    """The label words of a task that is classification. Raises ConfigError if there are not two, all different."""
    words = tuple(word.strip() for word in getattr(task, "classes", None) or getattr(task, "labels", None) or ())
    if len(set(words)) < 2 or len(set(words)) < len(words) or not all(words):
        raise ConfigError(f"labels: {', '.join(words) or 'none'}; name at least two, all different: --labels yes,no")
    return words


def answering(
    task: GenerativeTask, base: Backbone, exported: AnswersTold | None
) -> tuple[AnswersTold, tuple[str, ...]]:
    """How the task is answered, and a note if the length of answers is not said."""
    assert isinstance(base, TextToText)
    said = task.decoding.max_new_tokens if task.decoding else None
    if exported and said:
        return exported.model_copy(update={"max_new_tokens": said}), ()
    positions = None if base.closes_text else most_positions(base.model)
    most = said or min(USUAL_TOKENS, (positions or 2 * USUAL_TOKENS) // 2)
    end = None if base.closes_text else turn_end(task, base.tokenizer)
    template = find_template(task.name, task.chat_template, base.tokenizer) if task.chat_template else None
    told = AnswersTold(max_new_tokens=most, ends=() if end is None else (end,))
    note = f"answers have at most {most} tokens, since nobody says how many; --max-new-tokens does"
    return (told if template is None else told.model_copy(update={"template": template})), (() if said else (note,))


def origin_of(folder: Path, lora: ForeignLora) -> dict[str, str]:
    """Where the adapter is from, as far as the folder says it."""
    told = {"folder": folder.resolve().name, "base": lora.base, "peft": lora.peft_version}
    return {key: value for key, value in told.items() if value}


def learned(task: TaskDescription, stream: Stream, base: Backbone) -> Learned:
    """The facts of the task; nothing was measured."""
    parameters = sum(lora.a_RK.numel() + lora.b_DR.numel() for lora in stream.values())
    ranks = {name: lora.rank for name, lora in stream.items()}
    return Learned.model_validate(
        {
            "task": task.name,
            "index": 0,
            "base_digest": base.digest,
            "active_parameters": parameters,
            "budget": without_threshold(ranks, ranks),
            **base_told(base.tokenizer_digests, base.settings),
        }
    )


def stored(track: Track, facts: Learned, told: Mapping[str, Any], stream: Stream) -> Commit:
    """The commit of the updates, whose files and manifest are in the store then."""
    prefix = track.fresh_prefix()
    records = upload_contents(track.store, prefix, as_task(stream))
    sha256 = track.write_manifest(prefix, told, records)
    size = sum(record.size for record in records)
    return Commit.placed(facts, version=1, prefix=prefix, manifest_sha256=sha256, stored_bytes=size)


def manifest(event: Import, config: RunConfig, facts: Learned) -> dict[str, Any]:
    """The manifest's keys beside its files: those of a task that a run has learned, and `imported`."""
    return {
        "base_model": config.model.model_dump(mode="json"), "base_digest": facts.base_digest,
        "adapter": config.adapter.model_dump(mode="json"), "task": event.task.body(),
        "budget": {name: each.body() for name, each in facts.budget.items()}, "occupancy": {}, "principal_angles": [],
        "parents": [], "trained_against": [], "config": dict(event.config), "code": code_version(), "metrics": {},
        "cost": None, "imported": {"origin": event.origin, "files": event.files},
        **base_told(facts.tokenizer, facts.base_config),
    }  # fmt: skip
