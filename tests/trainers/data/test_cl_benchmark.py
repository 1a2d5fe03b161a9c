"""A CL_Benchmark checkout: what is read of it, and what is said of a malformed one."""

import json
from collections import Counter
from pathlib import Path

import pytest

from cluster.errors import ConfigError, DataError
from tests.support.task_files import NO_LIMITS, PARSE, rows_of, texts
from trainers.data.tasks import DataConfig, load_task

REAL = Path(__file__).resolve().parents[4] / "shared/data/CL_Benchmark"


def benchmark(root: Path, train=None, test=None, labels=("World", "Sports"), dataset="TC/agnews") -> dict:
    """A CL_Benchmark folder; the arguments are what its files hold, None for rows that are fine."""
    folder = root / dataset
    folder.mkdir(parents=True)
    as_rows = lambda rows: [{"sentence": text, "label": label} for text, label in rows]  # noqa: E731
    good = [(f"sentence {i}", labels[i % 2]) for i in range(20)]
    (folder / "train.json").write_text(json.dumps(as_rows(good) if train is None else train))
    (folder / "test.json").write_text(json.dumps(as_rows([("last", labels[1])]) if test is None else test))
    (folder / "labels.json").write_text(json.dumps(labels))
    return {"name": "news", "source": "cl_benchmark", "dataset": dataset}


def test_cl_benchmark_keeps_the_order_of_labels_json_and_ignores_dev(tmp_path):
    task = PARSE(benchmark(tmp_path))
    (tmp_path / "TC/agnews/dev.json").write_text("not JSON")
    loaded = load_task(task, NO_LIMITS, tmp_path, seed=0)
    assert loaded.labels == ("World", "Sports")
    assert rows_of(loaded.test) == [("last", 1)]
    assert all(label == int(text.split()[1]) % 2 for text, label in rows_of(loaded.train))
    assert {name: str(feature.dtype) for name, feature in loaded.train.features.items()} == {
        "text": "string",
        "label": "int64",
    }
    assert (len(loaded.train), len(loaded.validation)) == (18, 2)
    assert loaded.warnings == ("task news: 1 label(s) without a test row: World",)


@pytest.mark.parametrize("asked", ["agnews", "TC/agnew", "tc/AGNEWS"])
def test_an_unknown_dataset_lists_what_there_is(tmp_path, asked):
    entry = benchmark(tmp_path)
    benchmark(tmp_path, dataset="SC/yelp")
    with pytest.raises(DataError, match=r"available: SC/yelp, TC/agnews; did you mean 'TC/agnews'\?"):
        load_task(PARSE(entry | {"dataset": asked}), NO_LIMITS, tmp_path, 0)


def test_without_a_checkout_the_error_names_the_key_and_the_fix(tmp_path):
    task = PARSE({"name": "news", "source": "cl_benchmark", "dataset": "TC/agnews"})
    with pytest.raises(ConfigError, match=r"news.*data_dir.*--set data_dir=PATH.*ORTHOPLEX_DATA_DIR"):
        load_task(task, NO_LIMITS, None, 0)
    with pytest.raises(DataError, match=r"data_dir .*nowhere.* holds no"):
        load_task(task, NO_LIMITS, tmp_path / "nowhere", 0)


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("train.json", '[{"sentence": "a", "label": "World"}', r"train\.json is not readable JSON"),
        ("train.json", '{"sentence": "a"}', r"train\.json holds .* must be a JSON list"),
        ("train.json", '[{"sentence": "a", "lable": "World"}]', r"train\.json row 1: .* has no label"),
        ("train.json", '["a"]', r"train\.json row 1: 'a' has no label and no sentence"),
        ("train.json", '[{"sentence": 7, "label": "World"}]', r"train\.json row 1: text 7 is not a string"),
        ("train.json", '[{"sentence": "\\ud800", "label": "World"}]', r"train\.json row 1: .*surrogate"),
        ("test.json", "[]", r"no test rows are left of the 0 in .*test\.json"),
        ("test.json", b"\xff\xfe", r"test\.json is not readable JSON"),
        ("labels.json", '"World"', r"labels\.json holds"),
        ("labels.json", "[1, 2]", r"labels\.json: \[1, 2\]"),
        ("labels.json", '["World"]', r"at least two are needed"),
        ("labels.json", '["World", "World ", "Sports"]', r"all different"),
        ("test.json", None, r"test\.json is absent"),
        ("labels.json", None, r"labels\.json is absent"),
        (
            "test.json",
            '[{"sentence": "", "label": "?"}, {"sentence": "a", "label": "sport"}]',
            r"task news: .*test\.json row 2: label 'sport' is none of the labels .*did you mean 'Sports'",
        ),
    ],
)
def test_a_malformed_benchmark_file_is_named_with_the_row_and_the_fix(tmp_path, file, content, complaint):
    entry = benchmark(tmp_path)
    path = tmp_path / "TC/agnews" / file
    path.unlink()
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=complaint) as caught:
        load_task(PARSE(entry), NO_LIMITS, tmp_path, 0)
    assert "task news" in str(caught.value)


@pytest.mark.skipif(not REAL.is_dir(), reason="no CL_Benchmark checkout beside the project")
@pytest.mark.parametrize(("dataset", "labels"), [("TC/agnews", 4), ("NLI/RTE", 2)])
def test_real_cl_benchmark(dataset, labels):
    data = DataConfig(max_test_rows=100, max_train_rows=1000)
    loaded = load_task(PARSE({"name": "x", "source": "cl_benchmark", "dataset": dataset}), data, REAL, 0)
    file = [row["sentence"].strip() for row in json.loads((REAL / dataset / "test.json").read_text())]
    assert loaded.test["text"][:] == file[:100]
    assert len(loaded.labels) == labels
    assert len(loaded.train) == 1000
    assert not texts(loaded.train) & texts(loaded.validation)
    assert not texts(loaded.train, loaded.validation) & set(file)
    shares = Counter(loaded.validation["label"])
    assert max(shares.values()) - min(shares.values()) <= 0.1 * len(loaded.validation)
