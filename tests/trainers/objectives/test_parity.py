"""Metrics as the benchmarks' own code has them, against cases reckoned by hand and figures that their makers print."""

import pytest

from trainers.objectives.metrics import METRICS
from trainers.objectives.parity import filled_in, sentences, subsequence


@pytest.mark.parametrize(
    ("metric", "answer", "right", "expected"),
    [
        ("superni_exact_match", " The Cat! ", ["the cat"], 1), ("superni_exact_match", "a cat", ["cat"], 0),
        ("superni_exact_match", "yes。", ["yes"], 0), ("exact_match", "yes。", ["yes"], 1),  # ASCII punctuation alone
        ("superni_exact_match", "b", ["a", "B."], 1), ("superni_exact_match", "!", ["?"], 1),
        ("superni_rouge_l", "the cats sat", ["a cat sat down"], 4 / 7),  # cat, sat of 3 and 4 stems
        ("superni_rouge_l", "猫が好き", ["猫が好き"], 0), ("rouge_l", "猫が好き", ["猫が好き"], 1),
        ("superni_rouge_l", "x", ["y", "x"], 1),
        ("trace_match", "A", ["A"], 1), ("trace_match", "A ", ["A"], 0), ("raw_match", "A ", ["A"], 1),
        ("trace_match", "", [""], 0), ("trace_first_character", "B because", ["B\nelse"], 1),
        ("trace_first_character", " B", ["B"], 0), ("trace_first_character", "", ["B"], 0),
        ("trace_edit_similarity", "x = <NUM_LIT> + 1", ["x = 0 + 1"], 1),
        ("trace_edit_similarity", "f(<STR_LIT:a b>)", ["f(a b)"], 1), ("trace_edit_similarity", "", ["x"], 0),
        ("trace_edit_similarity", "abc", ["abd"], 0.67),  # 4 of 6 characters, in whole percent
        ("code_similarity", "abc", ["abd"], 4 / 6), ("code_similarity", " <NUM_LIT:7>", ["7"], 1),
        ("edit_similarity", "<NUM_LIT:7>", ["7"], 2 / 12),
        ("trace_edit_similarity", "<STR_LIT>", ["x"], 0),  # nothing is left of it
        # distinct words: 3 of the answer's 4, 3 of the reference's 3
        ("trace_rouge_l", "a b a c d", ["a b c."], 2 * (3 / 4) / (7 / 4)),
        # sentences: {x, y} with "x y", {z} with "z w"; 3 of 3 and 3 of 4 words
        ("trace_rouge_l", "z. x  y", ["x y. z w"], 2 * (3 / 4) / (7 / 4)),
        ("trace_rouge_l", "", ["x"], 0), ("trace_rouge_l", "...", ["x"], 0), ("trace_rouge_l", "X", ["x"], 0),
    ],
)  # fmt: skip
def test_by_hand(metric: str, answer: str, right: list[str], expected: float) -> None:
    assert METRICS[metric](answer, right, "") == pytest.approx(expected, abs=1e-7)


def test_parts() -> None:
    assert filled_in("<NUM_LIT:<x>>") == "<x>" and filled_in("<CHAR_LIT><FLOAT_LIT:1>") == "<FLOAT_LIT:1>"
    assert sentences("a  b. c..") == [["a", "b"], ["c"]] and sentences(". .") == [[""]]
    assert subsequence("abcbdab", "bdcaba") == list("bdab"), (
        "of bcba, bdab and bcab the one that drops of the right first"
    )
