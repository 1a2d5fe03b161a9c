"""Who changed which rule or configuration key, when and why: pure functions of logs, for `orthoplex review`."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from orchestrator.log.entry import Entry, JsonLike
from orchestrator.log.event import Json, events, parse
from orchestrator.run.changes import differences
from orchestrator.track.events import Open, Rules
from orchestrator.track.rules import RulesLog, TeamRules

MOST_SHOWN = 80  # characters of a value


@dataclass(frozen=True, kw_only=True)
class Changed:
    """A key that was changed in the configuration of a run or in the rules of a team (`where`). Values are JSON."""

    where: str
    key: str
    before: JsonLike
    after: JsonLike
    time: str
    actor: str
    why: str = ""


def config_changes(label: str, entries: Iterable[Entry]) -> Iterator[Changed]:
    """Every key of a run's configuration that another start has changed. Of `tasks` the names are told."""
    before: Json | None = None
    for entry, opened in events(entries, Open):
        for key, old, new in leaves(before, opened.config) if before is not None else ():
            yield Changed(where=label, key=key, before=old, after=new, time=entry.time, actor=entry.actor)
        before = opened.config


def rule_changes(log: RulesLog) -> Iterator[Changed]:
    """Every key of a team's rules that a revision has changed; the first is compared with no rules."""
    before: JsonLike = TeamRules().model_dump(mode="json")
    for entry in log.entries():
        made = parse(entry, Rules)
        for found in differences(before, made.rules):
            yield Changed(
                where=log.label, key=found.path, before=found.before, after=found.after, time=entry.time,
                actor=entry.actor, why=made.why,
            )  # fmt: skip
        before = made.rules


def leaves(old: Json, new: Json) -> Iterator[tuple[str, JsonLike, JsonLike]]:
    """Keys that differ, with both values; of `tasks` the names."""
    for found in differences(old, new):
        if found.path == "tasks":
            yield "tasks", names_of(found.before), names_of(found.after)
        else:
            yield found.path, found.before, found.after


def names_of(tasks: JsonLike) -> JsonLike:
    """The names of tasks as a configuration holds them."""
    if not isinstance(tasks, list):
        return None
    return [task.get("name") if isinstance(task, Mapping) else None for task in tasks]


def figure_shown(value: JsonLike) -> str:
    """A measured value, or a bound; a dot for None."""
    return "·" if value is None else f"{value:.4g}" if isinstance(value, float) else value_shown(value)


def value_shown(value: JsonLike) -> str:
    """A value for people; the end of a long one is left out."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"
