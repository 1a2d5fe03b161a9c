"""`orthoplex logs`: what happened in a run or a sweep, and why."""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import completion
from orchestrator.cli.common import DEFAULT_STORE, AsJson, RunName, StoreUri, echo, echo_json, print_json_rows, tell
from orchestrator.console.volume import volume

if TYPE_CHECKING:
    from orchestrator.console.story import Told
    from orchestrator.log.chain import Log
    from orchestrator.log.entry import Entry

FOLLOW_S = 2.0  # between two looks at a log that is followed
ALIVE = "renew"  # the operation of entries that say no more than that a driver is there


def logs(
    name: RunName,
    store: StoreUri = DEFAULT_STORE,
    task: Annotated[
        str | None,
        typer.Option("--task", metavar="NAME", help="only what is about this task", autocompletion=completion.tasks),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="go on until its driver leaves")] = False,
    as_json: AsJson = False,
) -> None:
    """Tell what happened, and why. A line per event of a run's or a sweep's log; times are UTC."""
    from cluster.storage import open_store
    from orchestrator.console.story import Story
    from orchestrator.registry.references import find_log

    log = find_log(open_store(store), name)
    entries, story = log.entries(), Story()
    told = [*story.tell(entries)]
    version = story.version_of(task, log.label) if task else 0

    def asked(found: "Iterable[Told]") -> "Iterator[Told]":
        return (part for each in found if (part := each.about(task, version) if task else each))

    if as_json and not follow:
        print_json_rows([each.shown() for each in asked(told)])
        return
    show(asked(without_signs(told)), as_json=as_json)
    for fresh in newer(log, entries) if follow else ():
        show(asked(story.tell(fresh)), as_json=as_json)


def without_signs(told: "Sequence[Told]") -> "list[Told]":
    """The entries that say more than that a driver is there, and the newest; with `-v` all."""
    return [each for each in told if volume.verbose or each.op != ALIVE or each is told[-1]]


def show(told: "Iterable[Told]", *, as_json: bool) -> None:
    """Entries for people, or as a JSON object per line. What this version does not know becomes a note."""
    for each in told:
        if as_json:
            echo_json(json.dumps(each.shown(), ensure_ascii=False, allow_nan=False))
        elif each.known:
            echo("\n".join(each.lines))
        else:
            tell(f"entry {each.seq} is {each.text}")


def newer(log: "Log", entries: "list[Entry]") -> "Iterator[list[Entry]]":
    """Entries as they are written, until the driver has left, or has been silent for longer than its lease."""
    from orchestrator.track.driving import counted, driving

    while (now := driving(counted(entries))).status == "running" and now.driver and now.heard:
        silent_s = (datetime.now(UTC) - datetime.fromisoformat(now.heard.time)).total_seconds()
        if silent_s > now.driver.start.lease_s:
            tell(f"its driver, {now.driver.shown}, has been silent for {silent_s:.0f} s: it may be gone")
            return
        time.sleep(FOLLOW_S)
        if fresh := log.since(entries[-1]):
            entries += fresh
            yield fresh
