"""Rows that are removed, and splits that share no text."""

import random
from collections import Counter

import pytest
from pydantic import ValidationError

from tests.support.task_files import NO_LIMITS, load_rows, many, rows_of, texts
from trainers.data.tasks import DataConfig


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
