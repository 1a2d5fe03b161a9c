"""The shared parts of the verbs: common options, finding runs in a store, printing JSON."""

import json
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.finite import finite
from cluster.storage import DEFAULT_STORE
from cluster.words import printable
from orchestrator.cli import completion
from orchestrator.console.volume import volume

if TYPE_CHECKING:
    from orchestrator.log.entry import Entry, JsonLike
    from orchestrator.registry.catalog import Row, Shown
    from orchestrator.registry.lineage import Tree
    from orchestrator.registry.quarantine import Held
    from orchestrator.registry.references import Version
    from orchestrator.track.events import Committed
    from orchestrator.track.state import RunState
    from orchestrator.track.track import Track
    from trainers.training.decisions import Columns

StoreUri = Annotated[str, typer.Option("--store", envvar="ORTHOPLEX_STORE", help="a folder, or s3://bucket/prefix")]
AnyStore = Annotated[
    str | None, typer.Option("--store", envvar="ORTHOPLEX_STORE", help="a folder, or s3://bucket/prefix")
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for other programs")]
ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="a YAML file; `orthoplex init` writes one")]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="a run's name, or team/name", autocompletion=completion.runs)
]
Tasks = Annotated[
    list[str],
    typer.Option("--task", metavar="NAME", help="only this task; repeatable", autocompletion=completion.tasks),
]
Module = Annotated[
    str | None, typer.Option("--module", metavar="PATTERN", help="only layers whose names contain or match it")
]
Overrides = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="override a key, as in train.epochs=1")
]
Webhook = Annotated[
    str | None, typer.Option("--webhook", envvar="ORTHOPLEX_WEBHOOK", metavar="URL", help="post the move there")
]
Registry = Annotated[
    str | None,
    typer.Option("--mlflow", envvar="ORTHOPLEX_MLFLOW", metavar="URI", help="mirror the alias in its model registry"),
]
Model = Annotated[str | None, typer.Option("--model", help="where the base is now: a folder or a hub id")]

__all__ = [
    "DEFAULT_STORE", "AnyStore", "AsJson", "ConfigPath", "Model", "Module", "Overrides", "RunName", "StoreUri", "Tasks",
]  # fmt: skip


def read_run(name: str, store: str) -> "RunState":
    """The state of a run named `name` or `team/name` in a store. A note says which entries of its log are left out.

    Raises:
        ConfigError: no run has the name, or several teams have one.
    """
    from cluster.storage import open_store
    from orchestrator.registry.references import find_track
    from orchestrator.track.events import skipped
    from orchestrator.track.state import replay

    track = find_track(open_store(store), name)
    entries = track.entries()
    tell_of_skipped(track.label, skipped(entries))
    return replay(track.team, track.name, entries)


def read_version(reference: str, store: str, moment: str | None = None) -> "Version":
    """The version that `team/track@vN` or `team/track@ALIAS` names. A note says which entries of its log are left out.

    Raises:
        ConfigError: the reference is malformed, or there is no such run, version or alias.
    """
    from cluster.storage import open_store
    from orchestrator.registry.references import resolve
    from orchestrator.track.events import skipped

    found = resolve(open_store(store), reference, moment)
    tell_of_skipped(found.track.label, skipped(found.entries))
    return found


def tell_of_skipped(label: str, left_out: str | None) -> None:
    """A note on what was left out of a log, if anything was."""
    if left_out:
        tell(f"{label}: {left_out}")


@contextmanager
def only_our_output() -> Iterator[None]:
    """What libraries print within goes to standard error, also later what they log: DeepSpeed, which transformers
    imports, logs to what is standard output when it is imported. Screens go on to standard output."""
    from orchestrator.console.screen import screens_on

    logging.getLogger("DeepSpeed").addFilter(worth_telling)

    with screens_on(sys.stdout), redirect_stdout(sys.stderr):
        yield


def worth_telling(record: logging.LogRecord) -> bool:
    """Whether a message of DeepSpeed is for people. That it has found no GPU is not: commands themselves need none."""
    return not record.getMessage().startswith("Setting accelerator to CPU")


def tell(note: str, kind: str = "note") -> None:
    """A note, or a warning, on standard error; none under `-q`."""
    if not volume.quiet:
        typer.echo(printable(f"{kind}: {note}"), err=True)


def read_log(state: "RunState", commit: "Committed", store: str) -> "Columns":
    """The columns of a committed task's training.parquet, its digest checked; none if the version has no such file."""
    from cluster.storage import open_store
    from orchestrator.registry.decisions import training_log
    from orchestrator.track.track import Track

    return training_log(Track(open_store(store), state.team, state.name), commit)


def echo(text: str, *, nl: bool = True) -> None:
    """Prints what may come from a log, with escapes for what a terminal would obey."""
    typer.echo(printable(text), nl=nl)


def echo_json(text: str) -> None:
    """Prints JSON, which stays what it is: such characters stand in its strings alone, and get JSON's escapes."""
    typer.echo("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text))


def print_json(value: "JsonLike | Shown | Tree") -> None:
    """Indented JSON on standard output; NaN and infinity, which JSON lacks, become null."""
    echo_json(json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False))


def print_json_rows(rows: "Iterable[Row | Held | Mapping[str, JsonLike]]") -> None:
    """A JSON list on standard output, one row per line. Raises ValueError for NaN or infinity."""
    lines = ",\n  ".join(json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
    echo_json(f"[\n  {lines}\n]" if lines else "[]")


def check_elsewhere(webhook: str | None, registry: str | None) -> None:
    """What is wrong with them is said before the alias is moved. Raises ConfigError."""
    if webhook:
        from orchestrator.followed.webhook import check_url

        check_url(webhook)
    if registry:
        from orchestrator.followed.mlflow_registry import check_mlflow

        check_mlflow()


def tell_moved(track: "Track", entry: "Entry", when: str, webhook: str | None, registry: str | None) -> None:
    """Prints where an alias points `when`, and what was set aside for it; then as `tell_elsewhere`."""
    from orchestrator.log.event import parse
    from orchestrator.track.aside import Move

    move = parse(entry, Move)
    echo(f"{track.label}@{move.alias} is v{move.version} {when} (entry {entry.seq})")
    if move.overridden:
        echo(f"set aside, as entry {entry.seq} says: {', '.join(move.overridden)}")
    tell_elsewhere(track, entry, webhook, registry)


def tell_elsewhere(track: "Track", entry: "Entry", webhook: str | None, registry: str | None) -> None:
    """Tells of a move. What is not told is a warning: the alias is moved."""
    if not (webhook or registry):
        return
    from orchestrator.followed.webhook import NotToldError, moved, send

    told = moved(track, entry)
    if webhook:
        try:
            send(webhook, told)
        except NotToldError as error:
            tell(str(error), "warning")
    if registry:
        from orchestrator.followed.mlflow_registry import mirror

        try:
            echo(f"MLflow: {mirror(registry, told)} is {told['alias']}")
        except NotToldError as error:
            tell(str(error), "warning")
