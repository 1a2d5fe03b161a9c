"""The `orthoplex` command. Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 3 stopped by a guard
or a gate, 130 interrupted (state kept)."""

import dataclasses
import io
import shlex
import sys
import time
import traceback
from contextlib import suppress
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import orchestrator.cli.upkeep  # noqa: F401  registers its verbs
from cluster.errors import ConfigError, Interrupted, OrthoplexError, StoreError
from cluster.leaving import told
from cluster.storage.disk import refusal, unforeseen
from cluster.words import as_options
from orchestrator.cli import answering as cli_answering
from orchestrator.cli import chat as cli_chat
from orchestrator.cli import cluster as cli_cluster
from orchestrator.cli import completion as cli_completion
from orchestrator.cli import curves as cli_curves
from orchestrator.cli import explain as cli_explain
from orchestrator.cli import followed as cli_followed
from orchestrator.cli import gate as cli_gate
from orchestrator.cli import logs as cli_logs
from orchestrator.cli import serve as cli_serve
from orchestrator.cli import sweep as cli_sweep
from orchestrator.cli.adapters import adapters
from orchestrator.cli.common import (
    DEFAULT_STORE,
    AsJson,
    ConfigPath,
    Module,
    Overrides,
    RunName,
    StoreUri,
    Tasks,
    only_our_output,
    print_json,
    read_run,
)
from orchestrator.cli.flags import HELP, with_flags
from orchestrator.console.volume import own_volume, volume

if TYPE_CHECKING:
    from typer._click import Command

    from orchestrator.config.run import RunConfig
    from orchestrator.registry.samples import Sample
    from orchestrator.run.fork import Fork
    from orchestrator.track.state import RunState

app = typer.Typer(
    name="orthoplex",
    help="Trains one frozen language model on task after task without forgetting, on Ray.",
    no_args_is_help=True,
    context_settings=HELP,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(adapters, name="adapters")

WATCH_S = 5.0


def print_version(wanted: bool) -> None:
    """Prints the installed version and ends, if `--version` is given."""
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
    path: Annotated[
        Path | None, typer.Argument(help="where to write; default orthoplex.yaml, or as the example")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="replace an existing file")] = False,
    example: Annotated[
        str | None, typer.Option("--example", metavar="NAME", help="what runs as it is, such as quickstart")
    ] = None,
) -> None:
    """Write a commented configuration to start from, or an example."""
    from orchestrator.config.examples import example_files, next_command

    if example is None:
        template = files("orchestrator").joinpath("templates/config.yaml").read_text("utf-8")
        written = {path or Path("orthoplex.yaml"): template}
    else:
        written = example_files(example, path)
    for target, text in written.items():
        same = target.is_file() and target.read_bytes() == text.encode()
        if target.exists() and not force and not (same and example):
            raise ConfigError(f"{target}: exists already; choose another path, or replace it with --force")
    for target, text in written.items():
        try:
            target.write_text(text, "utf-8")
        except OSError as error:
            raise ConfigError(str(refusal(f"{target}: cannot be written", error, "choose another path"))) from None
    typer.echo(f"wrote {' and '.join(map(str, written))}; next: {next_command(written)}")


@app.command()
def plan(config: ConfigPath, overrides: Overrides = [], as_json: AsJson = False) -> None:  # noqa: B006
    """Show what would run, and change nothing. Tasks, layers, parameters, memory, store writes."""
    from orchestrator.config.run import load_config

    loaded = load_config(config, overrides)  # errors of the configuration come before torch is imported
    from orchestrator.console.run import print_plan
    from orchestrator.run.changes import refuse

    with only_our_output():
        from orchestrator.run.plan import make_plan

        made = make_plan(loaded)
    if as_json:
        print_json(dataclasses.asdict(made))
    else:
        print_plan(made)
    refuse(made.name, made.objections, made.way_on)


@app.command()
def data(
    config: ConfigPath,
    overrides: Overrides = [],  # noqa: B006
    rows: Annotated[int, typer.Option("--rows", min=0, metavar="N", help="rows to show of each task")] = 3,
    as_json: AsJson = False,
) -> None:
    """Show the rows as the model sees them. What is trained, lengths, cuts, duplicates."""
    from orchestrator.config.run import load_config

    loaded = load_config(config, overrides)
    with only_our_output():
        from orchestrator.run.data_view import view_data

        view = view_data(loaded, rows)
    if as_json:
        print_json(dataclasses.asdict(view))
    else:
        from orchestrator.console.data import print_data

        print_data(view)


