"""A sweep as people see it on a terminal."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from orchestrator.console.scores import number, percent
from orchestrator.console.screen import out, print_table
from orchestrator.console.volume import volume
from orchestrator.sweeps.config import SweepConfig
from orchestrator.sweeps.events import Chosen
from orchestrator.sweeps.results import PICTURE, RECOMMENDED, counts_of, how_it_stands
from orchestrator.sweeps.space import Scalar, short, shown_values
from orchestrator.sweeps.sweep_state import SweepState, SweepTrial


def print_sweep(config: SweepConfig, state: SweepState, folder: Path) -> None:
    """Trials, the front, what mattered, what is recommended and what to type next. The result is in `folder`."""
    stands = [how_it_stands(trial, state.status) for trial in state.trials]
    ends = [status for status, _ in stands]
    counts = counts_of(ends)
    out.print(f"\n{config.run.team}/{config.name}: {state.status}; trials: {counts or 'none ended'}", markup=False)
    if told := state.driving.told:
        out.print(f"  {told}", markup=False)
    for entry in () if volume.quiet else state.skipped:
        out.print(f"note: entry {entry.seq} ({entry.op}) was written by a newer Orthoplex; skipped", markup=False)
    if not state.trials:
        return
    choice = state.choice or Chosen(pareto=())
    print_table(trials_table(config, state, choice.pareto))
    for trial, (status, reason) in zip(state.trials, stands, strict=True):
        if reason:
            out.print(f"  trial {trial.number} {status}: {reason}", markup=False)
    for objective, shares in choice.importance.items():
        parts = ", ".join(f"{key} {share:.0%}" for key, share in shares.items())
        out.print(f"share of the variance of {objective} by key (fANOVA): {parts}", markup=False)
    for trial in state.trials:
        if trial.number == choice.recommended:
            print_recommended(config, trial, choice.reason, folder)


def print_recommended(config: SweepConfig, trial: SweepTrial, reason: str, folder: Path) -> None:
    """The recommended trial, and what to type next."""
    path = shlex.quote(str(folder / RECOMMENDED))
    out.print(
        f"\nrecommended: trial {trial.number} ({shown_values(trial.values)})\n"
        f"  {reason}\n"
        f"  configuration  {folder / RECOMMENDED}\n"
        f"  picture        {folder / PICTURE}",
        markup=False,
    )
    if volume.quiet:
        return
    out.print(
        "\nNext:\n"
        f"  orthoplex run {path}        train it anew, all its tasks\n"
        f"  orthoplex run {path} --set name={trial.run}        go on from the tasks that the trial has trained\n"
        f"  orthoplex explain {config.run.team}/{trial.run} --store {shlex.quote(config.run.store)}",
        markup=False,
    )


def trials_table(config: SweepConfig, state: SweepState, front: Sequence[int]) -> Table:
    """One line per trial. Those on the front are marked; accuracies are points on the validation splits."""
    table = Table(title="Trials: validation splits, points; * on the Pareto front", title_justify="left")
    table.add_column("trial", justify="right")
    for key in config.search.space:
        table.add_column(escape(short(key)), justify="right")
    for column in ("tasks", "AA", "BWT", "parameters", "seconds", "status"):
        table.add_column(column, justify="left" if column == "status" else "right")
    for trial in state.trials:
        star, row = " *" if trial.number in front else "", trial.last
        values = (shown(trial.values.get(key, "·")) for key in config.search.space)
        measured = (
            [f"{row.tasks}/{config.length}", percent(row.aa), percent(row.bwt), number(row.parameters, ",.0f"),
             number(row.train_s + row.evaluate_s, ".0f")]
            if row else [f"0/{config.length}", *4 * ["·"]]
        )  # fmt: skip
        table.add_row(f"{trial.number}{star}", *values, *measured, how_it_stands(trial, state.status)[0])
    return table


def shown(value: Scalar) -> str:
    """A value in a table."""
    return format(value, ".4g") if isinstance(value, float) else escape(str(value))
