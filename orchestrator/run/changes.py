"""What may change in a run's configuration and data between two starts."""

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.errors import ConfigError
from orchestrator.config.run import RunConfig
from orchestrator.log.entry import JsonLike
from orchestrator.log.event import Json
from orchestrator.track.events import TaskDescription
from orchestrator.track.state import RunState
from trainers.data.sources import TaskBase
from trainers.identity import Identity


def differences(old: JsonLike, new: JsonLike, path: str = "") -> list[tuple[str, JsonLike, JsonLike]]:
    """Leaves where two configurations differ, as (dotted path, old value, new value); an absent one is None."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            found
            for key in sorted({*old, *new})
            for found in differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        ]
    return [] if old == new else [(path, old, new)]


HARMLESS = (  # keys, and sections as a whole
    "cluster", "data_dir", "deepspeed", "evaluate", "guards", "store", "tracking", "train.eval_batch_size",
    "train.checkpoint_steps", "train.compile", "train.gradient_accumulation_steps", "train.gradient_checkpointing",
    "train.logging_steps", "train.on_out_of_memory",
)  # fmt: skip


LEARNED_AS = (  # keys of a task that change what is learned from the same rows
    "chat_template", "instruction", "max_length", "system", "too_long", "train_on", "training",
)  # fmt: skip


def learned_as(task: TaskBase) -> dict[str, Any]:
    """What a checkpoint's identity has of a task beside its rows: {"task": the keys that are set}, empty if none is."""
    own = {
        key: value for key, value in task.model_dump(mode="json", exclude_defaults=True).items() if key in LEARNED_AS
    }
    return {"task": own} if own else {}


def forbidden_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Changes that would make the stream's tasks incomparable, one line per change.

    Where it runs, how it is sharded and reported, and its guards may change between two starts of a run; tasks may be
    appended. What is learned, on which data and in which order may not.
    """
    lines = [
        f"{path}: was {before!r}, is now {after!r}"
        for path, before, after in differences(without(old, ["tasks"]), without(new, ["tasks"]))
        if not within(path, HARMLESS)
    ]
    before, after = old["tasks"], new["tasks"]
    if len(after) < len(before):
        lines.append(f"tasks: had {len(before)}, now {len(after)}; tasks may only be appended")
    for index, (a, b) in enumerate(zip(before, after, strict=False)):
        place = f"tasks.{index}"
        changed = differences(without(a, ["resources"]), without(b, ["resources"]), place)
        lines += [f"{path}: was {x!r}, is now {y!r}" for path, x, y in changed]
    return lines


def within(path: str, keys: Sequence[str]) -> bool:
    """Whether a dotted path is one of the keys or below one."""
    return any(f"{path}.".startswith(f"{key}.") for key in keys)


def without(config: Mapping[str, JsonLike], keys: Sequence[str], path: str = "") -> dict[str, JsonLike]:
    """A configuration without the keys, given as dotted paths, and what is below them."""
    kept: dict[str, JsonLike] = {}
    for name, value in config.items():
        dotted = f"{path}.{name}" if path else name
        if not within(dotted, keys):
            kept[name] = without(value, keys, dotted) if isinstance(value, Mapping) else value
    return kept


def objections(
    state: RunState, config: Json, tasks: Sequence[TaskDescription], base: Identity | None = None
) -> list[str]:
    """The reasons why the run cannot go on with this configuration, these `tasks` and this `base`, one line per
    reason.

    None if no task is committed yet: nothing would become incomparable. Rows and files that the log does not describe
    are not compared, nor is what is not given of the base.
    """
    if not state.commits:
        return []
    pairs = [(begun, task) for begun, task in zip(state.tasks, tasks, strict=False) if begun.fingerprint]
    changed = [task.name for begun, task in pairs if begun.fingerprint != task.fingerprint]
    return [
        *(forbidden_changes(completed(state.config), config) if state.config else []),
        *(f"model.name: {line}" for line in state.base.differences(base or Identity())),
        *(f"task {name!r}: its rows differ from those the run was begun with" for name in changed),
        *(
            f"v{version}: was deleted by `adapters gc`, and nothing can stand on it"
            for version in sorted(state.deleted)
        ),
    ]


def completed(config: Json) -> Json:
    """A stored configuration with the defaults of keys that came later; unchanged if this version cannot read it."""
    try:
        return RunConfig.model_validate(config).model_dump(mode="json")
    except ValueError:
        return config


def refuse(name: str, objections: Sequence[str]) -> None:
    """Raises ConfigError if there is an objection to going on with the run `name`."""
    if objections:
        shown = "\n".join(f"  {objection}" for objection in objections)
        raise ConfigError(
            f"the run {name!r} was begun otherwise:\n{shown}\nPut these back, give the "
            "configuration another `name`, or go on from its tasks in a new run, with --fork NAME"
        )
