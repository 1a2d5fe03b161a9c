"""`orthoplex adapters …`: lists, shows, moves and exports the adapters in a store."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cluster.errors import ConfigError
from orchestrator.cli import completion
from orchestrator.cli.common import (
    DEFAULT_STORE,
    AsJson,
    Model,
    Registry,
    StoreUri,
    Webhook,
    check_elsewhere,
    echo,
    only_our_output,
    print_json,
    print_json_rows,
    read_version,
    tell,
    tell_moved,
)

if TYPE_CHECKING:
    from cluster.storage import Store
    from orchestrator.registry.catalog import Row, Shown
    from orchestrator.registry.references import Version
    from orchestrator.track.aside import ApprovalState

adapters = typer.Typer(help="The adapters in a store.", no_args_is_help=True, rich_markup_mode=None)
Reference = Annotated[
    str,
    typer.Argument(metavar="ADAPTER", help="team/track@vN, or @ and an alias", autocompletion=completion.adapters),
]
Expect = Annotated[
    int | None,
    typer.Option("--expect", metavar="SEQ", help="the entry that moved it last, as you saw it; 0 if none has"),
]
Why = Annotated[str, typer.Option("--why", help="the reason, kept in the log")]
Override = Annotated[bool, typer.Option("--override", help="set what forbids it aside, in your name; needs --why")]
Team = Annotated[str | None, typer.Option("--team", help="only this team's; needs no right to list other teams")]


@adapters.command("list")
def list_adapters(
    store: StoreUri = DEFAULT_STORE,
    as_json: AsJson = False,
    team: Team = None,
    task: Annotated[str | None, typer.Option("--task", help="only adapters of this task")] = None,
    quarantined: Annotated[
        bool, typer.Option("--quarantined", help="instead those that guards stopped before they were committed")
    ] = False,
) -> None:
    """List all adapters. Each with its accuracy, its parameters and the aliases that name it."""
    from cluster.storage import open_store
    from orchestrator.registry.catalog import listed

    opened = open_store(store)
    if quarantined:
        list_quarantined(opened, team, task, as_json)
        return
    rows = listed(opened, team, task, tell)
    if as_json:
        print_json_rows(rows)
    else:
        echo("\n".join(map(listing_line, rows)) or f"no adapters in {opened.uri}")


def list_quarantined(store: "Store", team: str | None, task: str | None, as_json: bool) -> None:
    """What guards stopped, and why."""
    from orchestrator.registry.quarantine import held

    rows = [*held(store, team, task, tell)]
    if as_json:
        print_json_rows(rows)
        return
    for row in rows:
        echo(f"{row['name']}  would be v{row['version']}  {row['task']}  {row['quarantined_at']}  {row['location']}")
        echo("\n".join(f"  {reason}" for reason in row["reasons"]))
    if not rows:
        echo(f"nothing is quarantined in {store.uri}")


def listing_line(row: "Row") -> str:
    """One adapter among many, for people."""
    named = "".join(f"  {name} (moved by entry {seq})" for name, seq in row["alias_revisions"].items())
    shown = f"{shown_accuracy(row)}  {shown_count(row)} parameters"
    said = f"  {row['approval']['state']}" if "approval" in row else ""
    return f"{row['ref']}  {row['task']}  {shown}  {row['committed_at']}{named}{said}"


def shown_accuracy(row: "Row", halves: Mapping[str, float | None] = MappingProxyType({})) -> str:
    """AA on the test splits of the tasks up to an adapter, and the nll per token of those judged by it, for people;
    "not scored" if nobody measured either. `halves` are half their 95% intervals."""
    accuracy, nll = row["average_accuracy"], row["average_nll"]
    shown = [] if accuracy is None else [f"AA {100 * accuracy:.1f}{spread(halves.get('aa'), 100, 1)} points"]
    shown += [] if nll is None else [f"nll {nll:.3f}{spread(halves.get('nll'), 1, 3)}"]
    return ", ".join(shown) or "not scored"


def spread(half: float | None, unit: int, digits: int) -> str:
    """Half an interval, behind its value; nothing if there is none."""
    return "" if half is None else f" ±{unit * half:.{digits}f}"


def shown_count(row: "Row") -> str:
    """How many parameters an adapter has, for people; a question mark if nobody counted."""
    return "?" if row["active_parameters"] is None else f"{row['active_parameters']:,}"


@adapters.command("show")
def show_adapter(
    reference: Reference,
    *,
    store: StoreUri = DEFAULT_STORE,
    as_json: AsJson = False,
    as_tree: Annotated[bool, typer.Option("--tree", help="all versions of its stream, and the base")] = False,
    alias: Annotated[str | None, typer.Option("--alias", help="with team/track: the version it names")] = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="with an alias: the version that it named then")
    ] = None,
) -> None:
    """Show one adapter's manifest. Base, task, budget, files with their digests."""
    from orchestrator.registry.approvals import word_on
    from orchestrator.registry.catalog import rows_of
    from orchestrator.registry.lineage import tree, tree_lines

    found = read_version(f"{reference}@{alias}" if alias else reference, store, at)
    if as_tree:
        content = tree(found.state, found.entries)
        print_json(content) if as_json else echo("\n".join(tree_lines(content)))
        return
    manifest = found.track.manifest_of(found.commit)
    halves = found.state.upto(found.commit.version).half_widths("test")
    (row,) = (row for row in rows_of(found.track.label, found.entries) if row["version"] == found.commit.version)
    word = word_on(found.entries, found.commit)
    if as_json:
        shown: Shown = {**row, "half_widths": halves, "manifest": manifest}
        if word:
            shown["approval"] = word.shown()
        print_json(shown)
    else:
        print_manifest(row, manifest, halves)
        if word:
            echo(f"approval: {word.told}")


