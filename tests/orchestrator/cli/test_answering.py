"""`orthoplex predict` and `orthoplex eval` as users type them, on an untrained run."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import Orthoplex, Result, here
from tests.support.tiny_models import save_encoder
from tests.support.untrained_runs import WORDS, classification, labelled, run_of, write_csv, write_lines


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    tasks = [classification(folder, name, words) for name, words in zip("ab", WORDS, strict=True)]
    run_of(folder, {"name": str(save_encoder(folder / "base")), "max_length": 16}, tasks)
    return folder / "store"


@pytest.fixture
def orthoplex(monkeypatch: pytest.MonkeyPatch, capsys: Any, store: Path, tmp_path: Path) -> Orthoplex:
    monkeypatch.setenv("ORTHOPLEX_STORE", str(store))
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> Result:
        return here(monkeypatch, capsys, *words)

    return call


def test_texts_on_the_terminal(orthoplex: Orthoplex) -> None:
    code, out, err = orthoplex("predict", "team/run@v2", "test 1 red", "test 2 blue", "--task", "a")
    assert (code, err) == (0, "") and len(out.splitlines()) == 2 and out.count("%") == 6
    code, out, err = orthoplex("predict", "run", "test 1 red", "--task", "a", "--format", "json")
    (row,) = map(json.loads, out.splitlines())
    assert (code, row["text"]) == (0, "test 1 red") and row["label"] in WORDS[0] and {*row["scores"]} == {*WORDS[0]}
    assert err == "note: run: its newest version, team/run@v2\n"
    code, out, err = orthoplex("predict", "team/run@v2", "x", "--union", "--format", "json")
    assert len(json.loads(out)["scores"]) == 6


def test_files_to_a_file_and_to_standard_output(orthoplex: Orthoplex, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"body": row["text"], "label": row["label"]} for row in labelled(WORDS[0], 9, "new")]
    write_csv(Path("a.csv"), [*rows[:4]]), write_lines(Path("b.jsonl"), rows[4:])
    how = ("--task", "a", "--text-column", "body", "--prefix", "p_")
    words = ("predict", "team/run@v2", "--input", "*.csv", "--input", "b.jsonl", *how)
    code, out, err = orthoplex(*words, "--output", "out.jsonl")
    assert (code, err) == (0, "") and out == "wrote out.jsonl: 9 rows answered by team/run@v2\n"
    written = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [row["body"] for row in written] == [row["body"] for row in rows] and {*written[0]} == {
        "body", "label", "p_label", "p_probability", "p_scores",
    }  # fmt: skip
    for end in ((), ("--output", "-")):
        code, out, err = orthoplex(*words, *end)
        assert code == 0 and [json.loads(line) for line in out.splitlines()] == written
    code, out, err = orthoplex(*words, "--output", "out.jsonl")
    assert code == 2 and "exists already; choose another, or replace it with --force" in err
    assert orthoplex(*words, "--output", "out.jsonl", "--force").code == 0
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    code, out, err = orthoplex("predict", "team/run@v2", "--input", "-", *how)
    assert code == 0 and [json.loads(line)["p_label"] for line in out.splitlines()] == [
        row["p_label"] for row in written
    ]


def test_interrupted(orthoplex: Orthoplex, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command goes on, whatever --force says."""
    from orchestrator.delivery import predicting

    write_csv(Path("in.csv"), [{"text": row["text"]} for row in labelled(WORDS[0], 9, "new")])
    words = ("predict", "team/run@v2", "--input", "in.csv", "--output", "out.csv", "--task", "a")
    monkeypatch.setattr(predicting, "ROWS_AT_ONCE", {"labels": 4})
    with monkeypatch.context() as patch:
        real, made = predicting.part_of, list[str]()

        def cut(form: str, rows: Any) -> bytes:
            made.append(form)
            if len(made) == 2:
                raise KeyboardInterrupt
            return real(form, rows)

        patch.setattr(predicting, "part_of", cut)
        code, out, err = orthoplex(*words)
    assert code == 130 and out == "" and "what is answered is kept in out.csv.parts: the same command goes on" in err
    code, out, err = orthoplex(*words)
    assert (code, out) == (0, "wrote out.csv: 9 rows answered by team/run@v2; 4 of them were answered before\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run",), "predict: give TEXT, or files with --input; one of them"),
        (("run", "x", "--input", "a.csv"), "one of them"),
        (("run", "x", "--output", "a.csv"), "is for rows of files; write texts to a file and name it with --input"),
        (("run", "x", "--format", "csv"), "--format csv: texts are shown as text or json"),
        (("run", "x", "--workers", 2), "--workers: several processes answer rows of files into a file; name it with"),
        (("run", "x", "--task", "c"), "task 'c': team/run@v2 has learned no such task; it has a, b"),
        (("run", "x"), "task: team/run@v2 has learned a, b; name the one that is asked"),
        (("run", "--input", "no.csv", "--task", "a"), "--input 'no.csv': does not exist in"),
        (("run", "x", "--task", "a", "--columns", "text"), "--columns 'text': write NAME=COLUMN"),
        (("runn", "x"), "did you mean"),
    ],
)  # fmt: skip
def test_what_is_refused(orthoplex: Orthoplex, words: tuple[str, ...], message: str) -> None:
    code, out, err = orthoplex("predict", *words)
    assert (code, out) == (2, "") and message in err, err


