"""SuperNI and TRACE folders, written here by hand; the real SuperNI tasks if they are there."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from cluster.errors import DataError
from trainers.data.generative.config import AnyTask
from trainers.data.generative.layouts import superni_sources, trace_sources
from trainers.data.generative.preparing import prepare_task
from trainers.data.tasks import DataConfig

REAL = Path(__file__).parents[5] / "shared" / "data" / "SuperNI"


def superni(definition: Any = ("Say {it}.", "not this"), outputs: Any = ("one", "two"), rows: int = 1) -> str:
    instances = [{"id": f"i{i}", "input": f"in {i}", "output": outputs} for i in range(rows)]
    return json.dumps({"Definition": definition, "Instances": instances})


def task(source: str, **keys: Any) -> Any:
    return TypeAdapter(AnyTask).validate_python({"name": "t", "source": source, **keys})


def test_superni_in_two_files(tmp_path: Path) -> None:
    (tmp_path / "task1").mkdir()
    (tmp_path / "task1" / "train.json").write_text(superni(rows=2))
    (tmp_path / "task1" / "test.json").write_text(superni("Say it.", "one"))
    found = superni_sources(task("superni", path="task1"), tmp_path, 0)
    rows = [row for *_, row in found["train"].rows()]
    prompt = "Definition: Say {it}.\n\nNow complete the following example -\nInput: in 0\nOutput: "
    assert rows[0] == {"prompt": prompt, "completion": "one", "references": ["two"]} and len(rows) == 2
    assert next(iter(found["test"].rows()))[2]["references"] == []
    own = task("superni", path="task1", data_dir=str(tmp_path))
    assert len([*superni_sources(own, Path("/nowhere"), 0)["train"].rows()]) == 2


def test_superni_in_one_file_is_divided_by_the_seed(tmp_path: Path) -> None:
    (tmp_path / "task1.json").write_text(superni(rows=50))
    parts = [superni_sources(task("superni", path="task1"), tmp_path, seed) for seed in (0, 0, 1)]
    tests = [{number for _, number, _ in part["test"].rows()} for part in parts]
    trained = {number for _, number, _ in parts[0]["train"].rows()}
    assert tests[0] == tests[1] != tests[2] and len(tests[0]) == 10
    assert not tests[0] & trained and tests[0] | trained == {*range(1, 51)}


def test_instances_without_an_output_are_left_out_and_counted(tmp_path: Path) -> None:
    held = json.loads(superni(rows=6))
    held["Instances"][2]["output"] = [" "]
    (tmp_path / "a").mkdir()
    for name in ("train", "test"):
        held["Instances"] = [{**each, "input": f"{name} {each['input']}"} for each in held["Instances"]]
        (tmp_path / "a" / f"{name}.json").write_text(json.dumps(held))
    data = prepare_task(task("superni", path="a"), DataConfig(), tmp_path, 0)
    assert (len(data.train), len(data.validation), len(data.test)) == (4, 1, 5)
    assert data.warnings[0].startswith("task t: 1 row(s) without an output dropped from train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "has no Definition and Instances"),
        ('{"Definition": ["d"], "Instances": [{"input": "a"}]}', "row 1: {'input': 'a'} has no input or no output"),
        ('{"Definition": ["d"], "Instances": [{"output": "a"}]}', "row 1: {'output': 'a'} has no input or no output"),
        ('{"Definition"', "is not readable JSON"),
    ],
)
def test_what_is_no_superni_task(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match="task t: ") as error:
        superni_sources(task("superni", path="a"), tmp_path, 0)
    assert message in str(error.value)


def test_paths_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "task12_xsum").mkdir()
    with pytest.raises(DataError, match=r"there: task12_xsum; did you mean 'task12_xsum'\?"):
        superni_sources(task("superni", path="task12_xsun"), tmp_path, 0)
    with pytest.raises(DataError, match="data_dir, which is not set"):
        trace_sources(task("trace", path="FOMC"), None)
    with pytest.raises(DataError, match="is no folder"):
        trace_sources(task("trace", path="FOMC"), tmp_path / "none")


def test_trace(tmp_path: Path) -> None:
    (tmp_path / "FOMC").mkdir()
    for name in ("train", "eval", "test"):
        rows = [{"prompt": f"{name} {i}", "answer": "A"} for i in range(3)]
        (tmp_path / "FOMC" / f"{name}.json").write_text(json.dumps(rows))
    data = prepare_task(task("trace", path="FOMC"), DataConfig(), tmp_path, 0)
    assert (len(data.train), len(data.validation), len(data.test)) == (3, 3, 3)
    assert json.loads(data.train["row"][0]) == {"prompt": "train 0", "completion": "A"}
    (tmp_path / "FOMC" / "train.json").write_text('[{"prompt": "a"}]')
    with pytest.raises(DataError, match=r"row 1: .* repair it"):
        trace_sources(task("trace", path="FOMC"), tmp_path)


@pytest.mark.parametrize(
    ("path", "metric"),
    [("C-STANCE", "raw_match"), ("ScienceQA", "first_character"), ("a/MeetingBank/", "rouge_l"),
     ("Py150", "code_similarity"), ("20Minuten", "sari"), ("other", "rouge_l")],
)  # fmt: skip
def test_metrics_of_trace(path: str, metric: str) -> None:
    assert task("trace", path=path).scored_by == (metric,)
    assert task("trace", path=path, metrics=["chrf"]).scored_by == ("chrf",)


@pytest.mark.parametrize(
    ("path", "metric"),
    [("C-STANCE", "trace_match"), ("ScienceQA", "trace_first_character"), ("a/MeetingBank/", "trace_rouge_l"),
     ("Py150", "trace_edit_similarity"), ("20Minuten", "trace_sari"), ("other", "trace_rouge_l")],
)  # fmt: skip
def test_metrics_of_parity(path: str, metric: str) -> None:
    assert task("trace", path=path, mode="parity").scored_by == (metric,)
    assert task("superni", path=path, mode="parity").scored_by == ("superni_rouge_l",)
    assert task("superni", path=path, mode="parity", metrics=["nll"]).scored_by == ("nll",)
    assert "mode" not in task("trace", path=path).model_dump(), "stored as before there were modes"


EXAMPLES = [{"input": " 1 + 1", "output": "2", "explanation": "e"}, {"input": "2?", "output": ["4.", "four"]}]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, "Definition: Add \n\nNow complete the following example -\nInput: 3 + 4 \nOutput: "),
        ({"mode": "parity"}, "Definition: Add.\n\nNow complete the following example -\nInput: 3 + 4.\nOutput: "),
        ({"positive_examples": 1}, "Definition: Add \n\nPositive Example 1 -\nInput:  1 + 1\nOutput: 2\n\n"
         "Now complete the following example -\nInput: 3 + 4 \nOutput: "),
        ({"mode": "parity", "positive_examples": 9}, "Definition: Add.\n\n Positive Example 1 -\nInput: 1 + 1.\n"
         " Output: 2.\n\n Positive Example 2 -\nInput: 2?\n Output: 4.\n\n"
         "Now complete the following example -\nInput: 3 + 4.\nOutput: "),
    ],
)  # fmt: skip
def test_prompts_of_superni(keys: dict[str, Any], expected: str, tmp_path: Path) -> None:
    """Parity as Tk-Instruct writes them: parts trimmed, a full stop unless there is punctuation."""
    held = {"Definition": ["Add "], "Positive Examples": EXAMPLES,
            "Instances": [{"input": "3 + 4 ", "output": ["7"]}] * 2}  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(held))
    found = superni_sources(task("superni", path="a", **keys), tmp_path, 0)
    assert {row["prompt"] for each in found.values() for *_, row in each.rows()} == {expected}


ODD = {
    "a string": {"Definition": "Do.", "Instances": [{"input": "x", "output": "y"}]},
    "no examples": {"Definition": ["Do."], "Instances": [{"input": "x", "output": ["y"]}], "Positive Examples": []},
    "empty input": {"Definition": ["Do."], "Instances": [{"input": "", "output": ["y", "z"]}]},
    "the first output empty": {"Definition": ["Do."], "Instances": [{"input": "x", "output": ["", "y", "z"]}]},
    "another script": {"Definition": ["翻訳してください"], "Instances": [{"input": "猫 {x} %s", "output": ["cat"]}]},
    "10,000 characters": {"Definition": ["Do."], "Instances": [{"input": "word " * 2_000, "output": ["y"]}]},
    "further keys": {"Definition": ["Do.", "Or not."], "Instances": [{"id": 3, "input": "x", "output": ["y"], "a": 1}],
                     "Categories": None, "Positive Examples": None},
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("mode", ["honest", "parity"])
def test_odd_but_legal_tasks(name: str, mode: str, tmp_path: Path) -> None:
    """Each with a byte order mark, in two files."""
    (tmp_path / "t").mkdir()
    for split, rows in (("train", 5), ("test", 2)):
        (one,) = ODD[name]["Instances"]
        held = {**ODD[name], "Instances": [{**one, "input": f"{one['input']}{split}{i}"} for i in range(rows)]}
        if name == "empty input" and split == "test":
            held["Instances"][0]["input"] = ""
        (tmp_path / "t" / f"{split}.json").write_text(json.dumps(held, ensure_ascii=False), "utf-8-sig")
    data = prepare_task(task("superni", path="t", mode=mode), DataConfig(), tmp_path, 0)
    assert (len(data.train), len(data.validation), len(data.test)) == (4, 1, 2) and not data.warnings
    row = json.loads(data.test["row"][0])
    assert row["completion"] == ("cat" if name == "another script" else "y")
    assert row.get("references", []) == (["z"] if name in ("empty input", "the first output empty") else [])
    asked = task("superni", path="t", mode=mode, positive_examples=2)
    with pytest.raises(DataError, match="has no Positive Examples of an input and an output; remove positive_examples"):
        superni_sources(asked, tmp_path, 0)


@pytest.mark.skipif(not REAL.is_dir(), reason="no SuperNI tasks here")
def test_the_real_tasks() -> None:
    sizes = {}
    for folder in sorted(REAL.iterdir()):
        data = prepare_task(task("superni", path=folder.name), DataConfig(), REAL, 0)
        sizes[folder.name.partition("_")[0]] = (len(data.train) + len(data.validation), len(data.test))
    assert sizes["task1290"] == (1000, 100) and sizes["task1590"][1] == 16 and sizes["task639"][1] == 18
