"""Matrices of scores as they are shown: floors, halves of intervals, one column per task of a kind."""

import io
from typing import Any

from rich.console import Console
from rich.table import Table

from orchestrator.console.scores import ACCURACIES, brief_scores, floors_line, nats, scores, scores_so_far
from orchestrator.track.events import Floors


def drawn(table: Table) -> list[list[str]]:
    screen = io.StringIO()
    Console(file=screen, width=200).print(table)
    return [[cell.rstrip() for cell in line.split("│")[1:-1]] for line in screen.getvalue().splitlines() if "│" in line]


def generative(rouge: float, rows: int, half: float) -> dict[str, Any]:
    return {
        "correct": rouge * rows,
        "rows": rows,
        "metrics": {"rouge_l": rouge},
        "interval": [rouge - half, rouge + half],
    }


def by_loss(nll: float) -> dict[str, Any]:
    return {"correct": None, "rows": 4, "metrics": {"nll": nll}, "interval": [nll - 0.5, nll + 0.5]}


def described(name: str, floor: dict[str, float] | None = None) -> dict[str, Any]:
    floors = {"floors": {"rows": 20, "scores": floor}} if floor else {}
    return {"name": name, "rows": {"train": 9, "validation": 10, "test": 20}, **floors}


def begun(fake_run: Any, *tests: list[dict[str, Any]]) -> Any:
    """Three tasks: classified, answered with floors, and judged by its loss."""
    run = fake_run("a", "b", "c")
    run.open("abc", [described("a"), described("b", {"copy": 0.125, "nearest": 0.25}), described("c")])
    for index, test in enumerate(tests):
        zero_shot = {"zero_shot": test} if index == 0 else {}
        files = {"version": index + 1, "prefix": f"p{index}", "manifest_sha256": "0" * 64, "stored_bytes": 1}
        run.append(
            "commit", {"task": "abc"[index], "index": index, "test": test, "validation": test, **zero_shot, **files}
        )
    return run.state


def test_floors_untrained_and_halves_where_averages_are_made_of_them(fake_run: Any) -> None:
    state = begun(
        fake_run,
        [{"correct": 10, "rows": 20}, generative(0.25, 20, 0.03), by_loss(3.0)],
        [{"correct": 20, "rows": 20}, generative(0.5, 20, 0.125), by_loss(2.5)],
    )
    (accuracies, lines), (losses, of_losses) = scores(state)
    assert drawn(accuracies) == [
        [" (floor)", "     ·", " 25.0"],
        [" (untrained)", "  50.0", " 25.0"],
        [" a", "  50.0 ±20.0", " 25.0"],
        [" b", " 100.0 ±8.4", " 50.0 ±12.5"],
        [" c", "     ·", "    ·"],
    ]
    assert [row[1].strip() for row in drawn(losses)] == ["3.000", "3.000", "2.500", "·"]
    assert "AA (average accuracy, macro)        75.0 ±7.5 points" in lines[0]  # √(0.0842² + 0.125²) / 2
    assert lines[-1] == "  (floor) of some tasks is not in this log; `orthoplex plan` shows it"
    assert of_losses[0].split() == ["average", "nll", "·"]
    assert scores_so_far(state) == "score on tasks so far: a 100.0, b 50.0 points"


def test_the_floor_of_a_classification_task(fake_run: Any) -> None:
    run = fake_run("a", "b")
    floors = {"a": 0.25, "b": 0.5}
    run.open("ab", [{**described(name, {"majority": floors[name]}), "labels": ["x", "y"]} for name in "ab"])
    run.commit([0.5, 0.5])
    ((accuracies, lines),) = scores(run.state)
    assert drawn(accuracies)[0] == [" (floor)", " 25.0", " 50.0"]
    assert lines[-1] == "  (floor) needs no model: always the commonest label of the training rows"


def test_what_tasks_have_so_far(fake_run: Any) -> None:
    row = [{"correct": 5, "rows": 20}, generative(0.5, 20, 0.1), by_loss(2.5)]
    assert scores_so_far(begun(fake_run, row, row, row)) == (
        "score on tasks so far: a 25.0, b 50.0 points; nll on tasks so far: c 2.500 nats per token"
    )


def test_tasks_with_labels_have_an_accuracy(fake_run: Any) -> None:
    run = fake_run("a")
    run.open("a", [{**described("a"), "labels": ["x", "y"]}])
    run.commit([0.5])
    assert scores_so_far(run.state) == "accuracy on tasks so far: a 50.0 points"


def test_floors_in_a_line() -> None:
    floors = Floors(rows=1200, scores={"constant": 0.125, "copy": 0.25})
    assert floors_line(floors, 1200) == "copy 25.0, constant 12.5 points on 1,200 test rows" and floors.best == 0.25
    assert floors_line(floors, 2000).endswith("points on 1,200 of 2,000 test rows")
    assert (nats(0.1), nats(None)) == ("0.100", "·")


def test_macro_f1_stands_below(fake_run: Any) -> None:
    """Of the newest scores of all tasks, for tasks that have one; also if there is a row per task."""
    run = fake_run("a", "b")
    plain = {"correct": 10, "rows": 20}
    for index, value in enumerate((0.25, 0.375)):
        files = {"version": index + 1, "prefix": f"p{index}", "manifest_sha256": "0" * 64, "stored_bytes": 1}
        run.append(
            "commit", {"task": "ab"[index], "index": index, "test": [{**plain, "macro_f1": value}, plain], **files}
        )
    state = run.state
    ((table, _),) = scores(state)
    assert [cell.strip() for cell in drawn(table)[-1]] == ["(macro F1)", "37.5", "·"]
    brief = brief_scores(state, ACCURACIES, [0, 1], state.matrix("test"), state.zero_shot)
    assert [cell.strip() for cell in drawn(brief)[0]] == ["a", "·", "·", "50.0 ±20.0", "50.0 ±20.0", "0.0", "37.5"]
    assert [cell.strip() for cell in drawn(brief)[1]][-2:] == ["0.0", "·"]
