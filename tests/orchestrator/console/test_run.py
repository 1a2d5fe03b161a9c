"""How numbers and progress look, on a terminal and elsewhere."""

import io
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from orchestrator.console import run as console
from orchestrator.console.run import RunReporter, answers_line, middle_cut, print_rows, print_status, token_line
from orchestrator.console.scores import number, percent
from orchestrator.run.plan import PlannedAnswers, PlannedTask
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
