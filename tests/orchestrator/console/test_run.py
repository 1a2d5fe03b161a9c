"""How numbers and progress look, on a terminal and elsewhere."""

import io
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from orchestrator.console import run as console
from orchestrator.console.run import (
    RunReporter,
    answers_line,
    layer_lines,
    middle_cut,
    print_rows,
    print_status,
    time_line,
    token_line,
)
from orchestrator.console.scores import number, percent
from orchestrator.run.plan import PlannedAnswers, PlannedTask
from orchestrator.run.reckoning import Reckoned
from orchestrator.track.state import RunState
from orchestrator.track.view import status_view
from trainers.config import GREEDY
from trainers.messages import Progress


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1234, "12.3"), (1.0, "100.0"), (-0.05, "-5.0"), (-0.0001, "0.0"), (None, "·"), (math.nan, "·")],
)
def test_percent(value: float | None, text: str) -> None:
    assert percent(value) == text


def test_number() -> None:
    assert (number(0.5, ".3f"), number(-1e-9, ".3f"), number(math.nan, ".2e")) == ("0.500", "0.000", "·")


def train(step: int, loss: float = 0.5) -> Progress:
    return Progress(0, "train", step, 100, loss, 0.001, 0.25, 7.5)


def test_a_line_each_quarter(capsys: pytest.CaptureFixture[str]) -> None:
    with RunReporter(2) as reporter:
        for step in range(10, 101, 10):
            reporter.progress("a [b]", train(step))
            reporter.progress("a [b]", Progress(0, "evaluate test", 1, 2))
        reporter.say("[bold]as it is[/bold]")
    *lines, last = capsys.readouterr().out.splitlines()
    # step 10 is in quarter 0, then 4 · step // 100 is 1, 2, 3, 4 first at 30, 50, 80, 100
    assert lines == [
        f"[1/2] a [b]: train {step}/100  loss 0.500  penalty 1.00e-03  overlap 25.0%  r_eff 7.5"
        for step in (10, 30, 50, 80, 100)
    ]
    assert last == "[bold]as it is[/bold]"


def test_what_is_not_a_number_is_a_dot(capsys: pytest.CaptureFixture[str]) -> None:
    with RunReporter(1) as reporter:
        reporter.progress("a", train(100, loss=math.nan))
    assert "loss ·  penalty" in capsys.readouterr().out


def test_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(console, "out", Console(file=screen, force_terminal=True, width=200))
    with RunReporter(2) as reporter:
        reporter.progress("a [b]", train(10))
        reporter.progress("a [b]", Progress(0, "evaluate test", 1, 2))
    assert "[1/2] a [b]: evaluate test" in screen.getvalue() and "1/2" in screen.getvalue()


def planned(measured: int) -> PlannedTask:
    lengths = {"rows": 10_000, "measured": measured, "p50": 12, "p95": 64, "max": 2100, "cut": 250, "max_length": 64}
    return {
        "name": "a", "labels": ["[no]", "yes"], "fingerprint": "", "state": "pending", "warnings": ["task a: w"],
        "rows": {"train": 8000, "validation": 1000, "test": 1000},
        "tokens": lengths,
        "example": {
            "text": "a [b]\n", "tokens": ["a", "[", "b"], "ids": [1, 2, 3], "label": "yes", "answer_tokens": ["y"]
        },
        "floors": {"rows": 1000, "scores": {"copy": 0.1, "constant": 0.25}}, "answers": None,
    }  # fmt: skip


