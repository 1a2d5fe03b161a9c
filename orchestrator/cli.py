"""The `orthoplex` command. Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 3 stopped by a guard,
130 interrupted (state kept)."""

import dataclasses
import difflib
import io
import json
import math
import shlex
import sys
import time
from contextlib import suppress
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cluster.errors import ConfigError, Interrupted, OrthoplexError
from orchestrator import cli_handoff

app = typer.Typer(
    name="orthoplex",
    help="Trains one frozen language model on task after task without forgetting, on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
adapters = typer.Typer(help="The adapters in a store.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(adapters, name="adapters")

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="a YAML file; `orthoplex init` writes one")]
Overrides = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="override a key, as in train.epochs=1")
]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="a run's name, or team/name")]
StoreUri = Annotated[str, typer.Option("--store", envvar="ORTHOPLEX_STORE", help="a folder, or s3://bucket/prefix")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for other programs")]
Reference = Annotated[str, typer.Argument(metavar="ADAPTER", help="team/track@vN")]
DEFAULT_STORE = ".orthoplex/store"


def print_version(wanted: bool) -> None:
    """Prints the installed version and ends, where `--version` is given."""
    if wanted:
        try:
            typer.echo(f"orthoplex {metadata.version('orthoplex')}")
        except metadata.PackageNotFoundError:
            typer.echo("orthoplex, run from source")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """What stands before the verb."""


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="where to write")] = Path("orthoplex.yaml"),
    force: Annotated[bool, typer.Option("--force", help="replace an existing file")] = False,
) -> None:
    """Write a commented configuration to start from."""
    if path.exists() and not force:
        raise ConfigError(f"{path}: exists already; choose another path, or replace it with --force")
    template = files("orchestrator").joinpath("templates/config.yaml").read_text("utf-8")
    try:
        path.write_text(template, "utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}; choose another path") from None
    typer.echo(f"wrote {path}; next: orthoplex plan {shlex.quote(str(path))}")


@app.command()
def plan(config: ConfigPath, overrides: Overrides = [], as_json: AsJson = False) -> None:  # noqa: B006
    """Show what would run, and change nothing. Tasks, layers, parameters, memory, store writes."""
    from orchestrator.config import load_config

    loaded = load_config(config, overrides)  # what is wrong here is told before torch is imported
    from orchestrator.console import print_plan
    from orchestrator.plan import make_plan
    from orchestrator.state import refuse

    made = make_plan(loaded)
    if as_json:
        print_json(dataclasses.asdict(made))
    else:
        print_plan(made)
    refuse(made.name, made.objections)


@app.command()
def run(config: ConfigPath, overrides: Overrides = []) -> None:  # noqa: B006
    """Run the task sequence, or go on with it. A finished run says so and does nothing."""
    from orchestrator.config import load_config

    started = time.monotonic()
    loaded = load_config(config, overrides)
    from orchestrator.console import RunReporter, print_outcome
    from orchestrator.controller import Controller

    with RunReporter(len(loaded.tasks)) as reporter:
        controller = Controller(loaded, reporter)
        begun = controller.state
        if begun.commits:
            done = f"{len(begun.commits)} of {len(loaded.tasks)} tasks are committed already"
            reporter.say(f"{loaded.team}/{loaded.name}: {done}")
        try:
            state = controller.run()
        except (Interrupted, KeyboardInterrupt):
            again = ["orthoplex", "run", str(config), *(word for each in overrides for word in ("--set", each))]
            raise Interrupted(
                f"interrupted; {len(controller.state.commits)} of {len(loaded.tasks)} tasks are committed. "
                f"Go on with: {shlex.join(again)}"
            ) from None
        took = f"finished in {time.monotonic() - started:.0f} s"
        reporter.say("finished before; nothing is left to do" if state is begun else took)
    print_outcome(state, loaded.store)


