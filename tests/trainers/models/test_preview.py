"""Lengths and an example, counted here from a tokenizer whose tokens are words: each is lower case, and one word."""

import pytest
import transformers
from transformers import AutoTokenizer

from tests.support.tiny_models import tokenizer
from trainers.data.prompts import Prompt
from trainers.messages import TaskRows
from trainers.models import preview
from trainers.models.causal import Causal
from trainers.models.encoder import LabelEmbedding
from trainers.models.loading import resolve_name
from trainers.models.preview import Example, Lengths, example, lengths, sample

PLAIN = Prompt()


def encoder(max_length: int = 12) -> LabelEmbedding:
    return LabelEmbedding(None, AutoTokenizer.from_pretrained(resolve_name("minilm")), max_length, "")


def rows(*words: int, prompt: Prompt = PLAIN) -> TaskRows:
    """A task of texts of so many words; the last one is the test row."""
    texts = [" ".join(["the"] * count) for count in words]
    splits = {"train": (texts[:-1], [1] * (len(texts) - 1)), "test": (texts[-1:], [0])}
    return TaskRows("t", ("no", "yes"), splits, prompt)


def test_lengths_of_all_rows() -> None:
    found = lengths(encoder(), rows(*range(1, 19), 600))  # 3 to 20 tokens with [CLS] and [SEP], and 602
    # of 19 rows the 10th and the 19th; of 12 tokens are those of 10 words
    assert found == Lengths(rows=19, measured=19, p50=12, p95=602, max=602, cut=9, max_length=12)
    assert found.share_cut == 9 / 19


def test_a_prompt_is_counted() -> None:
    found = lengths(encoder(), rows(1, 6, 7, prompt=Prompt("one two ", " three")))  # 2 + 3 + the words
    assert (found.max, found.cut) == (12, 0)
    assert lengths(encoder(11), rows(1, 6, 7, prompt=Prompt("one two ", " three"))).cut == 1


@pytest.mark.parametrize("max_length", [10, 11, 12, 40])
@pytest.mark.parametrize("prompt", [PLAIN, Prompt("one two ", "")])
def test_rows_are_cut_where_the_count_says_so(max_length: int, prompt: Prompt) -> None:
    task, base = rows(*range(1, 20), prompt=prompt), encoder(max_length)
    texts = [text for split, _ in task.splits.values() for text in split]
    whole = encoder(1000).tokenize(texts, prompt)
    differ = sum(len(a) != len(b) for a, b in zip(whole, base.tokenize(texts, prompt), strict=True))
    assert lengths(base, task).cut == differ


def test_a_warning_is_for_more_than_a_tenth() -> None:
    few = lengths(encoder(), rows(*[3] * 18, 11, 11))
    assert (few.cut, few.warnings) == (2, [])
    many = lengths(encoder(), rows(*[3] * 17, 11, 11, 11))
    assert many.warnings == [
        "15.0% of its rows (3 of 20) are longer than max_length 12 and are cut; raise model.max_length or the task's "
        "own, or shorten the texts"
    ]


def test_texts_that_the_tokenizer_does_not_know() -> None:
    task = TaskRows("t", ("no", "yes"), {"train": (["the", "☃ ☃ ☃", "☃ the the the", "the"], [0, 1, 0, 1])}, PLAIN)
    found = lengths(encoder(), task)
    assert found.unknown == 1
    assert found.warnings == [
        "25.0% of its rows (1 of 4) are mostly unknown tokens, which say nothing: the tokenizer lacks their script or "
        "their characters; use a model that has them"
    ]


def test_a_sample_stands_for_a_large_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview, "MOST_ROWS", 30)
    task = rows(*[3] * 90, *[11] * 30)
    found = lengths(encoder(), task)
    assert (found.rows, found.measured, found.max) == (120, 30, 13)
    assert found.cut > 3 and "of 30 sampled)" in found.warnings[0]
    assert lengths(encoder(), task) == found
    assert lengths(encoder(), rows(*[3] * 30)).measured == 30


def test_a_sample_is_bounded_by_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview, "MOST_CHARACTERS", 100)
    texts = ["a" * 9] * 50
    assert len(sample(texts, PLAIN)) == 11
    assert len(sample(texts, Prompt("x" * 5, "y" * 6))) == 5
    assert len(sample(["a" * 1000] * 3, PLAIN)) == 1
    assert sample(texts[:11], PLAIN) == texts[:11]


def test_the_example_of_an_encoder() -> None:
    text = "the the the the the the the the the the the"
    found = example(encoder(), rows(11, 1))
    tokens = ["[CLS]", *["the"] * 10, "[SEP]"]  # as the model gets them: cut
    ids = encoder().tokenizer.convert_tokens_to_ids(tokens)
    assert found == Example(text=text, tokens=tokens, ids=ids, label="yes", answer_tokens=[])


def test_the_example_of_a_decoder() -> None:
    base = Causal(None, tokenizer(), 12, "")
    found = example(base, rows(2, 1, prompt=Prompt("is it ", "?\nanswer:")))
    assert found.text == "is it the the?\nanswer:"
    assert found.tokens == ["is", "it", "the", "the", "?", "answer", ":"]
    assert (found.label, found.answer_tokens) == ("yes", ["yes", "[SEP]"])


def test_long_texts_are_measured_in_silence(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    transformers.utils.logging.enable_propagation()
    try:
        lengths(encoder(), rows(600, 600))
    finally:
        transformers.utils.logging.disable_propagation()
    assert caplog.text == ""
    assert capfd.readouterr() == ("", "")
