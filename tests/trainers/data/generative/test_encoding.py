"""Splits as arrays: the same examples, counts by hand, tokenised once, refused together."""

import dataclasses
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from pydantic import TypeAdapter

from cluster.errors import DataError
from tests.support.texts import bytes_tokenizer
from trainers.data.examples import RenderSettings, SourceRow, render, settings_for
from trainers.data.generative import encoding
from trainers.data.generative.config import AnyTask, Format
from trainers.data.generative.encoding import Counts, encode, encode_split, encode_task, load, save, turn_end
from trainers.data.generative.refusals import Refused, TooLong, of_all
from trainers.data.tasks import TaskData

FORMATS = get_args(Format)
ROWS = [{"prompt": "ab", "completion": "c"}, {"prompt": "d", "completion": "efgh", "references": ["ij"]}]
SETTINGS = RenderSettings("t", "completion", 100)


def task(**keys: Any) -> Any:
    given = {"name": "t", "source": "files", "format": "prompt_completion", "train": "a", "test": "b", **keys}
    return TypeAdapter(AnyTask).validate_python(given)


def dataset(rows: list[Any]) -> Any:
    from datasets import Dataset

    columns = {"row": [json.dumps(row) for row in rows], "number": [*range(1, len(rows) + 1)]}
    return Dataset.from_dict({**columns, "where": ["train 'a'"] * len(rows)})


def equal(left: Any, right: Any) -> bool:
    same = all(np.array_equal(getattr(left, name), getattr(right, name)) for name in ("ids", "trained", "answer"))
    rest = ("prompt_length", "references", "whole", "raw")
    return same and all(getattr(left, name) == getattr(right, name) for name in rest)


@pytest.mark.parametrize("both", [False, True])
def test_arrays_hold_the_examples(both: bool, tmp_path: Path) -> None:
    tokenizer = bytes_tokenizer(ends=both)
    settings = RenderSettings("t", "completion", 100, encoder_decoder=both)
    made = encode(task(), dataset(ROWS), tokenizer, settings)
    one_by_one = [render(SourceRow("", 1, json.dumps(row)), tokenizer, settings) for row in ROWS]
    assert all(equal(*each) for each in zip(made, one_by_one, strict=True)) and len(made) == 2
    save(made, tmp_path)
    assert all(equal(*each) for each in zip(load(tmp_path), one_by_one, strict=True))
    assert load(tmp_path).counts == made.counts and equal(made[-1], one_by_one[1])
    assert made.trained.tolist() == [2, 5] and made.lengths.tolist() == [len(each.ids) for each in one_by_one]


def test_counts() -> None:
    made = encode(task(), dataset(ROWS), bytes_tokenizer(), SETTINGS)
    assert made.counts == Counts(rows=2, tokens=4 + 6, trained=2 + 5, cut=0, longest=6, ends=(1,))
    assert made.places.tolist() == [0, 1]


def test_refused_rows_are_counted_and_the_first_is_told() -> None:
    rows = [
        ROWS[0],
        {"prompt": "", "completion": "x"},
        {"prompt": "<s>", "completion": "x"},
        {"prompt": "", "completion": "y"},
    ]
    with pytest.raises(Refused) as error:
        encode(task(), dataset(rows), bytes_tokenizer(), RenderSettings("t", "completion", 100, vocabulary=300))
    assert str(error.value).startswith("task t: train 'a' row 2: its prompt is empty")
    assert str(error.value).endswith("(2 of 4 rows are refused: everything trained 2)")
    assert error.value.evidence == {"refused": {"everything_trained": 2}, "rows": 4}


def test_too_many_cut_answers_are_refused() -> None:
    settings = RenderSettings("t", "completion", 5)
    told = r"row 2: max_length 5 cuts its 6 tokens, and 1 of 2 rows .*max_length to 6 or more, or raise max_cut to 0.5$"
    with pytest.raises(Refused, match=told):
        encode(task(max_cut=0.4), dataset(ROWS), bytes_tokenizer(), settings)
    assert encode(task(max_cut=0.5), dataset(ROWS), bytes_tokenizer(), settings).counts.cut == 1


def test_the_longest_of_the_refused_rows_says_what_is_needed() -> None:
    long = [{"prompt": "a" * size, "completion": "b"} for size in (20, 50, 30)]
    told = r"its prompt has 20 tokens.*\(3 of 3 rows .*cut 3\); set the task's max_length to 52 or more.*cut.*max_cut"
    with pytest.raises(TooLong, match=told) as error:
        encode(task(), dataset(long), bytes_tokenizer(), RenderSettings("t", "completion", 10))
    assert error.value.evidence == {"refused": {"answer_cut": 3}, "rows": 3}


