"""`orthoplex adapters …`: what stands in a store, and what is done with it."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cluster.errors import ConfigError
from orchestrator.cli_common import DEFAULT_STORE, AsJson, StoreUri, print_json, read_run, read_track

adapters = typer.Typer(help="The adapters in a store.", no_args_is_help=True, rich_markup_mode=None)
Reference = Annotated[str, typer.Argument(metavar="ADAPTER", help="team/track@vN")]


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
