"""Answers and evaluations on a screen."""

import re

import pytest

from orchestrator.console import answering
from orchestrator.console.answering import Rate, print_answer, print_evaluation
from orchestrator.console.screen import out
from orchestrator.delivery.evaluating import Evaluation, Share, Worst


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(out, "_color_system", None)


def shown(*answer: object, generated: bool = False) -> str:
    with out.capture() as captured:
        print_answer(dict(zip("abc", answer, strict=True)), generated)
    return captured.get()


def test_an_answer() -> None:
    scores = {"x": 0.2, "y": 0.5, "z": 0.3}
    assert shown("y", 0.5, scores) == "y 50.0%   z 30.0%, x 20.0%\n"
    assert shown(None, None, scores) == "(none of the labels)   y 50.0%, z 30.0%, x 20.0%\n"
    assert shown(None, None, None) == "(no text)\n"
    assert shown("[bold]a\x1b[31m", -1.0, "stop", generated=True) == "[bold]a\\x1b[31m\n"
    assert shown("a", -1.0, "length", generated=True) == "a   (cut: no more tokens were allowed)\n"


def test_an_evaluation_of_labels(capsys: pytest.CaptureFixture[str]) -> None:
    share = Share(precision=0.5, recall=0.25, f1=1 / 3, rows=4)
    made = Evaluation(
        reference="t/r@v1", task="a", rows=6, metrics={"accuracy": 0.5}, interval=(0.25, 0.75),
        floor={"own majority": 2 / 3},
        worst=[Worst(where="'f.csv'", row=3, asked="some\ntext", right="x", answer=None, value=0.01)],
        notes=["1 row(s) left out"], macro_f1=1 / 3, labels=("x", "never", "y"),
        classes={"x": share, "never": share, "y": share}, confusion=[[1, 0, 2, 1], [0, 0, 0, 0], [0, 0, 2, 0]],
    )  # fmt: skip
    print_evaluation(made)
    text = capsys.readouterr().out
    assert text.startswith("t/r@v1: a, 6 rows\n  accuracy                50.0 points (95%: 25.0 to 75.0)\n")
    assert (
        "  macro F1                33.3 points\n  floor (own majority)    66.7 points\n  note: 1 row(s) left out\n"
        in text
    )
    assert re.search(r"│ x +│ +50.0 │ +25.0 │ +33.3 │ +4 │", text) and re.search(r"│ x │ 1 │ 2 │ +1 │", text)
    assert "1 label that no row has and no answer is: left out below\n" in text and "never" not in text
    assert "0.010  'f.csv' row 3: some text\n         right: x   answered: (nothing)" in text


def test_an_evaluation_of_texts(capsys: pytest.CaptureFixture[str]) -> None:
    made = Evaluation(
        reference="t/r@v1", task="q", rows=6, metrics={"nll": 1.25, "perplexity": 3.49}, interval=(1.0, 1.5), floor={},
        worst=[Worst(where="f", row=1, asked="a" * 500, right="r", answer="s", value=0.0)],
    )  # fmt: skip
    print_evaluation(made)
    text = capsys.readouterr().out
    assert "  nll                    1.250 (95%: 1.000 to 1.500)\n  perplexity             3.490\n" in text
    assert "Worst rows (nll of the row):" in text and " … " in text


def test_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On standard error, every few seconds; rows that were done before do not count in the rate."""
    clock = [100.0]
    monkeypatch.setattr(answering.time, "monotonic", lambda: clock[0])
    with Rate() as rate:
        rate.told(5, 0)
        clock[0] = 110.0
        rate.told(20, 1000)
        rate.more(1000, 5)
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == "1,020 rows, 2.0 a second  \n"
