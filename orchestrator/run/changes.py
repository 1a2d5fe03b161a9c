"""What may change in a run's configuration and data between two starts."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple, TypeVar

import yaml

from cluster.errors import ConfigError
from cluster.schema import WHOLE, Frozen
from orchestrator.config.run import RunConfig
from orchestrator.log.entry import JsonLike
from orchestrator.log.event import Json
from orchestrator.track.events import TaskDescription
from orchestrator.track.state import RunState
from trainers.data.sources import TaskBase
from trainers.identity import Identity

Given = tuple[str, JsonLike]  # dotted path, value


class Difference(NamedTuple):
    """A leaf where two configurations differ, with both values, None for one that is absent; `had` tells if the old one
    had the key."""

    path: str
    before: JsonLike
    after: JsonLike
    had: bool = True


def differences(
    old: JsonLike, new: JsonLike, path: str = "", section: object = None, *, had: bool = True
) -> list[Difference]:
    """Leaves where two configurations differ. `section` is the new one as it is read, if it can be: a mapping in it
    whose keys the user chose, as `rank_pattern`, is one leaf."""
    if isinstance(old, Mapping) and isinstance(new, Mapping) and not isinstance(section, Mapping):
        inside = f"{path}." if path else ""
        return [
            found
            for key in sorted({*old, *new})
            for found in differences(
                old.get(key), new.get(key), f"{inside}{key}", getattr(section, key, None), had=key in old
            )
        ]
    return [] if old == new else [Difference(path, old, new, had)]


Kind = TypeVar("Kind", bound=Frozen)
HARMLESS = (  # keys, and sections as a whole
    "cluster", "cost", "data_dir", "deepspeed", "evaluate", "guards", "store", "tracking", "train.eval_batch_size",
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


def learned_jointly(tasks: Sequence[TaskBase]) -> dict[str, Any]:
    """`learned_as` of tasks that are trained at once."""
    return {"tasks": [learned_as(task) for task in tasks]}


@dataclass(frozen=True)
class Objection:
    """Why a run cannot go on, in a `line`. A new run may begin with the first `kept` of its committed tasks all the
    same. `back` is what would have to be as it was, None if nothing can be put back. `default` is a key that has its
    default now, with its value before: a new default may be all that changed."""

    line: str
    kept: int
    back: str | None = "the configuration"
    default: Given | None = None

    @staticmethod
    def to(change: Difference, kept: int, now: Frozen | None) -> "Objection":
        """The objection to a change of the configuration, which is now `now`."""
        return Objection(told(change, now), kept, default=default_before(change, now))


def forbidden_changes(
    old: Mapping[str, Any], new: Mapping[str, Any], committed: int, now: Frozen | None = None
) -> list[Objection]:
    """Changes that would make the stream's tasks, of which so many are committed, incomparable. `now` is `new` as it is
    read.

    Where it runs, how it is sharded and reported, and its guards may change between two starts of a run; tasks may be
    appended. What is learned, on which data and in which order may not.
    """
    found = [
        Objection.to(change, 0 if within(change[0], NO_FORK) else committed, now)
        for change in differences(without(old, ["tasks"]), without(new, ["tasks"]), section=now)
        if not within(change[0], HARMLESS)
    ]
    before, after = old["tasks"], new["tasks"]
    if len(after) > len(before) and new["train"].get("joint"):
        found.append(Objection(f"tasks: had {len(before)}, now {len(after)}; train.joint has trained them at once", 0))
    if len(after) < len(before):
        line = f"tasks: had {len(before)}, now {len(after)}; tasks may only be appended"
        found.append(Objection(line, min(len(after), committed)))
    for index, (a, b) in enumerate(zip(before, after, strict=False)):
        task = now.tasks[index] if isinstance(now, RunConfig) else None
        changed = differences(without(a, ["resources"]), without(b, ["resources"]), f"tasks.{index}", task)
        found += [Objection.to(change, min(index, committed), now) for change in changed]
    return found


def told(change: Difference, now: Frozen | None = None) -> str:
    """A change in words; it says if the key has its default in the configuration `now`."""
    default = ", which is the default" if has_default(now, change.path.split(".")) else ""
    return f"{change.path}: was {change.before!r}, is now {change.after!r}{default}"


def default_before(change: Difference, now: Frozen | None) -> Given | None:
    """The key and its value before, if there was one, and the key has its default in the configuration `now`."""
    return (change.path, change.before) if change.had and has_default(now, change.path.split(".")) else None


def put_back(defaults: Sequence[Given]) -> str:
    """How keys that have their defaults get the values that they had: a line of options, and lines of YAML; empty if
    there are none."""
    if not defaults:
        return ""
    values = [f"{path}={json.dumps(value, ensure_ascii=False)}" for path, value in defaults]  # YAML cannot read \ud83d
    return "\n".join(
        [
            "If the defaults are all that changed, go on with these options",
            f"  {' '.join(f'--set {shlex.quote(value)}' for value in values)}",
            "or, without them at each start, with these lines in the file:",
            *(f"  {line}" for line in as_yaml(defaults)),
        ]
    )


def as_yaml(values: Sequence[Given]) -> list[str]:
    """Values as lines of YAML; those of an item of a list below a comment that names it."""
    items: dict[str, dict[str, Any]] = {}
    for path, value in values:
        keys = path.split(".")
        inside = max((number for number, key in enumerate(keys, start=1) if key.isdecimal()), default=0)
        *above, last = keys[inside:]
        section = items.setdefault(".".join(keys[:inside]), {})
        for key in above:
            section = section.setdefault(key, {})
        section[last] = value
    lines: list[str] = []
    for item, content in items.items():
        lines += [f"# in {item}:"] * bool(item)
        lines += yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=10**6).splitlines()
    return lines


def has_default(section: object, keys: Sequence[str]) -> bool:
    """Whether the value below these keys is the default of the last key, or stands in that of one above it."""
    if isinstance(section, tuple):
        return has_default(section[int(keys[0])], keys[1:])
    if not isinstance(section, Frozen) or keys[0] not in type(section).model_fields:
        return False
    value, default = getattr(section, keys[0]), type(section).default_of(keys[0])
    if len(keys) == 1:
        return bool(value == default)
    inside = isinstance(default, Frozen) and below(default, keys[1:]) == below(value, keys[1:])
    return inside or has_default(value, keys[1:])


def below(section: object, keys: Sequence[str]) -> object:
    """The value of these keys, one below the other; None if there is none."""
    return reduce(lambda found, key: getattr(found, key, None), keys, section)


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
    if not state.commits:
        return []
    if state.imported and state.driving.status == "absent":
        return [Objection("v1 was imported, and a run stands on a copy of it", 1, None)]
    now = read(config, RunConfig)
    committed = 0 if state.joint else len(state.commits)  # tasks that a new run may begin with
    files = [f"model.name: {line}" for line in state.base.differences(base or Identity())]
    rows = [
        (index, f"task {task.name!r}: its rows differ from those the run was begun with")
        for index, (begun, task) in enumerate(zip(state.tasks, tasks, strict=False))
        if begun.fingerprint and begun.fingerprint != task.fingerprint
    ]
    gone = [(v, f"v{v}: was deleted by `adapters gc`, and nothing can stand on it") for v in sorted(state.deleted)]
    return [
        *(forbidden_changes(*comparable(state.config, config, RunConfig), committed, now) if state.config else []),
        *(Objection(line, 0, "the files of the base") for line in files),
        *(Objection(line, min(index, committed), "the data") for index, line in rows),
        *(Objection(line, min(version - 1, committed), None) for version, line in gone),
    ]


def way_on(state: RunState, found: Sequence[Objection]) -> str:
    """What helps against these objections: a sentence, and how defaults are put back; empty if there are none."""
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
    defaults = put_back([each.default for each in found if each.default]) if None not in back else ""
    return "\n".join(filter(None, [sentence[0].upper() + sentence[1:], defaults]))


def read(config: Json, kind: type[Kind]) -> Kind | None:
    """A configuration in its stored form; None if this version cannot read it."""
    try:
        return kind.stored(config)
    except ValueError:
        return None


def comparable(old: Json, new: Json, kind: type[Frozen]) -> tuple[Json, Json]:
    """Two configurations with all their keys; as they are stored if this version cannot read one of them."""
    before, after = read(old, kind), read(new, kind)
    if before is None or after is None:
        return old, new
    return before.model_dump(mode="json", context=WHOLE), after.model_dump(mode="json", context=WHOLE)


def going_on(config: Kind, stored: Json) -> Kind:
    """A configuration as it goes on what is stored, see `Frozen.going_on`; as it is if nothing is stored."""
    return config.going_on(stored) if stored else config


def refuse(name: str, lines: Sequence[str], way: str) -> None:
    """Raises ConfigError if there is an objection to going on with the run `name`: their lines, and the way on."""
    if lines:
        raise ConfigError("\n".join([f"the run {name!r} was begun otherwise:", *(f"  {line}" for line in lines), way]))
