"""Kept answers: what is written is read again, with any text and any metrics, and nothing else is in the file."""

from pathlib import Path

import pyarrow.parquet as pq

from trainers.data.answers import ANSWERS, KeptAnswer, read_answers, write_answers

FIRST = KeptAnswer(
    task="a", row=7, learned=0, prompt="What\nis “τ”?", references=("x", ""), answer="",
    metrics={"rouge_l": 0.5, "nll": 2.0},
)  # fmt: skip
SECOND = KeptAnswer(
    task="b", row=2, learned=1, prompt="", references=(), answer="y", metrics={"exact_match": 1.0}, cut=9
)


def test_answers_come_back(tmp_path: Path) -> None:
    write_answers(tmp_path / ANSWERS, [FIRST, SECOND])
    assert read_answers((tmp_path / ANSWERS).read_bytes()) == [FIRST, SECOND]


def test_other_programs_find_columns(tmp_path: Path) -> None:
    write_answers(tmp_path / ANSWERS, [FIRST, SECOND])
    table = pq.read_table(tmp_path / ANSWERS)
    metrics = ["metric/rouge_l", "metric/nll", "metric/exact_match"]
    assert table.column_names == ["task", "row", "learned", "prompt", "references", "answer", "cut", *metrics]
    assert table["metric/nll"].to_pylist() == [2.0, None] and str(table["row"].type) == "int32"


def test_a_file_of_before_does_not_say_what_was_cut(tmp_path: Path) -> None:
    write_answers(tmp_path / ANSWERS, [FIRST, SECOND])
    pq.write_table(pq.read_table(tmp_path / ANSWERS).drop_columns("cut"), tmp_path / "old")
    assert [each.cut for each in read_answers((tmp_path / "old").read_bytes())] == [None, None]


def test_half_of_a_pair_is_no_text(tmp_path: Path) -> None:
    odd = KeptAnswer(task="a", row=0, learned=1, prompt="\ud83d", references=("\udc00",), answer="a\ud83d", metrics={})
    write_answers(tmp_path / ANSWERS, [odd])
    (found,) = read_answers((tmp_path / ANSWERS).read_bytes())
    assert (found.prompt, found.references, found.answer) == ("?", ("?",), "a?")
