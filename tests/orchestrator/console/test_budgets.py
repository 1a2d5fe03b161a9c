"""Budgets on a screen: single layers, kinds of many layers, many tasks in brief."""

from typing import Any

import pytest

from orchestrator.console.budgets import chosen_rank, print_budgets
from orchestrator.console.scores import scores
from orchestrator.console.views import View
from orchestrator.track.events import ModuleBudget
from orchestrator.track.state import RunState

MANY = [f"model.layers.{number}.{part}" for number in range(150) for part in ("mlp.up", "attn.q")]


def learned(run: Any, tasks: int, layers: list[str]) -> RunState:
    """Tasks whose layer number i, from 0, chose i % 5 of 4 dimensions, 4 at most."""
    budget = {name: {"rank": i % 5, "max_rank": 4, "tau": 0.5} for i, name in enumerate(layers)}
    names = [f"task-{number:02d}" for number in range(tasks)]
    run.open(names)
    row = [{"correct": 10, "rows": 20}] * tasks
    for index, name in enumerate(names):
        files = {"version": index + 1, "prefix": f"p{index}", "manifest_sha256": "0" * 64, "stored_bytes": 1}
        run.append("commit", {"task": name, "index": index, "budget": budget, "test": row, "validation": row, **files})
    return run.state


def shown(state: RunState, capsys: pytest.CaptureFixture[str], view: View = View()) -> list[str]:  # noqa: B008
    print_budgets(state, view)
    return capsys.readouterr().out.splitlines()


def test_300_layers_are_two_rows(fake_run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    state = learned(fake_run("x"), 2, MANY)
    lines = shown(state, capsys)
    # layers 0, 2, 4, … of i % 5: all of 0 to 4 equally often
    assert "│ model.layers.*.mlp.up (×150) │   2.0/4 │   2.0/4 │" in lines and len(lines) == 8
    assert "--module PATTERN shows single ones" in lines[-1]
    assert "│ model.layers.7.mlp.up │ 4/4 │" in [
        line.replace("    4/4", "4/4") for line in shown(state, capsys, View(["task-01"], "layers.7."))
    ]


def test_15_tasks_fit_a_screen(fake_run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    state = learned(fake_run("x"), 15, MANY)
    lines = shown(state, capsys)
    assert max(map(len, lines)) <= 120 and len(lines) < 24
    row = next(line for line in lines if "task-07" in line)
    assert [cell.strip() for cell in row.split("│")[1:-1]] == ["task-07", "2.0/4", "0", "4", "60", "60"]
    ((table, notes),) = scores(state)
    assert "a row per task" in notes[0] and table.row_count == 15 and len(table.columns) == 6
    ((table, notes),) = scores(state, View(["task-03"]))
    assert len(table.columns) == 2 and table.row_count == 16 and "a row per task" not in notes[0]


def test_the_rank_of_a_row() -> None:
    one, two = ModuleBudget(rank=3, max_rank=8, tau=0.1), ModuleBudget(rank=8, max_rank=8, tau=0.1)
    assert (chosen_rank([]), chosen_rank([one]), chosen_rank([one, two])) == ("·", "3/8", "5.5/8")
