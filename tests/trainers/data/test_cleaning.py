"""Rows that are removed, and splits that share no text."""

import math
import random
from collections import Counter
from datetime import date, datetime, time
from decimal import Decimal

import pytest
from pydantic import ValidationError

from cluster.errors import DataError
from tests.support.task_files import NO_LIMITS, PARSE, load_rows, many, rows_of, texts
from trainers.data.cleaning import clean, label_text, number_notes
from trainers.data.sources import RawTask, Split
from trainers.data.tasks import DataConfig, label_names


@pytest.mark.parametrize(
    "wrong", [{"validation_fraction": 0}, {"validation_fraction": 0.6}, {"max_validation_rows": 0}]
)
def test_data_config_bounds(wrong):
    with pytest.raises(ValidationError):
        DataConfig(**wrong)


def test_every_removed_row_is_counted_and_the_test_rows_stay(tmp_path):
    train = [
        (" one ", "a"),
        ("one", "a"),  # the same once stripped
        ("two", "b"),
        ("two", "a"),  # in conflict: the first stays
        ("   ", "nonsense"),  # without text, so its label does not matter
        (None, "a"),
        ("leak", "a"),
        ("late leak", "b"),
        *many(10, "more"),
    ]
    test = [("leak", "a"), ("leak", "b"), ("", "a"), ("fine", "c"), ("late leak", "a")]
    loaded = load_rows(tmp_path, train, test, labels=["a", "b", "c"], max_test_rows=4)
    assert rows_of(loaded.test) == [("leak", 0), ("leak", 1), ("fine", 2)]
    kept = dict(rows_of(loaded.train) + rows_of(loaded.validation))
    assert kept == {"one": 0, "two": 1} | {f"more {i}": i % 2 for i in range(10)}
    counted = [warning.removeprefix("task t: ") for warning in loaded.warnings]
    assert counted == [
        f"2 row(s) without text dropped from train '{tmp_path}/train.jsonl'",
        f"1 row(s) without text dropped from test '{tmp_path}/test.jsonl'",
        "2 training row(s) removed: the text is in test",
        "1 training row(s) removed: an earlier one is the same",
        "1 training row(s) removed: an earlier one has the same text and another label",
        "1 label(s) without a training row: c",
        "2 label(s) without a validation row: b, c",
    ]


def test_a_given_validation_split_is_cleaned_too_and_training_rows_give_way_to_it(tmp_path):
    train = [("shared", "a"), *many(10, "x")]
    validation = [("leak", "a"), ("shared", "a"), ("shared", "b"), ("own", "b")]
    loaded = load_rows(tmp_path, train, [("leak", "a")], validation)
    assert rows_of(loaded.validation) == [("shared", 0), ("own", 1)]
    assert texts(loaded.train) == {f"x {i}" for i in range(10)}
    assert [warning.split(": ", 1)[1] for warning in loaded.warnings] == [
        "1 validation row(s) removed: the text is in test",
        "1 validation row(s) removed: an earlier one has the same text and another label",
        "1 training row(s) removed: the text is in validation",
        "1 label(s) without a test row: b",
    ]
    capped = load_rows(tmp_path, train, [("leak", "a")], validation, data=DataConfig(max_validation_rows=1))
    assert len(capped.validation) == 1
    assert rows_of(capped.train) == rows_of(loaded.train)


@pytest.mark.parametrize("seed", range(3))
def test_no_text_is_ever_in_two_splits(tmp_path, seed):
    rng = random.Random(seed)
    draw = lambda: [(f" {rng.randrange(60)}" * 2, rng.choice("abc")) for _ in range(80)]  # noqa: E731
    train, test, validation = draw(), draw()[:20], draw()[:20]
    for given in (None, validation):
        loaded = load_rows(tmp_path, train, test, given, seed=seed)
        splits = [texts(loaded.train), texts(loaded.validation), texts(loaded.test)]
        assert sum(map(len, splits)) == len(set.union(*splits))
        assert len(splits[0]) == len(loaded.train)
        if given is None:
            assert splits[0] | splits[1] == {text.strip() for text, _ in train} - splits[2]