def print_manifest(row: "Row", manifest: dict[str, Any], halves: Mapping[str, float | None]) -> None:
    """One adapter, for people."""
    echo(f"ref: {row['ref']}\ntask: {row['task']}\ncommitted_at: {row['committed_at']}\nlocation: {row['location']}")
    if row["aliases"]:
        echo(f"aliases: {', '.join(row['aliases'])}")
    overlap = "not measured" if row["overlap"] is None else f"{row['overlap']:.2%}"
    echo(f"test accuracy of the tasks up to it: {shown_accuracy(row, halves)}")
    echo(f"parameters: {shown_count(row)}; overlap with earlier tasks: {overlap}")
    if base := manifest.get("base_model", {}).get("name"):
        echo(f"base: {base} sha256 {manifest.get('base_digest', 'not known')}")
    if commit := manifest.get("code", {}).get("git_commit"):
        echo(f"code: {commit}{' and changes to it' if manifest['code']['git_changed'] else ''}")
    for record in manifest["files"]:
        echo(f"  {record['path']}  {record['size']:,} bytes  sha256 {record['sha256']}")


@adapters.command("promote")
def promote_adapter(
    reference: Reference,
    alias: Annotated[str, typer.Option("--alias", help="such as production")],
    *,
    store: StoreUri = DEFAULT_STORE,
    expect: Expect = None,
    override: Override = False,
    why: Why = "",
    webhook: Webhook = None,
    registry: Registry = None,
) -> None:
    """Point an alias at an adapter. The team's rules and the run's guards must hold, on the validation matrix."""
    from orchestrator.registry.aliases import promote

    check_elsewhere(webhook, registry)
    found = read_version(reference, store)
    entry = promote(found.track, found.commit.version, alias, expect=expect, why=why, override=override)
    tell_moved(found.track, entry, "now", webhook, registry)


@adapters.command("request")
def request_approval(reference: Reference, store: StoreUri = DEFAULT_STORE, why: Why = "") -> None:
    """Ask for approval of an adapter. Until somebody approves, it is pending."""
    say_of(reference, store, "pending", why)


@adapters.command("approve")
def approve_adapter(reference: Reference, store: StoreUri = DEFAULT_STORE, why: Why = "") -> None:
    """Approve of an adapter, with a reason. The team's rules may ask for it before a promotion."""
    say_of(reference, store, "approved", why)


