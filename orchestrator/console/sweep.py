"""A sweep as people see it on a terminal."""

import shlex
from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from orchestrator.console.run import number, out, percent, print_table
from orchestrator.sweeps.config import SweepConfig
from orchestrator.sweeps.space import shown_values
from orchestrator.sweeps.sweep_state import SweepState


def print_sweep(config: SweepConfig, state: SweepState, found: Mapping[str, Any]) -> None:
    """Trials, the front, what mattered, what is recommended and what to type next."""
    counts = ", ".join(f"{n} {s}" for s in ("finished", "stopped", "failed") if (n := count(found, s)))
    out.print(f"\n{config.run.team}/{config.name}: {state.status}; trials: {counts or 'none ended'}", markup=False)
    if state.reason:
        out.print(f"  reason: {state.reason}", markup=False)
    for entry in state.skipped:
        out.print(f"note: entry {entry.seq} ({entry.op}) was written by a newer Orthoplex; skipped", markup=False)
    if not found["trials"]:
        return
    print_table(trials_table(config, found))
    for trial in found["trials"]:
        if trial["reason"]:
            out.print(f"  trial {trial['number']} {trial['status']}: {trial['reason']}", markup=False)
    for objective, shares in found["importance"].items():
        parts = ", ".join(f"{key} {share:.0%}" for key, share in shares.items())
        out.print(f"share of the variance of {objective} by key (fANOVA): {parts}", markup=False)
    if found["recommended"] is None:
        return
    chosen = next(trial for trial in found["trials"] if trial["number"] == found["recommended"])
    path = shlex.quote(found["recommended_config"])
    out.print(
        f"\nrecommended: trial {chosen['number']} ({shown_values(chosen['values'])})\n"
        f"  {found['reason']}\n"
        f"  configuration  {found['recommended_config']}\n"
        f"  picture        {found['picture']}\n"
        "\nNext:\n"
        f"  orthoplex run {path}        train it anew, all its tasks\n"
        f"  orthoplex run {path} --set name={chosen['run']}        go on from the tasks that the trial has trained\n"
        f"  orthoplex explain {config.run.team}/{chosen['run']} --store {shlex.quote(config.run.store)}",
        markup=False,
    )


def trials_table(config: SweepConfig, found: Mapping[str, Any]) -> Table:
    """A line a trial; those on the front are marked, accuracies are points on the validation splits."""
    table = Table(title="Trials: validation splits, points; * on the Pareto front", title_justify="left")
    table.add_column("trial", justify="right")
    for key in config.search.space:
        table.add_column(escape(key.rpartition(".")[2]), justify="right")
    for column in ("tasks", "AA", "BWT", "parameters", "seconds", "status"):
        table.add_column(column, justify="left" if column == "status" else "right")
    for trial in found["trials"]:
        star = " *" if trial["number"] in found["pareto"] else ""
        values = (shown(trial["values"].get(key, "·")) for key in config.search.space)
        measured = [percent(trial.get("aa")), percent(trial.get("bwt")), number(trial.get("parameters"), ",.0f")]
        spent = number(trial["train_s"] + trial["evaluate_s"] if "train_s" in trial else None, ".0f")
        done = f"{trial.get('tasks', 0)}/{config.length}"
        table.add_row(f"{trial['number']}{star}", *values, done, *measured, spent, trial["status"])
    return table


def shown(value: Any) -> str:
    """A value in a table."""
    return format(value, ".4g") if isinstance(value, float) else escape(str(value))


def count(found: Mapping[str, Any], status: str) -> int:
    """Trials with a status."""
    return sum(trial["status"] == status for trial in found["trials"])
