"""Rows of files answered into a file: columns, parts, and runs that were cut."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cluster.errors import ConfigError, DataError
from orchestrator.delivery import predicting
from orchestrator.delivery.predicting import Asking, Predicting, ahead, answered, behind, check_columns, chunks
from orchestrator.delivery.predictor import Predictor
from orchestrator.track.state import RunState
from tests.support.untrained_runs import WORDS, labelled, write_csv, write_lines

Run = tuple[RunState, Path]


def rows_of(count: int) -> list[dict[str, str]]:
    return [{"id": str(i), "text": row["text"]} for i, row in enumerate(labelled(WORDS[0], count, "new"))]


def work(predictor: Predictor, task: str, inputs: Sequence[Path], output: Path, **more: Any) -> Predicting:
    asking = Asking(known=predictor.repertoire.tasks[task], **more)
    return Predicting(
        asking=asking, reference=predictor.reference, manifest_sha256="m", inputs=inputs, output=output,
        form=output.suffix[1:],
    )  # fmt: skip


def done(each: Predicting, predictor: Predictor) -> tuple[int, int]:
    each.check(replace=False)
    rows, before, _ = each.run(lambda: predictor)
    return rows, before


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predicting, "ROWS_AT_ONCE", {"labels": 4, "texts": 2})


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_rows_come_out_in_order_with_their_columns(labels: Predictor, tmp_path: Path, form: str) -> None:
    """From two files of two forms; the answers are the predictor's own."""
    rows = rows_of(11)
    first, second = write_csv(tmp_path / "a.csv", rows[:5]), write_lines(tmp_path / "b.jsonl", rows[5:])
    output = tmp_path / "new" / f"out.{form}"
    assert done(work(labels, "a", [first, second], output), labels) == (11, 0)
    if form == "parquet":
        back = pq.read_table(output).to_pylist()
    elif form == "csv":
        back = list(csv.DictReader(output.open(newline="")))
    else:
        back = [json.loads(each) for each in output.read_text().splitlines()]
    expected = labels.classify([row["text"] for row in rows], task="a")
    assert [row["id"] for row in back] == [row["id"] for row in rows] and list(back[0]) == [
        "id", "text", "label", "probability", "scores",
    ]  # fmt: skip
    assert [row["label"] for row in back] == [each.label for each in expected]
    assert [float(row["probability"]) for row in back] == pytest.approx([each.probability for each in expected])
    scores = json.loads(back[0]["scores"]) if form == "csv" else back[0]["scores"]
    assert scores == pytest.approx(dict(expected[0].scores))
    assert sorted(path.name for path in output.parent.iterdir()) == [output.name]


def test_generated_answers(texts: Predictor, tmp_path: Path) -> None:
    """A row's own answer is no matter; conversations that end with one are asked before it."""
    ask = {"role": "user", "content": "what"}
    rows = [{"messages": [ask]}, {"messages": [ask, {"role": "assistant", "content": "x"}]}, {"messages": [ask, ask]}]
    output = tmp_path / "out.jsonl"
    done(work(texts, "chat", [write_lines(tmp_path / "in.jsonl", rows)], output), texts)
    back = [json.loads(each) for each in output.read_text().splitlines()]
    assert [{*row} for row in back] == [{"messages", "answer", "logprob", "finish_reason"}] * 3
    assert back[0]["answer"] == back[1]["answer"] == texts.generate([[ask]], task="chat")[0].answer
    assert back[0]["messages"] == rows[0]["messages"] and all(row["logprob"] < 0 for row in back)


def test_columns_are_named_and_clashes_refused(labels: Predictor, texts: Predictor, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "in.csv", [{"body": "red", "label": "green"}])
    known = labels.repertoire.tasks["a"]
    with pytest.raises(ConfigError, match=r"it has a column 'label' already; .*--prefix predicted_"):
        work(labels, "a", [path], tmp_path / "o.csv").check(replace=False)
    with pytest.raises(
        DataError, match=r"task a: .* has no column 'text', only body, label; name yours: --columns text=COL"
    ):
        work(labels, "a", [path], tmp_path / "o.csv", prefix="p_").check(replace=False)
    (row,) = answered(lambda: labels, Asking(known=known, columns={"text": "body"}, prefix="p_"), [path])
    assert row["label"] == "green" and row["p_label"] in WORDS[0]
    check_columns(known, {"text": "body"})
    with pytest.raises(ConfigError, match="--columns txt=b: there are text, label; did you mean 'text'"):
        check_columns(known, {"txt": "b"})
    with pytest.raises(ConfigError, match="--columns text=b: there are prompt, completion"):
        check_columns(texts.repertoire.tasks["qa"], {"text": "b"})