@app.command()
def status(name: RunName, store: StoreUri = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """Show where a run stands. Tasks, accuracy matrix, metrics, budgets."""
    from orchestrator.state import status as describe

    state = read_run(name, store)
    if as_json:
        print_json(describe(state))
        return
    from orchestrator.console import print_status

    print_status(state)


@app.command()
def explain(name: RunName, store: StoreUri = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """Show why each layer has its budget. How r_eff and τ moved in training."""
    from orchestrator.console import print_explanation

    state = read_run(name, store)
    logs = [read_log(state, commit, store) for commit in state.commits]
    if as_json:
        print_json(
            [
                {"task": c["task"], "budget": c["budget"], "training": log}
                for c, log in zip(state.commits, logs, strict=True)
            ]
        )
    else:
        print_explanation(state, logs)


@adapters.command("list")
def list_adapters(store: StoreUri = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """List every committed adapter of every track."""
    from cluster.storage import open_store
    from orchestrator.registry import list_tracks

    opened = open_store(store)
    rows = [
        summarise(state, commit)
        for team, track in list_tracks(opened)
        for state in [read_track(opened, team, track)]
        for commit in state.commits
    ]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        typer.echo(f"{row['ref']}  {row['task']}  {row['active_parameters']:,} parameters  {row['committed_at']}")
    if not rows:
        typer.echo(f"no adapters in {opened.uri}")


@adapters.command("show")
def show_adapter(
    reference: Reference,
    store: StoreUri = DEFAULT_STORE,
    as_json: AsJson = False,
) -> None:
    """Show one adapter's manifest. Base, task, budget, files with their digests."""
    from cluster.storage import open_store
    from orchestrator.registry import Track

    state, commit = read_version(reference, store)
    track = Track(open_store(store), state.team, state.name)
    manifest = track.read_manifest(commit["prefix"], commit["manifest_sha256"])
    shown = {**summarise(state, commit), "manifest": manifest}
    if as_json:
        print_json(shown)
        return
    for key in ("ref", "task", "committed_at", "location"):
        typer.echo(f"{key}: {shown[key]}")
    typer.echo(f"parameters: {shown['active_parameters']:,}; overlap with earlier tasks: {shown['overlap']:.2%}")
    typer.echo(f"base: {manifest['base_model']['name']} sha256 {manifest['base_digest']}")
    for record in manifest["files"]:
        typer.echo(f"  {record['path']}  {record['size']:,} bytes  sha256 {record['sha256']}")


@adapters.command("export")
def export_adapter(
    reference: Reference,
    form: Annotated[Literal["peft", "merged"], typer.Option("--format", help="a PEFT LoRA, or the whole model")],
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="a folder that is new or empty")],
    store: StoreUri = DEFAULT_STORE,
    model: Annotated[str | None, typer.Option("--model", help="where the base is now: a folder or a hub id")] = None,
) -> None:
    """Write an adapter, with all before it, for other programs. As a PEFT LoRA or as a whole model."""
    state, commit = read_version(reference, store)
    from cluster.storage import open_store
    from orchestrator.export import export  # imports torch
    from orchestrator.registry import Track

    made = export(Track(open_store(store), state.team, state.name), state, commit, form, output, model=model)
    ranks = made.ranks.values()
    held = f"{len(ranks)} layers, ranks {min(ranks)} to {max(ranks)}" if ranks else "no layer adapted"
    count = f", {made.parameters:,} parameters" if made.parameters else ""
    typer.echo(f"wrote {output}: {state.reference(commit)} with all tasks before it as {form}; {held}{count}")
    for path, size in made.sizes_bytes.items():
        typer.echo(f"  {path}  {size:,} bytes")


adapters.command("serve-layout")(cli_handoff.serve_layout)


def read_version(reference: str, store: str) -> tuple[Any, dict[str, Any]]:
    """The run and the commit that `team/track@vN` or `track@vN` names.

    Raises:
        ConfigError: it is malformed, or there is no such run or version.
    """
    name, _, number = reference.rpartition("@v")
    if not name or not number.isdecimal():
        raise ConfigError(f"ADAPTER {reference!r}: expected RUN@vN, as in quickstart@v1; see `orthoplex adapters list`")
    state = read_run(name, store)
    commit = next((c for c in state.commits if str(c["version"]) == number), None)
    if commit is None:
        have = ", ".join(f"v{c['version']}" for c in state.commits) or "none"
        raise ConfigError(f"ADAPTER {reference!r}: no such version; {state.team}/{state.name} has {have}")
    return state, commit


def read_run(name: str, store: str) -> Any:
    """The state of a run named `name` or `team/name` in a store.

    Raises:
        ConfigError: no run has the name, or several teams have one.
    """
    from cluster.storage import open_store
    from orchestrator.registry import list_tracks
    from trainers.sources import listed

    opened = open_store(store)
    known = list_tracks(opened)
    found = [(team, track) for team, track in known if name in (track, f"{team}/{track}")]
    if len(found) == 1:
        return read_track(opened, *found[0])
    names = [f"{team}/{track}" for team, track in known]
    if found:
        shown = ", ".join(f"{team}/{track}" for team, track in found)
        raise ConfigError(f"RUN {name!r}: several teams have one; give one of {shown}")
    near = difflib.get_close_matches(name, [*names, *(track for _, track in known)], n=1, cutoff=0.5)
    hint = f"which holds {listed(names)}" if names else "which holds no runs"
    if near:
        hint = f"did you mean {near[0]!r}?"
    raise ConfigError(f"RUN {name!r}: not in the store {opened.uri}, {hint} (--store names another store)")


def read_track(store: Any, team: str, track: str) -> Any:
    """The replayed state of one track."""
    from orchestrator.registry import Track
    from orchestrator.state import replay

    return replay(team, track, Track(store, team, track).entries())


def read_log(state: Any, commit: dict[str, Any], store: str) -> dict[str, list[Any]]:
    """The columns of a committed task's training.parquet, its digest checked."""
    import pyarrow.parquet as pq

    from cluster.storage import open_store
    from orchestrator.registry import Track

    track = Track(open_store(store), state.team, state.name)
    manifest = track.read_manifest(commit["prefix"], commit["manifest_sha256"])
    table = pq.read_table(io.BytesIO(track.read_file(commit["prefix"], manifest, "training.parquet")))
    columns: dict[str, list[Any]] = table.to_pydict()
    return columns


def summarise(state: Any, commit: dict[str, Any]) -> dict[str, Any]:
    """A committed adapter as `adapters list --json` shows it."""
    return {
        "ref": state.reference(commit),
        "name": f"{state.team}/{state.name}",
        "version": commit["version"],
        "aliases": [],
        "task": commit["task"],
        "active_parameters": commit["active_parameters"],
        "stored_bytes": commit["stored_bytes"],
        "overlap": commit["overlap"],
        "location": commit["prefix"],
        "committed_at": commit["time"],
    }


def print_json(value: Any) -> None:
    """Indented JSON on standard output; NaN and infinity, which JSON lacks, become null."""
    typer.echo(json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False))


def finite(value: Any) -> Any:
    """The value with None for every NaN and infinity in it."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main() -> None:
    """Entry point of the console script: errors become one message and an exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal can show τ
    try:
        app(prog_name="orthoplex")
    except OrthoplexError as error:
        with suppress(OSError):
            sys.stdout.flush()
        typer.echo(f"orthoplex: {error}", err=True)
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code == Interrupted.exit_code:  # typer ends so on Ctrl-C, without a word
            typer.echo("orthoplex: interrupted", err=True)
        raise


if __name__ == "__main__":
    main()