def test_scores_of_a_file(orthoplex: Orthoplex, store: Path) -> None:
    path = store.parent / "a-test.csv"
    code, out, err = orthoplex("eval", "team/run@v2", "--data", path, "--task", "a", "--json")
    made = json.loads(out)
    assert (code, err, made["rows"]) == (0, "", 23) and made["labels"] == sorted(WORDS[0])
    status = json.loads(orthoplex("status", "run", "--json").out)
    assert made["metrics"]["accuracy"] == status["matrix"][1][0]
    assert made["interval"] == status["intervals"][1][0] and len(made["worst"]) <= 5
    code, out, err = orthoplex("eval", "team/run@v2", "--data", path, "--task", "a", "--worst", 1)
    assert code == 0 and "floor (own majority)" in out and "Rows by right label" in out and "Worst rows" in out
    write_csv(Path("c.csv"), [{"t": "x", "l": "red"}])
    code, out, err = orthoplex("eval", "run", "--data", "c.csv", "--task", "a", "--text-column", "t")
    assert code == 2 and "no column 'label', only t, l; name yours: --columns label=COLUMN" in err
    code, out, err = orthoplex("eval", "run", "--data", "c.csv", "--union", "--text-column", "t", "--label-column", "l")
    assert code == 0 and "all tasks, 1 rows" in out


def test_from_a_bucket_to_a_bucket(orthoplex: Orthoplex, s3_bucket: str) -> None:
    """Also to score; nothing is left on this machine, nor in the bucket but the output."""
    from cluster.storage import open_store

    bucket = open_store(f"s3://{s3_bucket}")
    rows = labelled(WORDS[0], 9, "new")
    for name, part in (("a.csv", rows[:4]), ("b.csv", rows[4:])):
        bucket.upload(f"new/{name}", write_csv(Path(name), part))
        Path(name).unlink()
    uri = f"s3://{s3_bucket}/new"
    words = ("predict", "team/run@v2", "--input", f"{uri}/*.csv", "--task", "a", "--prefix", "p_")
    code, out, err = orthoplex(*words, "--output", f"{uri}/out.jsonl")
    assert (code, err, out) == (0, "", f"wrote {uri}/out.jsonl: 9 rows answered by team/run@v2\n")
    written = [json.loads(line) for line in bucket.get("new/out.jsonl").splitlines()]
    assert [row["text"] for row in written] == [row["text"] for row in rows] and not [*Path().iterdir()]
    assert bucket.list("") == ["new/a.csv", "new/b.csv", "new/out.jsonl"]
    code, out, err = orthoplex(*words, "--output", f"{uri}/out.jsonl")
    assert code == 2 and f"--output '{uri}/out.jsonl': exists already" in err
    code, out, err = orthoplex("eval", "run", "--data", f"{uri}/*.csv", "--union", "--json")
    made = json.loads(out)
    assert made["rows"] == 9 and all(each["where"].startswith(f"'{uri}/") for each in made["worst"])


def test_scores_are_recorded_for_their_trend(orthoplex: Orthoplex, store: Path) -> None:
    """The same rows in another file are the same rows; an alias and the task stand beside the score."""
    rows = labelled(WORDS[0], 9, "new")
    write_csv(Path("a.csv"), rows), write_lines(Path("b.jsonl"), [*rows])
    orthoplex("adapters", "promote", "team/run@v2", "--alias", "production")
    how = ("--task", "a", "--record")
    code, out, err = orthoplex("eval", "team/run@production", "--data", "a.csv", *how, "--note", "first")
    assert (code, err) == (0, "") and out.endswith("recorded (entry 1); next: orthoplex trend team/run\n")
    code, out, err = orthoplex("eval", "team/run@v2", "--data", "b.jsonl", *how, "--json")
    made = json.loads(out)
    assert made["recorded"] == 2 and "scored" not in made
    (series,) = json.loads(orthoplex("trend", "run", "--json").out)["series"]
    first, second = series["points"]
    assert (first["asked"], first["note"], second["asked"]) == ("production", "first", "v2")
    assert first["rows_sha256"] == second["rows_sha256"] and first["files"] != second["files"]
    assert second["since_first"]["paired"] and second["since_first"]["changed"] == 0
    assert first["metrics"]["accuracy"] == made["metrics"]["accuracy"] and first["rows"] == 9
    code, out, err = orthoplex("eval", "team/run@v2", "--data", "a.csv", "--task", "a", "--note", "x")
    assert code == 2 and "--note: stands beside a score that is kept; give --record too" in err
