"""`orthoplex samples`, and the last words of a run whose answers are kept."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.answering import done, generative
from tests.support.command_line import Orthoplex
from tests.support.fake_workers import without_ray
from trainers.data.answers import ANSWERS

Refused = Callable[..., tuple[int, str]]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    without_ray(monkeypatch)
    return tmp_path / "store"


def test_samples(orthoplex: Orthoplex, store: Path) -> None:
    done(generative(store))
    code, out, err = orthoplex("samples", "stream", "--task", "b", "--store", store, "--rows", 2)
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0] == "default/stream: b, 2 of 3 test rows whose answers are kept; counted from 1; metrics of one row"
    assert lines[1:8] == [
        "row 1", "  prompt       b, row 0?", "  reference    yes", "  reference    no",
        "  (untrained)  b0 after 0   [rouge_l 100.0, nll 2.00]", "  after a      b0 after 1   [rouge_l 90.0, nll 2.00]",
        "  after b      b0 after 2   [rouge_l 80.0, nll 2.00]",
    ]  # fmt: skip
    assert [line for line in lines if line.startswith("row")] == ["row 1", "row 2"]


def test_samples_as_json(orthoplex: Orthoplex, store: Path) -> None:
    done(generative(store, "ab"))
    (first,) = json.loads(orthoplex("samples", "stream", "--task", "a", "--store", store, "--rows", 1, "--json").out)
    assert first.keys() == {"task", "row", "prompt", "references", "answers"}
    assert [(each["learned"], each["after"], each["ref"]) for each in first["answers"]] == [
        (0, None, None), (1, "a", "default/stream@v1"), (2, "b", "default/stream@v2"),
    ]  # fmt: skip
    assert first["answers"][1]["metrics"] == {"rouge_l": 0.9, "nll": 2.0}


def test_what_cannot_be_shown(refused: Refused, store: Path, begun: Any) -> None:
    done(generative(store, "ab", name="silent", evaluate={"keep_answers": 0}))
    asked = "--store", store, "--task"
    assert refused("samples", "silent", *asked, "aa") == (
        2, "--task 'aa': default/silent has no such task; did you mean 'a'?",
    )  # fmt: skip
    code, said = refused("samples", "silent", *asked, "a")
    assert code == 2 and said.endswith("set evaluate.keep_answers above 0 in its configuration, and the tasks that are "
                                       "trained from then on keep them")  # fmt: skip
    code, said = refused("samples", "stream", "--store", begun.root, "--task", "a")
    assert code == 2 and said.endswith("default/stream has no generative task")


def test_a_run_ends_with_answers_before_and_after(orthoplex: Orthoplex, store: Path, tmp_path: Path) -> None:
    given = generative(store, "abc")
    run = done(given)
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(given.model_dump(mode="json")))
    code, out, err = orthoplex("run", path)
    assert (code, err) == (0, "")
    found = out.partition("Answers before and after, of rows whose metric changed most:\n")[2].splitlines()
    assert [line.split() for line in found if line.startswith(("a ", "b "))] == [["a", "row", "2"], ["b", "row", "2"]]
    assert found[4:6] == [
        "  after a    a1 after 1   [rouge_l 70.0, nll 2.00]", "  after c    a1 after 3   [rouge_l 10.0, nll 2.00]",
    ]  # fmt: skip
    assert f"  orthoplex samples default/stream --task a --store {store}        all answers to it so far\n" in out
    (store / run.state.commits[2].prefix / ANSWERS).write_bytes(b"x")  # the run is done all the same
    code, out, err = orthoplex("run", path)
    assert (code, err) == (0, "") and "Answers before" not in out and "orthoplex samples" not in out


def test_the_name_of_a_sweep(refused: Refused, store: Path) -> None:
    done(generative(store, "a", name="found-00001"))
    log = store / "t/default/.sweeps/found/log"
    log.mkdir(parents=True)
    (log / "00000000.json").write_text("{}")
    for name in ("found", "default/found", "other/found"):
        code, said = refused("status", name, "--store", store)
        assert code == 2 and f"RUN {name!r}: default/found is a sweep; `orthoplex sweep CONFIG --show` shows it" in said
        assert "its trials are the runs default/found-00001, default/found-00002" in said
    shutil.copytree(log, store / "t/alone/.sweeps/found/log")  # of a team without a run
    assert "RUN 'found': alone/found and default/found are sweeps; " in refused("status", "found", "--store", store)[1]
    assert "RUN 'alone/found': alone/found is a sweep; " in refused("status", "alone/found", "--store", store)[1]
    assert "not in the store" in refused("status", "lost", "--store", store)[1]
