"""What may change in a run's configuration and data between two starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


NO_FORK = (  # what committed adapters hold: tasks that are learned with another value cannot stand on them
    "adapter.method", "adapter.rank", "adapter.target_modules", "model.dtype", "model.task_type",
)  # fmt: skip
PLACE = ("model.name: was", "model.revision: was")  # where a base is, which may be the same in another place


LEARNED_AS = (  # keys of a task that change what is learned from the same rows
    "chat_template", "instruction", "max_length", "system", "too_long", "train_on", "training",
)  # fmt: skip


def learned_as(task: TaskBase) -> dict[str, Any]:
    """What a checkpoint's identity has of a task beside its rows: {"task": the keys that are set}, empty if none is."""
    own = {
        key: value for key, value in task.model_dump(mode="json", exclude_defaults=True).items() if key in LEARNED_AS
    }
    return {"task": own} if own else {}


@dataclass(frozen=True)
class Objection:
    """Why a run cannot go on, in a `line`. A new run may begin with the first `kept` of its committed tasks all the
    same. `back` is what would have to be as it was, None if nothing can be put back."""

    line: str
    kept: int
    back: str | None = "the configuration"


def forbidden_changes(old: Mapping[str, Any], new: Mapping[str, Any], committed: int) -> list[Objection]:
    """Changes that would make the stream's tasks, of which so many are committed, incomparable.

    Where it runs, how it is sharded and reported, and its guards may change between two starts of a run; tasks may be
    appended. What is learned, on which data and in which order may not.
    """
    found = [
        _changed(*change, 0 if within(change[0], NO_FORK) else committed)
        for change in differences(without(old, ["tasks"]), without(new, ["tasks"]))
        if not within(change[0], HARMLESS)
    ]
    before, after = old["tasks"], new["tasks"]
    if len(after) < len(before):
        line = f"tasks: had {len(before)}, now {len(after)}; tasks may only be appended"
        found.append(Objection(line, min(len(after), committed)))
    for index, (a, b) in enumerate(zip(before, after, strict=False)):
        changed = differences(without(a, ["resources"]), without(b, ["resources"]), f"tasks.{index}")
        found += [_changed(*change, min(index, committed)) for change in changed]
    return found


def _changed(path: str, before: JsonLike, after: JsonLike, kept: int) -> Objection:
    return Objection(f"{path}: was {before!r}, is now {after!r}", kept)


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
) -> list[Objection]:
    """The reasons why the run cannot go on with this configuration, these `tasks` and this `base`.

    None if no task is committed yet: nothing would become incomparable. Rows and files that the log does not describe
    are not compared, nor is what is not given of the base.
    """
    if not (committed := len(state.commits)):
        return []
    files = [f"model.name: {line}" for line in state.base.differences(base or Identity())]
    rows = [
        (index, f"task {task.name!r}: its rows differ from those the run was begun with")
        for index, (begun, task) in enumerate(zip(state.tasks, tasks, strict=False))
        if begun.fingerprint and begun.fingerprint != task.fingerprint
    ]
    gone = [(v, f"v{v}: was deleted by `adapters gc`, and nothing can stand on it") for v in sorted(state.deleted)]
    return [
        *(forbidden_changes(completed(state.config), config, committed) if state.config else []),
        *(Objection(line, 0, "the files of the base") for line in files),
        *(Objection(line, min(index, committed), "the data") for index, line in rows),
        *(Objection(line, version - 1, None) for version, line in gone),
    ]


def way_on(state: RunState, found: Sequence[Objection]) -> str:
    """What helps against these objections, in a sentence; empty if there are none."""
    if not found:
        return ""
    kept, back = min(each.kept for each in found), [*dict.fromkeys(each.back for each in found)]
    ways = ["begin anew under another `name`" + ("" if kept else ", without --fork")]
    if None not in back:
        ways.insert(0, f"put {' and '.join(map(str, back))} back")
    if kept:
        tasks = "task 1" if kept == 1 else f"tasks 1 to {kept}"
        same = ", if this is the same base" if any(each.line.startswith(PLACE) for each in found) else ""
        later = f" --from-task {kept + 1}" if kept < len(state.commits) else ""
        ways.append(f"go on from {tasks} in a new run, with --fork NAME{later}{same}")
    sentence = ", or ".join(ways)
    return sentence[0].upper() + sentence[1:]


def completed(config: Json) -> Json:
    """A stored configuration with the defaults of keys that came later; unchanged if this version cannot read it."""
    try:
        return RunConfig.model_validate(config).model_dump(mode="json")
    except ValueError:
        return config


def refuse(name: str, lines: Sequence[str], way: str) -> None:
    """Raises ConfigError if there is an objection to going on with the run `name`: their lines, and the way on."""
    if lines:
        raise ConfigError("\n".join([f"the run {name!r} was begun otherwise:", *(f"  {line}" for line in lines), way]))