def test_the_rows_of_a_task_in_a_plan(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(planned(5000))
    assert capsys.readouterr().out.splitlines() == [
        "labels of a: [no], yes",
        "  tokens per row: p50 12, p95 64, max 2,100, over a sample of 5,000 of 10,000 rows; "
        "250 (5.0%) cut at max_length 64",
        "  example: 'a [b]\\n'",
        "  as tokens: a | [ | b (3 in all)",
        "  answer: 'yes', y (1 in all)",
        "  without a model: constant 25.0, copy 10.0 points on 1,000 test rows",
        "warning: task a: w",
    ]
    print_rows({**planned(10_000), "tokens": {**planned(10_000)["tokens"], "shortened": 9}})
    assert "(2.5%) cut at max_length 64; 9 prompts lose their middle" in capsys.readouterr().out
    print_rows(planned(10_000))
    assert "over all 10,000 rows; 250 (2.5%) cut" in capsys.readouterr().out


def test_how_a_task_is_answered_in_a_plan(capsys: pytest.CaptureFixture[str]) -> None:
    greedy = GREEDY.model_dump(mode="json", exclude={"max_new_tokens"})
    answers: PlannedAnswers = {"metrics": ["rouge_l", "nll"], "max_new_tokens": 9, "decoding": greedy}
    print_rows({**planned(5000), "answers": answers})
    line = "  scored by rouge_l, nll; answers of at most 9 tokens, greedy"
    assert line in capsys.readouterr().out.splitlines()
    told = answers_line({**answers, "decoding": {**greedy, "beams": 3, "stop": ["\n"]}})
    assert told.endswith("at most 9 tokens, beams 3, stop ['\\n']")
    assert answers_line({**answers, "max_new_tokens": None}) == "scored by rouge_l, nll"


def test_a_run_whose_test_splits_are_not_scored(
    fake_run: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run = fake_run("a", "b")
    run.commit([0.5, 0.5], [])
    print_status(run.state)
    assert "  no test split was scored: a trial of a sweep is scored on validation alone" in capsys.readouterr().out
    run.commit([0.5, 0.5], [0.5, 0.5])
    print_status(run.state)
    assert "no test split" not in capsys.readouterr().out


def test_long_rows_lose_their_middle() -> None:
    assert middle_cut("abcdef", 3, 3) == "abcdef"
    assert middle_cut("abcdefg", 3, 3) == "abc … efg"
    assert token_line([*range(30)]) == " | ".join(map(str, range(30))) + " (30 in all)"
    assert token_line([*range(31)]) == " | ".join(map(str, [*range(20), "…", *range(21, 31)])) + " (31 in all)"


def test_what_rounded_weights_keep(fake_run: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    """In the table of `status`, for the newest commit alone; nothing of weights that are not rounded."""
    run = fake_run("a", "b")
    run.commit([0.5, 0.5])
    print_status(run.state)
    assert "rounded" not in capsys.readouterr().out
    kept = {"overall": 0.8612, "modules": {"layer.0": 0.9, "layer.1": 0.7501}}
    run.commit([0.5, 0.5], kept=kept)
    print_status(run.state)
    assert "  change kept by rounded weights      86.1%  least 75.0% in layer.1" in capsys.readouterr().out.splitlines()
    assert [task.get("kept") for task in status_view(run.state)["tasks"]] == [None, kept]  # type: ignore[union-attr]


def test_what_the_parameters_are(fake_run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """As the run's method has it; a track without a configuration does not say."""
    run = fake_run("a")
    run.commit([0.5])
    config = run.config.model_dump(mode="json")
    lora = {**config, "adapter": {"method": "lora", "target_modules": ["dense"]}}
    for content, told in (
        (config, "100  W1, W2 and γ of all tasks"),
        (lora, "100  A and B of all tasks"),
        ({}, "100"),
    ):
        print_status(replace(run.state, config=content))
        (line,) = (each for each in capsys.readouterr().out.splitlines() if "active adapter parameters" in each)
        assert line.split(maxsplit=3)[3] == told


def test_a_task_that_learned_nothing_is_told_of_once(
    fake_run: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a commit is shown without a look at the whole matrix, which would take a second after hundreds of tasks."""
    monkeypatch.setattr(RunState, "_matrix", None)
    run = fake_run("a", "b")
    with RunReporter(2) as reporter:
        run.commit([0.5, 0.5], zero_shot=[0.5, 0.25])
        reporter.committed(run.state)
        run.commit([0.5, 0.5])
        reporter.committed(run.state)
    first, note, second = capsys.readouterr().out.splitlines()
    assert first.startswith("[1/2] a: committed") and second.startswith("[2/2] b: committed")
    assert note.startswith("note: task a: nothing was learned: 50.00 points on its test rows, 50.00 points untrained.")


def test_the_functional_penalty_and_what_a_run_took(fake_run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = fake_run(*"abcdefghi")
    for index, name in enumerate("abcdefgh"):
        files = {"version": index + 1, "prefix": f"p{index}", "manifest_sha256": "0" * 64, "stored_bytes": 1}
        cost = {"train_s": 10, "evaluate_s": 2, "workers": 1}
        run.append("commit", {"task": name, "index": index, "functional": index / 4, "cost": cost, **files})
    progress = {"index": 8, "phase": "train", "step": 1, "total_steps": 9, "functional": 0.125}
    run.append("renew", {"progress": progress})
    print_status(run.state)
    lines = capsys.readouterr().out.splitlines()
    assert "  [9/9] i: train 1/9  functional 1.25e-01" in lines
    assert "  seconds of training                   80  and 16 of evaluation" in lines
    (felt,) = (line for line in lines if line.startswith("  functional penalty at the end"))
    assert felt.split("  ")[-1].strip() == ("… c 5.00e-01, d 7.50e-01, e 1.00e+00, f 1.25e+00, g 1.50e+00, h 1.75e+00")


def test_the_time_of_a_plan() -> None:
    known = Reckoned(
        seconds=4500.0, least_s=60.0, most_s=9000.0, tasks=3, runs=["t/a", "t/b", "t/c", "t/d"], gpu_hours=5.0,
        money=12.5, currency="EUR",
    )  # fmt: skip
    assert time_line(known) == (
        "time: about 75 min of training and evaluation (60 s to 2.5 h), as 3 earlier tasks took per row "
        "(t/a, t/b, t/c, …); 5.00 GPU-hours, 12.50 EUR"
    )
    assert time_line(replace(known, gpu_hours=0.0, money=None, currency=None)).endswith("(t/a, t/b, t/c, …)")
    assert time_line(replace(known, gpu_hours=0.0, money=None)).endswith("…); no GPUs, so `cost` counts nothing")
    assert time_line(None).startswith(
        "time: not known, since no run of the team in this store has trained on this base"
    )


def test_layers_of_a_plan() -> None:
    assert layer_lines({"a.0.x": 4, "a.1.x": 8}) == ["a.0.x (width 4)", "a.1.x (width 8)"]
    many = {f"a.{number}.{part}": 4 + 4 * (part == "y") for number in range(20) for part in "xy"}
    assert layer_lines(many) == ["a.*.x (×20) (width 4)", "a.*.y (×20) (width 8)"]