@app.command()
def run(
    config: ConfigPath,
    overrides: Overrides = [],  # noqa: B006
    fork: Annotated[
        str | None, typer.Option("--fork", metavar="NAME", help="a new run from this one's tasks, which stays as it is")
    ] = None,
    from_task: Annotated[
        int | None, typer.Option("--from-task", metavar="N", help="with --fork: train again from task number N on")
    ] = None,
) -> None:
    """Run the task sequence, or go on with it. A finished run says so and does nothing."""
    from orchestrator.config.run import load_config

    started = time.monotonic()
    if from_task is not None and fork is None:
        raise ConfigError(f"--from-task {from_task}: needs --fork NAME, since committed tasks are never replaced")
    named = [f"name={fork}"] if fork else []
    loaded, source = load_config(config, [*overrides, *named]), load_config(config, overrides)
    from orchestrator.console.run import RunReporter, print_outcome

    with only_our_output():
        from orchestrator.run.controller import Controller
        from orchestrator.run.tracking import tracked
    with only_our_output(), RunReporter(len(loaded.tasks)) as shown, tracked(loaded, shown) as reporter:
        controller = Controller(loaded, reporter, forked(source, from_task) if fork else None)
        begun = controller.state
        if begun.commits:
            done, listed = begun.learned, len(loaded.tasks)
            counted = f"{done} of {listed} tasks" if done <= listed else f"{done} tasks, more than the {listed} listed,"
            reporter.say(f"{loaded.team}/{loaded.name}: {counted} are committed already")
        try:
            state = controller.run()
        except (Interrupted, KeyboardInterrupt):
            words = as_options(overrides)
            words += ["--fork", fork] if fork else []
            words += ["--from-task", str(from_task)] if from_task else []
            raise Interrupted(
                f"interrupted; {controller.state.learned} of {len(loaded.tasks)} tasks are committed. "
                f"Go on with: {shlex.join(['orthoplex', 'run', str(config), *words])}"
            ) from None
        took = f"finished in {time.monotonic() - started:.0f} s"
        reporter.say("finished before; nothing is left to do" if state is begun else took)
    print_outcome(state, loaded.store, striking_answers(state, loaded.store))


def striking_answers(state: "RunState", store: str) -> "list[Sample]":
    """Two rows with answers before and after; none if the run keeps none, or if the store fails: the run is done."""
    from cluster.storage import open_store
    from orchestrator.registry.samples import striking
    from orchestrator.track.track import Track

    with suppress(StoreError):
        return list(striking(Track(open_store(store), state.team, state.name), state, 2))
    return []


def forked(source: "RunConfig", from_task: int | None) -> "Fork":
    """The first tasks of the run that a configuration names, as the beginning of another."""
    from cluster.storage import open_store
    from orchestrator.run.fork import plan_fork
    from orchestrator.track.track import Track

    return plan_fork(Track(open_store(source.store), source.team, source.name), from_task)


@app.command()
def status(
    name: RunName,
    *,
    store: StoreUri = DEFAULT_STORE,
    tasks: Tasks = [],  # noqa: B006
    module: Module = None,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="show it again every few seconds while it runs")] = False,
) -> None:
    """Show where a run stands. Tasks, accuracy matrix, metrics, budgets."""
    from orchestrator.track.view import status_view

    state = read_run(name, store)
    if as_json:
        print_json(status_view(state))
        return
    from orchestrator.console.run import print_status
    from orchestrator.console.screen import out
    from orchestrator.console.views import View

    view = View(tasks, module)
    while watch and state.status == "running":
        out.clear()
        print_status(state, view)
        time.sleep(WATCH_S)
        state = read_run(name, store)
    print_status(state, view)


app.command("explain")(cli_explain.explain)


@app.command()
def samples(
    name: RunName,
    task: Annotated[str, typer.Option("--task", metavar="NAME", help="a generative task of the run")],
    store: StoreUri = DEFAULT_STORE,
    rows: Annotated[int, typer.Option("--rows", min=1, metavar="N", help="test rows to show")] = 5,
    as_json: AsJson = False,
) -> None:
    """Show answers before and after each later task. What forgetting looks like."""
    from cluster.storage import open_store
    from orchestrator.registry.samples import samples as read_samples
    from orchestrator.track.track import Track

    state = read_run(name, store)
    found = read_samples(Track(open_store(store), state.team, state.name), state, task)
    if as_json:
        print_json([dataclasses.asdict(each) for each in found[:rows]])
    else:
        from orchestrator.console.samples import print_samples

        print_samples(state.label, found, rows)


app.command("logs")(cli_logs.logs)
app.command("curves")(cli_curves.curves)
app.command("report")(cli_curves.report)
app.command("predict")(cli_answering.predict)
app.command("gate")(cli_gate.gate)
app.command("eval")(cli_answering.evaluate)
app.command("trend")(cli_followed.trend)
app.command("review")(cli_followed.review)
app.command("evidence")(cli_followed.evidence)
app.command("verify")(cli_followed.verify)
app.command("serve")(cli_serve.serve)
app.command("chat")(cli_chat.chat)
app.command("sweep")(cli_sweep.sweep)
cli_cluster.register(app)  # after the verbs above, so that help shows them first
app.command("completion")(cli_completion.completion)


def main() -> None:
    """Entry point of the console script: errors become one message and an exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal can show τ
    with own_volume():
        answer()


def command() -> "Command":
    """The command with all its verbs, and the options that each has."""
    cli_completion.prepare()
    return with_flags(typer.main.get_command(app))


def answer() -> None:
    """Does what the command line asks for. Exits with the code of an error, after its message."""
    try:
        command()(prog_name="orthoplex")
    except OrthoplexError as error:
        if told and not isinstance(error, Interrupted):  # a signal that a library took for an error of its own
            error = Interrupted("interrupted")
        if volume.verbose:
            traceback.print_exception(error)
        with suppress(OSError):
            sys.stdout.flush()
        typer.echo(f"orthoplex: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        refused = unforeseen(error)
        if refused is None:
            raise
        typer.echo(f"orthoplex: {refused}", err=True)
        sys.exit(refused.exit_code)
    except SystemExit as end:
        if end.code == Interrupted.exit_code:  # typer ends so on Ctrl-C, without a word
            typer.echo("orthoplex: interrupted", err=True)
        raise


if __name__ == "__main__":
    main()