def test_validation_is_stratified_and_capped(tmp_path):
    train = [(f"a {i}", "a") for i in range(600)] + [(f"b {i}", "b") for i in range(300)] + [("c", "c")]
    for seed, data, sizes in (
        (0, NO_LIMITS, (60, 30)),
        (1, NO_LIMITS, (60, 30)),
        (2, DataConfig(max_validation_rows=30), (20, 10)),
        (3, DataConfig(max_validation_rows=300, validation_fraction=0.5), (200, 100)),
    ):
        shares = Counter(load_rows(tmp_path, train, [("t", "a")], data=data, seed=seed).validation["label"])
        assert [shares[0], shares[1]] == pytest.approx(sizes, abs=1)
        assert shares[2] == 0  # the only row of its label stays in train
    tiny = load_rows(tmp_path, many(4, "x"), [("t", "a")])
    assert (len(tiny.validation), len(tiny.train)) == (1, 3)


def test_validation_depends_on_content_and_seed_but_not_on_file_order(tmp_path):
    train = many(200, "x")
    first = texts(load_rows(tmp_path, train, [("t", "a")]).validation)
    random.Random(0).shuffle(train)
    assert texts(load_rows(tmp_path, train, [("t", "a")]).validation) == first
    assert texts(load_rows(tmp_path, train, [("t", "a")], max_train_rows=7).validation) == first
    assert texts(load_rows(tmp_path, train, [("t", "a")], seed=1).validation) != first


def test_max_train_rows_samples_after_decontamination_and_the_task_overrides_the_section(tmp_path):
    train, test = many(200, "x"), [(f"x {i}", "a") for i in range(100)]
    data = DataConfig(max_train_rows=40, max_test_rows=30)
    loaded = load_rows(tmp_path, train, test, data=data)
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (40, 10, 30)
    assert not texts(loaded.train, loaded.validation) & {text for text, _ in test}
    numbers = [int(text.split()[1]) for text in loaded.train["text"]]
    assert numbers == sorted(numbers)
    assert numbers != list(range(numbers[0], numbers[0] + 40))
    given = [load_rows(tmp_path, train, test, [("own", "a")], data=data, seed=seed) for seed in (0, 1)]
    assert texts(given[0].train) != texts(given[1].train)
    more = load_rows(tmp_path, train, test, data=data, max_train_rows=60, max_test_rows=50)
    assert (len(more.train), len(more.test)) == (60, 50)
    assert texts(more.train) > texts(loaded.train)


def test_a_sorted_test_file_shows_that_a_label_is_absent_and_can_be_sampled(tmp_path):
    train, test = many(40, "x"), sorted(many(60, "t"), key=lambda row: row[1])
    loaded = load_rows(tmp_path, train, test, max_test_rows=20)
    assert rows_of(loaded.test) == [(text, 0) for text, _ in test[:20]]
    assert loaded.warnings == ("task t: 1 label(s) without a test row: b",)
    drawn = DataConfig(max_test_rows=20, test_sample="random")
    sampled = load_rows(tmp_path, train, test, data=drawn)
    assert (len(sampled.test), sampled.warnings) == (20, ())
    order = [text for text, _ in test]
    assert sampled.test["text"][:] == sorted(sampled.test["text"][:], key=order.index)
    assert load_rows(tmp_path, train, test, data=drawn).fingerprint == sampled.fingerprint
    assert texts(load_rows(tmp_path, train, test, data=drawn, seed=1).test) != texts(sampled.test)
    assert texts(load_rows(tmp_path, train, test, data=drawn, max_test_rows=30).test) > texts(sampled.test)
    every = [load_rows(tmp_path, train, test, data=DataConfig(test_sample=way)) for way in ("first", "random")]
    assert every[0].fingerprint == every[1].fingerprint  # without a limit nothing is drawn


def test_the_default_sample_is_not_written_so_that_what_was_stored_before_stays_as_it_was():
    assert "test_sample" not in DataConfig().model_dump(mode="json")
    assert DataConfig(test_sample="random").model_dump()["test_sample"] == "random"
    assert DataConfig.model_validate(DataConfig().model_dump()) == DataConfig()


