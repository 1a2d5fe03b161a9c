"""`orthoplex curves` and `orthoplex report`: how the training of each task went, and all of a run as one page."""

from pathlib import Path
from typing import Annotated

import typer

from cluster.errors import ConfigError
from cluster.storage.disk import refusal
from orchestrator.cli.common import (
    DEFAULT_STORE,
    AsJson,
    RunName,
    StoreUri,
    Tasks,
    only_our_output,
    print_json,
    read_log,
    read_run,
    tell,
)

Output = Annotated[
    str | None, typer.Option("-o", "--output", metavar="FILE", help="default NAME.html; s3://BUCKET/KEY, or - to print")
]


def curves(
    name: RunName,
    store: StoreUri = DEFAULT_STORE,
    tasks: Tasks = [],  # noqa: B006
    png: Annotated[Path | None, typer.Option("--png", metavar="FILE", help="draw them into a picture too")] = None,
    as_json: AsJson = False,
) -> None:
    """Show how training went. Loss, penalties, r_eff and learning rate of each committed task."""
    from orchestrator.console.curves import curves_of, picture, print_curves
    from orchestrator.console.screen import out
    from orchestrator.console.views import View

    state = read_run(name, store)
    commits = View(tasks).commits(state)
    found = [made for each in commits if (made := curves_of(state, each, read_log(state, each, store)))]
    if png and found:
        try:
            png.write_bytes(picture(state.label, found))
        except OSError as error:
            raise ConfigError(str(refusal(f"--png {png}: cannot be written", error, "choose another"))) from None
    if as_json:
        print_json([each.shown() for each in found])
        return
    print_curves(found)
    if not found:
        out.print(f"{state.label}: {state.status}; no task is committed yet that has a training log", markup=False)
    elif png:
        out.print(f"wrote {png}", markup=False)


def report(name: RunName, output: Output = None, store: StoreUri = DEFAULT_STORE) -> None:
    """Write a run or a sweep as one HTML page. Scores, budgets, cost, decisions, changes."""
    from cluster.storage import open_store

    with only_our_output():
        from orchestrator.report.page import report_of, write

        text = report_of(open_store(store), name)
    target = output or f"{name.rpartition('/')[2]}.html"
    write(text, target)
    if target != "-":
        tell(f"wrote {target}", "report")
