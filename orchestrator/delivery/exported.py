"""What the `tasks.json` of an exported folder says of a task, as keys of a configuration: the way back from `asked`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.errors import ConfigError
from cluster.text_files import check_regular
from orchestrator.track.events import AnswersTold

FILE = "tasks.json"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """Keys of the sections `model` and `task`, and how texts are answered; empty and None if nothing is said. `names`
    are those of the tasks that the folder can answer."""

    model: Mapping[str, Any] = field(default_factory=dict)
    task: Mapping[str, Any] = field(default_factory=dict)
    answers: AnswersTold | None = None
    names: tuple[str, ...] = ()


def exported(folder: Path, name: object) -> Exported:
    """What a folder says of the task `name`, or of its only task if that is None. Raises ConfigError if its tasks.json
    is malformed."""
    try:
        check_regular(folder / FILE)
        tasks = json.loads((folder / FILE).read_text("utf-8"))["tasks"]
        names = tuple(map(str, tasks))
        chosen = names[0] if name is None and len(names) == 1 else name
        if chosen not in names:
            return Exported(names=names)
        how, entry = tasks[chosen], {"name": chosen}
        return written(how, entry, names) if how["kind"] == "text" else labelled(how, entry, names)
    except FileNotFoundError:
        return Exported()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ConfigError(
            f"{folder / FILE}: is not as `adapters export` writes it ({type(error).__name__}: {error}); remove it, and "
            "say by options what the adapter has learned"
        ) from None


def labelled(how: Mapping[str, Any], entry: dict[str, Any], names: tuple[str, ...]) -> Exported:
    """A task with labels. Texts may have as many tokens as in the run, what is put around them included."""
    before, after = (part.replace("{", "{{").replace("}", "}}") for part in how["prompt"])
    model = {"prompt": f"{before}{{text}}{after}", "max_length": how["room"] + sum(map(len, how["around"]))}
    if how["kind"] == "named":
        model["scoring"] = "generation"
    return Exported(model=model, task={**entry, "labels": [*how["labels"]]}, names=names)


def written(how: Mapping[str, Any], entry: dict[str, Any], names: tuple[str, ...]) -> Exported:
    """A task that is answered with texts."""
    drawn = {"temperature": how["temperature"], "top_k": how["top_k"] or None, "top_p": how["top_p"]}
    decoding = {"max_new_tokens": how["new"], "beams": how["beams"], "stop": [*how["stop"]]}
    length = how["most"] * 4 // 3 if how["cut"] and not how["special"] else how["most"] + (not how["special"])
    system = {"system": how["system"][0]["content"]} if how["system"] else {}
    entry |= {"format": "messages" if how["chat"] else "prompt_completion", "max_length": length, **system}
    entry |= {"too_long": "cut" if how["cut"] else "refuse"}
    entry["decoding"] = decoding | (drawn if how["temperature"] else {})
    told = AnswersTold(max_new_tokens=how["new"], ends=tuple(how["ends"]))
    if how["template"] is not None:
        told = told.model_copy(update={"template": how["template"]})
    return Exported(task=entry, answers=told, names=names)
