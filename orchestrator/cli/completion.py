"""Shell completion: of verbs and options, and of names of runs and adapters in the store. It says nothing of errors."""

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer.completion import completion_init, get_completion_script

from cluster.storage import DEFAULT_STORE

if TYPE_CHECKING:
    from cluster.storage import Store

VARIABLE = "_ORTHOPLEX_COMPLETE"  # a shell's request
PATIENCE_S = 2.0  # a store that takes longer completes nothing
BASH = """\
_orthoplex_completion() {
    local line="${COMP_LINE:0:COMP_POINT}" IFS=$' \\t\\n' words last cut
    read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    last="${words[${#words[@]}-1]}"
    cut="${last%"${last##*[@:=]}"}"  # bash completes what stands behind the last of these signs
    IFS=$'\\n'
    COMPREPLY=($(COMP_WORDS="${words[*]}" COMP_CWORD=$((${#words[@]} - 1)) _ORTHOPLEX_COMPLETE=complete_bash \\
        "${words[0]}" 2>/dev/null))
    COMPREPLY=("${COMPREPLY[@]#"$cut"}")
}
complete -o default -F _orthoplex_completion orthoplex"""


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(metavar="SHELL", help="bash, zsh or fish")],
) -> None:
    """Print what completes commands and names in a shell. In bash: eval "$(orthoplex completion bash)"."""
    made = BASH if shell == "bash" else get_completion_script(
        prog_name="orthoplex", complete_var=VARIABLE, shell=shell
    )  # fmt: skip
    typer.echo(made)


def prepare() -> None:
    """Has typer know the shells, if one asks."""
    if VARIABLE in os.environ:
        completion_init()


def runs(ctx: typer.Context, incomplete: str) -> list[str]:
    """The runs whose names begin so, as `name`, or as `team/name` if a team is begun, or several have one."""
    return in_time(lambda store: list(names(store, incomplete)), ctx)


def adapters(ctx: typer.Context, incomplete: str) -> list[str]:
    """The versions and aliases of the run before @, or the runs, each with @."""
    if "@" in incomplete:
        name = incomplete.partition("@")[0]
        return in_time(lambda store: [f"{name}@{which}" for which in versions(store, name)], ctx)
    return [f"{name}@" for name in runs(ctx, incomplete)]


def tasks(ctx: typer.Context) -> list[str]:
    """The tasks of the run that is named. Behind an option without its value, the line is not parsed further."""
    name = ctx.params.get("name") or next(iter(ctx.args), "")
    return in_time(lambda store: task_names(store, name), ctx)


def in_time(find: "Callable[[Store], list[str]]", ctx: typer.Context) -> list[str]:
    """What is found in the store of the command line within PATIENCE_S; nothing if it cannot be read."""
    found: list[str] = []

    def look() -> None:
        try:
            from cluster.storage import open_store

            found.extend(find(open_store(ctx.params.get("store") or DEFAULT_STORE)))
        except Exception:  # nobody would see it, and it would spoil the line that is being typed
            found.clear()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    return [] if thread.is_alive() else found


def names(store: "Store", incomplete: str) -> Iterator[str]:
    """See `runs`."""
    from orchestrator.track.layout import list_tracks

    tracks = list_tracks(store)
    having = Counter(name for _, name in tracks)
    for team, name in tracks:
        shown = name if having[name] == 1 and "/" not in incomplete else f"{team}/{name}"
        if shown.startswith(incomplete):
            yield shown


def task_names(store: "Store", name: str) -> list[str]:
    """The names of a run's tasks."""
    from orchestrator.registry.references import find_track
    from orchestrator.track.state import replay

    track = find_track(store, name)
    return [task.name for task in replay(track.team, track.name, track.entries()).tasks]


def versions(store: "Store", name: str) -> list[str]:
    """The aliases of a run, then its versions, the newest first."""
    from orchestrator.registry.references import find_track
    from orchestrator.track.moves import aliases
    from orchestrator.track.state import replay

    track = find_track(store, name)
    entries = track.entries()
    standing = replay(track.team, track.name, entries).standing
    return [*aliases(entries), *(f"v{commit.version}" for commit in reversed(standing))]
