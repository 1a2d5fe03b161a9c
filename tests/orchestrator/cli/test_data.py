"""`orthoplex data`: figures of real tokens, what is trained, and texts in two places."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.command_line import Orthoplex

CONFIG: dict[str, Any] = {
    "name": "a", "model": {"name": "docs-lm", "task_type": "CAUSAL_LM", "max_length": 64},
    "adapter": {"target_modules": ["q_proj"]},
}  # fmt: skip


def rows(path: Path, lines: list[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    asked = [{"prompt": f"What is {i}?\n", "completion": f"number {i}", "label": "ab"[i % 2]} for i in range(12)]
    train, test = rows(tmp_path / "a.jsonl", asked[:10]), rows(tmp_path / "b.jsonl", asked[10:])
    generative = {"source": "files", "train": train, "test": test, "format": "prompt_completion"}
    tasks = [
        {"name": "qa", **generative}, {"name": "again", **generative},
        {"name": "words", "source": "files", "train": train, "test": test, "text_column": "prompt", "max_length": 4},
    ]  # fmt: skip
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, "tasks": tasks, "store": str(tmp_path / "store")}))
    return path


def test_the_command(orthoplex: Orthoplex, config: Path) -> None:
    code, out, err = orthoplex("data", config, "--json", "--rows", "2")
    view = json.loads(out)
    assert (code, err) == (0, "") and [task["kind"] for task in view["tasks"]] == [
        "prompt_completion", "prompt_completion", "classification",
    ]  # fmt: skip
    first = view["tasks"][0]
    assert first["splits"]["train"]["rows"] == 9 and first["splits"]["test"]["rows"] == 2 and len(first["shown"]) == 2
    (asked, plain), (answer, trained) = first["shown"][0]
    assert (plain, trained) == (False, True) and asked.startswith("What is ") and answer.startswith("number ")
    assert 0 < first["splits"]["train"]["share_trained"] < 1 and first["splits"]["train"]["share_cut"] == 0
    words = view["tasks"][2]
    assert (first["max_length"], words["max_length"]) == (64, 4)
    split = words["splits"]["train"]  # a label is one token, and its end another one
    assert split["tokens"] == (4 + 2) * split["rows"] and split["share_trained"] == 1 / 3
    assert words["shown"][0][1] == [" a<|endoftext|>", True]
    told = {(each["first"], each["second"]): each["rows"] for each in view["overlaps"]}
    assert told[("qa test", "again test")] == told[("qa test", "words test")] == 2


def test_for_people(orthoplex: Orthoplex, config: Path) -> None:
    code, out, _ = orthoplex("data", config, "--rows", "1")
    assert code == 0 and "qa: prompt_completion, max_length 64" in out and "⟦number " in out
    assert "overlap: 2 row(s) of qa test ask what again test asks" in out


def test_lengths_are_those_before_prompts_lose_their_middle(orthoplex: Orthoplex, config: Path) -> None:
    given = [word for key in ("too_long=cut", "max_cut=1", "max_length=6") for word in ("--set", f"tasks.0.{key}")]
    whole, cut = (json.loads(orthoplex("data", config, "--json", *more)[1])["tasks"][0] for more in ([], given))
    before, after = whole["splits"]["train"], cut["splits"]["train"]
    assert (after["p50"], after["longest"]) == (before["p50"], before["longest"]) and after["shortened"] == 9
    _, out, _ = orthoplex("data", config, *given)
    assert "qa train: prompts shortened, which lose their middle: 9 of 9" in out
    _, out, _ = orthoplex("plan", config, *given)
    assert f"p50 {before['p50']}," in out and "prompts lose their middle" in out


def test_a_refused_row_ends_it(refused: Callable[..., tuple[int, str]], config: Path) -> None:
    code, message = refused("data", config, "--set", "tasks.0.max_length=4")
    assert code == 2 and message.startswith("task qa: ") and "max_length 4 cuts its answer away" in message


def test_chat_rows_of_a_classification_task(
    refused: Callable[..., tuple[int, str]], config: Path, tmp_path: Path
) -> None:
    talk = tmp_path / "talk.jsonl"
    talk.write_text(json.dumps({"messages": [{"role": "user", "content": "Q"}]}) + "\n")
    one = [f"tasks.2.train={talk}", f"tasks.2.test={talk}"]
    code, message = refused("data", config, *(word for each in one for word in ("--set", each)))
    assert code == 2 and message.endswith("; it has messages, as rows of a generative task: name format: messages")