def test_the_longest_row_of_all_splits_says_what_is_needed() -> None:
    """So that whoever follows the advice is not asked for more afterwards."""
    train, long, longest = ([{"prompt": "a" * size, "completion": "b"}] for size in (3, 20, 50))
    splits = {"train": dataset(train), "validation": dataset(long), "test": dataset(longest)}
    data = TaskData(name="t", labels=(), warnings=(), fingerprint="f", **splits)
    settings = RenderSettings("t", "completion", 10)
    with pytest.raises(TooLong, match=r"its prompt has 20 tokens.*; set the task's max_length to 52 or more") as error:
        encode_task(task(), data, bytes_tokenizer(), settings)
    assert error.value.evidence == {"refused": {"answer_cut": 1}, "rows": 1}
    assert len(encode_task(task(), data, bytes_tokenizer(), dataclasses.replace(settings, max_length=52))["test"]) == 1


def test_advice_that_holds_for_all_splits() -> None:
    cuts = [TooLong("a", "answer_cut", 9, 0.25), TooLong("b", "answer_cut", 7, 0.5)]
    assert str(of_all(cuts)) == "a; set the task's max_length to 9 or more, or raise max_cut to 0.5"
    told = str(of_all([*cuts, TooLong("c", "prompt_cut", 8)]))  # which max_cut does not help
    assert told.startswith("c; set the task's max_length to 9 or more, remove the row, or set too_long")


def test_the_token_that_a_template_ends_a_turn_with() -> None:
    tokenizer = bytes_tokenizer()
    ended = {form: turn_end(task(format=form, chat_template="chatml"), tokenizer) for form in FORMATS}
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert ended == {"messages": end, "alpaca": end, "sharegpt": end, "prompt_completion": None, "text": None}
    for template in ("absent.jinja", None):
        assert turn_end(task(format="messages", chat_template=template), bytes_tokenizer(None)) is None


def test_rows_that_are_too_long_are_dropped_if_asked() -> None:
    long = [{"prompt": "a" * 50, "completion": "b"}, *ROWS]
    settings = RenderSettings("t", "completion", 10)
    with pytest.raises(Refused, match=r"row 1: its prompt has 50 tokens, so max_length 10 cuts its answer away"):
        encode(task(), dataset(long), bytes_tokenizer(), settings)
    made = encode(task(too_long="drop"), dataset(long), bytes_tokenizer(), settings)
    assert made.counts.dropped == 1 and made.places.tolist() == [1, 2]
    with pytest.raises(Refused, match="all 1 rows of a split are longer"):
        encode(task(too_long="drop"), dataset(long[:1]), bytes_tokenizer(), settings)
    cut = encode(task(too_long="cut"), dataset(long), bytes_tokenizer(), settings_for(
        task(too_long="cut"), bytes_tokenizer(), 10, vocabulary=None))  # fmt: skip
    assert cut.counts.shortened == 1 and cut[0].prompt_length == 8
    assert (cut.wholes.tolist(), cut.raws.tolist()) == ([10, 4, 6], [52, 4, 6])


def test_what_is_large_is_tokenised_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORTHOPLEX_STATE", str(tmp_path))
    monkeypatch.setattr(encoding, "CACHED_ROWS", 2)
    calls: list[int] = []
    real = encoding.encode
    monkeypatch.setattr(encoding, "encode", lambda *given: (calls.append(1), real(*given))[1])
    rows = dataset(ROWS)
    data = TaskData("t", (), rows, rows, rows, (), "f" * 64)
    tokenizer = bytes_tokenizer()
    first, again = (encode_split(task(), data, "train", tokenizer, SETTINGS) for _ in range(2))
    assert len(calls) == 1 and all(equal(*each) for each in zip(first, again, strict=True))
    encode_split(task(), data, "train", bytes_tokenizer(ends=True), SETTINGS)
    encode_split(task(), data, "train", tokenizer, RenderSettings("t", "all", 100))
    assert len(calls) == 3
    for path in tmp_path.rglob("ids_T.npy"):
        path.write_bytes(b"broken")
    with pytest.raises(DataError, match=r"data cache .* cannot be read .*; remove that folder"):
        encode_split(task(), data, "train", tokenizer, SETTINGS)