@adapters.command("reject")
def reject_adapter(reference: Reference, store: StoreUri = DEFAULT_STORE, why: Why = "") -> None:
    """Reject an adapter, with a reason. It is not promoted from then on."""
    say_of(reference, store, "rejected", why)


def say_of(reference: str, store: str, state: "ApprovalState", why: str) -> None:
    """A person's word on a version."""
    from orchestrator.registry.approvals import say

    found = read_version(reference, store)
    entry = say(found.track, found.commit.version, state, why)
    echo(f"{found.reference} is {state}, says {entry.actor} (entry {entry.seq})")


@adapters.command("rollback")
def rollback_alias(
    reference: Annotated[str, typer.Argument(metavar="ALIAS", help="team/track@alias")],
    *,
    store: StoreUri = DEFAULT_STORE,
    expect: Expect = None,
    override: Override = False,
    why: Why = "",
    webhook: Webhook = None,
    registry: Registry = None,
) -> None:
    """Point an alias at the version before, unless that is rejected. What it named before it was last promoted."""
    from cluster.storage import open_store
    from orchestrator.registry.aliases import rollback
    from orchestrator.registry.references import find_track

    name, _, alias = reference.rpartition("@")
    if not name:
        raise ConfigError(f"ALIAS {reference!r}: expected RUN@ALIAS, as in quickstart@production")
    check_elsewhere(webhook, registry)
    track = find_track(open_store(store), name)
    entry = rollback(track, alias, expect=expect, why=why, override=override)
    tell_moved(track, entry, "again", webhook, registry)


@adapters.command("pull")
def pull_adapter(
    reference: Reference,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="a folder that is new or empty")],
    store: StoreUri = DEFAULT_STORE,
    stream: Annotated[
        bool, typer.Option("--stream", help="with all versions before it, one folder per version")
    ] = False,
) -> None:
    """Copy an adapter's files into a folder. It appears whole; every digest is checked, nothing is fetched twice."""
    from orchestrator.registry.pull import pull

    found = read_version(reference, store)
    versions = {f"v{each.version:08d}": each for each in found.stream} if stream else {"": found.commit}
    size = pull(found.track, versions, directory)
    echo(f"{directory}: {found.reference}, {size:,} bytes")


def read_base_of(reference: str, store: str) -> "Version":
    """As `read_version`, for what loads the base: a note says if its tokenizer cannot be compared."""
    found = read_version(reference, store)
    if found.state.not_compared:
        tell(found.state.not_compared)
    return found


def lora_parameters(written: int, version: "Version") -> str:
    """The parameters of a LoRA, with those that `status` counts if these are others."""
    adapter = version.state.completed().adapter
    upto = version.state.upto(version.commit.version)
    active = version.commit.active_parameters if adapter.needs_task else upto.active_parameters
    told = f", {written:,} parameters"
    if active is None or active == written:
        return told
    return (
        f"{told}: A has a layer's input width, B its output width, and biases count if there are any; "
        f"`status` counts the {active:,} of {adapter.counted} that were trained and kept"
    )


@adapters.command("export")
def export_adapter(
    reference: Reference,
    form: Annotated[Literal["peft", "merged"], typer.Option("--format", help="a PEFT LoRA, or the whole model")],
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="a folder that is new or empty")],
    store: StoreUri = DEFAULT_STORE,
    model: Model = None,
) -> None:
    """Write an adapter for other programs. With all before it, as a PEFT LoRA or as a whole model."""
    found = read_base_of(reference, store)
    with only_our_output():
        from orchestrator.delivery.export import export  # imports torch

        made = export(found, form, output, model=model)
    ranks = made.ranks.values()
    held = f"{len(ranks)} layers, ranks {min(ranks)} to {max(ranks)}" if ranks else "no layer adapted"
    count = lora_parameters(made.parameters, found) if made.parameters else ""
    before = "" if found.state.completed().adapter.needs_task else " with all tasks before it"
    echo(f"wrote {output}: {found.reference}{before} as {form}; {held}{count}")
    for path, size in made.sizes_bytes.items():
        echo(f"  {path}  {size:,} bytes")
    for note in made.notes:
        echo(f"note: {note}")