@pytest.mark.parametrize(
    "value", [["joy"], ["joy", "anger"], [], {"name": "joy"}, {}, b"joy", datetime(2024, 1, 1), time(1), object()]
)
def test_what_is_not_one_label_is_refused(tmp_path, value):
    task = PARSE({"name": "t", "source": "files", "train": "a.csv", "test": "b.csv"})
    raw = RawTask(None, Split("train 'a.csv'", ["a", "b"], ["x", value]), None, Split("test", ["c"], ["x"]))
    complaint = r"task t: train 'a\.csv' row 2: label .* is not one label; give each row one string or number"
    with pytest.raises(DataError, match=complaint):
        label_names(task, raw)
    with pytest.raises(DataError, match=complaint):
        clean(task, raw.train, ["x", str(value)], [])


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (" a ", "a"), (1, "1"), (1.0, "1.0"), (0.5, "0.5"), (True, "True"), (None, ""), (math.nan, ""),
        (Decimal("1.50"), "1.50"), (date(2024, 1, 31), "2024-01-31"), ("None", "None"), ("NA", "NA"), ("007", "007"),
        ("nan", "nan"), (10**20, "1" + "0" * 20),
    ],
)  # fmt: skip
def test_the_word_of_a_label(value, word):
    task = PARSE({"name": "t", "source": "files", "train": "a.csv", "test": "b.csv"})
    assert label_text(task, Split("train", [], []), 1, value) == word


@pytest.mark.parametrize("forms", [(0, 1), (0.0, 1.0), ("0", "1"), ("0.0", "1.0"), (False, True), ("False", "True")])
def test_given_labels_take_whole_numbers_and_booleans_as_indices(tmp_path, forms):
    rows = [(f"x {i}", forms[i % 2]) for i in range(10)]
    loaded = load_rows(tmp_path, rows, [("t", forms[1])], labels=["negative", "positive"])
    assert rows_of(loaded.test) == [("t", 1)]


@pytest.mark.parametrize("value", ["01", "1.5", "-1", 2, 2.0, "1e0", "true", "one", "+1"])
def test_nothing_else_is_an_index(tmp_path, value):
    with pytest.raises(DataError, match="is none of the labels"):
        load_rows(tmp_path, many(10, "x", ("bad", "good")), [("t", value)], labels=["bad", "good"])
    with pytest.raises(DataError, match="label True is none of the labels"):
        load_rows(tmp_path, many(10, "x", "abc"), [("t", True)], labels=["a", "b", "c"])


@pytest.mark.parametrize(
    ("train", "test", "fix"),
    [
        ((0.0, 1.0), 1, "label 1 is none of the labels .* write the number 1.0 in one way in all splits"),
        ((0, 1), "1.0", "label '1.0' is none of the labels .* write the number 1 in one way"),
        ((0, 1), True, "label True is none of the labels"),
    ],
)
def test_a_number_that_another_split_writes_otherwise_is_named(tmp_path, train, test, fix):
    with pytest.raises(DataError, match=fix):
        load_rows(tmp_path, [(f"x {i}", train[i % 2]) for i in range(10)], [("t", test)])


@pytest.mark.parametrize(
    ("labels", "notes"),
    [
        (("1", "2"), ["its labels are numbers (1, 2), not words; name them in that order under `labels`"]),
        (("0.0", "1.0"), ["its labels are numbers (0.0, 1.0), not words; name them in that order under `labels`"]),
        (("-1", "007"), ["its labels are numbers (-1, 007), not words; name them in that order under `labels`"]),
        (
            ("False", "True"),
            ["its labels are booleans (False, True), not words; name them in that order under `labels`"],
        ),
        (("1", "negative"), []),
        (("1", "1.0", "x"), ["the labels '1', '1.0' are the same number; write it in one way"]),
        (("2024-01-01", "1,5"), []),
    ],
)
def test_notes_about_labels_that_are_no_words(labels, notes):
    assert number_notes(labels) == notes
