"""Labels and texts for new rows, by small models of each family."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from cluster.errors import DataError
from tests.support.families import ANSWER, FAMILIES, TEXTS, WORDS, backbone, each_alone, every_family
from trainers.config import GREEDY, DecodingConfig
from trainers.data.examples import Renderer, RenderSettings, SourceRow
from trainers.models.decoding import generated_tokens
from trainers.objectives.answering import Classifier, Writer, by_length

MOST = 5


@every_family
def test_probabilities_are_those_of_each_answer_alone(family: str) -> None:
    """softmax over the labels of Σ log p, which transformers computes row by row; batches do not matter."""
    base = backbone(family)
    found = Classifier.of(base, WORDS, ANSWER, None).answer(TEXTS, 3)
    answers: Any = base.encode_labels(WORDS, ANSWER)
    expected = each_alone(base, base.tokenize(TEXTS, ANSWER, WORDS), answers).softmax(-1)
    scores = torch.tensor([[each.scores[word] for word in WORDS] for each in found])
    torch.testing.assert_close(scores, expected, rtol=1e-3, atol=1e-5)
    assert [each.label for each in found] == [WORDS[i] for i in expected.argmax(-1).tolist()]


def writer(family: str, most: int = MOST, **how: Any) -> Writer:
    base = backbone(family)
    settings = RenderSettings("t", "completion", 40, None, None, base.embeddings, base.closes_text)
    decoding = DecodingConfig(**how) if how else GREEDY
    return Writer(base=base, renderer=Renderer(base.tokenizer, settings), most=most, ends=(), decoding=decoding)


def asked(texts: Sequence[str]) -> list[SourceRow]:
    return [
        SourceRow("f", number, f'{{"prompt":"{text} ","completion":"a"}}') for number, text in enumerate(texts, start=1)
    ]


@every_family
def test_a_texts_log_probability_is_that_of_its_tokens(family: str) -> None:
    """By transformers' own loss over the generated tokens."""
    made = writer(family)
    found = made.answer(asked(TEXTS), 3)
    for row, each in zip(made.asked(asked(TEXTS)), found, strict=True):
        spoken = made.base.speak([row], MOST)[0]
        assert each.answer == spoken.said.text and (each.finish_reason == "length") == (len(spoken.tokens) == MOST)
        alone = each_alone(made.base, [row], [spoken.tokens])
        assert each.logprob == pytest.approx(float(alone), rel=1e-3, abs=1e-4)


def test_tokens_up_to_the_end() -> None:
    """The first end token is the last; with a stop string, the token that completes it; padding is none."""
    text = {5: "a", 6: "b", 7: " c", 0: "", 1: ""}

    def written(ids: list[int]) -> str:
        return "".join(text[each] for each in ids)

    assert generated_tokens([5, 6, 1, 0], [1], (), written) == [5, 6, 1]
    assert generated_tokens([5, 6, 7], [1], (), written) == [5, 6, 7]
    assert generated_tokens([5, 6, 7, 0, 0], [1], ("b c",), written) == [5, 6, 7]
    assert generated_tokens([5, 6, 1, 1], [1], ("b",), written) == [5, 6]


def test_rows_that_do_not_fit() -> None:
    with pytest.raises(
        DataError, match=r"task t: f row 2: its prompt has \d+ tokens, .*; shorten it, or say too_long: cut"
    ):
        writer("llama").answer(asked(["a", "word " * 60]), 4)
    with pytest.raises(
        DataError, match=r"f row 1: its 2 tokens and an answer of 127 are beyond the model's 128 positions"
    ):
        writer("gpt2", 127).answer(asked(["one two"]), 4)


def test_rows_come_back_in_their_order() -> None:
    rows, seen = [[1] * n for n in (3, 1, 2, 1)], list[list[int]]()
    told = list[int]()

    def answer(part: Sequence[list[int]]) -> list[int]:
        seen.append([len(row) for row in part])
        return [len(row) for row in part]

    assert by_length(rows, 3, answer, told.append) == [3, 1, 2, 1]
    assert seen == [[1, 1, 2], [3]] and told == [3, 1] and set(FAMILIES)