def test_errors_name_row_and_fix(labels: Predictor, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "in.jsonl", [{"text": "a"}, {"text": 7}])
    with pytest.raises(DataError, match=r"task a: .*in.jsonl' row 2: text 7 is not a string; quote it"):
        done(work(labels, "a", [path], tmp_path / "o.csv"), labels)
    path = write_lines(tmp_path / "lacks.jsonl", [{"text": "a"}, {"texts": "b"}])
    with pytest.raises(DataError, match=r"lacks.jsonl' row 2: has no column 'text', only texts; add it"):
        done(work(labels, "a", [path], tmp_path / "p.csv"), labels)


def test_no_finished_part_is_computed_again(labels: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in the third part: the first two stay, and the third and fourth are answered later."""
    path, output = write_csv(tmp_path / "in.csv", rows_of(14)), tmp_path / "out.jsonl"
    asked: list[list[str]] = []
    real = labels.classify

    def counting(texts: Sequence[str], **how: Any) -> Any:
        if len(asked) == 2 and not output.with_name("broken").exists():
            output.with_name("broken").touch()
            raise RuntimeError("out of memory")
        asked.append([*texts])
        return real(texts, **how)

    monkeypatch.setattr(labels, "classify", counting)
    with pytest.raises(RuntimeError):
        done(work(labels, "a", [path], output), labels)
    assert not output.exists() and len(asked) == 2
    assert done(work(labels, "a", [path], output), labels) == (14, 8)
    assert [len(each) for each in asked] == [4, 4, 4, 2]
    ids = [json.loads(each)["id"] for each in output.read_text().splitlines()]
    assert ids == [str(i) for i in range(14)]
    with pytest.raises(ConfigError, match="exists already; choose another, or replace it with --force"):
        work(labels, "a", [path], output).check(replace=False)


def test_parts_of_another_prediction_are_not_gone_on_with(labels: Predictor, tmp_path: Path) -> None:
    path, output = write_csv(tmp_path / "in.csv", rows_of(6)), tmp_path / "out.csv"
    begun = work(labels, "a", [path], output)
    begun.check(replace=False)
    begun.parts.part(0).touch()
    with pytest.raises(ConfigError, match=r"beginning of another prediction \(task differ\)"):
        work(labels, "b", [path], output).check(replace=False)
    write_csv(tmp_path / "in.csv", rows_of(7))
    with pytest.raises(ConfigError, match=r"another prediction \(inputs differ\); finish that one, remove the folder"):
        work(labels, "a", [path], output).check(replace=False)


def test_nothing_is_loaded_if_all_parts_are_there(labels: Predictor, tmp_path: Path) -> None:
    """As after a kill between the last part and the output."""
    path, output = write_csv(tmp_path / "in.csv", rows_of(5)), tmp_path / "out.parquet"
    each = work(labels, "a", [path], output)
    each.check(replace=False)
    for number, rows in enumerate(chunks(predicting.read("a", [path]), 4)):
        each.parts.put(number, each.answered(labels, number, rows, lambda _: None).data)
    assert each.run(lambda: pytest.fail("the model was loaded")) == (5, 5, 0)
    assert pq.read_table(output).num_rows == 5


KILLED = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from orchestrator.delivery import predicting
predicting.ROWS_AT_ONCE = {"labels": 500, "texts": 2}

class Slow:
    '''Answers at once, but a part takes a moment.'''
    def classify(self, texts, **how):
        time.sleep(0.02)
        print(len(texts), flush=True)
        return [SimpleNamespace(label="x", probability=1.0, scores={"x": 1.0}) for _ in texts]

work = predicting.Predicting(
    asking=predicting.Asking(known=None), reference="r", manifest_sha256="m", inputs=[Path(sys.argv[1])],
    output=Path(sys.argv[2]), form="jsonl",
)
work.check(replace=False)
print("done", *work.run(lambda: Slow()), flush=True)
"""


@pytest.mark.slow
def test_killed_again_and_again(tmp_path: Path) -> None:
    """20,000 rows, SIGKILL in the middle until it ends: each row stands once, and each part was answered once, or was
    cut while it was, or while it was written beside the next."""
    path, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write_lines(path, [{"id": i, "text": f"t{i}"} for i in range(20_000)])
    command = [sys.executable, "-c", KILLED, str(path), str(output)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    answered_parts = kills = 0
    while not output.exists():
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            for line in process.stdout:
                if line.startswith("done"):
                    assert line.split()[1] == "20000" and (kills == 0 or int(line.split()[2]) > 0)
                    break
                answered_parts += 1
                if answered_parts % 16 == 9:
                    time.sleep(0.005 * kills)
                    process.send_signal(signal.SIGKILL)
                    kills += 1
                    break
    ids = [json.loads(each)["id"] for each in output.read_text().splitlines()]
    assert ids == list(range(20_000)) and kills >= 2
    assert 40 <= answered_parts <= 40 + 2 * kills
    assert sorted(each.name for each in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_no_row_loses_a_column_to_an_answer(labels: Predictor, tmp_path: Path) -> None:
    """Rows of JSON may have other columns than the first one."""
    path = write_lines(tmp_path / "in.jsonl", [{"text": "red"}, {"text": "blue", "label": "mine"}])
    with pytest.raises(ConfigError, match=r"in.jsonl' row 2: it has a column 'label' already; .*--prefix predicted_"):
        done(work(labels, "a", [path], tmp_path / "o.jsonl"), labels)
    done(work(labels, "a", [path], tmp_path / "p.jsonl", prefix="p_"), labels)
    assert json.loads((tmp_path / "p.jsonl").read_text().splitlines()[1])["label"] == "mine"


def test_a_folder_is_no_output(labels: Predictor, tmp_path: Path) -> None:
    (tmp_path / "o.csv").mkdir()
    path = write_csv(tmp_path / "in.csv", rows_of(2))
    with pytest.raises(ConfigError, match=r"o\.csv': is a folder; name a file"):
        work(labels, "a", [path], tmp_path / "o.csv").check(replace=True)


def test_what_has_answered_nothing_is_no_beginning(labels: Predictor, tmp_path: Path) -> None:
    """As when the base of the first command was not there."""
    path, output = write_csv(tmp_path / "in.csv", rows_of(2)), tmp_path / "o.jsonl"
    work(labels, "b", [path], output).check(replace=False)
    assert done(work(labels, "a", [path], output), labels) == (2, 0)
    assert json.loads(output.read_text().splitlines()[0])["label"] in WORDS[0]


def test_one_process_writes_an_output(labels: Predictor, tmp_path: Path) -> None:
    path, output = write_csv(tmp_path / "in.csv", rows_of(9)), tmp_path / "o.jsonl"
    first, second = (work(labels, "a", [path], output) for _ in range(2))
    first.check(replace=False)
    second.check(replace=False)
    said: list[str] = []

    def meanwhile(now: int, before: int) -> None:
        for attempt in (lambda: second.check(replace=False), lambda: second.run(lambda: labels)):
            with pytest.raises(ConfigError, match="another process is writing it; wait for its end") as caught:
                attempt()
            said.append(str(caught.value))

    assert first.run(lambda: labels, meanwhile).rows == 9 and said
    with pytest.raises(ConfigError, match="another process has finished, or removed it; start again"):
        second.run(lambda: labels)
    assert len(output.read_text().splitlines()) == 9


def test_the_benchmark_labels_as_a_plain_loop_over_transformers(
    labels: Predictor, labels_run: Run, tmp_path: Path, capsys: Any
) -> None:
    """Which reads no code of ours but the fold of the stream."""
    from benchmarks.predicting import Predict, loop_of, measured

    store = str(labels_run[1] / "store")
    ways: Any = {"loop": loop_of(labels, "a", store), "predict": Predict(labels, "a", tmp_path, store)}
    measured(ways, [row["text"] for row in rows_of(11)], turns=2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines[:4]] == [f"turn {n}, {way}" for n in (1, 2) for way in ways]
    assert all("same label 100.00%" in line for line in lines[:4]) and " × the loop (" in lines[5]


# ---------------------------------------------------------------- parts side by side


def failing_after(*items: int) -> Any:
    yield from items
    raise DataError("row 7")


def test_rows_are_read_ahead_and_parts_made_behind_in_their_order() -> None:
    assert [*ahead(range(5))] == [*range(5)] and [*ahead([])] == []
    assert [*behind(range(5), str)] == ["0", "1", "2", "3", "4"] and [*behind([], str)] == []


def test_what_was_made_before_a_failure_is_given_first() -> None:
    found = list[str]()
    with pytest.raises(DataError, match="row 7"):
        for each in behind(ahead(failing_after(1, 2)), str):
            found.append(each)
    assert found == ["1", "2"]


def test_what_cannot_be_made_fails_in_its_place() -> None:
    found = list[float]()
    with pytest.raises(ZeroDivisionError):
        for each in behind([1, 2, 0, 3], lambda item: 2 / item):
            found.append(each)
    assert found == [2.0, 1.0]