@adapters.command("serve-layout")
def serve_layout(
    reference: Reference,
    store: StoreUri = DEFAULT_STORE,
    root: Annotated[str, typer.Option("--root", metavar="KEY", help="the folder in the store")] = "serve",
    base: Annotated[str | None, typer.Option("--base", help="the name under which the base is served")] = None,
    model: Model = None,
    *,
    max_rank: Annotated[
        int | None, typer.Option("--max-rank", metavar="R", help="compress to one rank, that of the server at most")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option("--tolerance", metavar="E", min=0, max=1, help="the share of a layer's norm that may be lost"),
    ] = None,
) -> None:
    """Put an adapter where servers load it. With all before it, as a PEFT folder below ROOT/<base>/."""
    found = read_base_of(reference, store)
    with only_our_output():
        from orchestrator.delivery.export import Fit  # imports torch
        from orchestrator.delivery.serving import serve_layout as write

        fit = None if max_rank is None and tolerance is None else Fit(max_rank=max_rank, tolerance=tolerance)
        made = write(found, root=root, base=base, model=model, fit=fit)
    for note in made.notes:
        echo(note)
    echo(f"{found.reference} is at {found.track.store.uri.partition('?')[0]}/{made.place}")


@adapters.command("import")
def import_adapter(
    folder: Annotated[Path, typer.Argument(metavar="PEFT_FOLDER", help="as PEFT's save_pretrained writes it")],
    name: Annotated[str, typer.Option("--as", metavar="TEAM/RUN", help="the track that it becomes")],
    *,
    task: Annotated[str | None, typer.Option("--task", metavar="T", help="a name for what it has learned")] = None,
    labels: Annotated[
        str | None, typer.Option("--labels", metavar="WORD,WORD", help="it chooses a label: the words, in order")
    ] = None,
    form: Annotated[
        str | None, typer.Option("--format", metavar="FORM", help="it writes texts: messages, prompt_completion, …")
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", metavar="TEMPLATE", help="around a text that is to get a label: … {text} …"),
    ] = None,
    task_type: Annotated[
        str | None, typer.Option("--task-type", metavar="TYPE", help="of the base, if the folder does not say")
    ] = None,
    max_length: Annotated[int | None, typer.Option("--max-length", metavar="N", help="of a prompt, in tokens")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", min=1, metavar="N", help="of an answer at most")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="YAML with sections model and task, for all of these"),
    ] = None,
    store: StoreUri = DEFAULT_STORE,
    model: Model = None,
) -> None:
    """Bring a LoRA of PEFT in. As one task of method lora, to predict, promote, serve, export, go on from."""
    team, slash, run = name.rpartition("/")
    if not (team and slash and run):
        raise ConfigError(f"--as {name!r}: write TEAM/RUN, as in default/reviews")
    with only_our_output():
        from orchestrator.delivery.importing import Told, import_lora  # imports torch

        words = None if labels is None else [word.strip() for word in labels.split(",")]
        told = Told.of(
            config,
            model={"name": model, "prompt": prompt, "task_type": task_type, "max_length": max_length},
            task={"name": task, "labels": words, "format": form},
            max_new_tokens=max_new_tokens,
        )
        made = import_lora(folder, team, run, store, told)
    echo(
        f"imported {folder} as {made.reference}, task {made.task}: {made.layers} layers, rank {made.rank}, "
        f"{made.parameters:,} parameters\nbase: {made.base} sha256 {made.base_digest}"
    )
    for note in made.notes:
        echo(f"note: {note}")
    echo(
        f'Next:\n  orthoplex predict {made.reference} "A TEXT"\n  orthoplex run CONFIG --fork NAME        go on from '
        f"it: CONFIG has name {run}, team {team}, and {made.task}, with some of its rows, as its first task"
    )
