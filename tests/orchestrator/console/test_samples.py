"""Kept answers on a screen: whole texts, cut texts, nothing said, and what a terminal would obey."""

import pytest

from orchestrator.console.samples import print_samples, print_striking
from orchestrator.console.screen import out
from orchestrator.registry.samples import Given, Sample


def given(learned: int, answer: str, cut: int | None = None, **metrics: float) -> Given:
    after, ref = (f"t{learned}", f"d/r@v{learned}") if learned else (None, None)
    return Given(learned=learned, after=after, ref=ref, answer=answer, metrics=metrics, cut=cut)


ROW = Sample(
    task="t1", row=7, prompt="def f(x):\n\treturn [bold]\x1b[31m\n", references=("one", "two"),
    answers=(
        given(0, ""), given(1, "one", rouge_l=1.0, nll=0.5), given(2, "a\nb", 9, rouge_l=0.255),
        given(3, "no", rouge_l=0.0),
    ),
)  # fmt: skip


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(out, "_color_system", None)


def test_rows_with_all_answers() -> None:
    with out.capture() as shown:
        print_samples("d/r", [ROW] * 4, 2)
    head, *lines = shown.get().splitlines()
    assert head == "d/r: t1, 2 of 4 test rows whose answers are kept; counted from 1; metrics of one row"
    assert lines == 2 * [
        "row 8",
        "  prompt       def f(x):",
        r"                   return [bold]\x1b[31m",
        "  reference    one",
        "  reference    two",
        "  (untrained)  (nothing)",
        "  after t1     one   [rouge_l 100.0, nll 0.50]",
        "  after t2     a   (cut at 9 tokens)  [rouge_l 25.5]",
        "               b",
        "  after t3     no   [rouge_l 0.0]",
    ]


def test_the_last_words_of_a_run() -> None:
    with out.capture() as shown:
        print_striking([Sample(**{**vars(ROW), "prompt": "x" * 200, "answers": ROW.answers[1:]})])
    lines = shown.get().splitlines()
    assert lines[:4] == [
        "", "Answers before and after, of rows whose metric changed most:", "t1 row 8",
        f"  prompt     {'x' * 80} … {'x' * 40}",
    ]  # fmt: skip
    assert lines[6:] == ["  after t1   one   [rouge_l 100.0, nll 0.50]", "  after t3   no   [rouge_l 0.0]"]


def test_a_row_whose_metric_did_not_change() -> None:
    same = (given(1, "a", rouge_l=0.5), given(2, "b", rouge_l=0.5))
    with out.capture() as shown:
        print_striking([Sample(**{**vars(ROW), "answers": same})])
    assert shown.get().splitlines()[2] == "t1 row 8  (no row's metric changed)"


def test_no_last_words() -> None:
    with out.capture() as shown:
        print_striking([])
    assert shown.get() == ""
