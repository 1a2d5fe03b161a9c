"""A well-formed entry with a malformed body is one error, which names entry and key, in every command."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.errors import IntegrityError
from orchestrator import load
from orchestrator.log.entry import canonical, digest
from orchestrator.registry.catalog import listed
from orthoplex import Predictor
from tests.fuzz.stored import read_log, write_log
from tests.support.command_line import here
from tests.support.fake_workers import finished_run, run_config
from tests.support.registries import track_with

COMMIT = 4  # the first task's entry: start, open, workers, commit, workers, commit, finish
Change = Callable[[dict[str, Any]], object]
VERBS = (
    ("run", "run.yaml"), ("status", "stream"), ("status", "stream", "--json"), ("explain", "stream"),
    ("samples", "stream", "--task", "a"), ("adapters", "list"), ("adapters", "list", "--json"),
    ("adapters", "show", "stream@v1"), ("adapters", "show", "stream@v1", "--tree"), ("adapters", "verify"),
    ("adapters", "gc"), ("adapters", "gc", "--yes"), ("adapters", "index"),
    ("adapters", "promote", "stream@v1", "--alias", "production"), ("adapters", "rollback", "stream@production"),
    ("adapters", "pull", "stream@v1", "pulled"), ("adapters", "serve-layout", "stream@v1"),
    ("adapters", "export", "stream@v1", "--format", "peft", "--output", "out"),
    ("predict", "stream@v2", "a text", "--task", "a"), ("eval", "stream@v2", "--data", "rows.csv", "--task", "a"),
)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """default/stream with two tasks, in the working directory's store, and its configuration as run.yaml."""
    made = tmp_path / "store"
    finished_run(made, monkeypatch)
    monkeypatch.setenv("ORTHOPLEX_STATE", str(tmp_path / "state"))  # of a machine that has not seen the log
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORTHOPLEX_STORE", str(made))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run_config(made).model_dump(mode="json")))
    (tmp_path / "rows.csv").write_text("text,label\nx,y\n")
    return made


def changed(store: Path, change: Change, seq: int = COMMIT) -> Path:
    """Changes an entry of the log; this machine has not seen the log that it was in."""
    root = store / "t/default/stream"
    entries = read_log(root)
    change(entries[seq - 1])
    write_log(root, entries)
    return root


CASES: list[tuple[int, Change, str]] = [
    (COMMIT, lambda body: body.pop("prefix"), "commit: prefix: field required"),
    (COMMIT, lambda body: body.update(version="1"), "commit: version: input should be a valid integer"),
    (COMMIT, lambda body: body.update(version=0), "commit: version: input should be greater than or equal to 1"),
    (COMMIT, lambda body: body.update(active_parameters=10**400), "commit: active_parameters: "),
    (COMMIT, lambda body: body["test"][0].update(correct=21), r"commit: test.0: 21 correct of 20 rows"),
    (COMMIT, lambda body: body["cost"].update(train_s=None), r"commit: cost.train_s: input should be"),
    (1, lambda body: body.pop("driver"), "start: driver: field required"),
    (2, lambda body: body.update(tasks=[{}]), r"open: tasks.0.name: field required"),
    (3, lambda body: body.update(workers=2.5), "workers: workers: input should be a valid integer"),
    (7, lambda body: body.update(reason=[]), "finish: reason: input should be a valid string"),
]  # fmt: skip


@pytest.mark.parametrize(("seq", "change", "said"), CASES, ids=[said for *_, said in CASES])
def test_a_malformed_body_is_told_by_entry_and_key(store: Path, seq: int, change: Change, said: str) -> None:
    """Lists begin nothing, and sweeps of other names know nothing of it."""
    from orchestrator.cli.common import read_run, read_version

    changed(store, change, seq)
    where = rf"entry {seq} \(t/default/stream/log/{10**9 - seq:010d}.json\) is malformed: {said}"
    for read in (lambda: read_run("stream", str(store)), lambda: read_version("stream@v1", str(store))):
        with pytest.raises(IntegrityError, match=where):
            read()


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_in_every_command(
    verb: tuple[str, ...], store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changed(store, lambda body: body.pop("manifest_sha256"))
    shutil.rmtree(store / "t/default/stream/ckpt", ignore_errors=True)
    code, _, err = here(monkeypatch, capsys, *verb)
    assert code == 1 and err.count("orthoplex: ") == 1 and "Traceback" not in err
    assert "is malformed: commit: manifest_sha256: field required; restore a backup of it" in err
    assert "entry 4 (t/default/stream/log/0999999996.json)" in err


def test_in_python(store: Path) -> None:
    changed(store, lambda body: body.pop("manifest_sha256"))
    for read in (
        lambda: load("stream@v1", store=str(store)),
        lambda: Predictor("stream@v1", store=str(store)),
    ):
        with pytest.raises(IntegrityError, match=r"entry 4 .* is malformed: commit: manifest_sha256"):
            read()


def test_numbers_that_are_none(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """JSON has no NaN; Python reads it all the same."""
    path = store / "t/default/stream/log" / f"{10**9 - COMMIT:010d}.json"
    path.write_bytes(path.read_bytes().replace(b'"overlap":0.25', b'"overlap":NaN'))
    code, _, err = here(monkeypatch, capsys, "status", "stream")
    assert code == 1 and "entry 4 " in err and "is malformed (Out of range float values are not JSON compliant" in err


@pytest.mark.parametrize("verb", [("status", "stream"), ("adapters", "list"), ("adapters", "verify")], ids=" ".join)
def test_a_version_that_is_committed_twice(
    verb: tuple[str, ...], store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = store / "t/default/stream"
    entries = read_log(root)
    entries[5]["version"] = 1
    write_log(root, entries)
    code, _, err = here(monkeypatch, capsys, *verb)
    assert code == 1 and "default/stream: entry 6 (commit): version: 1, but entry 4 committed 1 before" in err


def test_an_index_with_a_row_that_lacks_something_is_not_relied_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writer, an older Orthoplex, did not look. The entry itself is read then, and refused."""
    monkeypatch.setattr("orchestrator.log.chain.INDEX_EVERY", 2)
    track = track_with(3, tmp_path)
    entries = read_log(tmp_path / "store" / track.root)
    assert [row["version"] for row in listed(track.store)] == [1, 2, 3]
    from orchestrator.log import index

    data = (tmp_path / "store" / track.index_key(2)).read_bytes()
    whole = index.decode(data).entries
    broken = [whole[0], type(whole[1])(**{**vars(whole[1]), "body": {**whole[1].body, "version": "2"}})]
    monkeypatch.setattr(index, "raw", lambda entry: canonical({"x": entry.seq}))
    with pytest.raises(ValueError, match="a row is incomplete"):
        index.brief(index.encode(broken, track.columns), track.columns)
    assert digest(data) == entries[2]["index_sha256"]


def test_a_manifest_that_a_publisher_made_up(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = store / "t/default/stream"
    entries = read_log(root)
    key = store / entries[COMMIT - 1]["prefix"] / "manifest.json"
    import json

    data = canonical({**json.loads(key.read_bytes()), "base_model": ["minilm"]})
    key.write_bytes(data)
    entries[COMMIT - 1]["manifest_sha256"] = digest(data)
    write_log(root, entries)
    for verb in (("show", "stream@v1"), ("pull", "stream@v1", "pulled"), ("verify",)):
        code, _, err = here(monkeypatch, capsys, "adapters", *verb)
        assert code == 1 and "manifest.json: is malformed: base_model: input should be" in err, verb
